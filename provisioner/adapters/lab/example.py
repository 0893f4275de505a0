"""Create a new lab: the files of the documentation's example with the name of the lab."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Literal, NamedTuple

from provisioner.adapters.lab.directory import LAB_FILE, LABS, inventories
from provisioner.adapters.state.files import write_text

HOSTS = "hosts.yml"


class CreatedLab(NamedTuple):
    """A new lab: its directory, and for each file whether it was written or an existing one was kept."""

    path: Path
    files: dict[str, Literal["written", "kept"]]


def create_lab(name: str) -> CreatedLab:
    """Write the missing files of a lab; existing files are kept. A bare name creates a lab in inventories/."""
    path = Path(name) if "/" in name or name in {".", ".."} else LABS / name
    present = {HOSTS: bool(inventories(path)), LAB_FILE: (path / LAB_FILE).exists()}
    for file, text in example_files(slug(path.resolve().name)).items():
        if not present[file]:
            write_text(path / file, text)
    return CreatedLab(path, {file: "kept" if exists else "written" for file, exists in present.items()})


def example_files(name: str) -> dict[str, str]:
    """Return the text of each file of the example, with `name` as the lab's name."""
    folder = files("provisioner") / "data" / "example"
    texts = {file: (folder / file).read_text(encoding="utf-8") for file in (HOSTS, LAB_FILE)}
    return texts | {LAB_FILE: texts[LAB_FILE].replace("\nname: example\n", f"\nname: {name}\n")}


def slug(text: str) -> str:
    """Convert a directory's name into a valid lab name: other characters become -, at most 31 of them."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).lstrip("-0123456789")[:31].rstrip("-") or "lab"
