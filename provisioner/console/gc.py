"""A garbage collection: the images of the lab's registry that are kept, and why, and those that are removed."""

from collections.abc import Iterable

from rich.console import Group
from rich.text import Text

from provisioner.console.problems import problems
from provisioner.console.text import count, fold_names, safe_line
from provisioner.domain.registry.gc import GarbageReport
from provisioner.domain.values.size import human_size


def gc_view(found: GarbageReport) -> Group:
    """Render a line for each image, then the problems and the sum."""
    kept = (
        _image("keep", "green", image.tags, image.bytes, fold_names(list(map(safe_line, image.because))))
        for image in found.kept
    )
    word = "would remove" if found.dry_run else "remove" if found.freed is None else "removed"
    removed = (_image(word, "yellow", image.tags, image.bytes, "in no lock, on no node") for image in found.removed)
    return Group(*kept, *removed, problems(("", problem) for problem in found.problems), _sum(found))


def _image(word: str, style: str, tags: Iterable[str], size: int, why: str) -> Text:
    names = ", ".join(map(safe_line, tags))
    return Text.assemble((word, style), f"  {names}  {human_size(size)}  {why}")


def _sum(found: GarbageReport) -> Text:
    if not found.removed:
        freed = f" {human_size(found.freed)} of unused layers deleted from disk." if found.freed else ""
        return Text(f"\nNothing to remove: {count(len(found.kept), 'image')}, all in use.{freed}")
    alone = f"{count(len(found.removed), 'image')}, {human_size(found.bytes)} that no other image here shares"
    freed = "" if found.freed is None else f"; {human_size(found.freed)} deleted from disk"
    silent = f"\nNo answer: {fold_names(found.silent)}." if found.silent else ""
    return Text(f"\n{alone}{freed}.{silent}")
