from typing import Any

import pytest

from provisioner.domain.node import Gpu, GpuProcess, NodeFacts, RunningSeat
from provisioner.domain.plan import Plan, Step, files_diff, step_for
from provisioner.domain.seat import Seat, SeatBundle, seat_of
from tests.builders import a_digest, a_gpu, a_lab, a_locked_image, a_node, a_uuid

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


def step(facts: NodeFacts) -> Step:
    return step_for(a_bundle(), facts)


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
    ],
)
def test_what_it_takes(seat: RunningSeat | None, action: str, why: str) -> None:
    found = step(a_node(seats=(seat,) if seat else ()))
    assert found.action == action
    assert why in found.why


def using(gpu: Gpu, *processes: GpuProcess) -> Gpu:
    return gpu.model_copy(update={"processes": processes})


TRAINING = GpuProcess(pid=4242, kind="compute", user="li", command="python")


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        (using(a_gpu(), TRAINING), "defer"),
        (a_gpu(processes=None), "defer"),
        (using(a_gpu(), GpuProcess(pid=1, kind="graphics")), "update"),
        (using(a_gpu(index=1), TRAINING), "update"),  # a card of somebody else's
    ],
)
def test_work_on_the_seats_cards_defers_it_and_what_is_unknown_is_work(gpu: Gpu, expected: str) -> None:
    found = step(a_node(seats=(running(image="old@x"),), gpus=(gpu,)))
    assert found.action == expected
    assert [problem.code for problem in found.problems] == (["busy"] if expected == "defer" else [])


def test_a_seat_that_stays_as_it_is_disturbs_nobody() -> None:
    assert step(a_node(seats=(running(),), gpus=(using(a_gpu(), TRAINING),))).action == "keep"


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
