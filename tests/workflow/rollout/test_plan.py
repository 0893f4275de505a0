"""Plans from lock and facts, with the laws of replay and rest."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.adapters.lab.compatibility_data import load
from provisioner.console.plan import plan_view
from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.seat.document import SeatBundle
from provisioner.domain.selection.selection import select
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.limits import Capacity
from provisioner.domain.values.node import EngineFacts, Gpu, NodeFacts, RunningSeat, profile
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.version import DottedVersion
from provisioner.workflow.rollout.plan import PlanInputs, PreparedPlan, build_plan
from tests.builders import a_gpu, a_lab, a_lock, a_locked_image, a_node
from tests.console.screen import render_text
from tests.costly import costly
from tests.domain.seats import DOCUMENTS

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


class FakeHost(NamedTuple):
    name: str
    address: str | None = None


def hosts(probed: Mapping[str, object]) -> Sequence[FakeHost]:
    return [FakeHost(name) for name in probed]


def plan(
    lock: Lockfile, probed: Mapping[str, NodeFacts | Problem], limits: Mapping[str, Any] | None = None
) -> PreparedPlan:
    lab = a_lab(seat={"limits": limits or {}})
    return build_plan(PlanInputs(lab, lock, DATA, DOCUMENTS, ()), hosts(probed), probed)


def only_bundle(prepared: PreparedPlan, node: str = "n1") -> SeatBundle:
    (bundle,) = prepared.bundles[node].values()
    return bundle


def facts_after_rollout(prepared: PreparedPlan, facts: NodeFacts) -> NodeFacts:
    """Return the facts of the node after the rollout of the plan."""
    if facts.name not in prepared.bundles:
        return facts
    bundle = only_bundle(prepared, facts.name)
    seat = RunningSeat(
        name=bundle.seat.name,
        generation=1,
        image=bundle.image.lab,
        files=bundle.files,
        ports=dict(bundle.seat.ports),
        gpus=bundle.seat.gpus,
        limits=bundle.seat.limits,
        capacity=bundle.seat.capacity,
        services=HEALTHY,
    )
    return facts.model_copy(update={"seats": (seat,)})


def lock_for(probed: Mapping[str, NodeFacts], tags: Sequence[str] = TAGS) -> tuple[Lockfile, Mapping[str, str | None]]:
    """Return the lock that a selection leads to, and the tag selected for each node."""
    selection = select([profile(facts) for facts in probed.values()], [TaggedImage(reference=t) for t in tags], DATA)
    given = {name: choice.tag for name, choice in selection.nodes.items()}
    chosen = [tag for tag in tags if tag in given.values()]
    return a_lock(*map(a_locked_image, chosen)) if chosen else a_lock(a_locked_image(tags[0])), given


GPU_MODELS = {
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
        capability = draw(st.sampled_from(sorted(GPU_MODELS)))
        title, brand, module, drivers = GPU_MODELS[capability]
        count = draw(st.integers(1, 3))
        gpus = tuple(a_gpu(name, i, capability, name=title, brand=brand) for i in range(count))
        nodes[name] = a_node(name, gpus=gpus, driver=draw(st.sampled_from(drivers)), kernel_module=module)
    return nodes


@costly
@given(fleets())
def test_replay_the_lock_gives_every_node_the_image_that_was_selected_for_it(probed: dict[str, NodeFacts]) -> None:
    lock, selected_tags = lock_for(probed)
    prepared = plan(lock, probed)
    replayed = {node: only_bundle(prepared, node).image.reference for node in prepared.bundles}
    assert replayed == {node: tag for node, tag in selected_tags.items() if tag is not None}


@costly
@given(fleets())
def test_rest_a_plan_made_right_after_its_rollout_has_no_pending_step(probed: dict[str, NodeFacts]) -> None:
    lock, _ = lock_for(probed)
    first = plan(lock, probed)
    second = plan(lock, {name: facts_after_rollout(first, facts) for name, facts in probed.items()})
    assert second.plan.pending == ()
    assert {step.node for step in second.plan.steps if step.action == "keep"} == set(first.bundles)


def with_capacity(facts: NodeFacts, **changes: Any) -> NodeFacts:
    assert facts.engine is not None
    capacity = facts.engine.capacity.model_copy(update=changes)
    return facts.model_copy(update={"engine": facts.engine.model_copy(update={"capacity": capacity})})


def limits_of(prepared: PreparedPlan) -> tuple[str | None, float | None, int | None]:
    limits = only_bundle(prepared).seat.limits
    return limits.memory, limits.cpus, limits.nofile.soft if limits.nofile else None


OTHER_MEMORY = 63_000_000_000  # nine tenths of it are 52.8 GiB, of CAPACITY 56.4


@pytest.mark.parametrize(
    ("changes", "lab", "action", "limits"),
    [
        ({"memory": OTHER_MEMORY}, {}, "keep", ("56g", 15.0, 65536)),
        ({"memory": None, "open_files": None}, {}, "keep", ("56g", 15.0, 65536)),
        ({"cpus": 32, "open_files": 1 << 20}, {}, "keep", ("56g", 15.0, 65536)),
        # Another change of the seat is a new generation, with limits from what the node has now.
        ({"memory": OTHER_MEMORY}, {"shm": "4g"}, "update", ("52g", 15.0, 65536)),
        ({"memory": OTHER_MEMORY}, {"memory": "32g"}, "update", ("32g", 15.0, 65536)),
        ({"memory": OTHER_MEMORY}, {"memory": "none", "cpus": "none"}, "update", (None, None, 65536)),
        # The engine would not start containers with the limits in force.
        ({"cpus": 8}, {}, "update", ("56g", 7.0, 65536)),
        ({"cpus": None}, {}, "update", ("56g", None, 65536)),
        ({"open_files": 20000}, {}, "update", ("56g", 15.0, 20000)),
    ],
)
def test_limits_of_a_seat_stay_until_its_next_generation(
    changes: dict[str, Any], lab: dict[str, Any], action: str, limits: tuple[str | None, float | None, int | None]
) -> None:
    first = plan(a_lock(), {"n1": a_node("n1")})
    facts = with_capacity(facts_after_rollout(first, a_node("n1")), **changes)
    second = plan(a_lock(), {"n1": facts}, limits=lab)
    assert (second.plan.steps[0].action, limits_of(second)) == (action, limits)
    third = plan(a_lock(), {"n1": facts_after_rollout(second, facts)}, limits=lab)
    assert third.plan.pending == ()


def test_the_first_plan_with_limits_says_so() -> None:
    """The order of an earlier release has limits of lab.yml alone, and no capacity."""
    unlimited = plan(a_lock(), {"n1": with_capacity(a_node("n1"), memory=None, cpus=None, open_files=None)})
    (seat,) = facts_after_rollout(unlimited, a_node("n1")).seats
    before = seat.model_copy(update={"capacity": None})
    (step,) = plan(a_lock(), {"n1": a_node("n1", seats=(before,))}).plan.steps
    assert step.why == (
        "the rendered files change; each of its containers is limited for the first time, to 56g of memory, 15 CPUs, "
        "65536 open files (seat.limits in lab.yml)"
    )


UNREACHABLE = Problem("unreachable", "n2: no answer", "it is off", "switch it on")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"engine": None, "absent_because": {"engine": "not installed"}}, "no_engine"),
        ({"engine": EngineFacts(version="26.1.5")}, "no_compose"),
        ({"gpus": (), "absent_because": {"driver": "no NVIDIA driver is installed"}}, "no_gpu"),
        ({"driver": "470.256.02"}, "driver_too_old"),
    ],
)
def test_a_node_that_cannot_have_a_seat_is_skipped_with_the_reason(changes: dict[str, Any], code: str) -> None:
    prepared = plan(a_lock(), {"n1": a_node("n1", **changes), "n3": a_node("n3")})
    step = prepared.plan.steps[0]
    assert step.action == "skip"
    assert code in {problem.code for problem in step.problems}
    assert [step.node for step in prepared.plan.pending] == ["n3"]


def test_an_unreachable_node_is_skipped_in_the_plan() -> None:
    prepared = plan(a_lock(), {"n1": a_node("n1"), "n2": UNREACHABLE})
    assert [(step.node, step.action) for step in prepared.plan.steps] == [("n1", "create"), ("n2", "skip")]
    assert prepared.plan.skipped[0].problems == (UNREACHABLE,)


def test_a_lost_gpu_is_reported_and_the_other_gpus_are_used() -> None:
    lost = a_gpu("n1", 1).model_copy(update={"uuid": None, "compute_capability": None, "problems": (UNREACHABLE,)})
    prepared = plan(a_lock(), {"n1": a_node("n1", gpus=(a_gpu("n1", 0), lost))})
    assert only_bundle(prepared).seat.gpus == (a_gpu("n1", 0).uuid,)
    assert prepared.plan.steps[0].problems == (UNREACHABLE,)


def test_a_card_in_mig_mode_is_not_offered_whole() -> None:
    split = a_gpu("n1", 1, mig_enabled=True)
    prepared = plan(a_lock(), {"n1": a_node("n1", gpus=(a_gpu("n1", 0, mig_enabled=False), split))})
    assert only_bundle(prepared).seat.gpus == (a_gpu("n1", 0).uuid,)
    assert [problem.code for problem in prepared.plan.steps[0].problems] == ["mig_mode"]
    assert "GPU 1" in prepared.plan.steps[0].problems[0].what


def a_mig_device(number: int, card: int = 0) -> Gpu:
    uuid = str(a_gpu("n1", 8 * card + number).uuid).replace("GPU-", "MIG-")
    return a_gpu("n1", card, instance=number, uuid=uuid, name="NVIDIA H100 80GB HBM3 MIG 1g.10gb")


def test_a_node_whose_cards_are_split_gets_a_seat_with_all_mig_devices() -> None:
    devices = (a_mig_device(0), a_mig_device(1))
    card = a_gpu("n1", mig_enabled=True, name="NVIDIA H100 80GB HBM3")
    probed = {"n1": a_node("n1", gpus=(card, *devices), cdi_devices=[f"nvidia.com/gpu={devices[0].uuid}"])}
    first = plan(a_lock(), probed)
    assert (only_bundle(first).seat.gpus, first.plan.steps[0].problems) == (tuple(d.uuid for d in devices), ())
    assert only_bundle(first).seat.gpu_driver == "nvidia"
    second = plan(a_lock(), {"n1": facts_after_rollout(first, probed["n1"])})
    assert second.plan.pending == ()


def test_mig_devices_are_not_mixed_with_whole_cards() -> None:
    """CUDA shows a program that sees a MIG device no whole card."""
    gpus = (a_gpu("n1", mig_enabled=True), a_mig_device(0), a_gpu("n1", 1, mig_enabled=False))
    prepared = plan(a_lock(), {"n1": a_node("n1", gpus=gpus)})
    assert only_bundle(prepared).seat.gpus == (gpus[2].uuid,)
    (problem,) = prepared.plan.steps[0].problems
    assert (problem.code, "its 1 MIG devices are not used" in problem.what) == ("mig_mode", True)


def test_a_node_whose_only_card_is_in_mig_mode_without_devices_is_skipped_with_the_reason() -> None:
    prepared = plan(a_lock(), {"n1": a_node("n1", gpus=(a_gpu("n1", mig_enabled=True),)), "n3": a_node("n3")})
    step = prepared.plan.steps[0]
    assert (step.action, [problem.code for problem in step.problems]) == ("skip", ["mig_mode"])


def test_a_toolkit_with_published_holes_is_a_warning_and_no_refusal() -> None:
    prepared = plan(a_lock(), {"n1": a_node("n1", toolkit_version=DottedVersion("1.17.3"))})
    step = prepared.plan.steps[0]
    assert (step.action, [problem.code for problem in step.problems]) == ("create", ["toolkit_vulnerable"])


def test_a_node_that_the_lock_lists_as_unserved_is_skipped() -> None:
    """Among the locked images alone its GPU would look like one that no image supports at all."""
    prepared = plan(a_lock().model_copy(update={"unserved": ("n1",)}), {"n1": a_node("n1"), "n2": a_node("n2")})
    assert [step.action for step in prepared.plan.steps] == ["skip", "create"]
    assert [problem.code for problem in prepared.plan.steps[0].problems] == ["no_image"]


def _engine(memory: int) -> EngineFacts:
    """The engine of a machine with so many GiB of memory."""
    capacity = Capacity(cpus=16, memory=memory << 30)
    return EngineFacts(version="26.1.5", compose_version="2.26.1", free_bytes=500 << 30, capacity=capacity)


def test_a_plan_of_two_hundred_nodes_in_five_groups_fits_on_two_screens() -> None:
    """New nodes (two sizes of machines), outdated, unchanged and lost ones; what one node alone has is left out."""
    old, new = (a_lock(a_locked_image(TAGS[at])) for at in (2, 3))
    probed = {
        f"pc{number:03}": a_node(f"pc{number:03}", engine=_engine(64 if number % 2 else 128))
        for number in range(1, 201)
    }
    before = plan(old, probed)
    running = {
        name: facts if number < 40 else facts_after_rollout(before, facts)
        for number, (name, facts) in enumerate(probed.items())
    }
    now = plan(new, running)
    current = {
        name: facts if number < 160 else facts_after_rollout(now, facts)
        for number, (name, facts) in enumerate(running.items())
    }
    down = Problem("unreachable", "no route to host", "nothing is known of it", "ansible NODE -m ping")
    prepared = plan(new, current | dict.fromkeys(list(probed)[190:], down))
    text = render_text(plan_view(prepared.plan), 100)
    assert len(text.splitlines()) <= 60
    assert "names, addresses, ports or UUIDs on 119 other nodes" in text
    whole = render_text(plan_view(prepared.plan, whole=True), 100)
    assert all(f'hostname: "{name}"' in whole for name in list(probed)[:40])
