"""The limit of the disk and its warning, on real folders."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.values.size import binary_size
from tests.playbooks.node_code import module_util
from tests.playbooks.orders import NoJob, an_order, with_seat
from tests.playbooks.people_seats import a_persons_seat

limits, notices, facts, removals = (
    module_util(name) for name in ("disk.limit", "seat.notice", "seat.facts", "transaction.remove")
)
GIB = 1 << 30
USE = {"measured_at": "2026-11-30T03:12:05+00:00", "home_bytes": 97 * GIB, "layer_bytes": 4 * GIB, "complete": True}


def an_order_of(root: Path, limit: int | None, name: str = "ml_anna") -> dict[str, Any]:
    return with_seat(an_order(root, disk_limit=limit), name=name)


def used(seat: Any, **over: Any) -> None:
    (seat.folder / "disk.json").write_text(json.dumps(USE | over))


def shown(seat: Any) -> str:
    return Path(seat.folder, "notice/disk.txt").read_text()


def test_a_limit_makes_no_generation_and_is_written_once(tmp_path: Path) -> None:
    seat = a_persons_seat(tmp_path)
    orders = [an_order_of(tmp_path, limit) for limit in (100 * GIB, 100 * GIB, None, None)]
    states = [limits.limit_seats([order])["seats"]["ml_anna"]["state"] for order in orders]
    assert states == ["committed", "unchanged", "committed", "unchanged"]
    assert (seat.current(), seat.numbers(), seat.disk_limit()) == (1, [1], None)


def test_a_seat_that_is_missing_stays_so_and_a_fault_stops_no_other_seat(tmp_path: Path) -> None:
    seat = a_persons_seat(tmp_path)
    names = ("ml_gone", "../ml", "ml_anna")
    record = limits.limit_seats([an_order_of(tmp_path, GIB, name) for name in names])
    assert [record["seats"][name]["state"] for name in names] == ["unchanged", "failed", "committed"]
    assert not (seat.folder.parent / "ml_gone").exists()
    assert seat.disk_limit() == GIB


@pytest.mark.parametrize(
    ("over", "limit", "expected"),
    [
        ({}, 101 * GIB, "Disk: 101 GiB of 101 GiB used: home 97 GiB, containers (outside the home) 4 GiB;"),
        ({"complete": False}, 100 * GIB, "Disk: ≥ 101 GiB of 100 GiB used: home 97 GiB,"),
        (
            {"layer_bytes": None, "complete": False},
            97 * GIB,
            "Disk: ≥ 97 GiB of 97 GiB used: home 97 GiB, containers (outside the home) ?;",
        ),
        ({}, 101 * GIB + 1, ""),
        ({"layer_bytes": None, "complete": False}, 98 * GIB, ""),
    ],
)
def test_the_warning_is_shown_from_the_limit_on(
    tmp_path: Path, over: dict[str, Any], limit: int, expected: str
) -> None:
    seat = a_persons_seat(tmp_path)
    used(seat, **over)
    limits.limit_seat(seat, limit)
    assert expected in shown(seat)
    assert bool(shown(seat)) == bool(expected)
    assert (seat.folder / "notice/disk.txt").stat().st_mode & 0o777 == 0o644


def test_the_warning_has_a_line_in_each_language_that_says_the_same_numbers_and_the_day(tmp_path: Path) -> None:
    seat = a_persons_seat(tmp_path)
    used(seat)
    limits.limit_seat(seat, 100 * GIB)
    chinese, english = shown(seat).splitlines()
    for part in ("101 GiB", "100 GiB", "97 GiB", "4 GiB", "2026-11-30", "du -xh -d1 ~ | sort -h"):
        assert part in chinese
        assert part in english
    assert (chinese[:2], english[:5]) == ("磁盘", "Disk:")


def test_the_warning_goes_when_less_is_used_and_when_there_is_no_limit_any_more(tmp_path: Path) -> None:
    seat = a_persons_seat(tmp_path)
    used(seat)
    limits.limit_seat(seat, 100 * GIB)
    assert shown(seat)
    used(seat, home_bytes=GIB)
    limits.renew_warning(seat)
    assert shown(seat) == ""
    used(seat)
    limits.renew_warning(seat)
    limits.limit_seat(seat, None)
    assert shown(seat) == ""


@pytest.mark.usefixtures("ran", "engine")
def test_a_removed_seat_leaves_no_limit_no_measurement_and_no_warning(tmp_path: Path) -> None:
    seat = a_persons_seat(tmp_path)
    used(seat)
    limits.limit_seat(seat, GIB)
    assert shown(seat)
    removals.remove(with_seat(an_order(tmp_path), name="ml_anna"), NoJob(), 0)
    assert (seat.disk_limit(), seat.disk_use(), shown(seat)) == (None, None, "")


def test_warning_and_notice_of_the_admin_leave_each_other_alone(tmp_path: Path) -> None:
    seat = a_persons_seat(tmp_path)
    notices.notify(seat, "exam on Friday")
    used(seat)
    limits.limit_seat(seat, GIB)
    notices.notify(seat, "exam on Monday")
    assert Path(seat.folder, "notice/notice.txt").read_text() == "exam on Monday\n"
    assert shown(seat)
    notices.notify(seat, None)
    assert shown(seat)


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "{}", '{"home_bytes": 1}', "²", "1\n2"])
def test_a_damaged_record_counts_as_never_measured(tmp_path: Path, text: str) -> None:
    seat = a_persons_seat(tmp_path)
    (seat.folder / "disk.json").write_text(text)
    (seat.folder / "disk_limit").write_text(text)
    assert (seat.disk_use(), seat.disk_limit()) == (None, None)


@pytest.mark.usefixtures("engine")
def test_facts_have_limit_and_measurement(tmp_path: Path) -> None:
    seat = a_persons_seat(tmp_path)
    used(seat)
    limits.limit_seat(seat, GIB)
    (fact,) = facts.seat_facts(str(tmp_path / "state"))
    assert (fact["disk"], fact["disk_limit"]) == (USE, GIB)


@given(st.integers(0, 1 << 63))
def test_node_and_control_machine_write_a_size_in_the_same_words(count: int) -> None:
    assert limits.binary_size(count) == binary_size(count)
