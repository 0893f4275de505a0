"""Claims: which runs may change this node, or which of its seats.

A claim has a `scope`: `node`, or `seats` with the names of these. Several runs hold claims at once where these have no
seat in common. A claim without a scope, as an earlier release takes it, is one of the node.

STATE_ROOT/claim.json         the active claims; no file means no claim
STATE_ROOT/last_claim.json    the claim that was released last
STATE_ROOT/fences.json        the highest fence of a claim of the node, and of each seat; a claim is valid only if its
                              fence is as high as that of everything that it covers
STATE_ROOT/fence              the highest of them: where it is above all others, an earlier release has claimed the node
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, NamedTuple, TypeVar

from ansible.module_utils.provisioner.base.files import sync_folder, write_atomic
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.jobs.job import check_no_job
from ansible.module_utils.provisioner.jobs.node_jobs import NodeJobs

Claim = Dict[str, Any]
Found = TypeVar("Found")
NO_CLAIMS: list[Claim] = []
TEXTS = ("run", "lab", "holder", "since")  # of every claim, beside its fence


class Fences(NamedTuple):
    """The highest fences of claims so far: of the whole node, and of each seat by its name."""

    node: int = 0
    seats: dict[str, int] = {}

    @property
    def highest(self) -> int:
        """The highest of all."""
        return max(self.node, *self.seats.values(), 0)

    def over(self, claim: Claim) -> int:
        """Return the highest fence of what a claim covers."""
        if _is_of_node(claim):
            return self.highest
        return max([self.node, *(self.seats.get(seat, 0) for seat in claim["seats"])])

    def raised(self, claim: Claim, fence: int) -> Fences:
        """Return the fences where what a claim covers has at least this one."""
        if _is_of_node(claim):
            node = max(self.node, fence)
            return Fences(node, {seat: of_seat for seat, of_seat in self.seats.items() if of_seat > node})
        higher = {seat: fence for seat in claim["seats"] if fence > max(self.node, self.seats.get(seat, 0))}
        return Fences(self.node, {**self.seats, **higher})


class NodeClaims(NamedTuple):
    """The active claims of a node, and the highest fences so far."""

    active: list[Claim]
    fences: Fences

    def others(self, claim: Claim) -> list[Claim]:
        """Return the active claims of other runs that have a seat in common with this one."""
        return [other for other in self.active if other["run"] != claim["run"] and _overlap(other, claim)]

    def is_fenced(self, claim: Claim) -> bool:
        """Return whether a later claim has covered something that this one covers. A broker's claim is never fenced."""
        return "fence" in claim and int(claim["fence"]) < self.fences.over(claim)


def _is_of_node(claim: Claim) -> bool:
    return bool(claim.get("scope", "node") == "node")


def _overlap(one: Claim, other: Claim) -> bool:
    return _is_of_node(one) or _is_of_node(other) or not set(one["seats"]).isdisjoint(other["seats"])


def _covers(one: Claim, other: Claim) -> bool:
    return _is_of_node(one) or (not _is_of_node(other) and set(one["seats"]).issuperset(other["seats"]))


def read_claims(state_root: str) -> NodeClaims:
    """Return the active claims and the highest fences. Raises ProblemError `claim_damaged` for an unreadable file."""
    held, is_settled = _read_files(state_root)
    if not is_settled:  # another run is writing them now, or an earlier release has claimed the node
        with _locked(state_root):
            held, _ = _read_files(state_root)
    return held


def _read_files(state_root: str) -> tuple[NodeClaims, bool]:
    """Return what the files say, and whether the fences agree with each other."""
    root = Path(state_root)
    active = _read(root / "claim.json", _parse_claims, NO_CLAIMS)
    fences = _read(root / "fences.json", _parse_fences, Fences())
    highest = _read(root / "fence", int, 0)
    is_settled = highest <= fences.highest
    if not is_settled:
        fences = Fences(highest)
    for claim in active:  # the other files may have been lost
        fences = fences.raised(claim, int(claim["fence"]))
    return NodeClaims(active, fences), is_settled


def last_claim(state_root: str) -> Claim | None:
    """Return the claim that was released last. Raises ProblemError `claim_damaged` when it cannot be read."""
    return next(iter(_read(Path(state_root) / "last_claim.json", _parse_claims, NO_CLAIMS)), None)


def check_claim(state_root: str, claim: Claim | None) -> None:
    """Check before a change that `claim` is still valid. None: the user's own machine, which has no claims.

    The claim of a broker's order has no fence: it is never taken, and only an active claim of a run refuses it.
    Raises ProblemError `fenced` when a later claim has covered something of it, and `claimed` when another run holds
    something of it.
    """
    if claim is None:
        return
    held = read_claims(state_root)
    others = held.others(claim)
    if held.is_fenced(claim):
        raise _fenced(claim, others)
    if others:
        raise _claimed(others[0])


def is_fenced(state_root: str, claim: Claim) -> bool:
    """Return whether a later claim has covered something that this one covers."""
    return read_claims(state_root).is_fenced(claim)


def check_unclaimed(state_root: str) -> None:
    """Check before a change of the whole node that no run holds any of it. Raises ProblemError `claimed`."""
    active = read_claims(state_root).active
    if active:
        raise _claimed(active[0])


def take_claim(state_root: str, claim: Claim, breaks: str) -> None:
    """Claim the node, or seats of it, for a run; `breaks` is the run whose claim may be replaced.

    A replaced claim ends as a whole, and so does an earlier claim of the same run. A later run needs a higher fence
    even when no claim is active, because its facts of the node may be out of date.
    Raises ProblemError as `check_claim` does, and `node_busy` while the node itself is being prepared.
    """
    with _locked(state_root):
        held, _ = _read_files(state_root)
        replaced = [one for one in held.active if one["run"] == claim["run"]]
        replaced += [one for one in held.others(claim) if one["run"] == breaks]
        _check_free(held, claim, replaced)
        fences = held.fences
        for ended in (*replaced, claim):
            fences = fences.raised(ended, int(claim["fence"]))
        # The fences are written first: after a crash between the files, no older run can claim what this one covers.
        write_atomic(Path(state_root) / "fence", str(fences.highest))
        write_atomic(Path(state_root) / "fences.json", json.dumps(fences._asdict(), sort_keys=True))
        _write_active(state_root, [*(one for one in held.active if one not in replaced), claim])
    # A job of the whole node looks for claims after it has begun, so that one of the two always sees the other.
    try:
        check_no_job(NodeJobs(state_root))
    except ProblemError:
        release_claim(state_root, claim)
        raise


def _check_free(held: NodeClaims, claim: Claim, replaced: list[Claim]) -> None:
    """Raise ProblemError unless a run may take this claim in place of the replaced ones."""
    in_the_way = [one for one in held.others(claim) if one not in replaced]
    same = [one for one in replaced if one["run"] == claim["run"] and one["fence"] == claim["fence"]]
    seen = max([held.fences.over(claim), *(int(one["fence"]) for one in replaced)])
    is_repeated = any(_covers(one, claim) for one in same)
    if claim["fence"] < seen or (claim["fence"] == seen and not is_repeated):
        raise _claimed(in_the_way[0]) if in_the_way else _fenced(claim, held.others(claim))
    if in_the_way:
        raise _claimed(in_the_way[0])


def release_claim(state_root: str, claim: Claim | None) -> None:
    """Release `claim`, or an earlier claim of the same run. Claims of other runs are not changed."""
    if claim is None:
        return
    with _locked(state_root):
        active = _read_files(state_root)[0].active
        ended = [one for one in active if one["run"] == claim["run"] and one["fence"] <= claim["fence"]]
        rest = [one for one in active if one not in ended]
        if ended and rest:
            write_atomic(Path(state_root) / "last_claim.json", json.dumps(ended[0], sort_keys=True))
            _write_active(state_root, rest)
        elif ended:  # renamed: a full disk does not prevent it
            (Path(state_root) / "claim.json").replace(Path(state_root) / "last_claim.json")
            sync_folder(Path(state_root))


def _write_active(state_root: str, active: list[Claim]) -> None:
    """Write the active claims, at least one."""
    found = active[0] if len(active) == 1 else {**_as_one(active), "claims": active}
    write_atomic(Path(state_root) / "claim.json", json.dumps(found, sort_keys=True))


def _as_one(active: Iterable[Claim]) -> Claim:
    """Return one claim of the node with the names of all runs, as an earlier release reads it: it refuses the node."""
    texts = {name: ", ".join(str(claim[name]) for claim in active) for name in TEXTS}
    return {**texts, "fence": max(int(claim["fence"]) for claim in active)}


def _parse_claims(found: Any) -> list[Claim]:
    claims = found.get("claims", [found])
    if not all({*TEXTS, "fence"} <= claim.keys() and (_is_of_node(claim) or "seats" in claim) for claim in claims):
        raise ValueError("it is not a claim")
    return list(claims)


def _parse_fences(found: Any) -> Fences:
    return Fences(int(found["node"]), {str(seat): int(fence) for seat, fence in found["seats"].items()})


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
        fcntl.flock(lock, fcntl.LOCK_EX)  # held while small files are written
        yield
    finally:
        os.close(lock)


def _read(path: Path, parse: Callable[[Any], Found], missing: Found) -> Found:
    try:
        return parse(json.loads(path.read_text()))
    except FileNotFoundError:
        return missing
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise _damaged(path, error) from None


def _claimed(alive: Claim) -> ProblemError:
    return ProblemError(
        "claimed",
        f"{_what(alive)} claimed by run {alive['run']} of {alive['holder']} (lab {alive['lab']}) since"
        f" {alive['since']}",
        "only one run may change a seat at a time",
        f"wait for that run; if it was interrupted: provision resume; to take over: --break-lock {alive['run']}",
    )


def _what(claim: Claim) -> str:
    """Return what a claim covers, with its verb."""
    if _is_of_node(claim):
        return "the node is"
    seats = claim["seats"]
    return f"the seat {seats[0]} is" if len(seats) == 1 else f"{len(seats)} seats of the node are"


def _fenced(claim: Claim, others: list[Claim]) -> ProblemError:
    later = f"run {others[0]['run']} of {others[0]['holder']}" if others else "a later run"
    return ProblemError(
        "fenced",
        f"{later} has taken over from run {claim['run']} on this node",
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
