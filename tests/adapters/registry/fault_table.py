"""The table of faults of mirrors: read from its data, and as docs/mirror-faults.md shows it.

python -m tests.adapters.registry.fault_table prints the document's rows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from provisioner.domain.sync import SyncReport

DATA = Path(__file__).with_name("mirror_faults.yaml")
DOCUMENT = Path(__file__).parents[3] / "docs/mirror-faults.md"
HEAD = ("| fault | a pull | we say | test |", "|:--|:--|:--|:--|")


@dataclass(frozen=True)
class Said:
    state: str
    codes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ": ".join([self.state, ", ".join(f"`{code}`" for code in self.codes)]) if self.codes else self.state


@dataclass(frozen=True)
class Row:
    """`pull`: whether an engine gets the whole image. `deep`: None where it is not asked for."""

    fault: str
    where: tuple[str, ...]
    pull: bool
    said: Said
    deep: Said | None

    def settings(self) -> Iterator[tuple[str, str]]:
        return ((setting, self.fault) for setting in self.where)


@dataclass(frozen=True)
class Group:
    name: str
    title: str
    where: tuple[str, ...]
    test: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Outcome:
    """What came of one row in one setting: the reports of both looks, and whether a pull worked."""

    row: Row
    report: SyncReport
    deep: SyncReport | None
    pulled: bool

    @property
    def is_false_complete(self) -> bool:
        """By the most thorough look that was taken."""
        return (self.deep or self.report).state == "complete" and not self.pulled

    @property
    def is_false_alarm(self) -> bool:
        return self.pulled and self.report.state not in {"complete", "cold"}


def said(report: SyncReport | None) -> Said | None:
    return None if report is None else Said(report.state.value, tuple(problem.code for problem in report.problems))


def groups() -> tuple[Group, ...]:
    document: dict[str, Any] = yaml.load(DATA.read_text(), yaml.CSafeLoader)
    return tuple(_group(name, body) for name, body in document.items())


def group(name: str) -> Group:
    return next(group for group in groups() if group.name == name)


def _group(name: str, body: Mapping[str, Any]) -> Group:
    where = tuple(body["where"])
    return Group(name, body["title"], where, body["test"], tuple(_row(row, where) for row in body["faults"]))


def _row(row: Mapping[str, Any], where: tuple[str, ...]) -> Row:
    deep = None if "deep" not in row else _said(row["deep"])
    own = tuple(row.get("where", where))
    return Row(row["fault"], own, {"works": True, "fails": False}[row["pull"]], _said(row), deep)


def _said(answer: Mapping[str, Any]) -> Said:
    return Said(answer["state"], tuple(answer.get("codes", ())))


def tables() -> list[str]:
    """Every line of the document that belongs to a table or is a table's title."""
    return [line for group in groups() for line in (f"## {group.title}", *HEAD, *(_line(group, r) for r in group.rows))]


def _line(group: Group, row: Row) -> str:
    only = f" ({', '.join(row.where)})" if row.where != group.where else ""
    deep = "" if row.deep in (None, row.said) else f"; with `--deep`, {row.deep}"
    return f"| {row.fault}{only} | {'works' if row.pull else 'fails'} | {row.said}{deep} | `{group.test}` |"


if __name__ == "__main__":
    print("\n".join(tables()))
