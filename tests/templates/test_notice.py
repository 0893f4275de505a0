"""What shows a notice inside a seat: the shell's part and JupyterLab's."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from provisioner.adapters.resources import templates

SHELL_PART = (templates() / "notice.sh").read_text()
PLACE = "/etc/provisioner/notice/notice.txt"


def said(tmp_path: Path, *flags: str) -> str:
    """What a shell that reads the profile prints."""
    assert PLACE in SHELL_PART
    script = tmp_path / "notice.sh"
    script.write_text(SHELL_PART.replace(PLACE, str(tmp_path / "notice.txt")))
    command = ["sh", *flags, "-c", f". {script}"]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout


def test_a_new_shell_shows_it(tmp_path: Path) -> None:
    (tmp_path / "notice.txt").write_text("考试 on Friday, $(id) `id`\n")
    assert said(tmp_path, "-i") == "\n*** 考试 on Friday, $(id) `id`\n\n"


def test_a_shell_that_runs_a_program_for_somebody_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "notice.txt").write_text("exam\n")
    assert said(tmp_path) == ""


@pytest.mark.parametrize("text", ["", None])
def test_where_nothing_is_told_nothing_is_said(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "notice.txt").write_text(text)
    assert said(tmp_path, "-i") == ""


def test_what_a_terminal_would_obey_does_not_come_through_nor_more_than_is_read_at_a_glance(tmp_path: Path) -> None:
    (tmp_path / "notice.txt").write_text("\x1b[2J\a\rgone\x7f" + "x" * 5000)
    text = said(tmp_path, "-i")
    assert text.startswith("\n*** [2Jgonexxx")
    assert len(text) < 2100


def test_browsers_keep_the_extension_for_a_year_so_its_address_changes_with_its_text() -> None:
    manifest = json.loads((templates() / "notice-extension.json").read_text())
    digest = hashlib.sha256((templates() / "notice-extension.js").read_bytes()).hexdigest()
    assert manifest["jupyterlab"]["_build"]["load"] == f"static/notice.js?v={digest[:12]}"
