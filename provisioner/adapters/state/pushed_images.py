"""The digests of the lab images that this control machine has pushed, in its own state folder.

A registry proves nothing about who pushed an image: tags and labels can be set by any user who may push there.
"""

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from provisioner.adapters.state.files import state_home, write_text
from provisioner.domain.values.measured import Measured
from provisioner.domain.values.model import Document
from provisioner.domain.values.reference import Digest, ImageReference

PUSHED_SCHEMA: Literal["provisioner/pushed/1"] = "provisioner/pushed/1"
_FOLDER = "pushed_images"  # no lab can have this name: its records lie in the same state folder
_MAX_BYTES = 1 << 16


class PushedImage(Document):
    """One image: where it was pushed, what it was built from (`inputs`, a hash), and its digest there.

    `packages`: the versions of its environment's apt packages, which only the build knows. `measured`: what the torch
    of its base was compiled for, if it was read.
    """

    schema_: Literal["provisioner/pushed/1"] = Field(default=PUSHED_SCHEMA, alias="schema")
    registry: str
    repository: str
    inputs: str
    platform: str
    digest: Digest
    packages: dict[str, str] = {}
    measured: Measured | None = None

    @property
    def key(self) -> str:
        """What the image is found by."""
        return _key(f"{self.registry}/{self.repository}", self.inputs, self.platform)


class PushedImages:
    """One file an image, mode 0600, so that concurrent runs do not overwrite each other's records."""

    def __init__(self, folder: Path | None = None) -> None:
        """Use `folder`, by default the one below the user's state folder."""
        self._folder = folder or state_home() / _FOLDER

    def find(self, target: ImageReference, inputs: str, platform: str) -> PushedImage | None:
        """Return what was recorded for a build of `inputs`.

        None if there is none, or if the file is damaged: the image is then built again.
        """
        key = _key(f"{target.registry}/{target.repository}", inputs, platform)
        try:
            with self._path(key).open("rb") as file:
                read = PushedImage.model_validate_json(file.read(_MAX_BYTES))
        except (OSError, ValidationError):
            return None
        return read if read.key == key else None

    def add(self, image: PushedImage) -> None:
        """Record an image in place of an older one. Raises ProblemError (`unwritable`)."""
        write_text(self._path(image.key), image.model_dump_json(indent=2) + "\n", mode=0o600)

    def _path(self, key: str) -> Path:
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def _key(place: str, inputs: str, platform: str) -> str:
    return f"{place} {inputs} {platform}"
