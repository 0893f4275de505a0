from typing import Any

import pytest

from provisioner.domain.rollout.busy import DEFER, WhenBusy
from provisioner.domain.rollout.plan import LAYER_NOISE, Plan, Step, files_diff, step_for
from provisioner.domain.seat.seat import Seat, SeatBundle, seat_of
from provisioner.domain.values.node import NodeFacts, RunningSeat
from tests.builders import a_digest, a_lab, a_locked_image, a_node, a_uuid

FILES = {"compose.yaml": "a: 1\nb: 2\n", "sshd_config": "Port 2222\n"}
HEALTHY = {"jupyter": "healthy", "ssh": "healthy"}


def a_bundle(**over: Any) -> SeatBundle:
    seat = seat_of(a_lab(), a_node(), (a_uuid("n1/0"),), (), host=None)
    assert isinstance(seat, Seat)
    given = {"seat": seat, "image": a_locked_image(), "files": FILES}
    return SeatBundle(**(given | over))


def running(**over: Any) -> RunningSeat:
    given = {
        "name": "demo-student",
        "generation": 4,
        "image": a_locked_image().lab,
        "files": FILES,
        "services": HEALTHY,
    }
    return RunningSeat(**(given | over))


def step(facts: NodeFacts, when_busy: WhenBusy = DEFER) -> Step:
    return step_for(a_bundle(), facts, when_busy)


@pytest.mark.parametrize(
    ("seat", "action", "why"),
    [
        (None, "create", "no seat of this lab"),
        (running(generation=0), "create", "no seat of this lab"),
        (running(), "keep", "unchanged and healthy"),
        (running(image="registry.lab:5201/x@sha256:0"), "update", "the image changes"),
        (running(files={**FILES, "sshd_config": "Port 1\n"}), "update", "rendered files change"),
        (running(services={"jupyter": "healthy"}), "restart", "ssh is missing"),
        (running(services={"jupyter": "exited", "ssh": "healthy"}), "restart", "jupyter is exited"),
        (running(state="rolled_back"), "keep", "unchanged and healthy"),
        (running(state="verifying"), "restart", "its last change was cut off"),
    ],
)
def test_what_it_takes(seat: RunningSeat | None, action: str, why: str) -> None:
    found = step(a_node(seats=(seat,) if seat else ()))
    assert found.action == action
    assert why in found.why


TRAINING = ("GPU 0: pid 4242 python of li in demo-student-jupyter-1",)


def test_work_on_the_seats_cards_defers_it() -> None:
    found = step(a_node(seats=(running(image="old@x", at_work=TRAINING),)))
    assert (found.action, found.busy) == ("defer", TRAINING)
    assert [problem.code for problem in found.problems] == ["busy"]


@pytest.mark.parametrize(
    ("when_busy", "code", "why"),
    [
        (WhenBusy(policy="wait", seconds=7200), "waits_for_work", "waits up to 2h"),
        (WhenBusy(policy="force", reason="exam at noon"), "stops_work", "because: exam at noon"),
    ],
)
def test_with_consent_the_step_stays_and_says_whom_it_concerns(when_busy: WhenBusy, code: str, why: str) -> None:
    found = step(a_node(seats=(running(image="old@x", at_work=TRAINING),)), when_busy)
    assert (found.action, found.busy) == ("update", TRAINING)
    (problem,) = found.problems
    assert (problem.code, problem.what) == (code, f"n1: {TRAINING[0]}")
    assert why in problem.why


@pytest.mark.parametrize("when_busy", [WhenBusy(), WhenBusy(policy="force", reason="exam")])
def test_where_nobody_works_consent_changes_nothing(when_busy: WhenBusy) -> None:
    found = step(a_node(seats=(running(image="old@x"),)), when_busy)
    assert (found.action, found.busy, found.problems) == ("update", (), ())


@pytest.mark.parametrize(
    ("layer_bytes", "image", "codes"),
    [
        (LAYER_NOISE + 1, "old@x", ["layer_is_lost"]),
        (LAYER_NOISE, "old@x", []),
        (None, "old@x", []),
        (LAYER_NOISE + 1, a_locked_image().lab, []),  # nothing is replaced
    ],
)
def test_what_a_switch_would_lose_is_told_beforehand(layer_bytes: int | None, image: str, codes: list[str]) -> None:
    found = step(a_node(seats=(running(image=image, layer_bytes=layer_bytes),)))
    assert [problem.code for problem in found.problems] == codes


def test_also_whoever_is_deferred_is_told_what_the_next_switch_would_lose() -> None:
    seat = running(image="old@x", layer_bytes=2_000_000_000, at_work=TRAINING)
    found = step(a_node(seats=(seat,)))
    assert [problem.code for problem in found.problems] == ["busy", "layer_is_lost"]
    assert found.problems[1].what.startswith("n1: 2 GB were written")


def test_a_seat_that_stays_as_it_is_disturbs_nobody() -> None:
    assert step(a_node(seats=(running(at_work=TRAINING),))).action == "keep"


def test_only_what_is_not_on_the_node_is_pulled() -> None:
    there = a_locked_image().lab.rpartition("@")[2]
    assert step(a_node()).bytes_to_pull == a_locked_image().bytes
    assert step(a_node(images=(there, a_digest("other")))).bytes_to_pull == 0


def test_a_diff_names_files_that_come_go_and_change() -> None:
    old, new = {"a": "1\n", "gone": "x\n", "same": "s"}, {"a": "2\n", "new": "y", "same": "s"}
    assert files_diff(old, new) == (
        "--- a\n+++ a\n@@ -1 +1 @@\n-1\n+2\n"
        "--- gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
        "--- /dev/null\n+++ new\n@@ -0,0 +1 @@\n+y\n"
    )


def test_a_plan_survives_its_own_json() -> None:
    plan = Plan(lab="demo", image="t", steps=(step(a_node()),))
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert '"schema":"provisioner/plan/1"' in plan.model_dump_json()
