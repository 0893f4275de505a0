"""Published environments on a node: each version has a folder, and a link names the one that is published.

A version is written as a whole. Its image has a tag of its own, so that `docker image prune` keeps it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any, Iterable

from ansible.module_utils.provisioner.base.files import read, sync_folder, write_atomic
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.docker import engine
from ansible.module_utils.provisioner.seat.seat import SELF_SERVICE, seats_of
from ansible.module_utils.provisioner.self_service.layout import CURRENT, DOCUMENT, ENVIRONMENT, LINKS, PREVIOUS, Layout
from ansible.module_utils.provisioner.transaction.retention import KEEP_REPOSITORY, drop_image

HALF = ".new"  # a version while it is written


def keep_tag(name: str, version: str) -> str:
    """Return the tag that protects the image of a version; no generation of a seat has one like it."""
    return f"self-service-{name}-{version}"


def keep_image(name: str, entry: dict[str, Any]) -> None:
    """Protect the image of a version. Raises ProblemError. `entry`: of the environment in the configuration."""
    engine.tag(entry["image"]["reference"], KEEP_REPOSITORY, keep_tag(name, entry["version"]))


def write_version(layout: Layout, name: str, entry: dict[str, Any], document: dict[str, Any]) -> bool:
    """Write a version, unless it is on the node as it should be. Return whether anything was written."""
    folder = layout.environments / name / entry["version"]
    texts = {DOCUMENT: json.dumps(document, sort_keys=True), ENVIRONMENT: json.dumps(entry, sort_keys=True)}
    if {file: read(folder / file) for file in texts} == texts:
        return False
    if folder.is_dir():  # the broker may be reading it
        for file, text in texts.items():
            write_atomic(folder / file, text)
        return True
    half = folder.with_name(HALF)
    shutil.rmtree(str(half), ignore_errors=True)
    half.mkdir(mode=0o700, parents=True)
    for file, text in texts.items():
        write_atomic(half / file, text)
    half.replace(folder)
    sync_folder(folder.parent)
    return True


def publish_version(layout: Layout, name: str, version: str) -> bool:
    """Let the links name a version as the published one. Return whether another one was published until now."""
    before = layout.link(name, CURRENT)
    if before == version:
        return False
    if before:
        set_link(layout, name, PREVIOUS, before)
    set_link(layout, name, CURRENT, version)
    return True


def set_link(layout: Layout, name: str, link: str, version: str) -> None:
    """Let a link name a version, atomically; an empty `version` removes the link."""
    path = layout.environments / name / link
    if not version:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        return
    temporary = path.with_name(f".{link}.new")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    temporary.symlink_to(version)
    temporary.replace(path)
    sync_folder(path.parent)


def remove_unused(layout: Layout, names: Iterable[str]) -> None:
    """Remove the versions that are neither published nor the one before, and that no seat has, with their images.

    `names`: the environments that are published. What was published of another one until now is kept once more, so that
    a rollback needs no registry. Errors are ignored until the next time.
    """
    used, kept = _used_by_seats(layout.state_root), set(names)
    for name in layout.names():
        if name not in kept:
            set_link(layout, name, PREVIOUS, layout.link(name, CURRENT))
            set_link(layout, name, CURRENT, "")
        keep = {layout.link(name, link) for link in LINKS} | used.get(name, set())
        with contextlib.suppress(ProblemError, OSError):
            for version in layout.versions(name):
                if version not in keep:
                    _remove_version(layout, name, version)
        _remove_leftovers(layout.environments / name)


def _remove_leftovers(folder: Path) -> None:
    """Remove what a killed job was about to write, and the folder if it is empty."""
    for path in folder.glob(".*"):
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(str(path), ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def remove_all(layout: Layout) -> None:
    """Remove all versions of all environments, with their images. Raises ProblemError."""
    for name in layout.names():
        for version in layout.versions(name):
            _remove_version(layout, name, version)
    shutil.rmtree(str(layout.environments), ignore_errors=True)


def _remove_version(layout: Layout, name: str, version: str) -> None:
    reference = layout.image(name, version)
    if reference:
        drop_image(reference, keep_tag(name, version))
    shutil.rmtree(str(layout.environments / name / version))


def _used_by_seats(state_root: str) -> dict[str, set[str]]:
    """Return the versions that the current generations of seats have, by the name of the environment."""
    used: dict[str, set[str]] = {}
    for seat in seats_of(state_root):
        with contextlib.suppress(ProblemError):
            number = seat.current()
            wanted = seat.order(number)["seat"] if number else {}
            if wanted.get("kind") == SELF_SERVICE:
                used.setdefault(str(wanted.get("environment")), set()).add(str(wanted.get("version")))
    return used
