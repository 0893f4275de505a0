"""The table of mirror faults: read from mirror_faults.yaml, and as docs/mirror-faults.md shows it.

python -m tests.adapters.registry.fault_table prints the document's rows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from provisioner.domain.values.sync import SyncReport

DATA = Path(__file__).with_name("mirror_faults.yaml")
DOCUMENT = Path(__file__).parents[3] / "docs/mirror-faults.md"
HEAD = ("| fault | pull | reported state | test |", "|:--|:--|:--|:--|")


@dataclass(frozen=True)
class Finding:
    state: str
    codes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ": ".join([self.state, ", ".join(f"`{code}`" for code in self.codes)]) if self.codes else self.state


@dataclass(frozen=True)
class Row:
    """`pull`: whether an engine gets the whole image; `only_containerd`: one with containerd's image store alone.

    `deep`: None if no deep check is made.
    """

    fault: str
    where: tuple[str, ...]
    pull: bool
    expected: Finding
    deep: Finding | None
    only_containerd: bool = False

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
    """The result of one row in one setting: the reports of both checks, and whether a pull worked."""

    row: Row
    report: SyncReport
    deep: SyncReport | None
    pulled: bool

    @property
    def is_false_complete(self) -> bool:
        """By the deepest check that was made."""
        return (self.deep or self.report).state == "complete" and not self.pulled

    @property
    def is_false_alarm(self) -> bool:
        return self.pulled and self.report.state not in {"complete", "cold"}


def finding_of(report: SyncReport | None) -> Finding | None:
    return None if report is None else Finding(report.state.value, tuple(problem.code for problem in report.problems))


def groups() -> tuple[Group, ...]:
    document: dict[str, Any] = yaml.load(DATA.read_text(), yaml.CSafeLoader)
    return tuple(_group(name, body) for name, body in document.items())


def group(name: str) -> Group:
    return next(group for group in groups() if group.name == name)


def _group(name: str, body: Mapping[str, Any]) -> Group:
    where = tuple(body["where"])
    return Group(name, body["title"], where, body["test"], tuple(_row(row, where) for row in body["faults"]))


def _row(row: Mapping[str, Any], where: tuple[str, ...]) -> Row:
    deep = None if "deep" not in row else _finding(row["deep"])
    own = tuple(row.get("where", where))
    pull = row["pull"]
    works = {"works": True, "fails": False, "containerd": True}[pull]
    return Row(row["fault"], own, works, _finding(row), deep, only_containerd=pull == "containerd")


def _finding(answer: Mapping[str, Any]) -> Finding:
    return Finding(answer["state"], tuple(answer.get("codes", ())))


def tables() -> list[str]:
    """Return every line of the document that belongs to a table or is a table's title."""
    return [line for group in groups() for line in (f"## {group.title}", *HEAD, *(_line(group, r) for r in group.rows))]


def _line(group: Group, row: Row) -> str:
    only = f" ({', '.join(row.where)})" if row.where != group.where else ""
    deep = "" if row.deep in (None, row.expected) else f"; with `--deep`, {row.deep}"
    pull = "works with containerd's image store" if row.only_containerd else "works" if row.pull else "fails"
    return f"| {row.fault}{only} | {pull} | {row.expected}{deep} | `{group.test}` |"


if __name__ == "__main__":
    print("\n".join(tables()))
