"""The notice inside a seat: the script for shells and the extension for JupyterLab."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from provisioner.adapters.resources import templates

SHELL_SCRIPT = (templates() / "notice.sh").read_text()
NOTICE_FILE = "/etc/provisioner/notice/notice.txt"


def shell_output(tmp_path: Path, *flags: str) -> str:
    """Return what a shell prints that reads the profile."""
    assert NOTICE_FILE in SHELL_SCRIPT
    script = tmp_path / "notice.sh"
    script.write_text(SHELL_SCRIPT.replace(NOTICE_FILE, str(tmp_path / "notice.txt")))
    command = ["sh", *flags, "-c", f". {script}"]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout


def test_an_interactive_shell_shows_the_notice(tmp_path: Path) -> None:
    (tmp_path / "notice.txt").write_text("考试 on Friday, $(id) `id`\n")
    assert shell_output(tmp_path, "-i") == "\n*** 考试 on Friday, $(id) `id`\n\n"


def test_a_non_interactive_shell_shows_no_notice(tmp_path: Path) -> None:
    (tmp_path / "notice.txt").write_text("exam\n")
    assert shell_output(tmp_path) == ""


@pytest.mark.parametrize("text", ["", None])
def test_without_a_notice_a_shell_shows_nothing(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "notice.txt").write_text(text)
    assert shell_output(tmp_path, "-i") == ""


def test_control_characters_are_removed_and_long_notices_are_cut(tmp_path: Path) -> None:
    (tmp_path / "notice.txt").write_text("\x1b[2J\a\rgone\x7f" + "x" * 5000)
    text = shell_output(tmp_path, "-i")
    assert text.startswith("\n*** [2Jgonexxx")
    assert len(text) < 2100


def test_the_url_of_the_extension_contains_its_hash() -> None:
    """Browsers cache the extension for a year."""
    manifest = json.loads((templates() / "notice-extension.json").read_text())
    digest = hashlib.sha256((templates() / "notice-extension.js").read_bytes()).hexdigest()
    assert manifest["jupyterlab"]["_build"]["load"] == f"static/notice.js?v={digest[:12]}"
