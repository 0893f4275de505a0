"""The nodes of a group by machine, and what the group would gain from a change."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

from provisioner.domain.compatibility.torch_version import torch_order
from provisioner.domain.selection.choice import GroupChoice, TagSet, TagSupport, choose_tags
from provisioner.domain.selection.matrix import Fit, Machine, Matrix, to_machine
from provisioner.domain.values.node import NodeProfile


class Gain(NamedTuple):
    """The choice without a change and with it, among the same tags."""

    before: GroupChoice
    after: GroupChoice

    def describe(self) -> str:
        """Return what is gained, for a sentence that begins with "then"."""
        more = self.after.served - self.before.served
        parts = [f"{more} more {'node gets' if more == 1 else 'nodes get'} an image"] if more > 0 else []
        if self.before.served and self.after.decision != self.before.decision == "split":
            parts.append("every node has the same torch")
        if self.before.served and self.after.decision != self.before.decision and self.after.decision == "single_tag":
            parts.append("one image serves every node")
        if self.after.torch not in {None, self.before.torch, torch_order(None)}:
            instead = f" instead of {self.before.torch}" if self.before.torch else ""
            parts.append(f"torch is {self.after.torch}{instead}")
        return ", and ".join(parts) or "more of its cards are used"


class NodeClasses(NamedTuple):
    """A group of nodes as it is now: the nodes of each machine by name, and how each machine fits the images."""

    matrix: Matrix
    nodes: Mapping[Machine, Sequence[NodeProfile]]
    fits: Mapping[Machine, Fit]

    @classmethod
    def build(cls, matrix: Matrix, nodes: Sequence[NodeProfile]) -> Self:
        """Group the nodes by machine and judge each machine."""
        by_machine: dict[Machine, list[NodeProfile]] = {}
        for node in sorted(nodes, key=lambda node: node.name):
            by_machine.setdefault(to_machine(node), []).append(node)
        return cls(matrix, by_machine, {machine: matrix.fit(machine) for machine in by_machine})

    def choose(self, fits: Mapping[Machine, Fit], allowed: TagSet) -> GroupChoice:
        """Choose among the `allowed` tags for machines with these fits."""
        counts: dict[TagSupport, int] = {}
        for machine, fit in fits.items():
            counts[fit.support] = counts.get(fit.support, 0) + len(self.nodes[machine])
        return choose_tags(counts, self.matrix.releases, self.matrix.torches, allowed)

    def gain(self, changed: Mapping[Machine, Fit]) -> Gain | None:
        """Return what the changed machines gain with the tags that are available now, else with all wanted tags.

        None where they gain nothing.
        """
        fits = {**self.fits, **changed}
        for allowed in (self.matrix.available, self.matrix.wanted):
            before, after = self.choose(self.fits, allowed), self.choose(fits, allowed)
            uses_more_cards = any(
                fit.support in after.chosen and len(fit.kept) > len(self.fits[machine].kept)
                for machine, fit in changed.items()
            )
            if after.score > before.score or (uses_more_cards and after.served >= before.served):
                return Gain(before, after)
        return None
