"""Retention: which generations and images are kept."""

from __future__ import annotations

import contextlib

from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.docker import engine
from ansible.module_utils.provisioner.seat.seat import Seat

KEEP_REPOSITORY = "provisioner/keep"  # tags in it protect images from `docker image prune`


def fetched_tag(lab: str, digest: str) -> str:
    """Return the tag that protects an image that was fetched for a lab and is in no generation yet."""
    return f"fetched.{lab}.{digest.rpartition(':')[2][:12]}"


def remove_old_generations(seat: Seat, keep: set[int]) -> None:
    """Remove all generations but those in `keep`, and images that no seat keeps. Errors are ignored until next time."""
    for number in seat.numbers():
        if number not in keep:
            with contextlib.suppress(ProblemError, OSError):
                _drop_image(seat, number)
                seat.delete_generation(number)


def _drop_image(seat: Seat, number: int) -> None:
    drop_image(seat.order(number)["image"]["reference"], seat.tag(number))


def drop_image(reference: str, tag: str) -> None:
    """Remove a tag that protects an image, and the image itself if it was the last one. Raises ProblemError."""
    engine.untag(f"{KEEP_REPOSITORY}:{tag}")
    names = (engine.image(reference) or {}).get("RepoTags") or []
    if not any(name.startswith(f"{KEEP_REPOSITORY}:") for name in names):
        engine.untag(reference)
