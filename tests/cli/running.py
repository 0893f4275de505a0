"""The command as a person and a program see it: exit code, stdout, stderr."""

import json
import os
import subprocess
import sys
from typing import Any

from click.testing import CliRunner, Result

from provisioner.cli.app import provision


def run(*words: str, stdin: str = "") -> Result:
    """In this process; nobody is at a terminal."""
    return CliRunner().invoke(provision, list(words), input=stdin, prog_name="provision")


def document(result: Result) -> dict[str, Any]:
    """stdout, which must be one JSON document and nothing else."""
    read = json.loads(result.stdout)
    assert isinstance(read, dict)
    assert read["schema"].startswith("provisioner/"), read
    return read


def spawn(*words: str, **environment: str) -> subprocess.Popen[str]:
    """As a process of its own, that hears ^C also where what runs the tests, a job in the background, does not."""
    argv = ["env", "--default-signal=INT", sys.executable, "-m", "provisioner", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=os.environ | environment)
