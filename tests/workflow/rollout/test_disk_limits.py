"""Limits of the disk in a plan: they change no seat, and go to the nodes that do not have them yet."""

import pytest

from provisioner.domain.values.problem import Problem
from provisioner.workflow.rollout.plan import changed_disk_limits
from tests.workflow.rollout.roster_lab import (
    accounts_of,
    after_rollout,
    changed,
    nodes,
    person,
    plan_people,
    roster_lab,
    with_seat,
)

GIB = 1 << 30
PEOPLE = [person("ann", group="staff"), person("bob")]
LAB = roster_lab(groups={"student": {"disk": "100g"}, "staff": {}})
BEFORE = nodes({"n1": 2}, accounts_of(PEOPLE))


def test_new_seats_get_the_limit_of_their_group() -> None:
    prepared = plan_people(PEOPLE, BEFORE, lab=LAB)
    assert prepared.disk_limits == {"n1": {"demo_ann": None, "demo_bob": 100 * GIB}}
    assert changed_disk_limits(prepared, BEFORE) == {"n1": {"demo_bob": 100 * GIB}}


@pytest.mark.parametrize(
    ("held", "disk", "limits"),
    [
        (100 * GIB, "100g", {}),
        (100 * GIB, "50g", {"n1": {"demo_bob": 50 * GIB}}),
        (100 * GIB, None, {"n1": {"demo_bob": None}}),
        (None, None, {}),
    ],
)
def test_a_changed_limit_is_no_step_of_the_plan(
    held: int | None, disk: str | None, limits: dict[str, dict[str, int | None]]
) -> None:
    prepared = plan_people(PEOPLE, BEFORE, lab=LAB)
    after = after_rollout(prepared, BEFORE)
    probed = {"n1": with_seat(after["n1"], "demo_bob", disk_limit=held)}
    lab = roster_lab(groups={"student": {"disk": disk}, "staff": {}})
    again = plan_people(PEOPLE, probed, prepared.plan.places, lab=lab)
    assert changed(again.plan) == {}
    assert changed_disk_limits(again, probed) == limits


def test_a_node_that_does_not_answer_and_the_seat_of_a_node_get_no_limit() -> None:
    probed = {"n1": Problem("unreachable", "n1", "why", "fix", "n1")}
    assert changed_disk_limits(plan_people(PEOPLE, probed, lab=LAB), probed) == {}
    alone = plan_people([], BEFORE, lab=roster_lab(people=None, groups={}))
    assert changed_disk_limits(alone, BEFORE) == {}
