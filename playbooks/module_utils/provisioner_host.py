"""What every part on a node needs: faults, commands that end, files written whole."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, NamedTuple, Sequence

OUTPUT_LIMIT = 1 << 16  # bytes kept of what a command says: a container may say anything, and without end
OWN_LIMIT = 1 << 26  # bytes, of what a child of ours answers
CHUNK = 1 << 16


class Fault(Exception):  # noqa: N818  (it says what happens, not what kind of thing it is)
    """One thing that is wrong, in the shape in which the control machine tells it. `state` is how a job ends by it."""

    state = "failed"

    def __init__(self, code: str, what: str, why: str, fix: str) -> None:
        super().__init__(what)
        self.problem = {"code": code, "what": clean(what), "why": clean(why), "fix": clean(fix)}


class Ran(NamedTuple):
    """How a command ended. `code` is None where it was stopped because its time was up."""

    code: int | None
    out: str
    err: str

    @property
    def said(self) -> str:
        """The end of what it said, for people; errors first."""
        said = self.err.strip() or self.out.strip() or "it said nothing"
        return said[-2000:] if self.code is not None else f"it did not end in time; {said[-2000:]}"


def clean(text: str) -> str:
    """Without control characters: what a node or a container says must not move anybody's cursor."""
    return "".join(c if c in "\n\t" or c.isprintable() else "?" for c in text)


def run(
    argv: Sequence[str],
    seconds: float,
    *,
    text: str = "",
    env: dict[str, str] | None = None,
    keep: Sequence[int] = (),
) -> Ran:
    """`text` is its input; `keep` are descriptors that it inherits. When time is up its whole process group ends.

    Raises Fault `tool_missing` where there is no such program.
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


def _follow(process: subprocess.Popen[bytes], deadline: float) -> Ran:
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
    return Ran(process.returncode if ended else None, out, err)


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


def bounded(work: Callable[[], Any], seconds: float) -> Any:
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


def read(path: Path) -> str:
    """The text of a file; empty where it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def write_whole(path: Path, text: str, mode: int = 0o600) -> None:
    """Readers see the old file or the new one, and so does whoever looks after a power cut."""
    beside = path.with_name(f".{path.name}.new")
    descriptor = os.open(str(beside), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, mode)
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    beside.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    descriptor = os.open(str(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def boot_id() -> str:
    return read(Path("/proc/sys/kernel/random/boot_id")).strip()


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def refused_by_system(error: OSError) -> Fault:
    return Fault(
        "io_error",
        f"the node's system refused it: {error}",
        "a seat is not changed without a record on disk of what is done",
        "look for room and for a read-only file system on the node: df -h, df -i, mount",
    )


def _tool_missing(name: str) -> Fault:
    return Fault(
        "tool_missing",
        f"there is no program {name} on the node",
        "the node's own part of the work is done with it",
        "run `provision prepare`, or install the package that has it",
    )
