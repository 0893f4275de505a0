"""Read our own JSON documents from files. Their `schema` names the kind of document and the version of its format."""

from typing import Any, TypeVar, get_args

from provisioner.adapters.lab.source_location import read_json
from provisioner.adapters.lab.validation import validate_document
from provisioner.domain.values.model import Document
from provisioner.domain.values.problem import Problem, ProblemError

Model = TypeVar("Model", bound=Document)


def read_document(name: str, text: str, model: type[Model]) -> Model:
    """Parse and validate a document. `name` is the file, for messages.

    Raises ProblemError (usage) where `text` is another kind of document, or in a version of the format that `model`
    does not name.
    """
    document, field = read_json(name, text), model.model_fields["schema_"]
    wanted, found = str(field.default), _schema(document.data)
    if found not in get_args(field.annotation):
        is_same_kind = found.startswith(f"{wanted.rpartition('/')[0]}/")
        raise ProblemError((_later_schema if is_same_kind else _wrong_schema)(name, found, wanted), "usage")
    return validate_document(document, model, {})


def _schema(document: Any) -> str:
    return str(document.get("schema", "")) if isinstance(document, dict) else ""


def _later_schema(name: str, found: str, wanted: str) -> Problem:
    return Problem(
        "later_schema",
        f"{name}: written as {found}; this release reads {wanted}",
        "another release wrote the file, and this one would misread parts of it",
        "use the same release of provision on both machines",
    )


def _wrong_schema(name: str, found: str, wanted: str) -> Problem:
    return Problem(
        "wrong_schema",
        f"{name}: its schema is {found or 'not given'}, not {wanted}",
        "this is another kind of file",
        "name the right file, or create it again",
    )
