"""Short names of image tags for tables: what all of them share is left out."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import NamedTuple

from provisioner.console.text import safe_line

# pytorch's own images: 2.8.0-cuda12.8-cudnn9-runtime is 2.8.0 cu128.
_OFFICIAL = re.compile(r"([0-9.]+)-cuda([0-9.]+)-(cudnn[0-9.]+)-(runtime|devel)")


class ShortTags(NamedTuple):
    """`names`: the short name of each reference; no two are equal. `note`: a sentence that says how to read them."""

    names: dict[str, str]
    note: str


def shorten_tags(references: Sequence[str]) -> ShortTags:
    """Return the references without their common repository, and official tags without their common parts."""
    split = {reference: _split(reference) for reference in dict.fromkeys(references)}
    repositories = list(dict.fromkeys(repository for repository, _ in split.values() if repository))
    shared = repositories[0] if len(repositories) == 1 else _shared_folders(repositories)
    tags = _short_texts([tag for _, tag in split.values()])
    names = {
        reference: f"{repository.removeprefix(shared)}:{tags[tag]}".removeprefix(":") if repository else reference
        for reference, (repository, tag) in split.items()
    }
    again = Counter(names.values())
    unique = {reference: safe_line(name if again[name] == 1 else reference) for reference, name in names.items()}
    return ShortTags(unique, _note(shared, tags))


def _split(reference: str) -> tuple[str, str]:
    """Return the repository and the tag; the tag is the whole reference where it has no tag, or a digest."""
    repository, _, tag = reference.rpartition(":")
    return ("", reference) if "@" in reference or "/" in tag or not repository else (repository, tag)


def _shared_folders(repositories: Iterable[str]) -> str:
    """Return the beginning that all have in common, up to a slash."""
    folders = [repository.split("/")[:-1] for repository in repositories]
    same = takewhile(lambda level: len(set(level)) == 1, zip(*folders, strict=False))
    return "".join(f"{level[0]}/" for level in same)


def _short_texts(tags: Iterable[str]) -> dict[str, str]:
    """Return the short text of each tag. What only some official tags have, as -devel, stays."""
    official = {tag: match for tag in tags if (match := _OFFICIAL.fullmatch(tag))}
    shared = set.intersection(*({match[3], match[4]} for match in official.values())) if official else set()
    return {tag: _short_text(official[tag], shared) if tag in official else tag for tag in tags}


def _short_text(match: re.Match[str], shared: set[str]) -> str:
    torch, cuda = match[1], match[2]
    cuda = cuda.replace(".", "") if re.fullmatch(r"[0-9]+\.[0-9]", cuda) else cuda
    return " ".join([torch, f"cu{cuda}", *(part for part in (match[3], match[4]) if part not in shared)])


def _note(repository: str, tags: dict[str, str]) -> str:
    whose = f" of {safe_line(repository)}" if repository else ""
    example = next(((tag, short) for tag, short in tags.items() if tag != short), None)
    how = "" if example is None else f"; {example[1]} is {example[0]}"
    return f"Tags{whose}, newest first{how}."
