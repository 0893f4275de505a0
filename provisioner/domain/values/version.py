"""Dotted version numbers that keep the text they came from.

A driver such as 450.80.02 loses its zero through integers, and a GPU of capability 12.0 is not a float; so the text
is kept, and only comparisons use numbers.
"""

import re
from typing import Any, Self

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

_DOTTED = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})*")
_MAX_LENGTH = 100


class DottedVersion:
    """`a.b.c`, ordered by its integers; a prefix comes before its extensions (580 < 580.65.06)."""

    __slots__ = ("key", "text")

    def __init__(self, text: str) -> None:
        """Parse a version. Raises ValueError if `text` is not integers joined by dots."""
        if len(text) > _MAX_LENGTH or not _DOTTED.fullmatch(text):
            raise ValueError(f"not a version: {text[:_MAX_LENGTH]!r}")
        self.text = text
        self.key = tuple(int(part) for part in text.split("."))

    @property
    def major(self) -> int:
        """The first number."""
        return self.key[0]

    @property
    def minor(self) -> int:
        """The second number, 0 if there is none."""
        return self.key[1] if len(self.key) > 1 else 0

    def __str__(self) -> str:
        """Return the text that was parsed."""
        return self.text

    def __repr__(self) -> str:
        """Return class and text."""
        return f"{type(self).__name__}({self.text!r})"

    def __eq__(self, other: object) -> bool:
        """Compare the numbers; versions of different kinds are never equal."""
        return isinstance(other, type(self)) and self.key == other.key

    def __lt__(self, other: Self) -> bool:
        """Compare the numbers."""
        return self.key < other.key

    def __le__(self, other: Self) -> bool:
        """Compare the numbers."""
        return self.key <= other.key

    def __gt__(self, other: Self) -> bool:
        """Compare the numbers."""
        return self.key > other.key

    def __ge__(self, other: Self) -> bool:
        """Compare the numbers."""
        return self.key >= other.key

    def __hash__(self) -> int:
        """Hash the numbers, so that 12.08 equals 12.8."""
        return hash(self.key)

    @classmethod
    def _read(cls, value: object) -> Self:
        return value if isinstance(value, cls) else cls(str(value))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate from text; serialize to text."""
        return core_schema.no_info_plain_validator_function(
            cls._read,
            json_schema_input_schema=core_schema.str_schema(),
            serialization=core_schema.to_string_ser_schema(),
        )


class DriverVersion(DottedVersion):
    """An NVIDIA driver, such as 580.65.06; its branch is the first number."""


class CudaVersion(DottedVersion):
    """A CUDA toolkit or driver API version, such as 12.8."""


class ComputeCapability(DottedVersion):
    """A GPU architecture as CUDA numbers it, such as 12.0."""

    @classmethod
    def from_sm(cls, number: int) -> Self:
        """Return the capability of an architecture number: 75 is 7.5; 120 is 12.0."""
        return cls(f"{number // 10}.{number % 10}")
