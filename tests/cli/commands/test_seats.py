"""`provision seats list`: the document, the table and the exit code."""

from datetime import date

import pytest

from provisioner.domain.people.person import Person
from provisioner.domain.rollout.status import SeatStatus
from provisioner.domain.values.problem import Problem
from tests.builders import a_uuid
from tests.cli.commands.people import RosterLab
from tests.cli.running import document, run
from tests.domain.letters import a_seat_status

ANNA = Person(id="anna", group="staff", until=date(2027, 1, 31))
DOWN = Problem("unreachable", "gpu2: no answer", "why", "fix")


def test_list_names_person_cards_state_group_and_until(roster_lab: RosterLab) -> None:
    roster_lab.report("seats.list", [ANNA], a_seat_status(gpus=(a_uuid("gpu1/0"),), since=date(2026, 9, 1)))
    result = run("seats", "list", str(roster_lab.path), "--json")
    assert result.exit_code == 0
    assert document(result) == {
        "schema": "provisioner/seats/1",
        "lab": "ml",
        "seats": [
            {
                "person": "anna",
                "node": "gpu1",
                "seat": "ml_anna",
                "gpus": [{"uuid": a_uuid("gpu1/0"), "index": "0"}],
                "shared": False,
                "state": "healthy",
                "since": "2026-09-01",
                "uid": None,
                "disk": None,
                "disk_limit": None,
                "group": "staff",
                "until": "2027-01-31",
                "reason": "",
                "kind": "",
                "left_s": None,
                "environment": "",
            }
        ],
        "unread": {},
    }


def test_a_node_that_did_not_answer_is_exit_1_and_the_others_are_listed(roster_lab: RosterLab) -> None:
    silent = SeatStatus(node="gpu2", seat=None, problems=(DOWN,))
    roster_lab.report("seats.list", [ANNA, Person(id="bob")], a_seat_status(), silent)
    result = run("seats", "list", str(roster_lab.path))
    assert result.exit_code == 1
    assert "unreachable  gpu2" in result.stdout
    assert result.stdout.endswith("2 seats: 1 healthy, 1 unknown; 1 node without a known seat.\n")


@pytest.mark.parametrize(("words", "rows"), [([], 1), (["-v"], 60)])
def test_many_healthy_seats_are_counted_unless_verbose(roster_lab: RosterLab, words: list[str], rows: int) -> None:
    healthy = [a_seat_status(seat=f"ml_p{number}", person=f"p{number}") for number in range(59)]
    stopped = a_seat_status(seat="ml_eve", person="eve", services={"jupyter": "exited", "ssh": "exited"})
    roster_lab.report("seats.list", [], *healthy, stopped)
    result = run("seats", "list", str(roster_lab.path), *words)
    assert (result.exit_code, result.stdout.count("ml_"), "ml_eve" in result.stdout) == (0, rows, True)
    assert ("healthy seats on each" in result.stdout) == (not words)
