"""What goes on in containers: programs of SSH sessions, and use of processor time.

Only what a container itself has started counts. `docker exec`, with which the engine checks its health, does not.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Iterator, Mapping, NamedTuple

from ansible.module_utils.provisioner.base.files import read
from ansible.module_utils.provisioner.base.problem import printable

PROC = Path("/proc")
SAMPLE_SECONDS = 2.0
IDLE_CORES = 0.1  # an idle JupyterLab uses less
TICKS = os.sysconf("SC_CLK_TCK")  # of processor time, per second
# proc_pid_stat(5): pid (comm) state ppid …, with utime and stime as fields 14 and 15; comm may have any character.
STAT = re.compile(r"\d+ \((.*)\) \S (\d+) (?:\S+ ){9}(\d+) (\d+) ", re.DOTALL)
SSHD = "sshd"  # and sshd-session, since OpenSSH 9.8


class Process(NamedTuple):
    """A process of the node. `ticks`: the processor time that it has used."""

    parent: int
    name: str
    ticks: int


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


def activity_by_seat(seats: Mapping[str, Mapping[str, int]]) -> dict[str, list[str]]:
    """Return the same lines for many seats at once, by their names: with one measurement of SAMPLE_SECONDS for all.

    `seats`: the containers of each seat, as in `container_activity`. A seat in use has a line, not always all of them.
    """
    begun, before = time.monotonic(), _processes()
    time.sleep(SAMPLE_SECONDS)
    after, seconds = _processes(), time.monotonic() - begun
    found = {}
    for seat, pids in seats.items():
        running = {name: pid for name, pid in pids.items() if pid}
        unknown = [f"the processes of {name} are unknown" for name, pid in running.items() if pid not in before]
        sessions = [f"{name}: {line}" for name, pid in running.items() for line in _sessions(before, pid)]
        found[seat] = unknown + sessions or _busy_ones(before, after, seconds, running)
    return found


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
    return {pid: Process(int(m[2]), m[1], int(m[3]) + int(m[4])) for pid, m in found if m}
