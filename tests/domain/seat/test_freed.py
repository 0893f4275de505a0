"""When the ports and the subnet of a stopped seat are free for others."""

from datetime import date
from typing import Any

import pytest

from provisioner.domain.seat.freed import without_freed_pairs
from provisioner.domain.values.node import RunningSeat
from tests.builders import a_lab, a_node

ENDS = date(2027, 1, 31)
AFTER = date(2027, 2, 1)
DOWN = {"ssh": "missing", "jupyter": "missing"}


def a_stopped_seat(**over: Any) -> RunningSeat:
    fields = {
        "name": "demo_ann",
        "lab": "demo",
        "person": "ann",
        "generation": 3,
        "image": "i",
        "ports": {"ssh": 22000, "jupyter": 22001},
        "subnet": "10.213.0.0/28",
        "services": DOWN,
        "stopped_on": "2027-01-31",
    }
    return RunningSeat.model_validate(fields | over)


def lab_until(ends: date | None) -> Any:
    return a_lab(name="demo", people={"roster": "roster.csv", "term_ends": ends})


@pytest.mark.parametrize(
    ("seat", "ends", "today", "is_free"),
    [
        ({}, ENDS, AFTER, True),
        ({}, ENDS, ENDS, False),
        ({}, None, AFTER, False),
        ({"stopped_on": "2027-02-01"}, ENDS, AFTER, False),
        ({"stopped_on": None}, ENDS, AFTER, False),
        ({"person": "ben"}, ENDS, AFTER, False),  # in the roster
        ({"person": ""}, ENDS, AFTER, False),
        ({"lab": "other"}, ENDS, AFTER, False),
        ({"services": {"ssh": "healthy", "jupyter": "missing"}}, ENDS, AFTER, False),
    ],
)
def test_a_pair_is_free_after_the_term_if_its_person_has_left_before(
    seat: dict[str, Any], ends: date | None, today: date, is_free: bool
) -> None:
    facts = a_node("n1", seats=(a_stopped_seat(**seat),))
    (found,) = without_freed_pairs(facts, lab_until(ends), {"ben"}, today).seats
    assert (found.ports, found.subnet) == (({}, "") if is_free else (facts.seats[0].ports, "10.213.0.0/28"))


def test_a_lab_without_a_roster_frees_nothing() -> None:
    facts = a_node("n1", seats=(a_stopped_seat(),))
    assert without_freed_pairs(facts, a_lab(name="demo"), (), AFTER) == facts
