import pytest

from provisioner.console.plan import expected_time, plan_view, summary
from provisioner.domain.rollout.busy import WhenBusy
from provisioner.domain.rollout.pace import Pace
from provisioner.domain.rollout.plan import Action, Plan, Step
from provisioner.domain.self_service.publication import Publication
from provisioner.domain.values.problem import Problem
from tests.console.screen import expected_text, render_text

TAG = "mirror.lab:5200/pytorch/pytorch:2.10.0-cuda12.8-cudnn9-runtime"
DOWN = Problem("unreachable", "no route to host", "nothing is known of it", "ansible NODE -m ping")
DIFF = "--- compose.yaml\n+++ compose.yaml\n@@ -1 +1 @@\n-image: old\n+image: new\n"


def a_step(node: str, action: Action = "keep", **over: object) -> Step:
    whys: dict[Action, str] = {
        "create": "no seat of this lab on the node yet",
        "update": "the image changes",
        "restart": "ssh is missing",
        "remove": "it is to be removed",
        "stop": "no row of the roster any more",
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


def test_a_plan_with_every_action() -> None:
    assert render_text(plan_view(FULL)) == expected_text("""
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
    ("steps", "expected"),
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
def test_summary_line(steps: list[Step], expected: str) -> None:
    assert summary(a_plan(*steps)) == expected


@pytest.mark.parametrize(
    ("when_busy", "expected"),
    [
        (WhenBusy(policy="force", reason="exam at noon"), "Work is stopped on n[1-2]: exam at noon"),
        (WhenBusy(policy="wait", seconds=7200), "The run waits for work on n[1-2], up to 2h."),
    ],
)
def test_the_summary_names_the_nodes_whose_work_is_stopped_or_waited_for(when_busy: WhenBusy, expected: str) -> None:
    busy = ("GPU 0: pid 4242 python of li",)
    steps = (a_step("n1", "update", busy=busy), a_step("n2", "update", busy=busy), a_step("n3", "update"))
    plan = Plan(lab="demo", image=TAG, steps=steps, when_busy=when_busy)
    assert summary(plan) == f"Plan: 0 to create, 3 to update, 0 to restart, 0 skipped. {expected}"
    assert render_text(plan_view(plan)).count(": GPU 0: pid 4242 python of li") == 2


def test_the_legend_has_only_the_signs_of_the_plan() -> None:
    text = render_text(plan_view(a_plan(a_step("n1", "create"))))
    assert "+ create" in text
    assert "~ update" not in text


def test_nodes_that_change_alike_share_a_line_and_a_difference() -> None:
    step = a_step("n1", "update", diff=DIFF.replace("new", "new on n1"), bytes_to_pull=4_260_000_000)
    others = (step.model_copy(update={"node": f"n{at}", "diff": DIFF.replace("new", f"new on n{at}")}) for at in (2, 3))
    odd = a_step("n4", "update", diff=DIFF.replace("new", "newest"), bytes_to_pull=4_260_000_000)
    plan = a_plan(step, odd, *others)
    assert render_text(plan_view(plan)) == expected_text("""
        Lab demo: mirror.lab:5200/pytorch/pytorch:2.10.0-cuda12.8-cudnn9-runtime

          ~ update

          ~   n[1-3]  the image changes; 4.26 GB to pull
                --- compose.yaml
                +++ compose.yaml
                @@ -1 +1 @@
                -image: old
                +image: new on n1
                (of n1; 1 line with other names, addresses, ports or UUIDs on 2 other nodes)
          ~   n4  the image changes; 4.26 GB to pull
                --- compose.yaml
                +++ compose.yaml
                @@ -1 +1 @@
                -image: old
                +image: newest

        Plan: 0 to create, 4 to update, 0 to restart, 0 skipped. 17 GB to pull in all.
    """)
    whole = render_text(plan_view(plan, whole=True))
    assert all(f"+image: new on n{number}" in whole for number in (1, 2, 3))
    assert "as on" not in whole


def test_nodes_that_change_alike_are_one_group_whatever_work_runs_there() -> None:
    steps = [a_step(f"n{at}", "update", diff=DIFF, busy=(f"GPU 0: pid {at} python",)) for at in range(1, 31)]
    few, many = (
        render_text(plan_view(Plan(lab="demo", image=TAG, steps=steps, when_busy=WhenBusy(policy="force", reason="r"))))
        for steps in (steps[:3], steps)
    )
    assert "n[1-3]  the image changes\n        busy: n1: GPU 0: pid 1 python\n        busy: n2" in few
    assert "busy" not in many
    assert "Work is stopped on n[1-30]: r" in many


def test_every_difference_of_seats_of_people_is_shown_where_it_is_asked_for() -> None:
    plan = a_plan(*(a_seat_step("n1", person, "update", diff=DIFF) for person in ("ann", "bob")))
    assert DIFF.splitlines()[-1] not in render_text(plan_view(plan))
    text = render_text(plan_view(plan, whole=True))
    assert text.count("+image: new") == 2
    assert "n1: ml_ann  the image changes" in text


def test_colours_of_a_diff() -> None:
    text = render_text(plan_view(FULL), color=True)
    assert "\x1b[32m        +image: new" in text
    assert "\x1b[31m        -image: old" in text


def test_control_characters_in_a_diff_are_escaped() -> None:
    text = render_text(plan_view(a_plan(a_step("n1", "update", diff="+\x1b[2J[red]\n"))))
    assert "+\\x1b[2J[red]" in text


# Several seats on a node.


def a_seat_step(node: str, person: str, action: Action = "keep", **over: object) -> Step:
    return a_step(node, action, seat=f"ml_{person}", person=person, **over)


def unknown(person: str, node: str) -> Problem:
    what = f"{node} has no account {person} (row 7 of the roster)"
    return Problem("account_unknown", what, "their seat stays as it is", f"getent passwd {person}", node)


def test_equal_steps_of_a_node_with_several_seats_share_a_line_and_few_seats_are_named() -> None:
    lost = Problem("gpu_lost", "GPU 3 is lost", "why", "reboot NODE")
    steps = (
        a_seat_step("n1", "old", "stop"),
        a_seat_step("n1", "ann", remarks=(lost,)),
        a_seat_step("n1", "bob", "skip", problems=(unknown("bob", "n1"),)),
        a_seat_step("n1", "cem", "create", bytes_to_pull=4_260_000_000),
        *(a_seat_step("n1", f"p{number}") for number in range(9)),
        a_seat_step("n2", "dan", "skip", problems=(unknown("dan", "n2"),)),
        a_seat_step("n2", "eve", "defer", busy=("GPU 0: pid 4242 python of eve",)),
    )
    unplaced = {"fay": Problem("no_free_gpu", "fay (row 9) asks for 1 own card", "why", "lower gpus")}
    plan = a_plan(*steps).model_copy(update={"unplaced": unplaced})
    assert render_text(plan_view(plan), 120) == expected_text("""
        Lab demo: mirror.lab:5200/pytorch/pytorch:2.10.0-cuda12.8-cudnn9-runtime

          + create   x stop   = keep   ! defer   - skip

          x   n1: ml_old  no row of the roster any more
          =   n1: 10 seats  runs the locked image, unchanged and healthy
          -   n1: ml_bob  account_unknown
          -   n2: ml_dan  account_unknown
          +   n1: ml_cem  no seat of this lab on the node yet; 4.26 GB to pull
          !   n2: ml_eve  the image changes; its GPUs are in use
                busy: GPU 0: pid 4242 python of eve
        ╷ gpu_lost  n1
        │ GPU 3 is lost
        │ why: why
        │ fix: reboot NODE
        ╵
        ╷ account_unknown  bob dan
        │ bob: n1 has no account bob (row 7 of the roster)
        │ dan: n2 has no account dan (row 7 of the roster)
        │ why: their seat stays as it is
        │ fix: getent passwd PERSON
        ╵
        ╷ no_free_gpu  fay
        │ fay (row 9) asks for 1 own card
        │ why: why
        │ fix: lower gpus
        ╵

        Plan: 1 to create, 0 to update, 0 to restart, 1 to stop, 2 skipped, 1 deferred. 4.26 GB to pull in all.
    """)


def many(action: Action, number: int = 30, **over: object) -> list[Step]:
    """The steps of 200 nodes with so many people each."""
    return [
        a_seat_step(f"gpu{node:03}", f"s{node * 97 + seat}x{seat}", action, **over)
        for node in range(200)
        for seat in range(number)
    ]


def busy(steps: list[Step]) -> list[Step]:
    return [step.model_copy(update={"busy": (f"GPU 0: pid 7 of {step.person}",)}) for step in steps]


def unknown_accounts(steps: list[Step]) -> list[Step]:
    return [step.model_copy(update={"problems": (unknown(step.person, step.node),)}) for step in steps]


@pytest.mark.parametrize(
    "steps",
    [
        many("keep"),
        many("create", bytes_to_pull=4_260_000_000),
        many("update"),
        many("keep") + many("stop", 1),
        many("keep") + busy(many("defer", 3)),
        unknown_accounts(many("skip")),
    ],
    ids=["keep", "create", "update", "stop", "busy", "accounts"],
)
def test_a_plan_of_six_thousand_seats_fits_on_a_screen(steps: list[Step]) -> None:
    text = render_text(plan_view(a_plan(*steps)), 120)
    assert len(text.splitlines()) <= 30
    assert len(text) <= 3000


def test_people_without_a_place_fit_on_a_screen_however_many_they_are() -> None:
    unplaced = {
        f"s{number * 7}x{number}": Problem(
            "no_free_gpu", f"s{number * 7}x{number} (row {number}) asks for 1 own card", "why", "lower gpus in this row"
        )
        for number in range(6000)
    }
    text = render_text(plan_view(a_plan(*many("keep")).model_copy(update={"unplaced": unplaced})), 120)
    assert "s0x0 s7x1 s14x2" in text
    assert "and 5988 more" in text
    assert len(text.splitlines()) <= 24


def test_self_service_has_a_line_for_nodes_with_the_same_changes() -> None:
    changes = ("environment default a1b2c3d4e5f6 -> 0123456789ab", "group student hours 24 -> 48")
    update = Publication(node="n1", action="update", why="its self-service changes", changes=changes)
    plan = a_plan(a_step("n1"), a_step("n2")).model_copy(
        update={
            "publications": (
                update,
                update.model_copy(update={"node": "n2"}),
                Publication(node="n3", action="install", why="no self-service on the node yet"),
                Publication(node="n4", action="keep", why="self-service as published"),
                Publication(node="n5", action="defer", why="its seats are in use", busy=("demo_li: python",)),
            )
        }
    )
    assert render_text(plan_view(plan)) == expected_text("""
        Lab demo: mirror.lab:5200/pytorch/pytorch:2.10.0-cuda12.8-cudnn9-runtime

          + install   ~ update   = keep   ! defer

          =   n[1-2]  runs the locked image, unchanged and healthy
          ~   n[1-2]: self-service  its self-service changes
                environment default a1b2c3d4e5f6 -> 0123456789ab
                group student hours 24 -> 48
          +   n3: self-service  no self-service on the node yet
          =   n4: self-service  self-service as published
          !   n5: self-service  its seats are in use
                busy: demo_li: python

        Plan: self-service changes on 3 nodes.
    """)


def test_steps_name_their_environment_unless_it_is_the_default_one() -> None:
    steps = [a_seat_step("n1", person, "create", why="no seat yet", environment="nlp") for person in ("anna", "bob")]
    text = render_text(plan_view(a_plan(*steps, a_seat_step("n1", "cleo", "create", why="no seat yet"))))
    assert "n1: ml_anna ml_bob  no seat yet; environment nlp" in text
    assert "n1: ml_cleo  no seat yet\n" in text


@pytest.mark.parametrize(
    ("sizes", "pace", "text"),
    [
        ((), Pace(), ""),
        ((0, 0), Pace(), "Expected: 2 nodes, nothing to pull: about 2 min."),
        (
            (8_100_000_000,) * 50,
            Pace(pull=112e6, switch=60),
            "Expected: 50 nodes × 8.1 GB from registry:5000, 112 MB/s: about 62 min; after fetch: 2 min.",  # noqa: RUF001
        ),
        (
            (8_100_000_000, 0),
            Pace(),
            "Expected: 1 node × 8.1 GB from registry:5000, 112 MB/s (assumed: 1 Gbit/s): about 3 min; after fetch: 2 min.",  # noqa: RUF001, E501
        ),
    ],
)
def test_a_plan_says_how_long_it_is_expected_to_take(sizes: tuple[int, ...], pace: Pace, text: str) -> None:
    steps = tuple(
        Step(node=f"n{number}", seat="s", action="create", why="", image="i", bytes_to_pull=size)
        for number, size in enumerate(sizes)
    )
    assert expected_time(Plan(lab="l", image="i", steps=steps), ("1", "100%"), "registry:5000", pace) == text
