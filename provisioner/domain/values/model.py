"""Base classes of values: computed values, user input, and JSON documents."""

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """Immutable. Unknown fields are dropped, so that an older release reads what a newer one wrote."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class UserInput(BaseModel):
    """Immutable, and written by a person: an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Document(Value):
    """A value that is written as a JSON document of its own, with its schema id in the field `schema`."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)
