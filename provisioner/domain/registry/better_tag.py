"""The tag that would be selected if it were complete on the mirror: what is missing, where it is, how to copy it."""

from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.size import human_size
from provisioner.domain.values.sync import SyncState


class OtherRegistry(Value):
    """The state of the tag on another registry. `reference` is by digest, and None unless the tag is complete there."""

    registry: str
    state: SyncState
    reference: str | None = None
    why: str = ""


class NextBest(Value):
    """A better tag that is incomplete on the mirror. `gains`: what the lab would gain from it.

    `layers` (0: unknown) and `bytes` count what is missing on the mirror. `skopeo` and `engine` are shell commands,
    one a line; empty where no checked registry has the tag complete.
    """

    reference: str
    state: SyncState
    gains: str
    layers: int = 0
    bytes: int = 0
    elsewhere: tuple[OtherRegistry, ...] = ()
    skopeo: tuple[str, ...] = ()
    engine: tuple[str, ...] = ()
    afterwards: str = ""

    def to_problem(self) -> Problem:
        """Return the advice as a Problem with code `newer_tag_incomplete`."""
        what = f"with {self.reference.rpartition('/')[2]}, {self.gains}; but here it is {self._missing_text()}"
        return Problem("newer_tag_incomplete", what, self._elsewhere_text(), self._fix())

    def _missing_text(self) -> str:
        state = self.state.replace("_", " ")
        if not self.layers:
            return f"{state}, {human_size(self.bytes)} to copy" if self.bytes else state
        return f"{state}: {self.layers} {'part' if self.layers == 1 else 'parts'}, {human_size(self.bytes)} missing"

    def _elsewhere_text(self) -> str:
        if not self.elsewhere:
            return "no other registry was checked: lab.yml names no upstream of the mirror"
        return "; ".join(
            f"{other.registry} has it complete, {other.reference}"
            if other.reference
            else f"on {other.registry} it is {other.state.replace('_', ' ')}{f' ({other.why})' if other.why else ''}"
            for other in self.elsewhere
        )

    def _fix(self) -> str:
        if not self.skopeo:
            return self.afterwards
        skopeo, engine = ("".join(f"\n    {line}" for line in lines) for lines in (self.skopeo, self.engine))
        return f"with skopeo:{skopeo}\nor with Docker alone:{engine}\n{self.afterwards}"
