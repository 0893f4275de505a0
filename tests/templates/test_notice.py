"""The notice inside a seat: the script for shells and the extension for JupyterLab."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from provisioner.adapters.resources import templates
from provisioner.adapters.templates import read_templates
from provisioner.domain.seat.self_service import self_service_texts

SHELL_SCRIPT = (templates() / "notice.sh").read_text()
SELF_SERVICE = self_service_texts(read_templates(templates()), 0)
FOLDER = "/etc/provisioner/notice/"


def shell_output(tmp_path: Path, *flags: str, script_text: str = SHELL_SCRIPT) -> str:
    """Return what a shell prints that reads the profile."""
    assert FOLDER in script_text
    script = tmp_path / "notice.sh"
    script.write_text(script_text.replace(FOLDER, f"{tmp_path}/"))
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


@pytest.mark.parametrize("name", ["notice.txt", "disk.txt", "lease.txt"])
def test_control_characters_are_removed_and_long_notices_are_cut(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("\x1b[2J\a\rgone\x7f" + "x" * 5000)
    text = shell_output(tmp_path, "-i", script_text=SELF_SERVICE["notice.sh"])
    assert text.startswith("\n*** [2Jgonexxx")
    assert len(text) < 2100


def test_a_self_service_seat_shows_the_end_of_its_lease_until_it_is_renewed(tmp_path: Path) -> None:
    script = SELF_SERVICE["notice.sh"]
    (tmp_path / "lease.txt").write_text("还有 10 分钟 $(id)\nYour seat ends in 10 minutes\n")
    shown = "\n*** 还有 10 分钟 $(id)\nYour seat ends in 10 minutes\n\n"
    assert shell_output(tmp_path, "-i", script_text=script) == shown
    assert shell_output(tmp_path, "-i") == ""  # another seat has no lease
    (tmp_path / "notice.txt").write_text("exam\n")
    assert shell_output(tmp_path, "-i", script_text=script) == f"\n*** exam\n\n{shown}"
    (tmp_path / "lease.txt").write_text("")
    assert shell_output(tmp_path, "-i", script_text=script) == "\n*** exam\n\n"


@pytest.mark.parametrize("texts", [read_templates(templates()), SELF_SERVICE], ids=["usual", "self_service"])
def test_the_url_of_the_extension_contains_its_hash(texts: dict[str, str]) -> None:
    """Browsers cache the extension for a year."""
    manifest = json.loads(texts["notice-extension.json"])
    digest = hashlib.sha256(texts["notice-extension.js"].encode()).hexdigest()
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
    assert page_shows(templates() / "notice-extension.js", files) == shown


def page_shows(script: Path, files: dict[str, str]) -> list[str]:
    argv = ["node", "-e", PAGE, str(script), json.dumps(files)]
    ran = subprocess.run(argv, capture_output=True, text=True, check=True)
    found: list[str] = json.loads(ran.stdout)
    return found


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
@pytest.mark.parametrize(
    ("lease", "shown"),
    [
        ("ends in 10 minutes\n", ["exam\nends in 10 minutes"]),
        ("<b onclick=x>\n", ["exam\n<b onclick=x>"]),
        ("", ["exam"]),
    ],
)
def test_jupyterlab_of_a_self_service_seat_shows_the_end_of_its_lease(
    tmp_path: Path, lease: str, shown: list[str]
) -> None:
    script = tmp_path / "notice.js"
    script.write_text(SELF_SERVICE["notice-extension.js"])
    files = {"/static/notice.txt": "exam\n", "/static/disk.txt": "", "/static/lease.txt": lease}
    assert page_shows(script, files) == shown
