import pytest

from provisioner.console.plan import plan_view, summary
from provisioner.domain.rollout.busy import WhenBusy
from provisioner.domain.rollout.plan import Action, Plan, Step
from provisioner.domain.values.problem import Problem
from tests.console.screen import drawing, drawn

TAG = "mirror.lab:5200/pytorch/pytorch:2.10.0-cuda12.8-cudnn9-runtime"
DOWN = Problem("unreachable", "no route to host", "nothing is known of it", "ansible NODE -m ping")
DIFF = "--- compose.yaml\n+++ compose.yaml\n@@ -1 +1 @@\n-image: old\n+image: new\n"


def a_step(node: str, action: Action = "keep", **over: object) -> Step:
    whys: dict[Action, str] = {
        "create": "no seat of this lab on the node yet",
        "update": "the image changes",
        "restart": "ssh is missing",
        "remove": "it is to be taken down",
        "keep": "runs the locked image, unchanged and healthy",
        "defer": "the image changes; its GPUs are in use",
        "skip": "no route to host",
    }
    given = {"node": node, "seat": "demo-student", "action": action, "why": whys[action], "image": TAG}
    return Step.model_validate(given | over)


def a_plan(*steps: Step) -> Plan:
    return Plan(lab="demo", image=TAG, steps=steps)


FULL = a_plan(
    a_step("n1", "create", bytes_to_pull=4_260_000_000),
    a_step("n2", "update", diff=DIFF, bytes_to_pull=4_260_000_000),
    a_step("n3", "restart"),
    *(a_step(f"pc{number:02}") for number in range(1, 31)),
    a_step("n4", "defer", busy=("GPU 0: pid 4242 python of li",)),
    a_step("n5", "skip", problems=(DOWN,)),
)


def test_a_plan_with_everything_in_it() -> None:
    assert drawn(plan_view(FULL)) == drawing("""
        Lab demo: mirror.lab:5200/pytorch/pytorch:2.10.0-cuda12.8-cudnn9-runtime

          + create   ~ update   -/+ restart   = keep   ! defer   - skip

          =   pc[01-30]  runs the locked image, unchanged and healthy
          !   n4  the image changes; its GPUs are in use
                busy: GPU 0: pid 4242 python of li
          -   n5  no route to host
          +   n1  no seat of this lab on the node yet; 4.26 GB to pull
          ~   n2  the image changes; 4.26 GB to pull
                --- compose.yaml
                +++ compose.yaml
                @@ -1 +1 @@
                -image: old
                +image: new
          -/+ n3  ssh is missing
        ╷ unreachable  n5
        │ no route to host
        │ why: nothing is known of it
        │ fix: ansible NODE -m ping
        ╵

        Plan: 1 to create, 1 to update, 1 to restart, 1 skipped, 1 deferred. 8.52 GB to pull in all.
    """)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([], "Nothing to do: the inventory and its limit name no node."),
        ([a_step("n1")], "No changes. Every seat runs what the lock says."),
        ([a_step("n1"), a_step("n2", "skip")], "No changes. Every other seat runs what the lock says. 1 node skipped."),
        (
            [a_step("n1", "defer"), a_step("n2", "defer"), a_step("n3", "skip")],
            "No changes: there is no node to change. 2 nodes deferred. 1 node skipped.",
        ),
        (
            [a_step("n1", "create"), a_step("n2", "create"), a_step("n3", "update")],
            "Plan: 2 to create, 1 to update, 0 to restart, 0 skipped.",
        ),
        ([a_step("n1", "remove"), a_step("n2", "defer")], "Plan: 1 to remove, 0 skipped, 1 deferred."),
    ],
)
def test_one_line_sums_it_up(steps: list[Step], said: str) -> None:
    assert summary(a_plan(*steps)) == said


@pytest.mark.parametrize(
    ("when_busy", "said"),
    [
        (WhenBusy(policy="force", reason="exam at noon"), "Work is stopped on n[1-2]: exam at noon"),
        (WhenBusy(policy="wait", seconds=7200), "Work is waited for on n[1-2], up to 2h."),
    ],
)
def test_whose_work_is_stopped_or_waited_for_stands_in_the_line_that_is_agreed_to(
    when_busy: WhenBusy, said: str
) -> None:
    busy = ("GPU 0: pid 4242 python of li",)
    steps = (a_step("n1", "update", busy=busy), a_step("n2", "update", busy=busy), a_step("n3", "update"))
    plan = Plan(lab="demo", image=TAG, steps=steps, when_busy=when_busy)
    assert summary(plan) == f"Plan: 0 to create, 3 to update, 0 to restart, 0 skipped. {said}"
    assert drawn(plan_view(plan)).count("busy: GPU 0: pid 4242 python of li") == 2


def test_the_legend_has_only_the_signs_in_use() -> None:
    text = drawn(plan_view(a_plan(a_step("n1", "create"))))
    assert "+ create" in text
    assert "~ update" not in text


def test_differences_without_end_are_counted_unless_asked_for() -> None:
    steps = [a_step(f"n{number}", "update", diff=DIFF * 10) for number in range(20)]
    few, all_of_them = (
        drawn(plan_view(a_plan(*steps), diff_lines=100)),
        drawn(plan_view(a_plan(*steps), diff_lines=9999)),
    )
    assert few.count("+image: new") == 20
    assert few.count("50 lines of differences not shown (-v shows all)") == 18
    assert all_of_them.count("+image: new") == 200


def test_colours_of_a_diff() -> None:
    text = drawn(plan_view(FULL), color=True)
    assert "\x1b[32m        +image: new" in text
    assert "\x1b[31m        -image: old" in text


def test_a_hostile_diff() -> None:
    text = drawn(plan_view(a_plan(a_step("n1", "update", diff="+\x1b[2J[red]\n"))))
    assert "+\\x1b[2J[red]" in text
