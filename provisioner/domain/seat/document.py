"""A document: the files of all seats of one image, with slots for the values in which seats differ."""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property

from provisioner.domain.lab.environments import DEFAULT_ENVIRONMENT
from provisioner.domain.lab.lock import LockedImage
from provisioner.domain.seat.fill import fill
from provisioner.domain.seat.seat import Seat
from provisioner.domain.values.model import Value


class SeatDocument(Value):
    """The document of an environment; it has no secret.

    `files` maps the name of a file to its parts: texts, and between them the names of slots.
    """

    environment: str = DEFAULT_ENVIRONMENT
    files: dict[str, tuple[str, ...]]

    @classmethod
    def of_texts(cls, files: Mapping[str, str]) -> "SeatDocument":
        """Return the document of a single seat, without slots."""
        return cls(files={name: (text,) for name, text in files.items()})

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the document."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()

    def fill(self, seat: Seat) -> dict[str, str]:
        """Return the files of a seat, by name. Raises ValueError where one of its values does not fit its slot."""
        return fill({"files": self.files}, seat.model_dump(mode="json"))


class SeatBundle(Value):
    """A seat with its document. `files` maps a path below the seat's generation to its text; it contains no secret."""

    seat: Seat
    image: LockedImage
    document: SeatDocument

    @cached_property
    def files(self) -> dict[str, str]:
        """The files of the seat."""
        return self.document.fill(self.seat)
