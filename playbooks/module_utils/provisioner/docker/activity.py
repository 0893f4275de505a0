"""What goes on in containers: programs of SSH sessions, and use of processor time.

Only what a container itself has started counts. `docker exec`, with which the engine checks its health, does not.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any, Iterator, Mapping, NamedTuple, Sequence

from ansible.module_utils.provisioner.base.files import read
from ansible.module_utils.provisioner.base.problem import printable

PROC = Path("/proc")
SAMPLE_SECONDS = 2.0
IDLE_CORES = 0.1  # an idle JupyterLab uses less
WINDOW_S = 300.0  # over which the use of processors is measured, where samples are taken again and again
SLACK_S = 60.0  # by which the samples may be more or less apart
TICKS = os.sysconf("SC_CLK_TCK")  # of processor time, per second
# proc_pid_stat(5): pid (comm) state ppid …, with utime, stime, cutime and cstime as fields 14 to 17; comm may have any
# character.
STAT = re.compile(r"\d+ \((.*)\) \S (\d+) (?:\S+ ){9}(\d+) (\d+) (\d+) (\d+) ", re.DOTALL)
SSHD = "sshd"  # and sshd-session, since OpenSSH 9.8


class Process(NamedTuple):
    """A process of the node. `ticks`: the processor time that it has used; `ended`: that of its children that ended."""

    parent: int
    name: str
    ticks: int
    ended: int


class Sample(NamedTuple):
    """The processor time of seats until a moment (CLOCK_MONOTONIC), in seconds; None where it is not known."""

    at: float
    seconds: dict[str, float | None]


def container_activity(pids: Mapping[str, int]) -> list[str]:
    """Return one line for each program of an SSH session; without any, one for each container that uses a processor.

    `pids`: the name of a container -> its first process, as the node numbers it; 0: it does not run. To measure the use
    of processors takes SAMPLE_SECONDS; more than IDLE_CORES counts. A container whose processes are not known counts.
    """
    begun, before = time.monotonic(), _processes()
    running = {name: pid for name, pid in pids.items() if pid}
    unknown = [f"the processes of {name} are unknown" for name, pid in running.items() if pid not in before]
    sessions = [f"{name}: {line}" for name, pid in running.items() for line in _sessions(before, pid)]
    if not running or unknown or sessions:
        return unknown + sessions
    time.sleep(SAMPLE_SECONDS)
    after, seconds = _processes(), time.monotonic() - begun
    return _busy_ones(before, after, seconds, running)


def activity_by_seat(seats: Mapping[str, Mapping[str, int]]) -> tuple[dict[str, list[str]], Sample]:
    """Return for each of many seats the lines of its SSH sessions, and a sample of the processor time of all of them.

    `seats`: the containers of each seat, as in `container_activity`. Nothing is waited for: see `uses_processors`.
    """
    processes = _processes()
    sample = Sample(time.monotonic(), {seat: _seconds(processes, pids) for seat, pids in seats.items()})
    running = {seat: {name: pid for name, pid in pids.items() if pid} for seat, pids in seats.items()}
    lines = {
        seat: [f"{name}: {line}" for name, pid in pids.items() for line in _sessions(processes, pid)]
        for seat, pids in running.items()
    }
    return lines, sample


def _seconds(processes: dict[int, Process], pids: Mapping[str, int]) -> float | None:
    """Return the processor time of containers, also that of processes that have ended."""
    firsts = [pid for pid in pids.values() if pid]
    if not set(firsts) <= processes.keys():
        return None
    tree = {pid for first in firsts for pid in _tree(processes, first)}
    return sum(processes[pid].ticks + processes[pid].ended for pid in tree) / TICKS


def read_samples(found: Sequence[Any], latest: Sample) -> list[Sample]:
    """Return the samples (JSON) that `uses_processors` still needs, and the latest one after them."""
    earlier = [Sample(*one) for one in found]
    return [*(one for one in earlier if latest.at - one.at <= WINDOW_S + SLACK_S), latest]


def uses_processors(samples: Sequence[Sample], seat: str) -> bool:
    """Return whether a seat has used more than IDLE_CORES in the last WINDOW_S.

    So it has where that is not known: the samples are of a shorter time, or its containers were started again.
    """
    first, last = samples[0], samples[-1]
    before, after = first.seconds.get(seat), last.seconds.get(seat)
    if before is None or after is None or after < before or last.at - first.at < WINDOW_S - SLACK_S:
        return True
    return (after - before) / (last.at - first.at) > IDLE_CORES


def _busy_ones(
    before: dict[int, Process], after: dict[int, Process], seconds: float, running: Mapping[str, int]
) -> list[str]:
    """Return one line for each container that has used more than IDLE_CORES between the two samples."""
    cores = {name: _ticks(before, after, pid) / TICKS / seconds for name, pid in running.items()}
    return [f"{name}: {used:.1f} processor cores are in use" for name, used in cores.items() if used > IDLE_CORES]


def _sessions(processes: dict[int, Process], first: int) -> Iterator[str]:
    tree = _tree(processes, first)
    for pid in sorted(tree):
        process = processes[pid]
        of_sshd = process.parent in tree and processes[process.parent].name.startswith(SSHD)
        if of_sshd and not process.name.startswith(SSHD):
            yield f"pid {pid} {printable(process.name)} in an SSH session"


def _ticks(before: dict[int, Process], after: dict[int, Process], first: int) -> int:
    """Return the processor time that the processes below `first` have used between the two samples."""
    earlier = {pid: before[pid].ticks for pid in _tree(before, first)}
    return sum(max(after[pid].ticks - earlier.get(pid, 0), 0) for pid in _tree(after, first))


def _tree(processes: dict[int, Process], first: int) -> set[int]:
    """Return `first` and all processes below it. Orphans are below the first process of their container."""
    children: dict[int, list[int]] = {}
    for pid, process in processes.items():
        children.setdefault(process.parent, []).append(pid)
    found, open_ones = set(), [first] if first in processes else []
    while open_ones:
        pid = open_ones.pop()
        if pid not in found:
            found.add(pid)
            open_ones += children.get(pid, [])
    return found


def _processes() -> dict[int, Process]:
    """Return all processes of the node."""
    pids = [int(name) for name in os.listdir(str(PROC)) if name.isdigit()]  # noqa: PTH208  (names only)
    found = ((pid, STAT.match(read(PROC / str(pid) / "stat"))) for pid in pids)  # no match: it has ended meanwhile
    return {pid: Process(int(m[2]), m[1], int(m[3]) + int(m[4]), int(m[5]) + int(m[6])) for pid, m in found if m}
