"""Measure time, CPU time and memory of a command with all processes that it starts. Linux only."""

import ctypes
import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_TICK = 1.0  # seconds between two samples


@dataclass(frozen=True)
class Usage:
    """`code`: exit code, or minus the signal. `cpu`: seconds in user mode and in the kernel.

    `own`: peak memory of the command itself in bytes. `tree`: peak memory of all its processes together, shared pages
    counted once. It is sampled once a second, so a shorter peak is missed.
    """

    code: int
    seconds: float
    cpu: float
    own: int
    tree: int


def measured(
    argv: Sequence[str],
    env: Mapping[str, str],
    out: Path,
    err: Path,
    kill_when: Callable[[], bool] = lambda: False,
) -> Usage:
    """Run a command to its end, or kill it with all its processes once `kill_when` (checked every second) is true.

    This process must not start other processes meanwhile.
    """
    processes = _ProcessTree(frozenset(_children().get(os.getpid(), ())))
    with _subreaper(), out.open("w") as stdout, err.open("w") as stderr:
        start = perf_counter()
        process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, cwd="/")
        try:
            own, tree = _watch(process.pid, processes, kill_when)
        except BaseException:
            processes.kill()
            raise
        finally:
            seconds = perf_counter() - start
            process.returncode, cpu = processes.reap(process.pid)
    return Usage(process.returncode, seconds, cpu, own, tree)


@contextmanager
def _subreaper() -> Iterator[None]:
    """Make orphaned descendants children of this process, such as an ssh that keeps a connection open."""
    _set_subreaper(1)
    try:
        yield
    finally:
        _set_subreaper(0)


def _set_subreaper(on: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, on, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _signal(processes: set[int], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


@dataclass(frozen=True)
class _ProcessTree:
    """The descendants of this process, without the children that it had `before`."""

    before: frozenset[int]

    def members(self) -> set[int]:
        """Return the process ids."""
        children = _children()
        found, left = set[int](), [pid for pid in children.get(os.getpid(), ()) if pid not in self.before]
        while left:
            found.add(pid := left.pop())
            left += children.get(pid, ())
        return found

    def kill(self) -> None:
        """Kill all of them with SIGKILL. They are stopped first: a shell whose child is killed would go on."""
        stopped = set[int]()
        while left := self.members() - stopped:  # a new one may have been started
            _signal(left, signal.SIGSTOP)
            stopped |= left
        _signal(stopped, signal.SIGKILL)

    def reap(self, command: int) -> tuple[int, float]:
        """Wait for all of them; return the exit code of `command` and the CPU seconds of all."""
        _, status, used = os.wait4(command, 0)
        cpu = used.ru_utime + used.ru_stime
        while left := [pid for pid in _children().get(os.getpid(), ()) if pid not in self.before]:
            for pid in left:
                _, _, used = os.wait4(pid, 0)
                cpu += used.ru_utime + used.ru_stime
        return os.waitstatus_to_exitcode(status), cpu


def _children() -> dict[int, list[int]]:
    """Return the children of each process on this machine."""
    found: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name of a program may contain spaces and parentheses.
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            found.setdefault(parent, []).append(int(path.parent.name))
    return found


def _watch(pid: int, processes: _ProcessTree, kill_when: Callable[[], bool]) -> tuple[int, int]:
    """Return the peak memory in bytes: of the process, and of all together."""
    own = tree = 0
    ended = os.pidfd_open(pid)
    try:
        while not select.select([ended], (), (), _TICK)[0]:
            own = max(own, _bytes(pid, "status", "VmHWM:"))
            tree = max(tree, sum(_bytes(each, "smaps_rollup", "Pss:") for each in processes.members()))
            if kill_when():
                processes.kill()
    finally:
        os.close(ended)
    return own, tree


def _bytes(pid: int, file: str, name: str) -> int:
    """Return a value of /proc in bytes, 0 for a process that has ended."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
        return next((int(line.split()[1]) << 10 for line in lines if line.startswith(name)), 0)
    return 0
