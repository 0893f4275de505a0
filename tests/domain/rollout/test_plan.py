import time
from typing import Any

import pytest

from provisioner.domain.rollout.busy import DEFER, WhenBusy
from provisioner.domain.rollout.plan import LAYER_NOISE, Plan, Step, build_step, files_diff
from provisioner.domain.seat.document import SeatBundle, SeatDocument
from provisioner.domain.seat.seat import Seat, lab_owner, seat_of
from provisioner.domain.values.node import NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem
from tests.builders import a_digest, a_lab, a_locked_image, a_node, a_uuid

FILES = {"compose.yaml": "a: 1\nb: 2\n", "sshd_config": "Port 2222\n", "authorized_keys": "ssh-ed25519 A\n"}
OTHER_KEYS = FILES | {"authorized_keys": "ssh-ed25519 B\n"}
HOME = Problem("home_fault", "works with an empty home, but not with /home/student", "why", "ask student")
HEALTHY = {"jupyter": "healthy", "ssh": "healthy"}


def a_bundle(**over: Any) -> SeatBundle:
    seat = seat_of(a_lab(), a_node(), lab_owner(a_lab(), a_node(), ()), (a_uuid("n1/0"),), host=None)
    assert isinstance(seat, Seat)
    fields = {"seat": seat, "image": a_locked_image(), "document": SeatDocument.of_texts(FILES)}
    return SeatBundle(**(fields | over))


def running(**over: Any) -> RunningSeat:
    fields = {
        "name": "demo-student",
        "generation": 4,
        "image": a_locked_image().lab,
        "files": FILES,
        "services": HEALTHY,
        "layer_bytes": 0,
    }
    return RunningSeat(**(fields | over))


def step(facts: NodeFacts, when_busy: WhenBusy = DEFER) -> Step:
    return build_step(a_bundle(), facts, when_busy)


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
        (running(state="verifying"), "restart", "its last change was interrupted"),
        (running(services={**HEALTHY, "jupyter": "restarting"}, home_fault=HOME), "keep", "its home jupyter is rest"),
        (running(services={**HEALTHY, "jupyter": "exited"}, home_fault=HOME), "restart", "jupyter is exited"),
        (running(image="old@x", home_fault=HOME), "update", "the image changes"),
        (running(files=OTHER_KEYS), "assign", "nothing restarts"),
        (running(files={**FILES, "authorized_keys": ""}, state="rolled_back"), "assign", "nothing restarts"),
        (running(files=OTHER_KEYS, image="old@x"), "update", "the image changes"),
        (running(shared=True), "assign", "others no longer use its GPUs; nothing restarts"),
        (running(shared=True, services={"jupyter": "healthy"}), "restart", "ssh is missing"),
        (running(files={**OTHER_KEYS, "sshd_config": "Port 1\n"}), "update", "rendered files change"),
        (running(files=OTHER_KEYS, services={"jupyter": "healthy"}), "restart", "ssh is missing"),
        (running(files=OTHER_KEYS, state="verifying"), "update", "rendered files change"),
    ],
)
def test_action_for_each_state_of_the_seat(seat: RunningSeat | None, action: str, why: str) -> None:
    found = step(a_node(seats=(seat,) if seat else ()))
    assert found.action == action
    assert why in found.why
    assert found.problems == ((seat.home_fault,) if seat and seat.home_fault else ())


def test_a_seat_whose_records_cannot_be_read_is_left_alone_and_not_created_anew() -> None:
    damage = Problem("seat_damaged", "order.json is not JSON", "why", "check the node's disk")
    damaged = running(generation=0, image="", files={}, services={}, state="damaged", drift=(damage,))
    found = step(a_node(seats=(damaged,)))
    assert (found.action, found.why, found.problems) == ("skip", "order.json is not JSON", (damage,))


TRAINING = ("GPU 0: pid 4242 python of li in demo-student-jupyter-1",)


def test_work_on_the_gpus_of_a_seat_defers_it() -> None:
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
def test_policy_keeps_the_action_and_names_the_work(when_busy: WhenBusy, code: str, why: str) -> None:
    found = step(a_node(seats=(running(image="old@x", at_work=TRAINING),)), when_busy)
    assert (found.action, found.busy) == ("update", TRAINING)
    (problem,) = found.problems
    assert (problem.code, problem.what, problem.node) == (code, f"n1: {TRAINING[0]}", "n1")
    assert why in problem.why


@pytest.mark.parametrize("when_busy", [WhenBusy(), WhenBusy(policy="force", reason="exam")])
def test_policy_changes_nothing_on_an_idle_seat(when_busy: WhenBusy) -> None:
    found = step(a_node(seats=(running(image="old@x"),)), when_busy)
    assert (found.action, found.busy, found.problems) == ("update", (), ())


@pytest.mark.parametrize(
    ("layer_bytes", "image", "codes"),
    [
        (LAYER_NOISE + 1, "old@x", ["layer_is_lost"]),
        (LAYER_NOISE, "old@x", []),
        (None, "old@x", ["layer_unknown"]),
        (None, a_locked_image().lab, []),
        (LAYER_NOISE + 1, a_locked_image().lab, []),  # nothing is replaced
    ],
)
def test_step_warns_of_data_that_a_switch_would_lose(layer_bytes: int | None, image: str, codes: list[str]) -> None:
    found = step(a_node(seats=(running(image=image, layer_bytes=layer_bytes),)))
    assert [problem.code for problem in found.problems] == codes


def test_deferred_step_warns_of_data_that_the_next_switch_would_lose() -> None:
    seat = running(image="old@x", layer_bytes=2_000_000_000, at_work=TRAINING)
    found = step(a_node(seats=(seat,)))
    assert [problem.code for problem in found.problems] == ["busy", "layer_is_lost"]
    assert found.problems[1].what.startswith("n1: 2 GB were written")


def test_unchanged_seat_is_kept_despite_running_work() -> None:
    assert step(a_node(seats=(running(at_work=TRAINING),))).action == "keep"


def test_image_on_the_node_is_not_pulled() -> None:
    there = a_locked_image().lab.rpartition("@")[2]
    assert step(a_node()).bytes_to_pull == a_locked_image().bytes
    assert step(a_node(images=(there, a_digest("other")))).bytes_to_pull == 0


def test_diff_shows_added_removed_and_changed_files() -> None:
    old, new = {"a": "1\n", "gone": "x\n", "same": "s"}, {"a": "2\n", "new": "y", "same": "s"}
    assert files_diff(old, new) == (
        "--- a\n+++ a\n@@ -1 +1 @@\n-1\n+2\n"
        "--- gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
        "--- /dev/null\n+++ new\n@@ -0,0 +1 @@\n+y\n"
    )


def test_plan_is_read_back_from_its_json() -> None:
    plan = Plan(lab="demo", image="t", steps=(step(a_node()),))
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert '"schema":"provisioner/plan/2"' in plan.model_dump_json()


def test_the_diff_of_a_file_with_many_lines_is_short_and_quick() -> None:
    started = time.monotonic()
    diff = files_diff({"a": "\n" * 60_000}, {"a": "x\n\n" * 100})
    assert time.monotonic() - started < 1
    assert "-(60000 characters in more than 1000 lines)" in diff


def test_a_diff_keeps_line_separators_of_unicode_within_their_line() -> None:
    assert "+x\u2028z\n" in files_diff({"a": "x\u2028y\n"}, {"a": "x\u2028z\n"})
