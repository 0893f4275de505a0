"""Programs of SSH sessions and use of processors in containers, from two samples of /proc."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.node_code import module_util

activity = module_util("docker.activity")

PIDS = {"jupyter": 70, "ssh": 80}
# pid -> parent, name, ticks of processor time. 70 and 80 are the first processes of two containers.
IDLE = {
    1: (0, "systemd", 9000),
    70: (60, "docker-init", 1),
    71: (70, "jupyter-lab", 400),
    72: (71, "python", 5000),
    80: (61, "docker-init", 1),
    81: (80, "sshd", 3),
    90: (1, "sshd", 8),  # of the node itself
    91: (90, "bash", 8),
    92: (61, "python3", 8),  # docker exec
}


class Proc:
    """A folder in the form of /proc. While the code sleeps, the processes become those of the second sample."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.second: dict[int, tuple[int, str, int]] = {}
        self.slept = 0.0

    def write(self, processes: dict[int, tuple[int, str, int]]) -> None:
        for pid, (parent, name, ticks) in processes.items():
            folder = self.root / str(pid)
            folder.mkdir(exist_ok=True)
            (folder / "stat").write_text(f"{pid} ({name}) S {parent} 1 1 0 -1 4194304 5 6 7 8 {ticks} 0 3 4 20 0 1 0 9")

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.write(self.second)

    def monotonic(self) -> float:
        return self.slept


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proc:
    made = Proc(tmp_path)
    made.write(IDLE)
    monkeypatch.setattr(activity, "PROC", tmp_path)
    monkeypatch.setattr(activity, "time", made)
    monkeypatch.setattr(activity, "TICKS", 100)
    return made


def test_idle_containers_have_no_activity(proc: Proc) -> None:
    (proc.root / "self").mkdir()
    (proc.root / "99").mkdir()  # has ended
    assert activity.container_activity(PIDS) == []
    assert proc.slept == activity.SAMPLE_SECONDS


@pytest.mark.parametrize(
    ("processes", "expected"),
    [
        ({82: (81, "sshd-session", 1)}, []),  # a forwarded port, or sftp
        ({82: (81, "sshd", 1), 83: (82, "bash", 1)}, ["ssh: pid 83 bash in an SSH session"]),
        ({82: (81, "sshd-session", 1), 83: (82, "a) R 1 (b", 1)}, ["ssh: pid 83 a) R 1 (b in an SSH session"]),
        ({83: (81, "\x1b[2J", 1)}, ["ssh: pid 83 ?[2J in an SSH session"]),
        ({83: (80, "tmux", 1)}, []),  # no session has it any more
    ],
)
def test_a_program_of_an_ssh_session_is_activity(
    proc: Proc, processes: dict[int, tuple[int, str, int]], expected: list[str]
) -> None:
    proc.write(processes)
    assert activity.container_activity(PIDS) == expected
    assert (proc.slept == 0) == bool(expected)


@pytest.mark.parametrize(
    ("processes", "expected"),
    [
        ({72: (71, "python", 5019)}, []),
        ({72: (71, "python", 5160)}, ["jupyter: 0.8 processor cores are in use"]),
        ({73: (72, "python", 100), 74: (80, "python", 200)}, ["jupyter: 0.5 processor", "ssh: 1.0 processor"]),
        ({71: (70, "jupyter-lab", 0), 72: (71, "python", 5010)}, []),  # another process, of the same number
        ({92: (61, "python3", 900), 91: (90, "bash", 900)}, []),
    ],
)
def test_use_of_a_processor_in_a_container_is_activity(
    proc: Proc, processes: dict[int, tuple[int, str, int]], expected: list[str]
) -> None:
    proc.second = processes
    found = activity.container_activity(PIDS)
    assert len(found) == len(expected)
    assert all(line.startswith(part) for part, line in zip(expected, found, strict=True)), found


def test_containers_that_do_not_run_are_not_measured(proc: Proc) -> None:
    assert activity.container_activity({"jupyter": 0, "ssh": 0}) == []
    assert proc.slept == 0


def test_a_container_whose_processes_are_not_known_counts_as_used(proc: Proc) -> None:
    assert activity.container_activity({"jupyter": 70, "ssh": 4000}) == ["the processes of ssh are unknown"]
    assert proc.slept == 0


@pytest.fixture(params=["while True: pass", "input()"], ids=["computes", "waits"])
def program(request: pytest.FixtureRequest) -> Iterator[tuple[int, bool]]:
    """The PID of a program of this machine, and whether it computes."""
    command = [sys.executable, "-c", f"print(flush=True)\n{request.param}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        yield process.pid, request.param != "input()"
        process.kill()


def test_use_of_a_processor_is_measured_on_this_machine(
    program: tuple[int, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity, "SAMPLE_SECONDS", 0.3)
    pid, computes = program
    assert bool(activity.container_activity({"jupyter": pid})) is computes


def test_seats_are_looked_at_together_each_by_its_own_containers(proc: Proc) -> None:
    proc.write({82: (81, "sshd-session", 1), 83: (82, "bash", 1)})
    seats = {"ml_a": {"jupyter": 70}, "ml_b": {"ssh": 80, "old": 0}, "ml_c": {"gone": 999}, "ml_d": {}}
    lines, sample = activity.activity_by_seat(seats)
    assert lines == {"ml_a": [], "ml_b": ["ssh: pid 83 bash in an SSH session"], "ml_c": [], "ml_d": []}
    ended = 0.07  # of each process, in seconds: 3 and 4 ticks of its children
    of_a, of_b = 54.01 + 3 * ended, 0.06 + 4 * ended
    assert sample.seconds == {"ml_a": pytest.approx(of_a), "ml_b": pytest.approx(of_b), "ml_c": None, "ml_d": 0}
    assert proc.slept == 0


def test_a_process_that_ends_takes_its_processor_time_to_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine says so: what a student starts and ends again counts, too."""
    monkeypatch.setattr(activity, "TICKS", os.sysconf("SC_CLK_TCK"))
    before = activity.activity_by_seat({"s": {"jupyter": os.getpid()}})[1].seconds["s"]
    subprocess.run([sys.executable, "-c", "for _ in range(4_000_000): pass"], check=True)
    after = activity.activity_by_seat({"s": {"jupyter": os.getpid()}})[1].seconds["s"]
    assert after > before


def samples(*pairs: tuple[float, float | None]) -> list[Any]:
    """Return samples of one seat: when each was taken, and the processor time until then."""
    return [activity.Sample(at, {"s": seconds}) for at, seconds in pairs]


@pytest.mark.parametrize(
    ("found", "is_used"),
    [
        (samples((0, 10), (300, 10)), False),
        (samples((0, 10), (300, 40)), False),  # 0.1 cores
        (samples((0, 10), (300, 41)), True),
        (samples((0, 10), (60, 39), (300, 40)), False),  # much for a minute, and then nothing
        (samples((0, 10), (240, 10)), False),
        (samples((0, 10), (239, 10)), True),  # not known for so long
        (samples((300, 10)), True),
        (samples((0, None), (300, 10)), True),
        (samples((0, 10), (300, None)), True),
        (samples((0, 10), (300, 5)), True),  # its containers were started again
    ],
)
def test_more_than_a_tenth_of_a_core_over_five_minutes_is_use(found: list[Any], is_used: bool) -> None:
    assert activity.uses_processors(found, "s") is is_used
    assert activity.uses_processors(found, "a seat that was not there")


def test_samples_are_kept_for_as_long_as_they_are_needed() -> None:
    kept: list[Any] = []
    for minute in range(30):
        found = json.loads(json.dumps(kept))  # as a child writes them
        kept = activity.read_samples(found, activity.Sample(60.0 * minute, {"s": 1.0 * minute}))
    assert [sample.at for sample in kept] == [60.0 * minute for minute in range(23, 30)]
    assert not activity.uses_processors(kept, "s")
    after_a_gap = activity.read_samples(kept, activity.Sample(9000.0, {"s": 31.0}))
    assert [sample.at for sample in after_a_gap] == [9000.0]
