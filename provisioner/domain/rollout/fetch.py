"""The order to fetch images to a node before a rollout."""

from collections.abc import Mapping

from provisioner.domain.lab.ordered import Deadlines, OrderedImage, OrderedRegistry
from provisioner.domain.rollout.order import STATE_ROOT
from provisioner.domain.rollout.report import NodeState
from provisioner.domain.values.model import Value

IMAGES = "images"  # stands for all images of a node, in the place of a seat
# What the states of a node mean after a fetch.
FETCH_MEANINGS: Mapping[NodeState, str] = {
    "committed": "has every image of the lock now",
    "unchanged": "had every image of the lock",
    "failed": "what was pulled stays; nothing that runs was changed",
    "skipped": "no image is known for it",
    "not_started": "its pulls had not begun",
    "unknown": "contact was lost; the node goes on with its pulls on its own",
}


class FetchedImage(Value):
    """An image to pull, and where from. Of the deadlines that of the pull counts alone."""

    image: OrderedImage
    registry: OrderedRegistry
    deadlines: Deadlines


class FetchOrder(Value):
    """Pull `images` and keep them. `keep`: the digests that the lab needs on the node, those included that it has.

    No claim is needed: nothing that runs changes.
    """

    run: str
    claim: None = None
    state_root: str = STATE_ROOT
    lab: str
    images: tuple[FetchedImage, ...]
    keep: tuple[str, ...]

    @property
    def pull_seconds(self) -> int:
        """How long the pull of an image may take."""
        return min((one.deadlines.pull for one in self.images), default=0)
