"""Standard streams that are closed or cannot be written."""

import json
import subprocess
import sys

import pytest

PROVISION = f'"{sys.executable}" -m provisioner'


def shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", command], check=False, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("words", ["--version", "facts show --json"])
def test_an_output_that_cannot_be_written_is_a_problem(words: str) -> None:
    ran = shell(f"{PROVISION} {words} >/dev/full")
    assert (ran.returncode, ran.stderr.splitlines()[0]) == (1, "╷ output_unwritable")
    assert "No space left on device" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_messages_that_cannot_be_written_do_not_end_the_run() -> None:
    ran = shell(f"{PROVISION} plan nowhere --json 2>/dev/full")
    assert (ran.returncode, json.loads(ran.stdout)["problems"][0]["code"]) == (2, "no_such_lab")


def test_closed_streams_are_no_bug_and_their_descriptors_are_not_used_for_files() -> None:
    name = "import os, sys; from provisioner.cli.streams import prepare_streams; prepare_streams()"
    printed = "open(sys.argv[1], 'w').write(str([os.readlink(f'/proc/self/fd/{n}') for n in (0, 1, 2)]))"
    ran = shell(f'"{sys.executable}" -c "{name}; {printed}" /dev/fd/3 3>&1 <&- >&- 2>&-')
    assert ran.stdout == str(["/dev/null"] * 3)
    assert shell(f"{PROVISION} facts show >&-").returncode == 0
