"""The roster of a lab: a table with one person a row. Every mistake has its place as `file:row:column`.

`row` is the line of the file, as editors count, in which the row starts; `column` is the number of the field, from 1.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from provisioner.domain.lab.environments import DEFAULT_ENVIRONMENT
from provisioner.domain.lab.groups import DEFAULT_GROUP
from provisioner.domain.lab.lab import Group
from provisioner.domain.people.cells import (
    Cell,
    Reader,
    environment_reader,
    group_reader,
    odd_character,
    once,
    read_gpus,
    read_id,
    read_text,
    read_uid,
    read_until,
)
from provisioner.domain.people.person import Person
from provisioner.domain.people.table import Row, decode_table, read_rows
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.spelling import did_you_mean

COLUMNS = ("id", "uid", "node", "gpus", "environment", "group", "until", "key")
# Columns that are for people only, such as a name in Chinese beside the id; also each whose header starts with #.
_NOTES = ("name", "姓名", "note", "备注")

MAX_PROBLEMS = 50  # more are not read by a person

# Returns the public keys of a cell, which holds a key or the name of a file; takes the text and the place of the cell.
KeyReader = Callable[[str, str], tuple[str, ...] | Problem]


class Roster(NamedTuple):
    """People in the order of their rows, and what was found. With a problem the roster as a whole is refused."""

    people: tuple[Person, ...] = ()
    problems: tuple[Problem, ...] = ()
    cautions: tuple[Problem, ...] = ()


class _Columns(NamedTuple):
    """`indices`: where the column of each name is, in the order of the file. `headers`: all of them, with notes."""

    file: str
    headers: Row
    indices: Mapping[str, int]

    def cell(self, row: Row, index: int) -> Cell:
        text = row.cells[index] if index < len(row.cells) else ""
        return Cell(text, self.file, row.line, index + 1)


class KnownNames(NamedTuple):
    """What rows may name: groups of lab.yml with the default one, and environments of lab.yml and kept ones.

    `environments`: each with the one that a group must be allowed for it: itself, or what it was kept from.
    """

    groups: Mapping[str, Group]
    environments: Mapping[str, str]

    @property
    def usual(self) -> str | None:
        """The group of a row without one; None where accounts decide, so that only the node knows it."""
        return None if any(group.unix for group in self.groups.values()) else DEFAULT_GROUP


def parse_roster(name: str, raw: bytes, known: KnownNames, read_keys: KeyReader) -> Roster:
    """Return the people of a roster, or all of its mistakes; of many, the first ones.

    `name`: of the file, for messages. `read_keys` is called for each cell of the column `key` that is not empty.
    """
    text = decode_table(raw, name)
    if isinstance(text, Problem):
        return Roster(problems=(text,))
    rows = read_rows(text, _is_column)
    header = next(rows, None)
    if header is None:
        return Roster(problems=(_empty_roster(name),))
    columns, problems = _read_header(name, header)
    if "id" not in columns.indices:
        return Roster(problems=(*problems, _more(name) if len(problems) >= MAX_PROBLEMS else _without_id(columns)))
    people = list[Person]()
    for found in _read_people(columns, rows, known, read_keys):
        if len(problems) >= MAX_PROBLEMS:
            problems.append(_more(name))
            break
        people.extend(one for one in found if isinstance(one, Person))
        problems.extend(one for one in found if isinstance(one, Problem))
    if not people and not problems:
        problems.append(_empty_roster(name))
    return Roster(tuple(people), tuple(problems), tuple(_mixed_lengths(columns, people)))


def _is_note(header: str) -> bool:
    return header.startswith("#") or header.casefold() in _NOTES


def _is_column(header: str) -> bool:
    return header.casefold() in COLUMNS or _is_note(header)


def _read_header(name: str, header: Row) -> tuple[_Columns, list[Problem]]:
    indices, problems = dict[str, int](), list[Problem]()
    columns = _Columns(name, header, indices)
    for index, text in enumerate(header.cells):
        if not text or _is_note(text) or len(problems) >= MAX_PROBLEMS:
            continue
        problem = _header_problem(columns.cell(header, index), indices)
        if problem is None:
            indices[text.casefold()] = index
        else:
            problems.append(problem)
    if header.is_broken:
        problems.append(_bad_quotes(columns, header))
    return columns, problems


def _header_problem(cell: Cell, indices: Mapping[str, int]) -> Problem | None:
    column = cell.text.casefold()
    if odd := odd_character(cell):
        return odd
    if column in indices:
        return Problem(
            "duplicate_column",
            f"{cell.place}: the column {column} is here twice, first as column {indices[column] + 1}",
            "one of them would be silently ignored",
            "keep one of them",
        )
    if column in COLUMNS:
        return None
    return Problem(
        "unknown_column",
        f"{cell.place}: unknown column {cell.shown}{did_you_mean(column, (*COLUMNS, *_NOTES))}",
        "an unknown column would otherwise be silently ignored",
        f"columns are {', '.join(COLUMNS)}; for notes: {', '.join(_NOTES)}, or any header that begins with #",
    )


def _read_people(
    columns: _Columns, rows: Iterator[Row], known: KnownNames, read_keys: KeyReader
) -> Iterator[Sequence[Person | Problem]]:
    """Yield for each row its person, or its problems in the order of the columns."""
    readers: Mapping[str, Reader] = {
        "id": once(read_id),
        "uid": once(read_uid),
        "node": read_text,
        "gpus": read_gpus,
        "environment": environment_reader(known.environments),
        "group": group_reader(known.groups),
        "until": read_until,
        "key": lambda cell: read_keys(cell.text, cell.place),
    }
    for row in rows:
        if row.is_broken:
            yield [_bad_quotes(columns, row)]
            return
        values = _read_values(columns, row, readers)
        if above := _above_ceiling(columns, row, values, known):
            values["gpus"] = above
        if refused := _not_of_group(columns, row, values, known):
            values["environment"] = refused
        found = [*values.values(), _without_header(columns, row)]
        problems = [value for value in found if isinstance(value, Problem)]
        yield problems or [_person(row, values)]


def _read_values(columns: _Columns, row: Row, readers: Mapping[str, Reader]) -> dict[str, Any]:
    """Return the value or the Problem of each cell with a text, and the Problem of a missing id."""
    return {
        column: _read_cell(column, columns.cell(row, index), readers[column])
        for column, index in columns.indices.items()
        if column == "id" or "".join(row.cells[index : index + 1])
    }


def _read_cell(column: str, cell: Cell, read: Reader) -> Any:
    if not cell.text:
        return Problem(
            "missing_id", f"{cell.place}: the id is missing", "it says whose row it is", "write it, or delete the row"
        )
    # The comment of a key may hold any character; the reader of keys refuses what a file of keys may not hold.
    odd = None if column == "key" else odd_character(cell)
    return odd or read(cell)


def _person(row: Row, values: Mapping[str, Any]) -> Person:
    return Person(**{"keys" if column == "key" else column: value for column, value in values.items()}, row=row.line)


def _not_of_group(columns: _Columns, row: Row, values: Mapping[str, Any], known: KnownNames) -> Problem | None:
    environment, name = values.get("environment", DEFAULT_ENVIRONMENT), values.get("group", known.usual)
    if not isinstance(environment, str) or not isinstance(name, str):
        return None
    allowed, origin = known.groups[name].environments, known.environments[environment]
    if origin in allowed:
        return None
    cell = columns.cell(row, columns.indices.get("environment", columns.indices["id"]))
    return Problem(
        "environment_not_allowed",
        f"{cell.place}: group {name} may not have the environment {environment}, only {', '.join(allowed)}",
        "groups say what their people may run; a row without an environment has default",
        f"write one of these, name another group in this row, or add {origin} to groups.{name}.environments in lab.yml",
    )


def _above_ceiling(columns: _Columns, row: Row, values: Mapping[str, Any], known: KnownNames) -> Problem | None:
    gpus, name = values.get("gpus"), values.get("group", known.usual)
    ceiling = known.groups[name].gpus if isinstance(name, str) else None
    if not isinstance(gpus, int) or ceiling is None or gpus <= ceiling:
        return None
    return Problem(
        "gpus_above_ceiling",
        f"{columns.cell(row, columns.indices['gpus']).place}: {gpus} GPUs are more than the {ceiling} of group {name}",
        "the ceiling of a group holds for each of its people",
        f"write at most {ceiling}, name another group in this row, or raise groups.{name}.gpus in lab.yml",
    )


def _without_header(columns: _Columns, row: Row) -> Problem | None:
    """Return the problem of the first cell with a text that is in no column."""
    headers = columns.headers.cells
    extra = (index for index, text in enumerate(row.cells) if text and not (index < len(headers) and headers[index]))
    index = next(extra, None)
    if index is None:
        return None
    cell = columns.cell(row, index)
    return Problem(
        "no_column",
        f"{cell.place}: {cell.shown} is in no column",
        "it could belong to another column, if there is a delimiter too many before it",
        "remove it, put a value with a delimiter into quotes, or give the column a header",
    )


def _mixed_lengths(columns: _Columns, people: list[Person]) -> Iterator[Problem]:
    """Yield a caution if ids of digits have different lengths: a spreadsheet may have removed zeros in front."""
    numbers = [person for person in people if person.id.isdigit()]
    lengths = Counter(len(person.id) for person in numbers)
    if len(lengths) <= 1:
        return
    usual = max(lengths, key=lambda length: (lengths[length], length))
    first = next(person for person in numbers if len(person.id) != usual)
    yield Problem(
        "ids_of_mixed_length",
        f"{columns.file}:{first.row}:{columns.indices['id'] + 1}: the id {first.id} has {len(first.id)} digits, "
        f"and {lengths[usual]} others have {usual}",
        "spreadsheets remove zeros at the start of a number, and the id would be that of somebody else",
        "compare the ids with their source; format the column as text if zeros are missing",
    )


def _bad_quotes(columns: _Columns, row: Row) -> Problem:
    return Problem(
        "bad_quotes",
        f"{columns.cell(row, len(row.cells) - 1).place}: this field has a quote that is not closed, or text after it",
        "no row from here on can be read",
        'end the field with a quote before the next delimiter, and write a quote within it twice: "a ""b"" c"',
    )


def _without_id(columns: _Columns) -> Problem:
    return Problem(
        "missing_column",
        f"{columns.cell(columns.headers, 0).place}: there is no column id",
        "the first row names the columns, and a row without an id is of no person",
        f"begin the file with a row such as {','.join(COLUMNS)}; only id is needed",
    )


def _empty_roster(name: str) -> Problem:
    return Problem(
        "roster_empty",
        f"{name}: the roster has no person",
        "the seats of everybody would be retired, and an empty file is more often a mistake",
        f"add a row for each person below the header {','.join(COLUMNS)}; or remove people from lab.yml to end it",
    )


def _more(name: str) -> Problem:
    return Problem(
        "more_mistakes",
        f"{name}: further rows were not read",
        "this many mistakes are rarely made by hand: the columns may be in another order, or the file another one",
        "correct the mistakes above, then run the command again",
    )
