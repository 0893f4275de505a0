"""Base classes of values: computed values, user input, and JSON documents."""

from collections.abc import Iterator
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticKnownError


class Value(BaseModel):
    """Immutable. Unknown fields are dropped, so that an older release reads what a newer one wrote."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class UserInput(BaseModel):
    """Immutable, and written by a person: an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_words_as_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where a number is wanted: pydantic reads them as 1 and 0, and YAML `no` as false."""
        if isinstance(value, bool):
            kinds = {*_types(cls.model_fields[str(info.field_name)].annotation)}
            if kinds <= {int, float, NoneType}:
                raise PydanticKnownError("int_type")
        return value


class Document(Value):
    """A value that is written as a JSON document of its own, with its schema id in the field `schema`."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)


def _types(annotation: Any) -> Iterator[Any]:
    """Yield the types that an annotation is made of, and the values of a Literal."""
    parts = get_args(annotation)[:1] if get_origin(annotation) is Annotated else get_args(annotation)
    for part in parts:
        yield from _types(part)
    if not parts:
        yield annotation
