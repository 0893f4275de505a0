"""Run the command: exit code, stdout, stderr."""

import json
import os
import subprocess
import sys
from typing import Any

from click.testing import CliRunner, Result

from provisioner.cli.app import provision


def run(*words: str, stdin: str = "") -> Result:
    """Run in this process, without a terminal."""
    return CliRunner().invoke(provision, list(words), input=stdin, prog_name="provision")


def document(result: Result) -> dict[str, Any]:
    """Return stdout, which must be one JSON document and nothing else."""
    read = json.loads(result.stdout)
    assert isinstance(read, dict)
    assert read["schema"].startswith("provisioner/"), read
    return read


def spawn(*words: str, **environment: str) -> subprocess.Popen[str]:
    """Start a process that handles SIGINT even where the tests run as a background job that ignores it."""
    argv = ["env", "--default-signal=INT", sys.executable, "-m", "provisioner", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=os.environ | environment)
