"""From lock and facts to a plan; and the two laws of the house."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.adapters.compatdata import load
from provisioner.domain.image import TaggedImage
from provisioner.domain.lock import Lockfile
from provisioner.domain.node import EngineFacts, NodeFacts, RunningSeat, profile
from provisioner.domain.problem import Problem
from provisioner.domain.selection import select
from provisioner.workflow.plan import Materials, Prepared, prepare
from tests.builders import a_gpu, a_lab, a_lock, a_locked_image, a_node
from tests.domain.seats import TEMPLATES

DATA = load()
HEALTHY = {"jupyter": "healthy", "ssh": "healthy"}
TAGS = [
    f"mirror.lab:5200/pytorch/pytorch:{tag}-runtime"
    for tag in (
        "2.7.1-cuda11.8-cudnn9",
        "2.8.0-cuda12.6-cudnn9",
        "2.9.1-cuda12.8-cudnn9",
        "2.10.0-cuda12.8-cudnn9",
        "2.13.0-cuda13.0-cudnn9",
        "2.14.1-cuda12.6-cudnn9",
        "2.14.1-cuda13.0-cudnn9",
    )
]


class AHost(NamedTuple):
    name: str
    address: str | None = None


def hosts(probed: Mapping[str, object]) -> Sequence[AHost]:
    return [AHost(name) for name in probed]


def plan(lock: Lockfile, probed: Mapping[str, NodeFacts | Problem]) -> Prepared:
    return prepare(Materials(a_lab(), lock, DATA, TEMPLATES, ()), hosts(probed), probed)


def after(prepared: Prepared, facts: NodeFacts) -> NodeFacts:
    """The node once it has done what the plan says."""
    bundle = prepared.bundles.get(facts.name)
    if bundle is None:
        return facts
    seat = RunningSeat(
        name=bundle.seat.name,
        generation=1,
        image=bundle.image.lab,
        files=bundle.files,
        ports=dict(bundle.seat.ports),
        gpus=bundle.seat.gpus,
        services=HEALTHY,
    )
    return facts.model_copy(update={"seats": (seat,)})


def lock_of(probed: Mapping[str, NodeFacts], tags: Sequence[str] = TAGS) -> tuple[Lockfile, Mapping[str, str | None]]:
    """The lock that a selection leads to, and what each node was given by it."""
    selection = select([profile(facts) for facts in probed.values()], [TaggedImage(reference=t) for t in tags], DATA)
    given = {name: choice.tag for name, choice in selection.nodes.items()}
    chosen = [tag for tag in tags if tag in given.values()]
    return a_lock(*map(a_locked_image, chosen)) if chosen else a_lock(a_locked_image(tags[0])), given


CARDS = {
    "6.1": ("NVIDIA GeForce GTX 1080 Ti", "geforce", "proprietary", ("535.183.01", "580.95.05")),
    "7.0": ("Tesla V100-SXM2-16GB", "tesla", "proprietary", ("470.256.02", "535.183.01", "580.95.05")),
    "8.6": ("NVIDIA GeForce RTX 3090", "geforce", "open", ("535.183.01", "550.54.15", "595.71.05")),
    "8.9": ("NVIDIA GeForce RTX 4090", "geforce", "open", ("535.183.01", "570.172.08", "580.95.05")),
    "12.0": ("NVIDIA GeForce RTX 5090", "geforce", "open", ("570.172.08", "580.95.05", "595.71.05")),
}


@st.composite
def fleets(draw: st.DrawFn) -> dict[str, NodeFacts]:
    nodes = {}
    for index in range(draw(st.integers(1, 6))):
        name = f"n{index}"
        capability = draw(st.sampled_from(sorted(CARDS)))
        title, brand, module, drivers = CARDS[capability]
        count = draw(st.integers(1, 3))
        gpus = tuple(a_gpu(name, i, capability, name=title, brand=brand) for i in range(count))
        nodes[name] = a_node(name, gpus=gpus, driver=draw(st.sampled_from(drivers)), kernel_module=module)
    return nodes


@given(fleets())
def test_replay_the_lock_gives_every_node_what_the_selection_gave_it(probed: dict[str, NodeFacts]) -> None:
    lock, given_tags = lock_of(probed)
    prepared = plan(lock, probed)
    replayed = {node: bundle.image.reference for node, bundle in prepared.bundles.items()}
    assert replayed == {node: tag for node, tag in given_tags.items() if tag is not None}


@given(fleets())
def test_rest_a_plan_made_right_after_its_own_rollout_holds_no_step(probed: dict[str, NodeFacts]) -> None:
    lock, _ = lock_of(probed)
    first = plan(lock, probed)
    second = plan(lock, {name: after(first, facts) for name, facts in probed.items()})
    assert second.plan.pending == ()
    assert {step.node for step in second.plan.steps if step.action == "keep"} == set(first.bundles)


UNREACHABLE = Problem(code="unreachable", what="n2: no answer", why="it is off", fix="switch it on")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"engine": None, "absent_because": {"engine": "not installed"}}, "no_engine"),
        ({"engine": EngineFacts(version="26.1.5")}, "no_compose"),
        ({"gpus": (), "absent_because": {"driver": "no NVIDIA driver is installed"}}, "no_gpu"),
        ({"driver": "470.256.02"}, "driver_too_old"),
    ],
)
def test_a_node_that_cannot_hold_a_seat_is_left_out_for_its_reason(changes: dict[str, Any], code: str) -> None:
    prepared = plan(a_lock(), {"n1": a_node("n1", **changes), "n3": a_node("n3")})
    step = prepared.plan.steps[0]
    assert step.action == "skip"
    assert code in {problem.code for problem in step.problems}
    assert [step.node for step in prepared.plan.pending] == ["n3"]


def test_a_node_that_did_not_answer_has_its_place_in_the_plan() -> None:
    prepared = plan(a_lock(), {"n1": a_node("n1"), "n2": UNREACHABLE})
    assert [(step.node, step.action) for step in prepared.plan.steps] == [("n1", "create"), ("n2", "skip")]
    assert prepared.plan.skipped[0].problems == (UNREACHABLE,)


def test_a_lost_card_is_named_and_the_others_are_served() -> None:
    lost = a_gpu("n1", 1).model_copy(update={"uuid": None, "compute_capability": None, "problems": (UNREACHABLE,)})
    prepared = plan(a_lock(), {"n1": a_node("n1", gpus=(a_gpu("n1", 0), lost))})
    assert prepared.bundles["n1"].seat.gpus == (a_gpu("n1", 0).uuid,)
    assert prepared.plan.steps[0].problems == (UNREACHABLE,)


def test_a_node_that_the_choice_left_out_stays_out_until_the_lock_is_made_again() -> None:
    """Among the locked images alone its odd card would look like one that no image in the world runs on."""
    prepared = plan(a_lock().model_copy(update={"unserved": ("n1",)}), {"n1": a_node("n1"), "n2": a_node("n2")})
    assert [step.action for step in prepared.plan.steps] == ["skip", "create"]
    assert [problem.code for problem in prepared.plan.steps[0].problems] == ["no_image"]
