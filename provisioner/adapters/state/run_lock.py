"""One run at a time on a lab from this account: a lock that the kernel takes back when its holder dies; and whose.

Other accounts and machines meet at the nodes, which know the run that holds them.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from provisioner.adapters.state.files import read_text, state_home
from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem, ProblemError


class Holder(Value):
    run: str
    verb: str
    holder: str  # person@machine
    since: str  # ISO 8601, UTC
    pid: int


@contextmanager
def holding(lab: str, holder: Holder, breaks: str = "") -> Iterator[None]:
    """Raises ProblemError (locked) where another run than `breaks` holds the lab.

    A run that was taken over from goes on to hold a file that nobody looks at any more; its nodes refuse it.
    """
    path = state_home() / lab / "lock"
    handle = _taken(path, breaks)
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, holder.model_dump_json().encode(), 0)
        yield
    finally:
        os.close(handle)


@contextmanager
def in_turn(lab: str, waits: Callable[[], None]) -> Iterator[None]:
    """For one's own seat, where asking twice is no mistake: the second waits, and finds done what the first has done.

    `waits` is called where there is somebody to wait for.
    """
    handle = _opened(state_home() / lab / "turn")
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waits()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _taken(path: Path, breaks: str) -> int:
    while True:
        handle = _opened(path)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            other = _holder(path)
            if other is None or other.run != breaks:
                raise ProblemError(_locked(path, other), "locked") from None
            with suppress(FileNotFoundError):
                path.unlink()
            continue
        if _is_still_there(handle, path):
            return handle
        os.close(handle)  # its last holder was taken over from between our two looks


def _opened(path: Path) -> int:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ProblemError(_unusable(path, error.strerror or str(error))) from error


def _is_still_there(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _holder(path: Path) -> Holder | None:
    """None where it has not yet said who it is."""
    try:
        return Holder.model_validate_json(read_text(path, "run it again"))
    except (ProblemError, ValidationError):
        return None


def _locked(path: Path, other: Holder | None) -> Problem:
    who = (
        f"{other.verb}, run {other.run} of {other.holder} (process {other.pid}) since {other.since}" if other else path
    )
    return Problem(
        "locked",
        f"another run is at this lab: {who}",
        "two runs that change one node would leave it as neither of them wanted",
        f"wait until it has ended, or take over: --break-lock {other.run if other else 'RUN'}",
    )


def _unusable(path: Path, reason: str) -> Problem:
    return Problem(
        "lock_unusable",
        f"{path}: {reason}",
        "without it two runs could change one lab at the same time",
        "make room there, or set XDG_STATE_HOME to a directory that can be written",
    )
