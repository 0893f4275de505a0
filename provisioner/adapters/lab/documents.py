"""JSON documents of our own that come back from outside: each says in `schema` what it is and in which format."""

from typing import Any, TypeVar

from provisioner.adapters.lab.source_location import read_json
from provisioner.adapters.lab.validation import validated
from provisioner.domain.values.model import Document
from provisioner.domain.values.problem import Problem, ProblemError

Model = TypeVar("Model", bound=Document)


def read_document(name: str, text: str, model: type[Model]) -> Model:
    """Raises ProblemError where `text` is something else, or of a later format than this release knows."""
    written = read_json(name, text)
    wanted = str(model.model_fields["schema_"].default)
    found = _schema(written.data)
    if found != wanted:
        kind = wanted.rpartition("/")[0]
        later = found.startswith(f"{kind}/")
        raise ProblemError(_later(name, found, wanted) if later else _other(name, found, wanted), "usage")
    return validated(written, model, {})


def _schema(document: Any) -> str:
    return str(document.get("schema", "")) if isinstance(document, dict) else ""


def _later(name: str, found: str, wanted: str) -> Problem:
    return Problem(
        "later_schema",
        f"{name}: written as {found}; this release knows {wanted}",
        "another release made it; half of it would be misread",
        "use the same release of provision on both machines",
    )


def _other(name: str, found: str, wanted: str) -> Problem:
    return Problem(
        "wrong_schema",
        f"{name}: its schema is {found or 'not given'}, not {wanted}",
        "it is another kind of file",
        "name the right file, or make it again",
    )
