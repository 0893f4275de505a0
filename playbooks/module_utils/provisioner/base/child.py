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


class Child:
    """A forked process that does some work in at most `seconds`. To be waited for with select(2), see `fileno`."""

    def __init__(self, work: Callable[[], Any], seconds: float) -> None:
        """Start the work, whose result has to be JSON."""
        self._reader, writer = os.pipe()
        self._output, self._has_ended = bytearray(), False
        self.deadline = time.monotonic() + seconds
        self._pid = os.fork()
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
        with contextlib.suppress(ChildProcessError):
            # A child that is blocked in the kernel does not end at SIGKILL either, so it is not waited for.
            os.waitpid(self._pid, 0 if self._has_ended else os.WNOHANG)
        if not self._has_ended:
            raise TimeoutError
        return result_of_child(bytes(self._output))
