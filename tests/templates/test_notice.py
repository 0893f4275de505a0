"""The notice inside a seat: the script for shells and the extension for JupyterLab."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from provisioner.adapters.resources import templates

SHELL_SCRIPT = (templates() / "notice.sh").read_text()
FOLDER = "/etc/provisioner/notice/"


def shell_output(tmp_path: Path, *flags: str) -> str:
    """Return what a shell prints that reads the profile."""
    assert FOLDER in SHELL_SCRIPT
    script = tmp_path / "notice.sh"
    script.write_text(SHELL_SCRIPT.replace(FOLDER, f"{tmp_path}/"))
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


def test_the_warning_of_a_full_disk_follows_the_notice_of_the_admin(tmp_path: Path) -> None:
    (tmp_path / "disk.txt").write_text("磁盘已用 101 GiB\nDisk: 101 GiB\n")
    warning = "\n*** 磁盘已用 101 GiB\nDisk: 101 GiB\n\n"
    assert shell_output(tmp_path, "-i") == warning
    (tmp_path / "notice.txt").write_text("exam\n")
    assert shell_output(tmp_path, "-i") == f"\n*** exam\n\n{warning}"
    (tmp_path / "disk.txt").write_text("")
    assert shell_output(tmp_path, "-i") == "\n*** exam\n\n"


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


PAGE = """
const shown = [];
const files = JSON.parse(process.argv[2]);
globalThis.window = { dispatchEvent: () => {} };
globalThis.Event = class {};
globalThis.ResizeObserver = class { observe() {} };
globalThis.setInterval = () => {};
globalThis.document = {
  createElement: () => ({ style: {}, textContent: '', setAttribute() {}, remove() {} }),
  getElementById: () => null,
  body: { prepend: bar => shown.push(bar.textContent) }
};
globalThis.fetch = async address => ({ ok: address in files, text: async () => files[address] });
require(process.argv[1]);
window._JUPYTERLAB['provisioner-notice'].get().then(make => {
  make().default.activate({ serviceManager: { serverSettings: { baseUrl: '/' } }, restored: Promise.resolve() });
  setTimeout(() => process.stdout.write(JSON.stringify(shown)), 50);
});
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
@pytest.mark.parametrize(
    ("files", "shown"),
    [
        ({"/static/notice.txt": "exam\n", "/static/disk.txt": "磁盘\nDisk\n"}, ["exam\n磁盘\nDisk"]),
        ({"/static/notice.txt": "", "/static/disk.txt": "磁盘\nDisk\n"}, ["磁盘\nDisk"]),
        ({"/static/notice.txt": "exam\n", "/static/disk.txt": ""}, ["exam"]),
        ({"/static/notice.txt": "", "/static/disk.txt": ""}, []),
    ],
)
def test_jupyterlab_shows_the_notice_and_below_it_the_warning(files: dict[str, str], shown: list[str]) -> None:
    script = templates() / "notice-extension.js"
    argv = ["node", "-e", PAGE, str(script), json.dumps(files)]
    ran = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == shown
