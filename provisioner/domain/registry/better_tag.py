"""The tag that would have been chosen were it complete here: what it lacks, where it can be had, how to copy it."""

from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.size import human_size
from provisioner.domain.values.sync import SyncState


class Elsewhere(Value):
    """What a look at another registry found of the tag. `reference` is by digest where it is complete."""

    registry: str
    state: SyncState
    reference: str | None = None
    why: str = ""


class NextBest(Value):
    """`gains`: what the lab would win. Of what is missing here: `layers` (0 where nobody knows) and `bytes`.

    `skopeo` and `engine` are commands, line by line; empty where it is complete nowhere that was asked.
    """

    reference: str
    state: SyncState
    gains: str
    layers: int = 0
    bytes: int = 0
    elsewhere: tuple[Elsewhere, ...] = ()
    skopeo: tuple[str, ...] = ()
    engine: tuple[str, ...] = ()
    afterwards: str = ""

    def told(self) -> Problem:
        tag = self.reference.rpartition("/")[2]
        return Problem(
            "newer_tag_incomplete",
            f"with {tag}, {self.gains}; but here it is {self._lacks()}",
            self._where(),
            self._fix(),
        )

    def _lacks(self) -> str:
        state = self.state.replace("_", " ")
        if not self.layers:
            return f"{state}, {human_size(self.bytes)} to copy" if self.bytes else state
        return f"{state}: {self.layers} {'part' if self.layers == 1 else 'parts'}, {human_size(self.bytes)} missing"

    def _where(self) -> str:
        if not self.elsewhere:
            return "where it is complete was not asked: lab.yml names no upstream of the mirror"
        return "; ".join(
            f"{place.registry} has it complete, {place.reference}"
            if place.reference
            else f"on {place.registry} it is {place.state.replace('_', ' ')}{f' ({place.why})' if place.why else ''}"
            for place in self.elsewhere
        )

    def _fix(self) -> str:
        if not self.skopeo:
            return self.afterwards
        skopeo, engine = ("".join(f"\n    {line}" for line in lines) for lines in (self.skopeo, self.engine))
        return f"with skopeo:{skopeo}\nor with Docker alone:{engine}\n{self.afterwards}"
