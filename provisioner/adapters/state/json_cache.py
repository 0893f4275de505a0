"""JSON files in the user's cache folder. Each is a copy of what could be asked for again."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from provisioner.adapters.state.files import cache_home, write_text
from provisioner.domain.values.problem import ProblemError

T = TypeVar("T")


def hashed_name(folder: str, key: str) -> str:
    """Return a file name for `key`, which may hold any characters, below `folder`."""
    return f"{folder}/{hashlib.sha256(key.encode()).hexdigest()[:20]}.json"


@dataclass(frozen=True, slots=True)
class JsonCache(Generic[T]):
    """One file. `name` is its path below `cache_home()`, `limit` its greatest size in bytes."""

    name: str
    adapter: TypeAdapter[T]
    limit: int

    @property
    def path(self) -> Path:
        """Where the file is with the environment of this moment."""
        return cache_home() / self.name

    def read(self) -> T | None:
        """Return the content; None if the file is missing, damaged, unreadable or too large, or there is no home."""
        try:
            with self.path.open("rb") as file:
                content = file.read(self.limit + 1)
            return None if len(content) > self.limit else self.adapter.validate_json(content)
        except (OSError, ValidationError, ProblemError):
            return None

    def write(self, value: T) -> None:
        """Replace the content. Raises ProblemError (`unwritable`)."""
        write_text(self.path, self.adapter.dump_json(value).decode() + "\n")
