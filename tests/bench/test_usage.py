import os
import signal
import sys
from pathlib import Path

import pytest

from bench.usage import Usage, measured

MB = 1 << 20
SPIN = """
import sys, time
ballast = bytearray(64 << 20)
while time.process_time() < 0.2:
    pass
time.sleep(float(sys.argv[1]))
"""


@pytest.fixture(autouse=True)
def _sampled_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.usage._TICK", 0.1)


@pytest.fixture
def spin(tmp_path: Path) -> str:
    """Return a command that uses a fifth of a CPU second, and 64 MB until the seconds in its argument have passed."""
    script = tmp_path / "spin.py"
    script.write_text(SPIN)
    return f"{sys.executable} {script}"


def used(folder: Path, script: str) -> Usage:
    return measured(["sh", "-c", script], os.environ, folder / "out", folder / "err")


def test_processes_that_outlive_the_command_are_counted(tmp_path: Path, spin: str) -> None:
    found = used(tmp_path, f"setsid --fork {spin} 0; exit 3")
    assert found.code == 3
    assert found.cpu >= 0.2


def test_memory_is_measured_for_the_command_and_for_all_its_processes(tmp_path: Path, spin: str) -> None:
    found = used(tmp_path, f"{spin} 1 & {spin} 1; wait")
    assert found.own < 64 * MB
    assert found.tree > 2 * 64 * MB
    assert found.seconds >= 1.2


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
