"""Claims: which run may change this node.

STATE_ROOT/claim.json         the active claim; no file means no claim
STATE_ROOT/last_claim.json    the claim that was released last
STATE_ROOT/fence              the highest fence of any claim; a claim with a lower fence is no longer valid
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
from ansible.module_utils.provisioner.jobs.job import check_no_job
from ansible.module_utils.provisioner.jobs.node_jobs import NodeJobs


def read_claim(state_root: str) -> tuple[dict[str, Any] | None, int]:
    """Return the active claim, if there is one, and the highest fence.

    Raises ProblemError `claim_damaged` when a file cannot be read.
    """
    claim, fence = (_read(Path(state_root) / name) for name in ("claim.json", "fence"))
    return claim, max(int(fence or 0), int(claim["fence"]) if claim else 0)


def last_claim(state_root: str) -> dict[str, Any] | None:
    """Return the claim that was released last. Raises ProblemError `claim_damaged` when it cannot be read."""
    found: dict[str, Any] | None = _read(Path(state_root) / "last_claim.json")
    return found


def check_claim(state_root: str, claim: dict[str, Any] | None) -> None:
    """Check before a change that `claim` is still valid. None: the user's own machine, which has no claims.

    Raises ProblemError `fenced` when a newer claim exists, and `claimed` when another run holds the node.
    """
    if claim is None:
        return
    alive, fence = read_claim(state_root)
    if claim["fence"] < fence:
        raise _fenced(claim, alive)
    if alive and alive["run"] != claim["run"]:
        raise _claimed(alive)


def check_unclaimed(state_root: str) -> None:
    """Check before a change of the whole node that no run holds it. Raises ProblemError `claimed`."""
    alive, _ = read_claim(state_root)
    if alive:
        raise _claimed(alive)


def take_claim(state_root: str, claim: dict[str, Any], breaks: str) -> None:
    """Claim the node for a run; `breaks` is the run whose claim may be replaced.

    A later run needs a higher fence even when no claim is active, because its facts of the node may be out of date.
    Raises ProblemError as `check_claim` does, and `node_busy` while the node itself is being prepared.
    """
    with _locked(state_root):
        alive, fence = read_claim(state_root)
        own = bool(alive and alive["run"] == claim["run"])
        if claim["fence"] < fence or (claim["fence"] == fence and not own):
            raise _claimed(alive) if alive and alive["run"] not in (claim["run"], breaks) else _fenced(claim, alive)
        if alive and alive["run"] not in (claim["run"], breaks):
            raise _claimed(alive)
        # The fence is written first: after a crash between the two files, no older run can claim the node.
        write_atomic(Path(state_root) / "fence", str(claim["fence"]))
        write_atomic(Path(state_root) / "claim.json", json.dumps(claim, sort_keys=True))
    # A job of the whole node looks for claims after it has begun, so that one of the two always sees the other.
    try:
        check_no_job(NodeJobs(state_root))
    except ProblemError:
        release_claim(state_root, claim)
        raise


def release_claim(state_root: str, claim: dict[str, Any] | None) -> None:
    """Release `claim`, or an earlier claim of the same run. Claims of other runs are not changed."""
    if claim is None:
        return
    with _locked(state_root):
        alive, _ = read_claim(state_root)
        if alive and alive["run"] == claim["run"] and alive["fence"] <= claim["fence"]:
            (Path(state_root) / "claim.json").replace(Path(state_root) / "last_claim.json")
            sync_folder(Path(state_root))


def with_release(order: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """Release the claim of a finished job and return its record, with `released` when that succeeded."""
    try:
        release_claim(order["state_root"], order.get("claim"))
    except (ProblemError, OSError):  # the control machine releases what is still claimed
        return record
    return {**record, "released": True}


@contextlib.contextmanager
def _locked(state_root: str) -> Iterator[None]:
    """Hold the lock of the claim files."""
    Path(state_root).mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(str(Path(state_root) / "claim.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # held while two small files are written
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
        f"the node is claimed by run {alive['run']} of {alive['holder']} (lab {alive['lab']}) since {alive['since']}",
        "only one run may change a node at a time",
        f"wait for that run; if it was interrupted: provision resume; to take over: --break-lock {alive['run']}",
    )


def _fenced(claim: dict[str, Any], alive: dict[str, Any] | None) -> ProblemError:
    later = f"run {alive['run']} of {alive['holder']}" if alive else "a later run"
    return ProblemError(
        "fenced",
        f"{later} has taken this node over from run {claim['run']}",
        "the facts that this run has of the node are out of date",
        "check `provision status`, then run again what is still needed",
    )


def _damaged(path: Path, error: Exception) -> ProblemError:
    return ProblemError(
        "claim_damaged",
        f"{path} cannot be read: {error}",
        "the file says which run may change this node",
        f"make sure that no run is active, then remove {path} on the node",
    )
