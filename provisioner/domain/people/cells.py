"""Read the cells of a roster: for each column its value, or a Problem with the place of the cell."""

import re
import unicodedata
from collections.abc import Callable, Collection, Mapping
from datetime import date
from typing import Any, Literal, NamedTuple

from provisioner.domain.lab.environments import DEFAULT_ENVIRONMENT
from provisioner.domain.lab.lab import MAX_GPUS, Group
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.spelling import did_you_mean

_MAX_SHOWN = 40  # characters of a cell in a message

_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]{0,63}")
_UID = re.compile(r"[7-9][0-9]{4}")
_GPUS = re.compile(r"0|[1-9][0-9]?")
# What spreadsheets make of a long number, and of a number with decimals.
_SCIENTIFIC = re.compile(r"[0-9]([.,][0-9]+)?[Ee]\+[0-9]+")
_WITH_DECIMALS = re.compile(r"([0-9]+)[.,]0+")
_DATE = re.compile(r"(2[01][0-9]{2})([-/.])([0-9]{1,2})\2([0-9]{1,2})")
_DATE_WITHOUT_ORDER = re.compile(r"[0-9]{1,2}([-/. ])[0-9]{1,2}\1[0-9]{2,4}")
# Control characters, invisible ones, and separators of lines and words other than the space.
_UNSEEN = {"Cc", "Cf", "Zl", "Zp", "Zs"}


class Cell(NamedTuple):
    """A cell of a file. `line`: that its row starts in, from 1. `column`: the number of the field, from 1."""

    text: str
    file: str
    line: int
    column: int

    @property
    def place(self) -> str:
        """The place for a message."""
        return f"{self.file}:{self.line}:{self.column}"

    @property
    def shown(self) -> str:
        """The text for a message, in quotes and not longer than a line."""
        return f'"{self.text if len(self.text) <= _MAX_SHOWN else f"{self.text[:_MAX_SHOWN]}…"}"'


Reader = Callable[[Cell], Any]  # returns the value, or a Problem


def read_id(cell: Cell) -> str | Problem:
    """Return a person's id: the name of an account, or of a person without one."""
    if _ID.fullmatch(cell.text) and cell.text.lower() != "root" and not _WITH_DECIMALS.fullmatch(cell.text):
        return cell.text
    what, fix = _what_is_wrong_with_id(cell)
    why = "the id becomes part of the names of a seat, and is looked up as an account on the nodes"
    return Problem("bad_id", f"{cell.place}: {what}", why, fix)


def _what_is_wrong_with_id(cell: Cell) -> tuple[str, str]:
    """Return what is wrong with an id, and how to correct it."""
    as_text = "format the column as text in the spreadsheet"
    if _SCIENTIFIC.fullmatch(cell.text):
        what = f"{cell.shown} is a long number that the spreadsheet has rounded: its last digits are lost"
        return what, f"{as_text}, then type the ids again: the format alone does not bring the digits back"
    if decimals := _WITH_DECIMALS.fullmatch(cell.text):
        what = f"{cell.shown} is a number to which a program has added decimals"
        return what, f'write "{decimals[1]}", and {as_text}, so that this does not happen again'
    if cell.text.lower() == "root":
        return "a seat never belongs to root", "name another account"
    allowed = "letters of A-Z, digits, _ . @ and -, at most 64, and the first is a letter, a digit or _"
    return f"{cell.shown} is not an id", f"write {allowed}; a name in other letters may stand in a column `name`"


def read_uid(cell: Cell) -> int | Problem:
    """Return the uid of a person without an account, 70000 to 99999."""
    if _UID.fullmatch(cell.text):
        return int(cell.text)
    return Problem(
        "bad_uid",
        f"{cell.place}: {cell.shown} is not a whole number from 70000 to 99999",
        "files of a person without an account belong to this number, which no account of a node should have",
        "write such a number, or leave the cell empty if the id is an account on the nodes",
    )


def read_text(cell: Cell) -> str:
    """Return the text as it is."""
    return cell.text


def read_gpus(cell: Cell) -> int | Literal["shared"] | Problem:
    """Return how many cards a person has for themselves, or `shared`."""
    if cell.text == "shared":
        return "shared"
    if _GPUS.fullmatch(cell.text) and int(cell.text) <= MAX_GPUS:
        return int(cell.text)
    return Problem(
        "bad_gpus",
        f"{cell.place}: {cell.shown} is neither a whole number from 0 to {MAX_GPUS} nor shared",
        "it is how many GPUs of a node the person has alone; shared: all that no person has alone",
        f"write 0 to {MAX_GPUS}, or shared; an empty cell is 0",
    )


def environment_reader(names: Collection[str]) -> Reader:
    """Return a reader of the names of these environments."""

    def read_environment(cell: Cell) -> str | Problem:
        if cell.text in names:
            return cell.text
        return Problem(
            "unknown_environment",
            f"{cell.place}: there is no environment {cell.shown}{did_you_mean(cell.text, names)}",
            "a seat runs the image that lab.lock has for its environment",
            f"write one of: {', '.join(names)}; an empty cell is {DEFAULT_ENVIRONMENT}",
        )

    return read_environment


def group_reader(groups: Mapping[str, Group]) -> Reader:
    """Return a reader of the names of these groups."""

    def read_group(cell: Cell) -> str | Problem:
        if cell.text in groups:
            return cell.text
        return Problem(
            "unknown_group",
            f"{cell.place}: there is no group {cell.shown}{did_you_mean(cell.text, groups)}",
            "the group of a person says how many GPUs they may have, and the limits of their seat",
            f"write one of {', '.join(groups)}, or add the group to groups in lab.yml",
        )

    return read_group


def read_until(cell: Cell) -> date | Problem:
    """Return the last day of a seat."""
    code, what = "bad_date", f"{cell.shown} is not a date"
    if match := _DATE.fullmatch(cell.text):
        try:
            return date(int(match[1]), int(match[3]), int(match[4]))
        except ValueError:
            what = f"there is no such day: {cell.text}"
    elif _DATE_WITHOUT_ORDER.fullmatch(cell.text):
        code, what = "ambiguous_date", f"{cell.shown} does not say which number is the day, the month and the year"
    return Problem(
        code,
        f"{cell.place}: {what}",
        "the seat ends with this day, so the day is not guessed",
        "write year, month and day, such as 2027-01-31 or 2027/1/31; empty: no end",
    )


def once(read: Reader) -> Reader:
    """Return a reader that refuses what it has read from an earlier row, also in upper or lower case."""
    first: dict[str, Cell] = {}

    def read_once(cell: Cell) -> Any:
        value = read(cell)
        if isinstance(value, Problem):
            return value
        earlier = first.setdefault(cell.text.lower(), cell)
        return value if earlier is cell else _duplicate(cell, earlier)

    return read_once


def _duplicate(cell: Cell, earlier: Cell) -> Problem:
    differs = "" if cell.text == earlier.text else f", as {earlier.shown}"
    return Problem(
        "duplicate_value",
        f"{cell.place}: {cell.shown} is here twice, first in row {earlier.line}{differs}",
        "each person has one row, with an id and a uid of their own; upper and lower case count as equal",
        "keep one of the rows, or correct the other",
    )


def odd_character(cell: Cell) -> Problem | None:
    """Return the Problem of the first full-width, invisible or control character of a text; None if there is none."""
    if cell.text.isascii() and cell.text.isprintable():
        return None
    odd = next(filter(_is_odd, cell.text), None)
    if odd is None:
        return None
    usual = "".join(one for one in unicodedata.normalize("NFKC", cell.text[:_MAX_SHOWN]) if not _is_odd(one))
    return Problem(
        "odd_character",
        f"{cell.place}: {cell.shown} holds U+{ord(odd):04X} ({unicodedata.name(odd, 'a control character').lower()})",
        "it looks like another character, or like none, so names and numbers would not be found",
        f'write "{usual}"' if usual.strip() else "delete it",
    )


def _is_odd(one: str) -> bool:
    return "\uff01" <= one <= "\uff5e" or (one != " " and unicodedata.category(one) in _UNSEEN)
