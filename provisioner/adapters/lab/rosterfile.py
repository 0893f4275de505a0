"""Read the roster that lab.yml names, and the files of public keys that it names."""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from provisioner.adapters.lab.keyfiles import keys_of_cell
from provisioner.adapters.state.files import read_bytes
from provisioner.domain.lab.groups import with_default_group
from provisioner.domain.lab.lab import Group
from provisioner.domain.people.roster import COLUMNS, KnownNames, Roster, parse_roster
from provisioner.domain.values.problem import Problem, ProblemError


def read_roster(
    folder: Path, name: str, place: str, groups: Mapping[Any, Any], environments: Mapping[str, str]
) -> Roster | Problem:
    """Return the roster, with its mistakes; a Problem where the file cannot be read.

    `name`: relative to `folder`, the directory of the lab. `place`: where lab.yml names the file. `groups`: that
    section of lab.yml, which may hold mistakes. `environments`: as `KnownNames` has them.
    """
    file = folder / name
    try:
        raw = read_bytes(file, f"create the file, with the header {','.join(COLUMNS)}, or name another one")
    except ProblemError as error:
        problem = error.problems[0]
        return problem.model_copy(update={"what": f"{place}: {problem.what}"})
    known = KnownNames(with_default_group(_read_groups(groups, environments)), environments)
    return parse_roster(str(file), raw, known, partial(keys_of_cell, folder))


def _read_groups(data: Mapping[Any, Any], environments: Iterable[str]) -> dict[str, Group]:
    return {str(name): _read_group(value, environments) for name, value in data.items()}


def _read_group(data: Any, environments: Iterable[str]) -> Group:
    """Return a group; one with mistakes, which are reported with lab.yml, as if everything were allowed."""
    try:
        return Group.model_validate(data)
    except ValidationError:
        return Group().model_copy(update={"environments": tuple(environments)})
