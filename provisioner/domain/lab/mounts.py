"""Folders of a node that every seat of the lab sees, such as data sets: only the admin names them."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from provisioner.domain.values.model import UserInput

# Folders of the system, of the engine and of provisioner, on a node and in a seat.
_SYSTEM = r"/(bin|boot|dev|etc|lib\w*|proc|root|run|sbin|sys|usr|var)(/|$)"
# Below these a mount would hide what a seat runs on, or what is another person's.
_RESERVED = r"/(home|opt/(provisioner|conda)|tmp)(/|$)|/opt$"
MAX_MOUNTS = 16


def check_path(text: str) -> str:
    """Return the path. Raises ValueError where it has a part . or .., or the path is not absolute."""
    if {".", ".."} & set(text.split("/")):
        raise ValueError(f"{text!r} is not the path itself: it has a part . or ..")
    return text


def _check_source(text: str) -> str:
    if re.match(_SYSTEM, text):
        raise ValueError(f"{text!r} is a system folder, or the engine's: whoever has it, has the node")
    return text


def _check_target(text: str) -> str:
    if re.match(_SYSTEM, text) or re.match(_RESERVED, text):
        raise ValueError(f"{text!r} would hide a folder that a seat needs: choose another one, such as /data")
    return text


AbsolutePath = Annotated[str, StringConstraints(pattern=r"^(/[A-Za-z0-9._-]+)+$"), AfterValidator(check_path)]
Source = Annotated[AbsolutePath, AfterValidator(_check_source)]
Target = Annotated[AbsolutePath, AfterValidator(_check_target)]


class Mount(UserInput):
    """A folder `source` of the node that each seat sees as `target`, read-only unless it says otherwise.

    `mounted`: it must be a mount point on the node, such as one of NFS, and not the empty folder below it. `autofs`:
    file systems that are mounted below it later are seen, too.
    """

    source: Source
    target: Target
    read_only: bool = True
    mounted: bool = False
    autofs: bool = False


def _check_targets(mounts: tuple[Mount, ...]) -> tuple[Mount, ...]:
    for number, mount in enumerate(mounts):
        for other in mounts[:number]:
            if f"{mount.target}/".startswith(f"{other.target}/") or f"{other.target}/".startswith(f"{mount.target}/"):
                raise ValueError(f"the targets {other.target} and {mount.target} overlap")
    return mounts


Mounts = Annotated[tuple[Mount, ...], Field(max_length=MAX_MOUNTS), AfterValidator(_check_targets)]
