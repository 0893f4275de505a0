"""A seat that differs from what the plan expects is reported as stale and not changed."""

from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import REFERENCE, NoJob, an_order
from tests.playbooks.world import World

expectations, seats, journals, switches, stages = (
    module_util(name)
    for name in ("transaction.expected", "seat.seat", "seat.journal", "transaction.switch", "transaction.stage")
)


def staged(order: dict[str, Any], job: NoJob, lock: int) -> dict[str, Any]:
    record: dict[str, Any] = stages.stage(order, job, lock, {})
    return record


def a_seat(tmp_path: Path, current: int) -> tuple[Any, Any]:
    seat = seats.seat_of(an_order(tmp_path))
    seat.make_folders()
    if current:
        seat.commit(current)
    return seat, journals.Journal(seat.folder, "r1")


@pytest.mark.parametrize(
    ("expects", "current", "stale"),
    [(None, 3, False), (3, 3, False), (0, 0, False), (2, 3, True), (0, 3, True), (3, 0, True)],
)
def test_check_expected_accepts_only_the_generation_of_the_plan(
    tmp_path: Path, expects: int | None, current: int, stale: bool
) -> None:
    seat, journal = a_seat(tmp_path, current)
    order = an_order(tmp_path, expects=expects)
    if not stale:
        expectations.check_expected(seat, journal, order)
        return
    with pytest.raises(expectations.StalePlanError) as caught:
        expectations.check_expected(seat, journal, order)
    assert (caught.value.state, caught.value.problem["code"]) == ("stale", "stale_plan")


@pytest.mark.parametrize(("run", "stale"), [("r1", False), ("r2", True)])
def test_a_generation_that_this_run_committed_is_not_stale(tmp_path: Path, run: str, stale: bool) -> None:
    seat, journal = a_seat(tmp_path, 2)
    journal.append("switching", to=2, back=1)
    journal.append("committed", generation=2)
    order = an_order(tmp_path, run, expects=1)
    if stale:
        with pytest.raises(ProblemError, match="runs generation 2; the plan expects 1"):
            expectations.check_expected(seat, journal, order)
    else:
        expectations.check_expected(seat, journal, order)
    assert expectations.changed_by_run(seat, journal, run) is not stale


@pytest.mark.parametrize("act", [staged, switches.switch])
def test_a_stale_order_changes_nothing(tmp_path: Path, engine: FakeEngine, act: Any) -> None:
    world = World(tmp_path, 1)
    world.journal().append("switching", to=2, back=1)  # an open switch is not ended either
    with pytest.raises(expectations.StalePlanError):
        act(world.order | {"run": "r2", "expects": 7}, NoJob(), 0)
    assert world.states == ["switching"]
    assert (world.seat.numbers(), engine.requests) == ([1, 2], [])


@pytest.mark.parametrize("act", [staged, switches.switch])
@pytest.mark.parametrize("recorded", [True, False])
def test_a_run_killed_after_its_commit_is_reported_as_committed(
    tmp_path: Path, engine: FakeEngine, act: Any, recorded: bool
) -> None:
    engine.images[REFERENCE] = {"RootFS": {}}
    world = World(tmp_path, 1)
    world.journal().append("switching", to=2, back=1)
    world.seat.commit(2)
    if recorded:
        world.journal().append("committed", generation=2)
    record = act(world.order | {"expects": 1}, NoJob(), 0)
    assert (record["state"], record["generation"]) == ("committed", 2)
    assert record["access"]["ssh"] == "ssh -p 22000 student@127.0.0.22"
    assert world.states == ["switching", "committed"]
