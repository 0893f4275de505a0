"""What a command costs this machine, with every process that it starts: time, processors, memory. Linux only."""

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
_TICK = 1.0  # seconds between two looks


@dataclass(frozen=True)
class Usage:
    """`code` as a shell's caller sees it, minus a signal. `cpu`: seconds, in user mode and in the kernel.

    `own`: bytes that the command itself had in memory at most. `tree`: the same of all its processes together, pages
    that several share counted once; looked at once a second, so a shorter peak is missed.
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
    """Runs it to its end, or until `kill_when`, asked once a second: then it is killed with all that it has started.

    This process must start no other one meanwhile.
    """
    brood = _Brood(frozenset(_children().get(os.getpid(), ())))
    with _adopting(), out.open("w") as stdout, err.open("w") as stderr:
        began = perf_counter()
        process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, cwd="/")
        try:
            own, tree = _watch(process.pid, brood, kill_when)
        except BaseException:
            brood.kill()
            raise
        finally:
            seconds = perf_counter() - began
            process.returncode, cpu = brood.reap(process.pid)
    return Usage(process.returncode, seconds, cpu, own, tree)


@contextmanager
def _adopting() -> Iterator[None]:
    """Whatever loses its parent below this process becomes its child, as ssh does that keeps a connection."""
    _adopt(1)
    try:
        yield
    finally:
        _adopt(0)


def _adopt(on: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, on, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


@dataclass(frozen=True)
class _Brood:
    """The children that this process has beside those of `before`, and theirs."""

    before: frozenset[int]

    def members(self) -> set[int]:
        children = _children()
        found, left = set[int](), [pid for pid in children.get(os.getpid(), ()) if pid not in self.before]
        while left:
            found.add(pid := left.pop())
            left += children.get(pid, ())
        return found

    def kill(self) -> None:
        killed = set[int]()
        while left := self.members() - killed:  # one may have been started since
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            killed |= left

    def reap(self, command: int) -> tuple[int, float]:
        """The command's exit code, and the CPU seconds of all that has ended; waits for whatever is left of it."""
        _, status, used = os.wait4(command, 0)
        cpu = used.ru_utime + used.ru_stime
        while left := [pid for pid in _children().get(os.getpid(), ()) if pid not in self.before]:
            for pid in left:
                _, _, used = os.wait4(pid, 0)
                cpu += used.ru_utime + used.ru_stime
        return os.waitstatus_to_exitcode(status), cpu


def _children() -> dict[int, list[int]]:
    """Process -> those that it has started and not lost."""
    found: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name of a program may hold blanks and parentheses.
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            found.setdefault(parent, []).append(int(path.parent.name))
    return found


def _watch(pid: int, brood: _Brood, kill_when: Callable[[], bool]) -> tuple[int, int]:
    """The peaks in memory: of this process, and of all."""
    own = tree = 0
    ended = os.pidfd_open(pid)
    try:
        while not select.select([ended], (), (), _TICK)[0]:
            own = max(own, _bytes(pid, "status", "VmHWM:"))
            tree = max(tree, sum(_bytes(each, "smaps_rollup", "Pss:") for each in brood.members()))
            if kill_when():
                brood.kill()
    finally:
        os.close(ended)
    return own, tree


def _bytes(pid: int, file: str, name: str) -> int:
    """0 of a process that has ended."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
        return next((int(line.split()[1]) << 10 for line in lines if line.startswith(name)), 0)
    return 0
