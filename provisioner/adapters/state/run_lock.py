"""One run at a time on a lab from this account: a file lock, which the kernel releases when its holder ends.

Runs of other accounts and machines are kept apart by the claims on the nodes.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from provisioner.adapters.state.files import make_private_folder, read_text, state_home
from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem, ProblemError

NAME_SECONDS = 1.0


class Holder(Value):
    """The run that holds the lock, as it is written into the lock file."""

    run: str
    verb: str
    holder: str  # person@machine
    since: str  # ISO 8601, UTC
    pid: int


@contextmanager
def hold_run_lock(lab: str, holder: Holder, breaks: str | None = "") -> Iterator[None]:
    """Hold the lock of `lab`. Raises ProblemError (locked) where another run than `breaks` holds it.

    `breaks` is None for a command that cannot take over.

    A run whose lock is taken over keeps its lock on a file that has been unlinked; the nodes refuse its orders.
    """
    path = state_home() / lab / "lock"
    handle = _acquire(path, holder) or _take_over(path, holder, breaks)
    try:
        yield
    finally:
        os.close(handle)


@contextmanager
def hold_seat_lock(lab: str, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of the user's own seat, waiting for it without a time limit.

    A second `provision me` waits, and then finds the work of the first one done. `on_wait` is called before waiting.
    """
    handle = _open(state_home() / lab / "turn")
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _acquire(path: Path, holder: Holder) -> int | None:
    """Lock the file and write the holder into it; None where another run has locked it."""
    while True:
        handle = _open(path)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        if _is_same_file(handle, path):
            os.ftruncate(handle, 0)
            os.pwrite(handle, holder.model_dump_json().encode(), 0)
            return handle
        os.close(handle)  # the lock was taken over between opening the file and locking it


def _take_over(path: Path, holder: Holder, breaks: str | None) -> int:
    """Replace the lock of the run `breaks`. Raises ProblemError (locked) where another run holds it.

    Of several runs that take over at once only the first does: the others wait for it, and then read its name.
    """
    turn = _open(path.with_name("takeover"))
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)  # held while two small files are read and written
        while (handle := _acquire(path, holder)) is None:
            other = _read_holder(path)
            if other is None or other.run != breaks:
                raise ProblemError(_locked(path, other, can_take_over=breaks is not None), "locked")
            with suppress(FileNotFoundError):
                path.unlink()
    finally:
        os.close(turn)
    return handle


def _open(path: Path) -> int:
    try:
        make_private_folder(path.parent)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ProblemError(
            Problem(
                "lock_unusable",
                f"{path}: {error.strerror or error}",
                "without this lock two runs could change one lab at the same time",
                "free disk space there, or set XDG_STATE_HOME to a directory that you can write to",
            )
        ) from error


def _is_same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _read_holder(path: Path) -> Holder | None:
    """Return who holds the lock, None where it has not written its name within NAME_SECONDS after it took the lock."""
    deadline = time.monotonic() + NAME_SECONDS
    while True:
        with suppress(ProblemError, ValidationError):
            return Holder.model_validate_json(read_text(path, "run the command again"))
        if time.monotonic() > deadline:
            return None
        time.sleep(0.01)


def _locked(path: Path, other: Holder | None, *, can_take_over: bool) -> Problem:
    if other is None:
        what = f"another run is changing this lab: {path} is locked"
    else:
        started = f"{other.verb}, started by {other.holder} (process {other.pid}) at {other.since}"
        what = f"run {other.run} is changing this lab: {started}"
    take_over = f", or take over: --break-lock {other.run if other else 'RUN'}" if can_take_over else ""
    return Problem(
        "locked",
        what,
        "two runs at the same time would leave nodes in a state that neither of them planned",
        f"wait until it has ended{take_over}",
    )
