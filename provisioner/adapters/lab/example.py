"""The files that a new lab begins with: the example of the documentation, under the lab's own name."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Literal, NamedTuple

from provisioner.adapters.lab.directory import LABS, WISH, inventories
from provisioner.adapters.state.files import write_text

HOSTS = "hosts.yml"


class Begun(NamedTuple):
    """What became of each file of a new lab."""

    path: Path
    files: dict[str, Literal["written", "kept"]]


def begin_lab(name: str) -> Begun:
    """Write what is not there yet; never over what is. A bare name begins a lab below inventories/."""
    path = Path(name) if "/" in name else LABS / name
    present = {HOSTS: bool(inventories(path)), WISH: (path / WISH).exists()}
    for file, text in example(slug(path.resolve().name)).items():
        if not present[file]:
            write_text(path / file, text)
    return Begun(path, {file: "kept" if there else "written" for file, there in present.items()})


def example(name: str) -> dict[str, str]:
    folder = files("provisioner") / "data" / "example"
    texts = {file: (folder / file).read_text(encoding="utf-8") for file in (HOSTS, WISH)}
    return texts | {WISH: texts[WISH].replace("\nname: example\n", f"\nname: {name}\n")}


def slug(text: str) -> str:
    """A lab's name made of a directory's: what may not stand in it becomes -."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).lstrip("-0123456789")[:31].rstrip("-") or "lab"
