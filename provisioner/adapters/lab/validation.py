"""Validate a parsed file against a model: every mistake of pydantic as a Problem with its place and a plain message."""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from provisioner.adapters.lab.source_location import HALF_A_PAIR, MAX_MISTAKES, Loc, SourceDocument
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.spelling import did_you_mean

Model = TypeVar("Model", bound=BaseModel)
Expected = Mapping[str, str]  # field name -> what the field may hold, for the fix of a problem

_MAX_PLACE = 4096 + 32  # characters: a path, a line and a column
_MAX_SHOWN = 200  # characters of a value or a key in a message

_KEY = ("[key]",)  # pydantic's end of the place of a mistake in a key
_TYPE_NAMES = {bool: "yes or no", int: "a number", float: "a number", str: "text", list: "a list", dict: "a mapping"}


def validate_document(
    document: SourceDocument, model: type[Model], expected: Expected, others: Iterable[Problem] = ()
) -> Model:
    """Return the document as `model`.

    Raises ProblemError (usage) with all mistakes in the order of their places, including duplicate keys and `others`;
    of more than MAX_MISTAKES with the first ones and the number of the rest.
    """
    found = [*document.duplicates, *islice(others, MAX_MISTAKES)]
    try:
        value = model.model_validate(document.data)
    except UnicodeEncodeError:  # pydantic cannot put such a text into a message; YAML with one was refused before
        raise ProblemError(_half_a_pair(document.name), "usage") from None
    except ValidationError as error:
        # Where every item of a list is wrong, pydantic says also that the list is too short.
        details = [one for one in error.errors(include_url=False) if one["type"] != "too_short" or not one["input"]]
        wrong = [_to_problem(document, model, expected, one) for one in details[:MAX_MISTAKES]]
        places = {_line_and_column(problem) for problem in wrong}
        found = [
            *wrong,
            *(problem for problem in found if problem.code != "bad_value" or _line_and_column(problem) not in places),
        ]
        found = sorted(found, key=_line_and_column)[:MAX_MISTAKES]
        hidden = len(details) - MAX_MISTAKES
        raise ProblemError([*found, *([_more(document.name, hidden)] if hidden > 0 else [])], "usage") from None
    if found:
        raise ProblemError(sorted(found, key=_line_and_column)[:MAX_MISTAKES], "usage")
    return value


def _half_a_pair(name: str) -> Problem:
    return Problem(
        "bad_value",
        f"{name}:1:1: a text holds {HALF_A_PAIR}",
        "no file and no message can hold it",
        "find it with grep -inE 'ud[89a-f][0-9a-f]{2}', and write the character itself",
    )


def _more(name: str, hidden: int) -> Problem:
    return Problem(
        "more_mistakes",
        f"{name}: {hidden} further mistakes are not shown",
        "this many are rarely made by hand: the file may be of another kind or another release",
        "correct the mistakes above, then run the command again",
    )


def _line_and_column(problem: Problem) -> tuple[int, ...]:
    match = re.search(r":(\d{1,9}):(\d{1,9}): ", problem.what[:_MAX_PLACE])
    return tuple(map(int, match.groups())) if match else ()


def _to_problem(document: SourceDocument, model: type[BaseModel], expected: Expected, details: ErrorDetails) -> Problem:
    loc = details["loc"]
    if details["type"] == "extra_forbidden":
        return _unknown_key(document, model, loc)
    if details["type"] == "missing":
        return _missing_key(document, expected, loc)
    what, fix = _wrong_value(document, expected, details)
    is_key = loc[-1:] == _KEY
    loc = loc[:-1] if is_key else loc
    return Problem(
        "bad_value",
        f"{document.place(loc, key=is_key)}: {_path(loc)}{': ' if loc else ''}{what}",
        "an invalid value is never replaced by a default",
        fix,
    )


def _unknown_key(document: SourceDocument, model: type[BaseModel], loc: Loc) -> Problem:
    key, known = _abridged(str(loc[-1])), list(_fields(_model_at(model, loc[:-1])))
    elsewhere = [path for path in _paths(model) if path.rpartition(".")[2] == key]
    hint = did_you_mean(key, known) or (f'; did you mean "{elsewhere[0]}"?' if len(elsewhere) == 1 else "")
    around = f' in "{_path(loc[:-1])}"' if loc[:-1] else ""
    return Problem(
        "unknown_key",
        f'{document.place(loc, key=True)}: unknown key "{key}"{around}{hint}',
        "an unknown setting would otherwise be silently ignored",
        f"known keys here: {', '.join(known)}",
    )


def _missing_key(document: SourceDocument, expected: Expected, loc: Loc) -> Problem:
    key = str(loc[-1])
    around = f' in "{_path(loc[:-1])}"' if loc[:-1] else ""
    return Problem(
        "missing_key",
        f'{document.place(loc[:-1], key=True)}: the key "{key}" is missing{around}',
        "it has no default",
        f"write {_path(loc)}: {expected.get(key, 'a value')}",
    )


def _wrong_value(document: SourceDocument, expected: Expected, details: ErrorDetails) -> tuple[str, str]:
    """Return what is wrong with a value, and how to correct it."""
    loc = details["loc"]
    named = loc[:-2] if loc[-1:] == _KEY else loc  # what a key may be is said of its mapping
    name = next((str(part) for part in reversed(named) if isinstance(part, str)), "")
    fix = (
        f"write {expected[name]}" if name in expected else "see `provision schema` for the values that are allowed here"
    )
    value, context = details["input"], details.get("ctx", {})
    if details["type"] == "string_type":
        return _expected_text(value, document.scalar(details["loc"])), fix
    if details["type"] == "literal_error":
        return _expected_one_of(value, context), fix
    template = _MESSAGES.get(details["type"], "{shown}: {message}")
    message = details["msg"].replace("Input should", "should")
    return template.format(
        shown=_shown(value), kind=_type_name(value), message=message, error=context.get("error")
    ), fix


_MESSAGES: Mapping[str, str] = {
    "model_type": "a mapping (key: value) is wanted, {kind} is given",
    "model_attributes_type": "a mapping (key: value) is wanted, {kind} is given",
    "dict_type": "a mapping (key: value) is wanted, {kind} is given",
    "tuple_type": "a list is wanted, {kind} is given",
    "int_type": "a whole number is wanted, {kind} is given",
    "int_parsing": "{shown} is not a whole number",
    "float_type": "a number is wanted, {kind} is given",
    "float_parsing": "{shown} is not a number",
    "bool_type": "true or false is wanted, {kind} is given",
    "bool_parsing": "{shown} is not true or false",
    "string_pattern_mismatch": "{shown} is not valid",
    "value_error": "{error}",
    "string_too_short": "{shown} is too short",
    "string_too_long": "{shown} is too long",
    "too_short": "the list is empty",
}


def _expected_text(value: Any, typed: str | None) -> str:
    if typed is None or value is None:
        return f"text is wanted, {_type_name(value)} is given"
    typed = _abridged(typed)
    return f'{typed} is read as {_type_name(value)}; write it in quotes: "{typed}"'


def _expected_one_of(value: Any, context: Mapping[str, Any]) -> str:
    known = re.findall(r"'([^']*)'", str(context["expected"]))
    return f"{_shown(value)} is not one of {', '.join(known)}{did_you_mean(str(value), known)}"


def _type_name(value: Any) -> str:
    return "nothing" if value is None else _TYPE_NAMES.get(type(value), type(value).__name__)


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f'"{_abridged(value)}"'
    return _abridged(str(value)) if isinstance(value, int | float) else _type_name(value)


def _abridged(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _path(loc: Loc) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{_abridged(part)}" for part in loc)
    return text.lstrip(".")


def _fields(model: type[BaseModel] | None) -> dict[str, Any]:
    """Return the keys of a model, each with its annotation."""
    fields = {} if model is None else model.model_fields
    return {field.alias or name: field.annotation for name, field in fields.items()}


def _nested_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _nested_model(part))), None)


def _model_at(annotation: Any, loc: Loc) -> type[BaseModel] | None:
    for part in loc:
        if _is_mapping(annotation):
            annotation = get_args(annotation)[1]
        elif isinstance(part, str):
            annotation = _fields(_nested_model(annotation)).get(part)
    return _nested_model(annotation)


def _is_mapping(annotation: Any) -> bool:
    """Whether the keys are names that the user chose."""
    return get_origin(annotation) is dict


def _paths(model: type[BaseModel] | None) -> Iterator[str]:
    for key, annotation in _fields(model).items():
        yield key
        if not _is_mapping(annotation):
            yield from (f"{key}.{path}" for path in _paths(_nested_model(annotation)))
