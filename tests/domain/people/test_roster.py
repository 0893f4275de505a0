import csv
import io
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from time import process_time
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.lab.lab import Group
from provisioner.domain.people.person import Person
from provisioner.domain.people.roster import COLUMNS, MAX_PROBLEMS, KnownNames, Roster, parse_roster
from provisioner.domain.values.problem import Problem

CASES: list[dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parents[1] / "cases" / "rosters.yaml").read_text(encoding="utf-8")
)
GROUPS = {"student": Group(gpus=1), "staff": Group(gpus=4)}
MISSING = "missing.pub"


def a_key(text: str, place: str) -> tuple[str, ...] | Problem:
    return Problem("no_such_file", f"{place}: there is no such key", "why", "fix") if text == MISSING else (text,)


def parse(raw: str | bytes, groups: Mapping[str, Group] = GROUPS) -> Roster:
    known = KnownNames(groups, {"default": "default"})
    return parse_roster("roster.csv", raw.encode() if isinstance(raw, str) else raw, known, a_key)


def whats(problems: tuple[Problem, ...]) -> list[str]:
    return [problem.what for problem in problems]


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_people_problems_and_cautions_of_a_roster(case: dict[str, Any]) -> None:
    found = parse(case["text"])
    assert whats(found.problems) == case.get("problems", [])
    assert whats(found.cautions) == case.get("cautions", [])
    if "people" in case:
        assert found.people == tuple(Person.model_validate(person) for person in case["people"])


def test_every_problem_has_a_reason_and_a_fix() -> None:
    rosters_found = [parse(case["text"]) for case in CASES]
    found = [problem for roster in rosters_found for problem in (*roster.problems, *roster.cautions)]
    assert all(problem.why and problem.fix for problem in found)
    assert len({problem.code for problem in found}) > 15


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("id\n2024012345.0\n", 'write "2024012345", and format'),
        ("id\n\uff12\uff10\uff12\uff14\uff0c\n", 'write "2024,"'),
        ("id\nan\u200bna\n", 'write "anna"'),
        ("id,node\nanna,\u200b\n", "delete it"),
        ("id,gpus\nanna,2\n", "raise groups.student.gpus in lab.yml"),
        ("id,group\nanna,x\n", "write one of student, staff, or add the group"),
        ("idx\nanna\n", "columns are id, uid, node, gpus, environment, group, until, key;"),
        ("id\n", "remove people from lab.yml"),
    ],
)
def test_the_fix_says_what_to_write(text: str, fix: str) -> None:
    assert fix in parse(text).problems[0].fix


def test_a_row_without_a_group_has_no_known_ceiling_where_accounts_decide_the_group() -> None:
    text = "id,gpus\nanna,8\n"
    assert whats(parse(text).problems) == ["roster.csv:2:2: 8 GPUs are more than the 1 of group student"]
    assert parse(text, GROUPS | {"staff": Group(unix="lab-staff")}).people[0].gpus == 8
    assert parse(text, {"student": Group()}).people[0].gpus == 8


@pytest.mark.parametrize(
    ("earlier", "rows"), [("", MAX_PROBLEMS + 1), ("anna\n", MAX_PROBLEMS + 1), ("", 2 * MAX_PROBLEMS)]
)
def test_of_many_mistakes_the_first_are_reported(earlier: str, rows: int) -> None:
    problems = parse("id\n" + earlier + "root\n" * rows).problems
    assert len(problems) == MAX_PROBLEMS + 1
    assert (problems[-1].code, problems[-1].what) == ("more_mistakes", "roster.csv: further rows were not read")


def test_as_many_mistakes_as_are_reported_are_all() -> None:
    problems = parse("id\n" + "root\n" * MAX_PROBLEMS).problems
    assert [problem.code for problem in problems] == ["bad_id"] * MAX_PROBLEMS


def test_of_many_unknown_columns_the_first_are_reported() -> None:
    problems = parse("x," * 100_000).problems
    assert [problem.code for problem in problems] == ["unknown_column"] * MAX_PROBLEMS + ["more_mistakes"]


def test_ten_thousand_people_are_read_in_linear_time() -> None:
    rows = (f"s{index:05},王小明,{70000 + index},gpu*,1,default,student,2027/1/31,a.pub\r\n" for index in range(10_000))
    raw = f"id,姓名,uid,node,gpus,environment,group,until,key\r\n{''.join(rows)}".encode("gb18030")
    before = process_time()
    assert len(parse(raw).people) == 10_000
    assert process_time() - before < 3  # usually half a second


@pytest.mark.parametrize("raw", [b"\n" * 500_000, b"id\n" + b"," * 500_000, b'id\n"' + b'""' * 500_000])
def test_a_large_file_of_nothing_is_refused_in_linear_time(raw: bytes) -> None:
    before = process_time()
    assert len(parse(raw).problems) == 1
    assert process_time() - before < 3


IDS = st.from_regex(r"[A-Za-z_][A-Za-z0-9._@-]{0,20}", fullmatch=True).filter(lambda text: text.lower() != "root")
DATES = st.none() | st.dates(date(2000, 1, 1), date(2199, 12, 31))
NOTES = st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]), max_size=20)


@st.composite
def rosters(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Valid rows, each with a note in any characters that Chinese spreadsheets can save."""
    ids = draw(st.lists(IDS, min_size=1, max_size=5, unique_by=str.lower))
    uids = draw(st.lists(st.integers(70000, 99999), min_size=len(ids), max_size=len(ids), unique=True))
    return [
        {
            "id": name,
            "uid": draw(st.sampled_from([uid, None])),
            "environment": "default",
            "node": draw(st.sampled_from(["", "gpu1", "gpu[1-3],!gpu2", 'a;b"c'])),
            "gpus": draw(st.sampled_from([0, 1, "shared"])),
            "group": draw(st.sampled_from(["", "student", "staff"])),
            "until": draw(DATES),
            "keys": draw(st.sampled_from([(), ("ssh-ed25519 AAAA 小明, of; the\tlab",)])),
            "note": draw(NOTES),
        }
        for name, uid in zip(ids, uids, strict=True)
    ]


@given(
    rosters(),
    st.permutations([*COLUMNS, "note"]),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\r\n", "\n", "\r"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "gb18030"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.booleans(),
)
def test_a_valid_roster_is_read_as_it_was_written(  # noqa: PLR0913, PLR0917
    rows: list[dict[str, Any]],
    header: list[str],
    delimiter: str,
    line_break: str,
    encoding: str,
    quoting: Any,
    has_separator_line: bool,
) -> None:
    file = io.StringIO(newline="")
    if has_separator_line:
        file.write(f"sep={delimiter}{line_break}")
    writer = csv.writer(file, delimiter=delimiter, lineterminator=line_break, quoting=quoting)
    writer.writerow(header)
    expected = []
    for row in rows:
        line = len(io.StringIO(file.getvalue(), newline=None).read().split("\n"))
        expected.append(Person(**{key: value for key, value in row.items() if key != "note"}, row=line))
        cells = row | {"key": "".join(row["keys"]), "note": row["note"].replace("\n", line_break)}
        writer.writerow(["" if cells[column] is None else str(cells[column]) for column in header])
    found = parse(file.getvalue().encode(encoding))
    assert found.problems == ()
    assert found.people == tuple(expected)


PARTS = st.sampled_from([*',;\t\n\r" \uff0c\uff1b\u30001', *COLUMNS, "sep=;", "anna", "2027-01-31", "70001", MISSING])


@given(st.lists(PARTS | st.text(max_size=3), max_size=40).map("".join))
def test_any_text_is_a_roster_or_is_refused_with_places_in_the_file(text: str) -> None:
    check_any(text.encode("utf-8", "replace"))


@given(st.binary(max_size=60))
def test_any_bytes_are_a_roster_or_are_refused_with_places_in_the_file(raw: bytes) -> None:
    check_any(raw)


def check_any(raw: bytes) -> None:
    found = parse(raw)
    assert found.people or found.problems
    for problem in (*found.problems, *found.cautions):
        if problem.code not in {"roster_empty", "more_mistakes"}:
            name, line, column = problem.what.split(": ")[0].split(":")
            assert name == "roster.csv"
            assert 1 <= int(line) <= len(raw) + 1
            assert 1 <= int(column) <= len(raw) + 1
