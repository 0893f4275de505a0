"""Dotted version numbers that keep the text they came from.

A driver such as 450.80.02 loses its zero through integers, and a GPU of capability 12.0 is not a float; so the text
stays, and only comparing looks at numbers.
"""

import re
from typing import Any, Self

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

_DOTTED = re.compile(r"\d{1,9}(\.\d{1,9})*")


class DottedVersion:
    """`a.b.c`, ordered by its integers; a prefix comes before its extensions (580 < 580.65.06)."""

    __slots__ = ("key", "text")

    def __init__(self, text: str) -> None:
        """Raises ValueError where `text` is not integers joined by dots."""
        if not _DOTTED.fullmatch(text):
            raise ValueError(f"not a version: {text!r}")
        self.text = text
        self.key = tuple(int(part) for part in text.split("."))

    @property
    def major(self) -> int:
        return self.key[0]

    @property
    def minor(self) -> int:
        return self.key[1] if len(self.key) > 1 else 0

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.key == other.key

    def __lt__(self, other: Self) -> bool:
        return self.key < other.key

    def __le__(self, other: Self) -> bool:
        return self.key <= other.key

    def __gt__(self, other: Self) -> bool:
        return self.key > other.key

    def __ge__(self, other: Self) -> bool:
        return self.key >= other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @classmethod
    def _read(cls, value: object) -> Self:
        return value if isinstance(value, cls) else cls(str(value))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
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
        """75 is 7.5; 120 is 12.0."""
        return cls(f"{number // 10}.{number % 10}")
