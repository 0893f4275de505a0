"""JSON of registries as engines read it: they are written in Go, so the rules are those of its package encoding/json.

A name fits a field in any case, of several the last one counts, and null is as absent. A number in quotes, NaN, a byte
order mark or UTF-16 are refused. A check that reads otherwise calls an image complete that no engine can pull.
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from provisioner.domain.values.model import Value

# RFC 3339, as time.Time is read; whether the day exists is not asked.
_TIME = re.compile(r"\d{4}-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\d(\.\d+)?(Z|[+-]\d{2}:\d{2})", re.ASCII)


def _checked_time(text: str) -> str:
    if _TIME.fullmatch(text) is None:
        raise ValueError(f"not a time of RFC 3339: {text[:40]!r}")
    return text


WholeNumber = Annotated[int, Field(strict=True, ge=-(1 << 63), lt=1 << 63)]
Time = Annotated[str, AfterValidator(_checked_time)]


def read_object(body: bytes) -> dict[str, Any]:
    """Parse a JSON object. Raises ValueError where Go's decoder refuses it, and for one that is nested too deeply."""
    try:
        # Go puts U+FFFD in the place of bytes that are not UTF-8.
        document = json.loads(body.decode("utf-8", "replace"), object_pairs_hook=_last_ones, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError("it is not an object")  # noqa: TRY004  (the document is wrong, not the argument)
    return document


def has_field(document: Mapping[str, Any], name: str) -> bool:
    """Return whether the object has a field of this name, in any case."""
    return any(key.casefold() == name for key in document)


def _last_ones(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the last value of each name, in the place of the last: another case of the name may come before it."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        found.pop(name, None)
        found[name] = value
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


class GoStruct(Value):
    """A value that is read from an object of `read_object` as Go reads a struct."""

    @model_validator(mode="before")
    @classmethod
    def _fold_names(cls, document: Any) -> Any:
        if not isinstance(document, dict):
            return document
        names, read = _field_names(cls), dict[str, Any]()
        for key, value in document.items():
            if (name := names.get(key.casefold())) is not None and value is not None:
                read[name] = value
        return read


@cache
def _field_names(struct: type[GoStruct]) -> dict[str, str]:
    aliases = (field.alias or name for name, field in struct.model_fields.items())
    return {alias.casefold(): alias for alias in aliases}
