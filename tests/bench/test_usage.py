import os
import signal
import sys
from pathlib import Path

import pytest

from bench.usage import Usage, measured

MB = 1 << 20
SPIN = """
import time
ballast = bytearray(64 << 20)
until = time.monotonic() + 2.5
while time.process_time() < 1 or time.monotonic() < until:
    pass
"""


@pytest.fixture
def spin(tmp_path: Path) -> str:
    """Return a command that uses one CPU second, and 64 MB for long enough to be sampled."""
    script = tmp_path / "spin.py"
    script.write_text(SPIN)
    return f"{sys.executable} {script}"


def used(folder: Path, script: str) -> Usage:
    return measured(["sh", "-c", script], os.environ, folder / "out", folder / "err")


def test_processes_that_outlive_the_command_are_counted(tmp_path: Path, spin: str) -> None:
    found = used(tmp_path, f"setsid --fork {spin}; exit 3")
    assert found.code == 3
    assert found.cpu >= 1


def test_memory_is_measured_for_the_command_and_for_all_its_processes(tmp_path: Path, spin: str) -> None:
    found = used(tmp_path, f"{spin} & {spin}; wait")
    assert found.own < 64 * MB
    assert found.tree > 2 * 64 * MB
    assert found.seconds >= 2.5


def test_a_command_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    script = f"setsid --fork sh -c 'echo $$ >{mark}; exec sleep 1000'; sleep 1000; true"

    def is_written() -> bool:
        return mark.exists() and mark.read_text().endswith("\n")  # the shell creates the file first

    found = measured(["sh", "-c", script], os.environ, tmp_path / "out", tmp_path / "err", is_written)
    assert found.code == -signal.SIGKILL
    assert not Path("/proc", mark.read_text().strip()).exists()


def test_output_of_the_command_is_kept(tmp_path: Path) -> None:
    used(tmp_path, "echo output; echo error >&2")
    assert (tmp_path / "out").read_text() == "output\n"
    assert (tmp_path / "err").read_text() == "error\n"
