"""The environments that a lab's directory names: their names, who names one that does not exist, and their files."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from provisioner.adapters.lab.documents import read_document
from provisioner.adapters.lab.source_location import Loc, SourceDocument, items, mapping, texts
from provisioner.adapters.state.files import read_bytes, read_text
from provisioner.domain.lab.environments import DEFAULT_ENVIRONMENT, LabFile
from provisioner.domain.lab.kept import kept_environments, name_origins
from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.spelling import did_you_mean

_MAX_SHOWN = 40  # characters of a name in a message
_LAB_FILE = TypeAdapter(LabFile)


class EnvironmentNames(NamedTuple):
    """`own`: the names of lab.yml. `origins`: these and the kept ones of lab.lock, each with whose permission it has.

    `kept`: those that lab.lock keeps. `unread`: why lab.lock could not be read, so that kept ones are not known.
    """

    own: tuple[str, ...]
    origins: Mapping[str, str]
    kept: tuple[str, ...] = ()
    unread: tuple[Problem, ...] = ()

    def unread_if_missed(self, found: Sequence[Problem]) -> tuple[Problem, ...]:
        """Return why lab.lock could not be read, if among the mistakes is an environment that it may have."""
        return self.unread if any(problem.code == "unknown_environment" for problem in found) else ()


def read_names(lock: Path, document: SourceDocument) -> EnvironmentNames:
    """Return the names of a lab.yml that is not validated yet, and of the lock where there is one.

    Commands that need no lock go on without it: what it has is needed only where something names a kept environment.
    """
    found = (name for name in mapping(document.data, "environments") if isinstance(name, str))
    own, locked, unread = tuple(dict.fromkeys((DEFAULT_ENVIRONMENT, *found))), None, tuple[Problem, ...]()
    if lock.exists():
        try:
            locked = read_document(str(lock), read_text(lock, "provision lock"), Lockfile)
        except ProblemError as error:
            unread = error.problems
    return EnvironmentNames(own, name_origins(own, locked), tuple(kept_environments(locked)), unread)


def name_problems(document: SourceDocument, names: EnvironmentNames) -> Iterator[Problem]:
    """Yield the mistakes of lab.yml about the names of environments, each with its place."""
    for name in names.own:
        if name in names.kept:
            yield _kept_name(document, name)
    for name in texts(document.data, "seat", "environment"):
        if name not in names.origins:
            yield _unknown_name(document, ("seat", "environment"), name, tuple(names.origins))
    for group, settings in mapping(document.data, "groups").items():
        for index, name in enumerate(items(settings, "environments")):
            loc = ("groups", str(group), "environments", index)
            if name in names.kept:
                yield _kept_in_group(document, loc, name, names.origins[name])
            elif isinstance(name, str) and name not in names.own:
                yield _unknown_name(document, loc, name, names.own)


def _kept_name(document: SourceDocument, name: str) -> Problem:
    return Problem(
        "name_taken",
        f"{document.place(('environments', name), key=True)}: lab.lock keeps an environment {name} of before",
        "seats name their environment: those of the one would get the image of the other",
        "choose another name; or take this one out of lab.yml until `provision environments remove` has removed the"
        " kept one",
    )


def _unknown_name(document: SourceDocument, loc: Loc, name: str, known: Sequence[str]) -> Problem:
    return Problem(
        "unknown_environment",
        f"{document.place(loc)}: {_path(loc)}: the lab has no environment {_shown(name)}{did_you_mean(name, known)}",
        "a seat runs the image that lab.lock has for its environment",
        f"write one of {', '.join(known)}; or describe this one below environments in lab.yml",
    )


def _kept_in_group(document: SourceDocument, loc: Loc, name: str, origin: str) -> Problem:
    return Problem(
        "unknown_environment",
        f"{document.place(loc)}: {_path(loc)}: {name} is kept from {origin}, and is not named in a group",
        f"a group that may have {origin} may have what was kept from it, too",
        f"take it out, and name {origin} if the group is to have both",
    )


def _path(loc: Loc) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")


def _shown(name: str) -> str:
    return f'"{name if len(name) <= _MAX_SHOWN else f"{name[:_MAX_SHOWN]}…"}"'


def requirements_problems(folder: Path, document: SourceDocument) -> Iterator[Problem]:
    """Yield why requirements files cannot be read. What is in them is read when a lock is made.

    `folder`: the directory of the lab. A path that leads out of it is a mistake of lab.yml, and is not read.
    """
    named = {name: ("environments", name, "pip") for name in mapping(document.data, "environments")}
    for loc in (("image", "pip"), *named.values()):
        for file in texts(document.data, *loc):
            if _is_below(file):
                yield from _file_problems(folder / file, document.place(loc), ".".join(map(str, loc)))


def _is_below(file: str) -> bool:
    try:
        _LAB_FILE.validate_python(file)
    except ValidationError:
        return False
    return True


def _file_problems(path: Path, place: str, key: str) -> Iterator[Problem]:
    try:
        read_bytes(path, f"create the file, one requirement a line such as numpy>=2, or remove {key}")
    except ProblemError as error:
        yield from (problem.model_copy(update={"what": f"{place}: {problem.what}"}) for problem in error.problems)
