"""What stays in a lab's registry and why, and what goes."""

from collections.abc import Iterable

from rich.console import Group
from rich.text import Text

from provisioner.console.problems import problems
from provisioner.console.text import count, fold, line
from provisioner.domain.registry.gc import GarbageReport
from provisioner.domain.values.size import human_size


def sweep_view(found: GarbageReport) -> Group:
    kept = (
        _image("stays", "green", image.tags, image.bytes, fold(list(map(line, image.because)))) for image in found.kept
    )
    word = "would go" if found.dry_run else "goes" if found.freed is None else "gone"
    gone = (_image(word, "yellow", image.tags, image.bytes, "no lock, no node") for image in found.removed)
    return Group(*kept, *gone, problems(("", problem) for problem in found.problems), _sum(found))


def _image(word: str, style: str, tags: Iterable[str], size: int, why: str) -> Text:
    names = ", ".join(map(line, tags))
    return Text.assemble((word, style), f"  {names}  {human_size(size)}  {why}")


def _sum(found: GarbageReport) -> Text:
    if not found.removed:
        left = f" {human_size(found.freed)} that no image names left the disk." if found.freed else ""
        return Text(f"\nNothing to remove: {count(len(found.kept), 'image')}, all wanted.{left}")
    alone = f"{count(len(found.removed), 'image')}, {human_size(found.bytes)} that no other image here shares"
    freed = "" if found.freed is None else f"; {human_size(found.freed)} left the disk"
    silent = f"\nNot asked: {fold(found.silent)}." if found.silent else ""
    return Text(f"\n{alone}{freed}.{silent}")
