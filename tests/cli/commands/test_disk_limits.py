"""Limits of the disk: a rollout brings them to the nodes, also where it changes no seat."""

from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands.people import LAB
from tests.cli.commands.people_fleet import PeopleLab
from tests.cli.running import document, run

GIB = 1 << 30


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PeopleLab:
    return PeopleLab(tmp_path, monkeypatch)


def roll_out(lab: PeopleLab, disk: str) -> Any:
    groups = f"groups: {{student: {{disk: {disk}}}}}\n" if disk else ""
    (lab.path / "lab.yml").write_text(f"{LAB}people: {{roster: roster.csv}}\n{groups}")
    lab.fleet.calls.clear()
    lab.fleet.seat_calls.clear()
    return run("rollout", str(lab.path), "--yes")


def held(lab: PeopleLab) -> list[int | None]:
    seats = (("gpu1", "ml_anna"), ("gpu1", "ml_bob"), ("gpu2", "ml_eve"))
    return [lab.fleet.read(node, seat).get("disk_limit") for node, seat in seats]


def acts(lab: PeopleLab) -> list[str]:
    return [act for act, _ in lab.fleet.calls if act != "probe"]


def test_a_changed_limit_is_set_without_a_claim_and_changes_no_seat(lab: PeopleLab) -> None:
    first = roll_out(lab, "100g")
    assert (first.exit_code, held(lab)) == (0, [100 * GIB] * 3), first.output
    assert acts(lab)[-1] == "disk"
    again = roll_out(lab, "100g")
    assert (again.exit_code, acts(lab)) == (0, []), again.output
    changed = roll_out(lab, "50g")
    assert (changed.exit_code, acts(lab), lab.fleet.seat_calls) == (0, ["disk"], []), changed.output
    assert "3 seats: the limit of the disk was set; nothing restarts for it." in changed.stderr
    assert held(lab) == [50 * GIB] * 3
    assert (roll_out(lab, "").exit_code, held(lab)) == (0, [None] * 3)


def test_a_lab_without_such_limits_sends_none(lab: PeopleLab) -> None:
    done = roll_out(lab, "")
    assert done.exit_code == 0
    assert "disk" not in acts(lab)
    assert "disk" not in done.output


def test_a_node_that_does_not_take_its_limit_is_shown_and_gets_it_by_the_next_run(
    lab: PeopleLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert roll_out(lab, "").exit_code == 0

    def lose(moment: str) -> None:
        if moment == "disk before gpu2":
            lab.fleet.ends = {"reach": {"gpu2": "unreachable"}}

    monkeypatch.setattr(lab.fleet, "at", lose)
    done = roll_out(lab, "100g")
    assert (done.exit_code, held(lab)) == (0, [100 * GIB, 100 * GIB, None]), done.output
    assert "unreachable  gpu2" in done.stderr
    monkeypatch.setattr(lab.fleet, "at", lambda _: None)
    lab.fleet.ends = {}
    assert (roll_out(lab, "100g").exit_code, held(lab)) == (0, [100 * GIB] * 3)


def test_a_move_brings_the_limit_of_the_person_alone(lab: PeopleLab) -> None:
    assert roll_out(lab, "").exit_code == 0
    (lab.path / "lab.yml").write_text(f"{LAB}people: {{roster: roster.csv}}\ngroups: {{student: {{disk: 100g}}}}\n")
    moved = run("seats", "move", str(lab.path), "anna", "gpu2", "--reason", "gpu1 is repaired", "--yes")
    assert moved.exit_code == 0, moved.output
    assert lab.fleet.read("gpu2", "ml_anna")["disk_limit"] == 100 * GIB
    assert held(lab)[1:] == [None, None]


@pytest.mark.parametrize(("disk", "is_shown"), [("100g", True), ("", False)])
def test_the_plan_says_once_that_the_limit_is_not_enforced(lab: PeopleLab, disk: str, is_shown: bool) -> None:
    roll_out(lab, disk)
    result = run("plan", str(lab.path), "--json")
    assert document(result)["schema"] == "provisioner/plan/2"
    assert result.stderr.count("disk_not_enforced") == int(is_shown)
