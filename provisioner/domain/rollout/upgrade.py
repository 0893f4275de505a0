"""One lock after another: what changes, and for which nodes."""

from collections.abc import Mapping
from typing import Literal

from provisioner.domain.lab.lock import LockedImage, Lockfile
from provisioner.domain.rollout.plan import Plan
from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem

UPGRADE_SCHEMA: Literal["provisioner/upgrade/1"] = "provisioner/upgrade/1"


class Move(Value):
    """A node that gets another image. References with their tags, for people; None where the lock has none for it."""

    node: str
    before: str | None
    after: str | None


class LockChange(Value):
    """`moves` are nodes whose image is another one, by digest. `left_behind` had an image and would have none now."""

    torch_before: str | None
    torch_after: str | None
    gone: tuple[LockedImage, ...] = ()
    new: tuple[LockedImage, ...] = ()
    moves: tuple[Move, ...] = ()
    left_behind: dict[str, Problem] = {}

    @property
    def is_empty(self) -> bool:
        return not (self.gone or self.new or self.moves)


class Upgrade(Value):
    """What an upgrade would do: to the lock, and to the nodes."""

    change: LockChange
    lock: Lockfile
    plan: Plan


def lock_change(old: Lockfile, new: Lockfile, reasons: Mapping[str, Problem | None]) -> LockChange:
    """`reasons`: why a node of the inventory has no image in the new lock, where that is known."""
    held, kept = {image.lab for image in old.images}, {image.lab for image in new.images}
    nodes = sorted({*old.nodes, *new.nodes})
    moves = [Move(node=node, before=_tag(old, node), after=_tag(new, node)) for node in nodes if _moves(old, new, node)]
    return LockChange(
        torch_before=old.torch,
        torch_after=new.torch,
        gone=tuple(image for image in old.images if image.lab not in kept),
        new=tuple(image for image in new.images if image.lab not in held),
        moves=tuple(moves),
        left_behind={
            move.node: _left_behind(move, reasons[move.node])
            for move in moves
            if move.after is None and move.node in reasons
        },
    )


def _moves(old: Lockfile, new: Lockfile, node: str) -> bool:
    before, after = old.image_of(node), new.image_of(node)
    return (before and before.lab) != (after and after.lab)


def _tag(lock: Lockfile, node: str) -> str | None:
    image = lock.image_of(node)
    return image.reference if image else None


def _left_behind(move: Move, reason: Problem | None) -> Problem:
    because = f": {reason.what}" if reason else ""
    return Problem(
        "left_behind",
        f"{move.node} has an image now, and would have none{because}",
        "an upgrade is for the whole lab: what the new lock does not serve stays on the old image, and drifts",
        "bring it back, or choose a torch that serves it (--torch SPEC); or agree to it: --leave-behind",
    )
