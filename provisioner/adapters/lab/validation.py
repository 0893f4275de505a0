"""What a person got wrong in a file, every mistake with its place: pydantic's findings in a lab's own words."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from provisioner.adapters.lab.source_location import Loc, SourceDocument
from provisioner.domain.values.problem import Problem, ProblemError

Model = TypeVar("Model", bound=BaseModel)
Words = Mapping[str, str]  # field name -> what may stand there

_KINDS = {bool: "yes or no", int: "a number", float: "a number", str: "text", list: "a list", dict: "a mapping"}


def validated(written: SourceDocument, model: type[Model], words: Words, others: Iterable[Problem] = ()) -> Model:
    """The document as `model`. Raises ProblemError with all its mistakes and those that were found elsewhere in it."""
    found = [*written.twice, *others]
    try:
        value = model.model_validate(written.data)
    except ValidationError as error:
        found += [_mistake(written, model, words, details) for details in error.errors(include_url=False)]
        raise ProblemError(sorted(found, key=_place), "usage") from None
    if found:
        raise ProblemError(sorted(found, key=_place), "usage")
    return value


def _place(problem: Problem) -> tuple[int, ...]:
    match = re.search(r":(\d+):(\d+): ", problem.what)
    return tuple(map(int, match.groups())) if match else ()


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """`; did you mean …?`, or nothing where no known word is near."""
    near = difflib.get_close_matches(wrong, list(known), n=1)
    return f'; did you mean "{near[0]}"?' if near else ""


def _mistake(written: SourceDocument, model: type[BaseModel], words: Words, details: ErrorDetails) -> Problem:
    loc = details["loc"]
    if details["type"] == "extra_forbidden":
        return _unknown_key(written, model, loc)
    if details["type"] == "missing":
        return _missing_key(written, words, loc)
    what, fix = _wrong_value(written, words, details)
    return Problem(
        "bad_value",
        f"{written.place(loc)}: {_dotted(loc)}{what}",
        "a value that is not understood is never replaced by a default",
        fix,
    )


def _unknown_key(written: SourceDocument, model: type[BaseModel], loc: Loc) -> Problem:
    key, known = str(loc[-1]), list(_fields(_at(model, loc[:-1])))
    elsewhere = [path for path in _paths(model) if path.rpartition(".")[2] == key]
    hint = did_you_mean(key, known) or (f'; did you mean "{elsewhere[0]}"?' if len(elsewhere) == 1 else "")
    around = f' in "{_path(loc[:-1])}"' if loc[:-1] else ""
    return Problem(
        "unknown_key",
        f'{written.place(loc, key=True)}: unknown key "{key}"{around}{hint}',
        "a wish that is not understood would be dropped without a word",
        f"known keys here: {', '.join(known)}",
    )


def _missing_key(written: SourceDocument, words: Words, loc: Loc) -> Problem:
    key = str(loc[-1])
    around = f' in "{_path(loc[:-1])}"' if loc[:-1] else ""
    return Problem(
        "missing_key",
        f'{written.place(loc[:-1], key=True)}: the key "{key}" is missing{around}',
        "it has no default",
        f"write {_path(loc)}: {words.get(key, 'a value of your own')}",
    )


def _wrong_value(written: SourceDocument, words: Words, details: ErrorDetails) -> tuple[str, str]:
    """What is wrong with a value, and how to mend it."""
    name = next((str(part) for part in reversed(details["loc"]) if isinstance(part, str)), "")
    fix = f"write {words[name]}" if name in words else "see `provision schema` for what may stand here"
    given, context = details["input"], details.get("ctx", {})
    if details["type"] == "string_type":
        return _wants_text(given, written.scalar(details["loc"])), fix
    if details["type"] == "literal_error":
        return _wants_one_of(given, context), fix
    template = _SAY.get(details["type"], "{shown}: {message}")
    message = details["msg"].replace("Input should", "should")
    return template.format(shown=_shown(given), kind=_kind(given), message=message, error=context.get("error")), fix


_SAY: Mapping[str, str] = {
    "model_type": "a mapping (key: value) is wanted, {kind} is given",
    "model_attributes_type": "a mapping (key: value) is wanted, {kind} is given",
    "dict_type": "a mapping (key: value) is wanted, {kind} is given",
    "tuple_type": "a list is wanted, {kind} is given",
    "int_type": "a whole number is wanted, {kind} is given",
    "int_parsing": "{shown} is no whole number",
    "float_type": "a number is wanted, {kind} is given",
    "float_parsing": "{shown} is no number",
    "bool_type": "true or false is wanted, {kind} is given",
    "bool_parsing": "{shown} is neither true nor false",
    "string_pattern_mismatch": "{shown} does not fit",
    "value_error": "{error}",
    "too_short": "the list is empty",
}


def _wants_text(given: Any, typed: str | None) -> str:
    if typed is None or given is None:
        return f"text is wanted, {_kind(given)} is given"
    return f'{typed} is read as {_kind(given)}; write it in quotes: "{typed}"'


def _wants_one_of(given: Any, context: Mapping[str, Any]) -> str:
    known = re.findall(r"'([^']*)'", str(context["expected"]))
    return f"{_shown(given)} is none of {', '.join(known)}{did_you_mean(str(given), known)}"


def _kind(given: Any) -> str:
    return "nothing" if given is None else _KINDS.get(type(given), type(given).__name__)


def _shown(given: Any) -> str:
    return f'"{given}"' if isinstance(given, str) else str(given) if isinstance(given, int | float) else _kind(given)


def _dotted(loc: Loc) -> str:
    return f"{_path(loc)}: " if loc else ""


def _path(loc: Loc) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")


def _fields(model: type[BaseModel] | None) -> dict[str, type[BaseModel] | None]:
    """What may be written in a model: key -> the model below it, where there is one."""
    fields = {} if model is None else model.model_fields
    return {field.alias or name: _below(field.annotation) for name, field in fields.items()}


def _below(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _below(part))), None)


def _at(model: type[BaseModel] | None, loc: Loc) -> type[BaseModel] | None:
    for part in loc:
        model = model if isinstance(part, int) else _fields(model).get(part)
    return model


def _paths(model: type[BaseModel] | None) -> Iterator[str]:
    for key, below in _fields(model).items():
        yield key
        yield from (f"{key}.{path}" for path in _paths(below))
