"""Read a table as spreadsheets and editors write it: its encoding, its delimiter, and its rows with their lines."""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from provisioner.domain.values.problem import Problem

_UTF8_MARK, _UTF16_MARKS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
_DELIMITERS = ",;\t"
# A first line that tells Excel the delimiter.
_SEPARATOR_LINE = re.compile(r"sep=([,;\t])[ \t]*(?:\r\n|\r|\n|\Z)", re.IGNORECASE)
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
# A line, with the empty ones after it.
_LINE = re.compile(r"(?P<content>[^\r\n]*+)[\r\n]*+")
_BLANKS = " \t\r\n"
# A quoted field ends at a quote that is not doubled; after it there may be spaces only.
_FIELDS = {
    delimiter: re.compile(
        rf'(?: *"(?P<quoted>[^"]*+(?:""[^"]*+)*+)" *|(?! *")(?P<plain>[^{delimiter}\r\n]*+))'
        rf"(?P<end>{delimiter}|\r\n|\r|\n|\Z)"
    )
    for delimiter in _DELIMITERS
}


class Row(NamedTuple):
    """A row of a table. `line`: the line of the file that it starts in, from 1; a quoted field may have several lines.

    `cells`: without quotes, and without spaces, tabs and line breaks around. `is_broken`: the quotes of the last cell
    are wrong, so that no further row can be read.
    """

    line: int
    cells: tuple[str, ...]
    is_broken: bool = False


def decode_table(raw: bytes, name: str) -> str | Problem:
    """Decode UTF-8 with or without a byte order mark, UTF-16 with one, or GB18030, of which GBK is a part.

    Text of another encoding is a Problem, or is read as GB18030: as other characters, none of which is ASCII.
    """
    if raw.startswith(_UTF16_MARKS):
        encodings: tuple[str, ...] = ("utf-16",)
    else:
        encodings = ("utf-8-sig",) if raw.startswith(_UTF8_MARK) else ("utf-8", "gb18030")
    failures = []
    for encoding in encodings:
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError as error:
            failures.append(error)
    return _undecodable(name, failures[0], encodings[0])


def read_rows(text: str, is_column: Callable[[str], bool]) -> Iterator[Row]:
    """Yield the rows that hold more than delimiters, the header first.

    The delimiter is the one that a first line such as `sep=;` names, else the comma, semicolon or tab with which most
    cells of the header are columns.
    """
    named = _SEPARATOR_LINE.match(text)
    start, line = (named.end(), 2) if named else (0, 1)
    delimiter = named[1] if named else _find_delimiter(text, is_column)
    yield from _filled_rows(text, delimiter, start, line)


def _find_delimiter(text: str, is_column: Callable[[str], bool]) -> str:
    def rank(delimiter: str) -> tuple[int, int]:
        cells = next((row.cells for row in _filled_rows(text, delimiter)), ())
        return sum(map(is_column, cells)), len(cells)

    return max(_DELIMITERS, key=rank)


def _filled_rows(text: str, delimiter: str, start: int = 0, line: int = 1) -> Iterator[Row]:
    rows = _all_rows(text, delimiter, start, line)
    return (row for row in rows if row.is_broken or "".join(row.cells).strip(_DELIMITERS + _BLANKS))


def _all_rows(text: str, delimiter: str, start: int, line: int) -> Iterator[Row]:
    while start < len(text):
        begin, whole = start, _LINE.match(text, start)
        if whole and '"' not in whole[0]:
            start = whole.end()
            yield Row(line, tuple(cell.strip(_BLANKS) for cell in whole["content"].split(delimiter)))
        else:
            row, start = _read_quoted_row(text, delimiter, start, line)
            yield row
        line += len(_LINE_BREAK.findall(text, begin, start))


def _read_quoted_row(text: str, delimiter: str, start: int, line: int) -> tuple[Row, int]:
    """Return a row that may have quoted fields, and where the next one starts."""
    cells = list[str]()
    while field := _FIELDS[delimiter].match(text, start):
        content = field["plain"] if field["quoted"] is None else field["quoted"].replace('""', '"')
        cells.append(content.strip(_BLANKS))
        start = field.end()
        if field["end"] != delimiter:
            return Row(line, tuple(cells)), start
    return Row(line, (*cells, ""), is_broken=True), len(text)


def _undecodable(name: str, error: UnicodeDecodeError, encoding: str) -> Problem:
    before = error.object[: error.start].decode(encoding, "ignore")
    last = _LINE_BREAK.split(before)[-1]
    line, column = len(_LINE_BREAK.findall(before)) + 1, len(re.findall(f"[{_DELIMITERS}]", last)) + 1
    return Problem(
        "not_decodable",
        f"{name}:{line}:{column}: neither UTF-8, nor UTF-16 with a byte order mark, nor GBK",
        "reading a text in the wrong encoding would silently change names",
        "save the file as UTF-8; Excel names that `CSV UTF-8 (Comma delimited)`",
    )
