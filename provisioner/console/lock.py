"""A lock as it changes: what was chosen, and the difference to the one before."""

import difflib

from rich.console import Group
from rich.text import Text

from provisioner.console.selection import passed_over, selection_view
from provisioner.console.text import block, line
from provisioner.domain.lab.lock import LockedImage, Lockfile
from provisioner.domain.registry.catalog import Catalog
from provisioner.domain.selection.selection import Selection
from provisioner.domain.values.size import human_size


def lock_view(lock: Lockfile, selection: Selection, catalog: Catalog, width: int) -> Group:
    images = (Text.assemble((line(image.reference), "bold"), _pinned(image)) for image in lock.images)
    return Group(selection_view(selection, width), passed_over(selection, catalog), Text(), *images)


def _pinned(image: LockedImage) -> str:
    size = f"\n  {human_size(image.bytes)} to pull" if image.bytes else ""
    return f"\n  base  {line(image.base)}\n  lab   {line(image.lab)}{size}"


def lock_diff(old: str, new: str) -> Text:
    """Of the files' texts. Says so where nothing changes."""
    if old == new:
        return Text("No changes: the lock holds this already.")
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), "lab.lock", "lab.lock", lineterm="", n=2)
    shown = [Text(block(text), _style(text)) for text in lines]
    return Text("\n").join(shown)


def _style(text: str) -> str:
    if text.startswith(("---", "+++", "@@")):
        return "dim"
    return {"+": "green", "-": "red"}.get(text[:1], "")
