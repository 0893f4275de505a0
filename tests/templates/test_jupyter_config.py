"""Jupyter must not start without a valid token, although it ignores errors in its configuration."""

import json
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
print(json.dumps({**vars(config.ServerApp), **vars(config.IdentityProvider)}, default=bytes.hex))
"""


def run(token: Path) -> subprocess.CompletedProcess[str]:
    variables = {"JUPYTER_TOKEN_FILE": str(token), "PYTHONUSERBASE": "/home/x/.local", "HOME": str(token.parent)}
    command = [sys.executable, "-c", RUN, str(templates() / "jupyter_server_config.py")]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("text", ["5f" * 32, "5f" * 32 + "\n"])
def test_a_valid_token_is_configured(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)
    done = run(tmp_path / "token")
    assert f'"token": "{"5f" * 32}"' in done.stdout
    assert '"allow_root": false' in done.stdout
    assert "allow_origin" not in done.stdout


def test_the_token_is_not_written_to_the_home_and_what_lies_there_is_removed(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("5f" * 32)
    runtime = tmp_path / ".local/share/jupyter/runtime"
    runtime.mkdir(parents=True)
    for name in ("jpserver-7.json", "jpserver-7-open.html", "kernel-1.json"):
        (runtime / name).write_text("5f" * 32)
    (runtime / "jpserver-8.json").mkdir()  # nothing in a home may stop Jupyter
    configured = json.loads(run(tmp_path / "token").stdout)
    assert [path.name for path in sorted(runtime.iterdir())] == ["jpserver-8.json", "kernel-1.json"]
    assert not configured["runtime_dir"].startswith(str(tmp_path))
    assert len(configured["cookie_secret"]) == 64
    assert "5f" * 32 not in configured["cookie_secret"]


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
