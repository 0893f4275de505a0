"""Jupyter must not start without a valid token, although it ignores errors in its configuration."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from provisioner.adapters.resources import templates

RUN = """
import json, sys
from types import SimpleNamespace as Space

config = Space(ServerApp=Space(), LabApp=Space(), IdentityProvider=Space())
exec(open(sys.argv[1]).read(), {"get_config": lambda: config})
print(json.dumps({**vars(config.ServerApp), **vars(config.IdentityProvider)}))
"""


def run(token: Path) -> subprocess.CompletedProcess[str]:
    variables = {"JUPYTER_TOKEN_FILE": str(token), "PYTHONUSERBASE": "/home/x/.local", "HOME": "/home/x"}
    command = [sys.executable, "-c", RUN, str(templates() / "jupyter_server_config.py")]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("text", ["5f" * 32, "5f" * 32 + "\n"])
def test_a_valid_token_is_configured(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)
    done = run(tmp_path / "token")
    assert f'"token": "{"5f" * 32}"' in done.stdout
    assert '"allow_root": false' in done.stdout
    assert "allow_origin" not in done.stdout


@pytest.mark.parametrize("text", [None, "", "\n", "5f5f", " " * 64, "é" * 40])
def test_without_a_valid_token_it_exits_and_does_not_print_the_file(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "token").write_text(text)
    done = run(tmp_path / "token")
    assert done.returncode != 0
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "token" in done.stderr
    assert not (text and text.strip()) or text not in done.stderr
