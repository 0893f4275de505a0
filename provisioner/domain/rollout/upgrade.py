"""The difference between two locks: which images change, and for which nodes."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from provisioner.domain.lab.environments import DEFAULT_ENVIRONMENT
from provisioner.domain.lab.lock import LockedEnvironment, LockedImage, Lockfile
from provisioner.domain.rollout.plan import Plan
from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem

UPGRADE_SCHEMA: Literal["provisioner/upgrade/1"] = "provisioner/upgrade/1"

# By environment and node of the inventory: why the new lock has no image of it for the node, or None where it has one.
Reasons = Mapping[str, Mapping[str, Problem | None]]


class ImageChange(Value):
    """A node whose image changes. References with tags, for display; None where the lock has no image for the node."""

    node: str
    before: str | None
    after: str | None


class EnvironmentChange(Value):
    """The change of one environment.

    `moves`: nodes whose image changes, by digest. `left_behind`: nodes that would lose their image, and why.
    """

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


class NamedChange(EnvironmentChange):
    """The change of a named environment: whether the new lock adds it, keeps it under a name, or has it no more."""

    state: Literal["added", "kept", "removed", "changed"]


class LockChange(EnvironmentChange):
    """The change of `default`, and in `environments` those of others that differ; left out where none does."""

    environments: dict[str, NamedChange] = {}

    @model_serializer(mode="wrap")
    def _serialize(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        return {name: value for name, value in fields.items() if name != "environments" or value}

    @property
    def is_empty(self) -> bool:
        """Whether no image of any environment changes."""
        return super().is_empty and not self.environments

    @property
    def all_left_behind(self) -> Iterator[tuple[str, Problem]]:
        """The nodes that would lose an image, each with the reason; once for each environment."""
        for change in (self, *self.environments.values()):
            yield from change.left_behind.items()


class Upgrade(Value):
    """The result of an upgrade: the change of the lock, the new lock and the plan for the nodes."""

    change: LockChange
    lock: Lockfile
    plan: Plan


def compare_locks(old: Lockfile, new: Lockfile, reasons: Reasons) -> LockChange:
    """Compare two locks. `reasons`: for the environments that were selected anew."""
    names = sorted({*old.environments, *new.environments})
    named = {name: change for name in names if (change := _compare_named(old, new, name, reasons.get(name, {})))}
    default = _compare(DEFAULT_ENVIRONMENT, old.default, new.default, reasons[DEFAULT_ENVIRONMENT])
    return LockChange(**dict(default), environments=named)


def _compare_named(
    old: Lockfile, new: Lockfile, name: str, reasons: Mapping[str, Problem | None]
) -> NamedChange | None:
    """Return the change of a named environment, None where it stays as it is."""
    before, after = old.environments.get(name), new.environments.get(name)
    change = _compare(name, before or LockedEnvironment(), after or LockedEnvironment(), reasons)
    if before is not None and after is not None:
        return None if change.is_empty else NamedChange(**dict(change), state="changed")
    if after is None:
        return NamedChange(**dict(change), state="removed")
    return NamedChange(**dict(change), state="kept" if after.kept_from else "added")


def _compare(
    name: str, old: LockedEnvironment, new: LockedEnvironment, reasons: Mapping[str, Problem | None]
) -> EnvironmentChange:
    before, after = {image.lab for image in old.images}, {image.lab for image in new.images}
    moves = [
        ImageChange(node=node, before=_tag(old, node), after=_tag(new, node))
        for node in sorted({*old.nodes, *new.nodes})
        if _changes(old, new, node)
    ]
    return EnvironmentChange(
        torch_before=old.torch,
        torch_after=new.torch,
        gone=tuple(image for image in old.images if image.lab not in after),
        new=tuple(image for image in new.images if image.lab not in before),
        moves=tuple(moves),
        left_behind={
            move.node: _left_behind(name, move, reasons[move.node])
            for move in moves
            if move.after is None and move.node in reasons
        },
    )


def _changes(old: LockedEnvironment, new: LockedEnvironment, node: str) -> bool:
    before, after = old.image_of(node), new.image_of(node)
    return (before and before.lab) != (after and after.lab)


def _tag(environment: LockedEnvironment, node: str) -> str | None:
    image = environment.image_of(node)
    return image.reference if image else None


def _left_behind(name: str, move: ImageChange, reason: Problem | None) -> Problem:
    because = f": {reason.what}" if reason else ""
    image = "an image" if name == DEFAULT_ENVIRONMENT else f"an image of {name}"
    return Problem(
        "left_behind",
        f"{move.node} has {image} now, and would have none{because}",
        "an upgrade is for the whole lab: a node without an image in the new lock keeps the old image, and drifts",
        "make it reachable, or choose a torch that supports it (--torch SPEC); or accept it: --leave-behind",
        move.node,
    )
