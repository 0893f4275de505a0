"""The difference between two locks: which images change, and for which nodes."""

from collections.abc import Mapping
from typing import Literal

from provisioner.domain.lab.lock import LockedImage, Lockfile
from provisioner.domain.rollout.plan import Plan
from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem

UPGRADE_SCHEMA: Literal["provisioner/upgrade/1"] = "provisioner/upgrade/1"


class ImageChange(Value):
    """A node whose image changes. References with tags, for display; None where the lock has no image for the node."""

    node: str
    before: str | None
    after: str | None


class LockChange(Value):
    """`moves`: nodes whose image changes, by digest. `left_behind`: nodes that would lose their image, and why."""

    torch_before: str | None
    torch_after: str | None
    gone: tuple[LockedImage, ...] = ()
    new: tuple[LockedImage, ...] = ()
    moves: tuple[ImageChange, ...] = ()
    left_behind: dict[str, Problem] = {}

    @property
    def is_empty(self) -> bool:
        """Whether no image changes."""
        return not (self.gone or self.new or self.moves)


class Upgrade(Value):
    """The result of an upgrade: the change of the lock, the new lock and the plan for the nodes."""

    change: LockChange
    lock: Lockfile
    plan: Plan


def compare_locks(old: Lockfile, new: Lockfile, reasons: Mapping[str, Problem | None]) -> LockChange:
    """Compare two locks. `reasons`: for each node of the inventory, why the new lock has no image for it, or None."""
    before, after = {image.lab for image in old.images}, {image.lab for image in new.images}
    nodes = sorted({*old.nodes, *new.nodes})
    moves = [
        ImageChange(node=node, before=_tag(old, node), after=_tag(new, node))
        for node in nodes
        if _changes(old, new, node)
    ]
    return LockChange(
        torch_before=old.torch,
        torch_after=new.torch,
        gone=tuple(image for image in old.images if image.lab not in after),
        new=tuple(image for image in new.images if image.lab not in before),
        moves=tuple(moves),
        left_behind={
            move.node: _left_behind(move, reasons[move.node])
            for move in moves
            if move.after is None and move.node in reasons
        },
    )


def _changes(old: Lockfile, new: Lockfile, node: str) -> bool:
    before, after = old.image_of(node), new.image_of(node)
    return (before and before.lab) != (after and after.lab)


def _tag(lock: Lockfile, node: str) -> str | None:
    image = lock.image_of(node)
    return image.reference if image else None


def _left_behind(move: ImageChange, reason: Problem | None) -> Problem:
    because = f": {reason.what}" if reason else ""
    return Problem(
        "left_behind",
        f"{move.node} has an image now, and would have none{because}",
        "an upgrade is for the whole lab: a node without an image in the new lock keeps the old image, and drifts",
        "make it reachable, or choose a torch that supports it (--torch SPEC); or accept it: --leave-behind",
        move.node,
    )
