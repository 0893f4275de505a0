"""Running commands with a time limit and a bounded output."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO, Any, Callable, Iterable, NamedTuple, Sequence

from ansible.module_utils.provisioner.base.files import write_all
from ansible.module_utils.provisioner.base.problem import ProblemError

OUTPUT_LIMIT = 1 << 16  # bytes kept of each stream: the output of a container has no limit of its own
CHILD_LIMIT = 1 << 26  # bytes kept of the result of a forked child
CHUNK = 1 << 16
KILL_SECONDS = 5  # for a killed process to end; one that is blocked in the kernel does not end


class CommandResult(NamedTuple):
    """Exit code and output of a command. `code` is None when the command was killed at its time limit."""

    code: int | None
    out: str
    err: str

    @property
    def message(self) -> str:
        """Return the last 2000 characters of stderr, or of stdout when stderr is empty."""
        text = self.err.strip() or self.out.strip() or "no output"
        return text[-2000:] if self.code is not None else f"timed out; {text[-2000:]}"


def run(
    argv: Sequence[str],
    seconds: float,
    *,
    text: str = "",
    env: dict[str, str] | None = None,
    keep: Sequence[int] = (),
) -> CommandResult:
    """Run a command and kill its process group after `seconds`.

    `text` is written to stdin; `keep` are file descriptors that the command inherits. Raises ProblemError
    `tool_missing` when the program does not exist.
    """
    with _source(text) as source:
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(
                argv, stdin=source, stdout=pipe, stderr=pipe, env=env, pass_fds=keep, start_new_session=True
            )
        except FileNotFoundError:
            raise _tool_missing(argv[0]) from None
        return _follow(process, time.monotonic() + seconds)


def _source(text: str) -> IO[bytes]:
    """Return a file to read `text` from. Without text none is made, as a full disk must not stop a command."""
    if not text:
        return Path(os.devnull).open("rb")
    source = tempfile.TemporaryFile()  # noqa: SIM115  (the caller closes it)
    source.write(text.encode())
    source.seek(0)
    return source


def _follow(process: subprocess.Popen[bytes], deadline: float) -> CommandResult:
    """Return the result of a command. One that does not even end after SIGKILL is left behind, without a pipe to us."""
    streams = [stream for stream in (process.stdout, process.stderr) if stream]
    kept: dict[int, bytearray] = {stream.fileno(): bytearray() for stream in streams}
    try:
        ended = _drain(kept, deadline, OUTPUT_LIMIT) and _has_ended(process, max(deadline - time.monotonic(), 1))
        if not ended:
            os.killpg(process.pid, signal.SIGKILL)
            _has_ended(process, KILL_SECONDS)
    finally:
        for stream in streams:
            stream.close()
    out, err = (bytes(part).decode(errors="replace") for part in kept.values())
    return CommandResult(process.returncode if ended else None, out, err)


def _has_ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _drain(kept: dict[int, bytearray], deadline: float, limit: int) -> bool:
    """Read every descriptor to its end and keep up to `limit` bytes of each. Return False after the deadline."""
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
    """Return the (JSON) result of `work`, run in a forked child, so that a hang or a crash cannot stop the caller.

    The child has no file descriptor of the caller: a child that cannot be killed would keep the seat locked, and the
    connection to the control machine open. Raises TimeoutError after `seconds` in all, and ChildProcessError with the
    reason when there is no result.
    """
    output, ended = _output_of_child(lambda writer: write_result(work, writer), seconds, CHILD_LIMIT)
    if not ended:
        raise TimeoutError
    return result_of_child(output)


def result_of_child(output: bytes) -> Any:
    """Return the result that a child has written. Raises ChildProcessError with the reason when there is none."""
    try:
        value, error = json.loads(output.decode())
    except ValueError:  # nothing, or the beginning of it: the child was killed
        raise ChildProcessError("the child process crashed") from None
    if error:
        raise ChildProcessError(error)
    return value


def collect_in_child(work: Callable[[], Iterable[Any]], seconds: float, limit: int) -> tuple[list[Any], bool]:
    """Return the (JSON) values that `work` yields, run in a forked child as by `run_in_child`, and whether it ended.

    What it has yielded after `seconds` in all is kept; it has not ended then. What it yields after an error, or beyond
    `limit` bytes of JSON, is lost.
    """
    output, ended = _output_of_child(lambda writer: _write_values(work, writer), seconds, limit)
    lines = output.decode().split("\n")[:-1]  # what follows the last newline is cut off
    return [json.loads(line) for line in lines], ended


def _output_of_child(write: Callable[[int], None], seconds: float, limit: int) -> tuple[bytes, bool]:
    """Return up to `limit` bytes of what a forked child writes in `seconds`, and whether it ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        write_and_exit(write, writer)
    os.close(writer)
    kept = {reader: bytearray()}
    ended = _drain(kept, time.monotonic() + seconds, limit)
    os.close(reader)
    if not ended:
        os.kill(child, signal.SIGKILL)
    # A child that is blocked in the kernel does not end at SIGKILL either, so it is not waited for.
    os.waitpid(child, 0 if ended else os.WNOHANG)
    return bytes(kept[reader]), ended


def write_and_exit(write: Callable[[int], None], writer: int) -> None:
    """Call `write` with the only descriptor that this forked process keeps, then end it."""
    try:
        close_inherited(writer)
        write(writer)
    finally:
        os._exit(0)  # without the clean-up that belongs to the parent, whatever was raised


def write_result(work: Callable[[], Any], writer: int) -> None:
    """Write the result of `work` and the text of its error, one of which is null, as JSON."""
    try:
        result = json.dumps([work(), None])
    except Exception as error:  # noqa: BLE001  (the parent raises it)
        result = json.dumps([None, repr(error)])
    write_all(writer, result.encode())


def _write_values(work: Callable[[], Iterable[Any]], writer: int) -> None:
    for value in work():
        write_all(writer, f"{json.dumps(value)}\n".encode())


def close_inherited(*keep: int) -> None:
    """Connect stdin, stdout and stderr of this forked process to /dev/null and close all other descriptors but `keep`.

    A descriptor that stays open keeps what it stands for: the connection to the control machine, the lock of a seat.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    for descriptor in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208  (numbers, not paths)
        if descriptor not in (0, 1, 2, *keep):
            with contextlib.suppress(OSError):  # the descriptor of the listing itself is closed already
                os.close(descriptor)


def _tool_missing(name: str) -> ProblemError:
    return ProblemError(
        "tool_missing",
        f"the program {name} is not installed on the node",
        "provisioner runs it on the node",
        "run `provision prepare`, or install the package that contains it",
    )
