"""Which run may change this node: the claim that holds it, and the highest fence that any claim has had.

STATE_ROOT/claim.json         the claim that is alive; not there: none is
STATE_ROOT/last_claim.json    the claim that was the last to let the node go
STATE_ROOT/fence              the highest fence seen; a claim with a lower one was taken over from
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path
from typing import Any, Iterator

from ansible.module_utils.provisioner.base.files import sync_folder, write_atomic
from ansible.module_utils.provisioner.base.problem import ProblemError


def read_claim(state_root: str) -> tuple[dict[str, Any] | None, int]:
    """The claim that is alive, if one is, and the highest fence. Raises ProblemError where they cannot be read."""
    claim, fence = (_read(Path(state_root) / name) for name in ("claim.json", "fence"))
    return claim, max(int(fence or 0), int(claim["fence"]) if claim else 0)


def last_claim(state_root: str) -> dict[str, Any] | None:
    """The claim that was the last to let the node go. Raises ProblemError where it cannot be read."""
    found: dict[str, Any] | None = _read(Path(state_root) / "last_claim.json")
    return found


def check_claim(state_root: str, claim: dict[str, Any] | None) -> None:
    """Before every change. None is one's own machine, where nobody else has a say.

    Raises ProblemError `fenced` where a newer claim was seen, and `claimed` where another one is alive.
    """
    if claim is None:
        return
    alive, fence = read_claim(state_root)
    if claim["fence"] < fence:
        raise _fenced(claim, alive)
    if alive and alive["run"] != claim["run"]:
        raise _claimed(alive)


def take_claim(state_root: str, claim: dict[str, Any], breaks: str) -> None:
    """`breaks` is the run that may be taken over from. Raises ProblemError as `check` does.

    A run that comes later needs a higher fence even where no claim is left: what it saw before is out of date.
    """
    with _alone(state_root):
        alive, fence = read_claim(state_root)
        own = bool(alive and alive["run"] == claim["run"])
        if claim["fence"] < fence or (claim["fence"] == fence and not own):
            raise _claimed(alive) if alive and alive["run"] not in (claim["run"], breaks) else _fenced(claim, alive)
        if alive and alive["run"] not in (claim["run"], breaks):
            raise _claimed(alive)
        # The fence first: cut off in between, nobody holds the node, and nobody older gets it.
        write_atomic(Path(state_root) / "fence", str(claim["fence"]))
        write_atomic(Path(state_root) / "claim.json", json.dumps(claim, sort_keys=True))


def release_claim(state_root: str, claim: dict[str, Any] | None) -> None:
    """The claim that is given, or an earlier one of the same run, which was cut off; any other is left alone."""
    if claim is None:
        return
    with _alone(state_root):
        alive, _ = read_claim(state_root)
        if alive and alive["run"] == claim["run"] and alive["fence"] <= claim["fence"]:
            (Path(state_root) / "claim.json").replace(Path(state_root) / "last_claim.json")
            sync_folder(Path(state_root))


def with_release(order: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """The record of a job that came to its end, and with it what the run had to do on this node."""
    try:
        release_claim(order["state_root"], order.get("claim"))
    except (ProblemError, OSError):  # the controller lets go of what is still held
        return record
    return {**record, "released": True}


@contextlib.contextmanager
def _alone(state_root: str) -> Iterator[None]:
    Path(state_root).mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(str(Path(state_root) / "claim.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # held for as long as two small files take
        yield
    finally:
        os.close(lock)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None


def _claimed(alive: dict[str, Any]) -> ProblemError:
    return ProblemError(
        "claimed",
        f"run {alive['run']} of {alive['holder']} on the lab {alive['lab']} holds it since {alive['since']}",
        "two runs that change one node would leave it as neither of them wanted",
        f"wait for it, or finish it if it was cut off: provision resume; to take over: --break-lock {alive['run']}",
    )


def _fenced(claim: dict[str, Any], alive: dict[str, Any] | None) -> ProblemError:
    later = f"run {alive['run']} of {alive['holder']}" if alive else "a later run"
    return ProblemError(
        "fenced",
        f"{later} has taken this node over from run {claim['run']}",
        "what this run knows of the node is out of date",
        "nothing here; look at `provision status`, then run again what is still wanted",
    )


def _damaged(path: Path, error: Exception) -> ProblemError:
    return ProblemError(
        "claim_damaged",
        f"{path} cannot be read: {error}",
        "it says which run may change this node",
        f"make sure that no run is at work, then remove {path} on the node",
    )
