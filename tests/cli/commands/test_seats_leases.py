"""`provision seats release, extend, stop` of seats with a lease, and `provision usage`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from provisioner.adapters.state.files import state_home
from provisioner.adapters.state.journal import events
from provisioner.domain.rollout.leases import GpuUse
from tests.builders import a_uuid
from tests.cli.commands.people import LAB
from tests.cli.running import document, run
from tests.workflow.broker_fleet import BROKER_DOWN, UNREACHABLE, WITHOUT, BrokerFleet, a_leased_seat

REASON = ("--reason", "course on Monday")


class LeasedLab:
    """A lab without a roster on three nodes, the last without self-service. Anna has a seat on two of them."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = str(path)
        stopped = a_leased_seat("eve", state="stopped")
        seats = {"gpu1": [a_leased_seat(), a_leased_seat("bob")], "gpu2": [a_leased_seat(), stopped]}
        self.fleet = BrokerFleet(**seats, gpu3=[])
        self.fleet.fails["gpu3"] = WITHOUT
        (path / "lab.yml").write_text(f"{LAB}self_service: {{unix_group: students}}\n")
        (path / "hosts.yml").write_text("all: {hosts: {gpu1: {}, gpu2: {}, gpu3: {}}}\n")
        monkeypatch.setattr("provisioner.cli.commands.seats.lease_change.open_fleet", self._open)
        monkeypatch.setattr("provisioner.cli.commands.usage.fleet", lambda *_: self.fleet)

    @contextmanager
    def _open(self, *_: object) -> Iterator[BrokerFleet]:
        yield self.fleet

    def seats(self, verb: str, *words: str) -> Result:
        return run("seats", verb, self.path, *words)

    def changes(self) -> list[dict[str, Any]]:
        """Return what nodes were asked to change."""
        asked = [(node, request) for node, request in self.fleet.asked if request.verb != "seats"]
        return [{"node": node, **request.model_dump(exclude_none=True)} for node, request in asked]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LeasedLab:
    return LeasedLab(tmp_path, monkeypatch)


def test_release_ends_the_leases_of_a_person_on_all_nodes(lab: LeasedLab) -> None:
    done = lab.seats("release", "anna", *REASON, "--yes", "--json")
    assert done.exit_code == 0
    asked = {"verb": "release", "seat": "ml_anna", "reason": REASON[1]}
    assert lab.changes() == [{"node": "gpu1", **asked}, {"node": "gpu2", **asked}]
    found = document(done)
    assert (found["verb"], found["reason"], found["unread"]) == ("release", REASON[1], {})
    assert [(one["node"], one["seat"]["left_s"], one["problem"]) for one in found["seats"]] == [
        ("gpu1", 0, None),
        ("gpu2", 0, None),
    ]


def test_several_people_are_changed_at_once_and_shown(lab: LeasedLab) -> None:
    done = lab.seats("extend", "anna", "bob", "--hours", "72", *REASON, "--yes")
    assert done.exit_code == 0
    assert [(one["node"], one["seat"], one["hours"]) for one in lab.changes()] == [
        ("gpu1", "ml_anna", 72),
        ("gpu1", "ml_bob", 72),
        ("gpu2", "ml_anna", 72),
    ]
    assert "72:00:00 h" in done.stdout
    assert "3 of 3 seats changed." in done.stdout


def test_stop_of_a_person_who_is_not_in_the_roster_stops_their_seats_at_once(lab: LeasedLab) -> None:
    assert lab.seats("stop", "bob", *REASON, "--yes").exit_code == 0
    assert lab.changes() == [{"node": "gpu1", "verb": "stop", "seat": "ml_bob", "reason": REASON[1]}]


def test_the_record_of_the_run_keeps_who_asked_and_why(lab: LeasedLab) -> None:
    lab.seats("release", "bob", *REASON, "--yes")
    (folder,) = (state_home() / "ml" / "runs").iterdir()
    (note,) = [entry.event.data for entry in events(folder) if "reason" in entry.event.data]
    assert (note["verb"], note["people"], note["reason"]) == ("release", ["bob"], REASON[1])
    assert note["holder"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("release", "bob"), "--reason"),
        (("stop", "bob"), "--reason"),
        (("extend", "bob", "--hours", "3"), "--reason"),
        (("extend", "bob", *REASON), "--hours"),
        (("extend", "bob", "--hours", "0", *REASON), "--hours"),
        (("extend", "bob", "--hours", "8761", *REASON), "--hours"),
        (("release", "bob", "--reason", "a\x1b[2J"), "not printable"),
        (("release", "bob", "--reason", "x" * 121), "121 characters"),
        (("release", *REASON), "PERSON"),
        (("release", "bob", *REASON), "confirm with --yes"),
        (("release", "ana", *REASON, "--yes"), 'did you mean "anna"?'),
        (("stop", "eve", *REASON, "--yes"), "no seat with a lease"),
    ],
)
def test_a_mistake_changes_nothing(lab: LeasedLab, words: tuple[str, ...], said: str) -> None:
    done = lab.seats(*words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert lab.changes() == []


@pytest.mark.parametrize("problem", [UNREACHABLE, BROKER_DOWN])
def test_a_node_that_does_not_answer_is_named_and_the_others_are_changed(lab: LeasedLab, problem: Any) -> None:
    lab.fleet.fails["gpu2"] = problem
    done = lab.seats("release", "anna", *REASON, "--yes")
    assert done.exit_code == 1
    assert [one["node"] for one in lab.changes()] == ["gpu1"]
    assert problem.code in done.stdout
    assert "1 of 1 seat changed; the seats of 1 node are not known." in done.stdout


def test_a_refusal_is_exit_1(lab: LeasedLab) -> None:
    lab.fleet.refuses["extend"] = [BROKER_DOWN.model_copy(update={"code": "no_lease"})]
    done = lab.seats("extend", "bob", "--hours", "5", *REASON, "--yes")
    assert (done.exit_code, "no_lease" in done.stdout) == (1, True)


def uses(lab: LeasedLab) -> None:
    lab.fleet.rows = {
        "gpu1": (GpuUse(uid=5001, person="anna", gpu=a_uuid("1"), held_s=7200, used_s=3600),),
        "gpu2": (
            GpuUse(uid=5001, person="anna", gpu=a_uuid("2"), held_s=3600, used_s=0),
            GpuUse(uid=5009, gpu=a_uuid("2"), held_s=0, used_s=0),
        ),
    }


def test_usage_shows_hours_by_person_and_card(lab: LeasedLab) -> None:
    uses(lab)
    done = run("usage", lab.path, "--since", "2027-03-01")
    assert done.exit_code == 0
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["anna", "gpu1", a_uuid("1")[:12], "2.0", "1.0", "50"] in lines
    assert ["anna", "3.0", "1.0", "33"] in lines
    assert done.stdout.endswith("2 people: 3.0 GPU hours held, 1.0 used since 2027-03-01. Only leases are counted.\n")
    assert {str(request.since) for _, request in lab.fleet.asked} == {"2027-03-01"}


def test_usage_as_csv_has_a_row_for_each_person_and_card(lab: LeasedLab) -> None:
    uses(lab)
    assert run("usage", lab.path, "--csv").stdout.splitlines() == [
        "person,uid,node,gpu,held_hours,used_hours",
        f"anna,5001,gpu1,{a_uuid('1')},2.00,1.00",
        f"anna,5001,gpu2,{a_uuid('2')},1.00,0.00",
        f",5009,gpu2,{a_uuid('2')},0.00,0.00",
    ]


def test_usage_names_a_node_that_does_not_answer(lab: LeasedLab) -> None:
    uses(lab)
    lab.fleet.fails["gpu2"] = UNREACHABLE
    done = run("usage", lab.path, "--json")
    assert done.exit_code == 1
    found = document(done)
    assert ([row["node"] for row in found["rows"]], list(found["unread"])) == (["gpu1"], ["gpu2"])
    done = run("usage", lab.path, "--csv")
    assert (done.exit_code, "unreachable" in done.stderr) == (1, True)
    assert run("usage", lab.path, "--csv", "--json").exit_code == 2
