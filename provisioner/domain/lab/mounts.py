"""Folders of a node that every seat of the lab sees, such as data sets: only the admin names them."""

import re
from collections.abc import Iterator
from itertools import combinations
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from provisioner.domain.values.model import UserInput

# Folders of the system, of the engine and of provisioner, on a node and in a seat.
_SYSTEM = r"/(bin|boot|dev|etc|lib\w*|proc|root|run|sbin|snap|srv/provisioner|sys|usr|var)(/|$)"
# What people of the node have there is theirs, and any of them could put a link in its place.
_OF_PEOPLE = r"/(home|tmp)(/|$)"
# Below these a mount would hide what a seat runs on, or what is another person's.
_RESERVED = r"/(home|opt/(provisioner|conda|nvidia)|tmp)(/|$)|/(opt|srv)$"
# The same folders, without those below /var and /srv in which a lab may keep homes.
_NEVER_HOMES = (
    r"/(bin|boot|dev|etc|lib\w*|proc|root|run|sbin|snap|sys|usr|var/(run|lib/(docker|containerd|provisioner)))(/|$)"
)
MAX_MOUNTS = 16


def check_path(text: str) -> str:
    """Return the path. Raises ValueError where it has a part . or .., or the path is not absolute."""
    if {".", ".."} & set(text.split("/")):
        raise ValueError(f"{text!r} is not the path itself: it has a part . or ..")
    return text


def _check_source(text: str) -> str:
    if re.match(_SYSTEM, text):
        raise ValueError(f"{text!r} is a system folder, the engine's or provisioner's: with it, a person has the node")
    if re.match(_OF_PEOPLE, text):
        raise ValueError(f"{text!r} belongs to people of the node: put the data into a folder of root, such as /data")
    return text


def _check_target(text: str) -> str:
    if re.match(_SYSTEM, text) or re.match(_RESERVED, text):
        raise ValueError(f"{text!r} would hide a folder that a seat needs: choose another one, such as /data")
    return text


def _check_homes(text: str) -> str:
    if re.match(_NEVER_HOMES, text):
        raise ValueError(f"{text!r} is a folder of the system, the engine's or provisioner's: a home cannot be in it")
    return text


AbsolutePath = Annotated[
    str, StringConstraints(pattern=r"^(/[A-Za-z0-9._-]+)+$", max_length=1024), AfterValidator(check_path)
]
Source = Annotated[AbsolutePath, AfterValidator(_check_source)]
Target = Annotated[AbsolutePath, AfterValidator(_check_target)]
Homes = Annotated[AbsolutePath, AfterValidator(_check_homes)]


class Mount(UserInput):
    """A folder of a node that each seat sees."""

    source: Source = Field(
        description="The folder on the node: absolute, and no folder of the system", examples=["/srv/data"]
    )
    target: Target = Field(description="Where seats see it", examples=["/data"])
    read_only: bool = Field(default=True, description="No seat can write to it")
    mounted: bool = Field(
        default=False,
        description="It must be a mount point on the node, such as one of NFS, and not the empty folder below it",
        examples=[True],
    )
    autofs: bool = Field(
        default=False,
        description="File systems that are mounted below it later are seen, too; mount them read-only on the node, "
        "as read_only does not count for them",
    )


def is_at_or_above(folder: str, path: str) -> bool:
    """Whether a path is the folder, or in it."""
    return f"{path}/".startswith(f"{folder}/")


def overlap(one: str, other: str) -> bool:
    """Whether two paths are the same, or one is in the other."""
    return is_at_or_above(one, other) or is_at_or_above(other, one)


def _overlaps(mounts: tuple[Mount, ...]) -> Iterator[str]:
    for one, other in combinations(mounts, 2):
        if overlap(one.target, other.target):
            yield f"{one.target} and {other.target}"


def _check_targets(mounts: tuple[Mount, ...]) -> tuple[Mount, ...]:
    if found := tuple(_overlaps(mounts)):
        raise ValueError(f"targets overlap, and one would hide the other: {', '.join(found)}")
    return mounts


Mounts = Annotated[tuple[Mount, ...], Field(max_length=MAX_MOUNTS), AfterValidator(_check_targets)]
