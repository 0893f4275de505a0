"""A group as it is, and what it would have after a change."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

from provisioner.domain.selection.choice import Kind, Outcome, choose
from provisioner.domain.selection.matrix import Fitting, Machine, Matrix, machine
from provisioner.domain.values.node import NodeProfile


class Gain(NamedTuple):
    """The choice without a change and with it, among the same tags."""

    before: Outcome
    after: Outcome

    def words(self) -> str:
        """What is won, for a sentence that begins with "then"."""
        more = self.after.served - self.before.served
        told = [f"{more} more {'node gets' if more == 1 else 'nodes get'} an image"] if more > 0 else []
        if self.before.served and self.after.decision != self.before.decision == "split":
            told.append("every node has the same torch")
        if self.before.served and self.after.decision != self.before.decision and self.after.decision == "single_tag":
            told.append("one image serves every node")
        if self.after.torch is not None and self.after.torch != self.before.torch:
            instead = f" instead of {self.before.torch}" if self.before.torch else ""
            told.append(f"torch is {self.after.torch}{instead}")
        return ", and ".join(told) or "more of its cards are used"


class Situation(NamedTuple):
    """The group as it is, nodes that are alike together."""

    matrix: Matrix
    groups: Mapping[Machine, Sequence[NodeProfile]]
    fittings: Mapping[Machine, Fitting]

    @classmethod
    def of(cls, matrix: Matrix, nodes: Sequence[NodeProfile]) -> Self:
        groups: dict[Machine, list[NodeProfile]] = {}
        for node in sorted(nodes, key=lambda node: node.name):
            groups.setdefault(machine(node), []).append(node)
        return cls(matrix, groups, {node: matrix.fit(node) for node in groups})

    def choose(self, fittings: Mapping[Machine, Fitting], allowed: int) -> Outcome:
        nodes: dict[Kind, int] = {}
        for node, fitting in fittings.items():
            nodes[fitting.kind] = nodes.get(fitting.kind, 0) + len(self.groups[node])
        return choose(nodes, self.matrix.releases, self.matrix.torches, allowed)

    def gain(self, changed: Mapping[Machine, Fitting]) -> Gain | None:
        """What changed nodes win with the tags that are complete now, or else with all once they are."""
        fittings = {**self.fittings, **changed}
        for allowed in (self.matrix.now, self.matrix.wanted):
            before, after = self.choose(self.fittings, allowed), self.choose(fittings, allowed)
            cards = [
                node
                for node, fitting in changed.items()
                if fitting.kind in after.chosen and len(fitting.kept) > len(self.fittings[node].kept)
            ]
            if after.worth > before.worth or (cards and after.served >= before.served):
                return Gain(before, after)
        return None
