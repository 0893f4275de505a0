"""An upgrade on a screen: what the lab is held to now and then, and for which nodes that is something else."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from provisioner.console.tables import folded
from provisioner.console.text import line
from provisioner.domain.lab.lock import LockedImage
from provisioner.domain.rollout.upgrade import LockChange

NO_IMAGE = "no image"


def change_view(change: LockChange) -> Group:
    """Problems of nodes that are left behind are not in it: they end the run, or were agreed to."""
    if change.is_empty:
        return Group(Text("\nThe lock stays as it is: no newer image serves the lab."))
    return Group(Text(f"\n{_head(change)}", "bold"), *_images(change), *_moves(change))


def _head(change: LockChange) -> str:
    if change.torch_before == change.torch_after:
        return f"torch stays {line(change.torch_after or 'unknown')}; its image is another one:"
    return f"torch {line(change.torch_before or 'unknown')} -> {line(change.torch_after or 'unknown')}"


def _images(change: LockChange) -> Iterator[RenderableType]:
    yield from (Text(f"  - {_image(image)}", "red") for image in change.gone)
    yield from (Text(f"  + {_image(image)}", "green") for image in change.new)


def _image(image: LockedImage) -> str:
    cuda = f"\n      CUDA {image.cuda}" if image.cuda else ""
    return f"{line(image.reference)}{cuda}\n      {line(image.lab)}"


def _moves(change: LockChange) -> Iterator[Text]:
    for names, (before, after) in folded((move.node, (_tag(move.before), _tag(move.after))) for move in change.moves):
        yield Text(f"  {names}  {before} -> {after}", "red" if after == NO_IMAGE else "")


def _tag(reference: str | None) -> str:
    """The tag alone: repositories and digests stand above."""
    return NO_IMAGE if reference is None else line(reference.rpartition(":")[2])
