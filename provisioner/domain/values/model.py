"""The two kinds of value in this house: what we made ourselves, and what a person or another release wrote."""

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """Immutable. Unknown fields are dropped, so that an older release reads what a newer one wrote."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class UserInput(BaseModel):
    """Immutable, and written by a person: an unknown field is a mistake to be told, not to be dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Document(Value):
    """A value that leaves the program as a JSON document of its own and says so in its field `schema`."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)
