"""Running commands with a time limit and a bounded output."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import tempfile
import time
from typing import Any, Callable, NamedTuple, Sequence

from ansible.module_utils.provisioner.base.problem import ProblemError

OUTPUT_LIMIT = 1 << 16  # bytes kept of what a command says: a container may say anything, and without end
OWN_LIMIT = 1 << 26  # bytes, of what a child of ours answers
CHUNK = 1 << 16


class CommandResult(NamedTuple):
    """How a command ended. `code` is None where it was stopped because its time was up."""

    code: int | None
    out: str
    err: str

    @property
    def message(self) -> str:
        """The end of what it said, for people; errors first."""
        said = self.err.strip() or self.out.strip() or "it said nothing"
        return said[-2000:] if self.code is not None else f"it did not end in time; {said[-2000:]}"


def run(
    argv: Sequence[str],
    seconds: float,
    *,
    text: str = "",
    env: dict[str, str] | None = None,
    keep: Sequence[int] = (),
) -> CommandResult:
    """`text` is its input; `keep` are descriptors that it inherits. When time is up its whole process group ends.

    Raises ProblemError `tool_missing` where there is no such program.
    """
    with tempfile.TemporaryFile() as source:
        source.write(text.encode())
        source.seek(0)
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(
                argv, stdin=source, stdout=pipe, stderr=pipe, env=env, pass_fds=keep, start_new_session=True
            )
        except FileNotFoundError:
            raise _tool_missing(argv[0]) from None
        with process:
            return _follow(process, time.monotonic() + seconds)


def _follow(process: subprocess.Popen[bytes], deadline: float) -> CommandResult:
    kept: dict[int, bytearray] = {s.fileno(): bytearray() for s in (process.stdout, process.stderr) if s}
    ended = _drain(kept, deadline, OUTPUT_LIMIT)
    if ended:
        try:
            process.wait(max(deadline - time.monotonic(), 1))
        except subprocess.TimeoutExpired:
            ended = False
    if not ended:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    out, err = (bytes(part).decode(errors="replace") for part in kept.values())
    return CommandResult(process.returncode if ended else None, out, err)


def _drain(kept: dict[int, bytearray], deadline: float, limit: int) -> bool:
    """Reads to the end; whatever is over the limit is read and dropped. False where time was up first."""
    waiting = set(kept)
    while waiting:
        ready = select.select(list(waiting), [], [], max(deadline - time.monotonic(), 0))[0]
        if not ready:
            return False
        for end in ready:
            chunk = os.read(end, CHUNK)
            kept[end] += chunk[: limit - len(kept[end])]
            if not chunk:
                waiting.discard(end)
    return True


def run_in_child(work: Callable[[], Any], seconds: float) -> Any:
    """What `work` returns (JSON), made in a child process: what hangs or crashes there does so alone.

    Raises TimeoutError, or ChildProcessError with the reason where there was no value.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        _answer(work, writer)
    os.close(writer)
    kept = {reader: bytearray()}
    ended = _drain(kept, time.monotonic() + seconds, OWN_LIMIT)
    os.close(reader)
    if not ended:
        os.kill(child, signal.SIGKILL)
    # A child stuck in the kernel does not even die; waiting for that one would hang here, too.
    os.waitpid(child, 0 if ended else os.WNOHANG)
    if not ended:
        raise TimeoutError
    if not kept[reader]:
        raise ChildProcessError("it crashed")
    value, error = json.loads(kept[reader].decode())
    if error:
        raise ChildProcessError(error)
    return value


def _answer(work: Callable[[], Any], writer: int) -> None:
    try:
        answer = json.dumps([work(), None])
    except Exception as error:  # noqa: BLE001  (whatever it is, the parent tells it)
        answer = json.dumps([None, repr(error)])
    rest = answer.encode()
    while rest:
        rest = rest[os.write(writer, rest) :]
    os._exit(0)  # the parent's clean-up is the parent's


def _tool_missing(name: str) -> ProblemError:
    return ProblemError(
        "tool_missing",
        f"there is no program {name} on the node",
        "the node's own part of the work is done with it",
        "run `provision prepare`, or install the package that has it",
    )
