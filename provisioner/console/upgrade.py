"""An upgrade: the images of the old and the new lock, and the nodes whose image changes."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from provisioner.console.tables import group_rows
from provisioner.console.text import safe_line
from provisioner.domain.lab.lock import LockedImage
from provisioner.domain.rollout.upgrade import EnvironmentChange, LockChange, NamedChange

NO_IMAGE = "no image"


def lock_change_view(change: LockChange) -> Group:
    """Render the change of a lock. Problems of nodes that are left behind are reported elsewhere."""
    if change.is_empty:
        return Group(Text("\nThe lock stays as it is: no newer image serves the lab."))
    of_default = change.model_copy(update={"environments": {}})
    parts = [] if of_default.is_empty else [_environment(_head(change), change)]
    return Group(*parts, *(_environment(_named_head(name, one), one) for name, one in change.environments.items()))


def _environment(head: str, change: EnvironmentChange) -> Group:
    return Group(Text(f"\n{head}", "bold"), *_images(change), *_moves(change))


def _named_head(name: str, change: NamedChange) -> str:
    torch = safe_line(change.torch_after or "unknown")
    said = {
        "added": f"new, torch {torch}",
        "kept": f"the images of before stay under this name, torch {torch}",
        "removed": "lab.yml does not name it any more; seats keep its image until the rollout",
        "changed": _head(change),
    }
    return f"environment {name}: {said[change.state]}"


def _head(change: EnvironmentChange) -> str:
    if change.torch_before == change.torch_after:
        return f"torch stays {safe_line(change.torch_after or 'unknown')}; its image changes:"
    return f"torch {safe_line(change.torch_before or 'unknown')} -> {safe_line(change.torch_after or 'unknown')}"


def _images(change: EnvironmentChange) -> Iterator[RenderableType]:
    yield from (Text(f"  - {_image(image)}", "red") for image in change.gone)
    yield from (Text(f"  + {_image(image)}", "green") for image in change.new)


def _image(image: LockedImage) -> str:
    cuda = f"\n      CUDA {image.cuda}" if image.cuda else ""
    lab = safe_line(image.lab) if image.is_built else "not built yet: its digest is known after that"
    return f"{safe_line(image.reference)}{cuda}\n      {lab}"


def _moves(change: EnvironmentChange) -> Iterator[Text]:
    for names, (before, after) in group_rows(
        (move.node, (_tag(move.before), _tag(move.after))) for move in change.moves
    ):
        yield Text(f"  {names}  {before} -> {after}", "red" if after == NO_IMAGE else "")


def _tag(reference: str | None) -> str:
    """Return the tag without its repository, which is shown above."""
    return NO_IMAGE if reference is None else safe_line(reference.rpartition(":")[2])
