"""Work in a child process whose result is read when it is there: the caller goes on meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any, Callable

from ansible.module_utils.provisioner.base.command import (
    CHILD_LIMIT,
    CHUNK,
    result_of_child,
    write_and_exit,
    write_result,
)

_left: list[int] = []  # children that had not ended when they were last looked at


def fork() -> int:
    """Fork, as os.fork does, after the children that were left and have ended were waited for. Raises OSError."""
    _left[:] = [child for child in _left if not _has_gone(child)]
    return os.fork()


def become(uid: int, gid: int) -> None:
    """Give up all rights but those of this account, for good. Raises PermissionError for root and for another one."""
    if os.geteuid() == 0 and uid and gid:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    if not uid or (uid, uid) != (os.getuid(), os.geteuid()):
        raise PermissionError(f"this process has the uid {os.geteuid()}, and cannot have {uid}")


def leave(child: int) -> None:
    """Do not wait for a child that ends soon, or never: one that is blocked in the kernel does not end at SIGKILL.

    `fork` waits for it later. Without that, ended children would take up the numbers of processes.
    """
    _left.append(child)


def _has_gone(child: int) -> bool:
    try:
        return os.waitpid(child, os.WNOHANG)[0] == child
    except ChildProcessError:
        return True


class Child:
    """A forked process that does some work in at most `seconds`. To be waited for with select(2), see `fileno`."""

    def __init__(self, work: Callable[[], Any], seconds: float) -> None:
        """Start the work, whose result has to be JSON. Raises OSError."""
        self._reader, writer = os.pipe()
        self._output, self._has_ended = bytearray(), False
        self.deadline = time.monotonic() + seconds
        try:
            self._pid = fork()
        except OSError:
            os.close(self._reader)
            os.close(writer)
            raise
        if not self._pid:
            write_and_exit(lambda descriptor: write_result(work, descriptor), writer)
        os.close(writer)

    def fileno(self) -> int:
        """Return the descriptor that can be read when there is something new."""
        return self._reader

    def read(self) -> bool:
        """Read what there is; return whether that is all."""
        chunk = os.read(self._reader, CHUNK)
        self._output += chunk[: CHILD_LIMIT - len(self._output)]
        self._has_ended = not chunk
        return self._has_ended

    def result(self) -> Any:
        """End the child and return its result. Raises TimeoutError and ChildProcessError as `run_in_child` does."""
        os.close(self._reader)
        if not self._has_ended:
            os.kill(self._pid, signal.SIGKILL)
            leave(self._pid)
            raise TimeoutError
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        return result_of_child(bytes(self._output))
