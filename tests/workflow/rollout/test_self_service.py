"""Plans for nodes on which people start seats themselves: pools beside a roster, publications, and whose seats stay."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.lock import Placement
from provisioner.domain.people.person import Person
from provisioner.domain.rollout.busy import WhenBusy
from provisioner.domain.rollout.plan import Plan
from provisioner.domain.rollout.stale import find_stale_nodes
from provisioner.domain.self_service.publication import Publication
from provisioner.domain.values.node import Lease, NodeFacts, RunningSeat, SelfServiceFacts
from provisioner.domain.values.problem import Problem
from provisioner.workflow.rollout.plan import PreparedPlan
from provisioner.workflow.rollout.publications import publication_orders
from provisioner.workflow.rollout.removal import plan_removal
from provisioner.workflow.rollout.rollback import plan_rollback
from tests.builders import a_gpu, a_lab, a_node, a_uuid
from tests.costly import costly
from tests.workflow.fake_fleet import reported
from tests.workflow.rollout.roster_lab import (
    FakeHost,
    accounts_of,
    actions,
    after_rollout,
    codes,
    nodes,
    person,
    plan_people,
    roster_lab,
    with_seat,
)

OWN = {"unix_group": "lab-students"}
HEALTHY = {"jupyter": "healthy", "ssh": "healthy"}


def own_lab(**settings: Any) -> Lab:
    """Return a lab with self-service and without a roster."""
    return a_lab(self_service=OWN | settings)


def both_lab(**settings: Any) -> Lab:
    return roster_lab(self_service=OWN | settings)


def cards(node: str, *numbers: int) -> tuple[str, ...]:
    return tuple(a_uuid(f"{node}/{number}") for number in numbers)


def plan(
    lab: Lab, probed: Mapping[str, Any], *people: Person, places: Mapping[str, Placement] | None = None, **how: Any
) -> PreparedPlan:
    return plan_people(people, probed, places, lab=lab, **how)


def after(prepared: PreparedPlan, probed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nodes after the plan was carried out, with what they report of the orders that they got."""
    found = dict(after_rollout(prepared, probed))
    orders = publication_orders(prepared.plan.publications, prepared.published, "r1", "")
    for node, order in orders.items():
        sent = json.loads(json.dumps(order.for_node()))
        own = None if order.act == "remove" else reported(sent, leases=_leases(found[node]))
        found[node] = found[node].model_copy(update={"self_service": own})
    return found


def _leases(facts: NodeFacts | Problem) -> tuple[Lease, ...]:
    return facts.self_service.leases if isinstance(facts, NodeFacts) and facts.self_service else ()


def own_seat(name: str, **over: Any) -> RunningSeat:
    usual = {"name": f"demo_{name}", "lab": "demo", "person": name, "kind": "self_service", "generation": 1}
    return RunningSeat.model_validate({**usual, "image": "i", "services": HEALTHY, **over})


def published(prepared: PreparedPlan) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {one.node: (one.action, one.pool) for one in prepared.plan.publications}


def test_a_lab_without_a_roster_has_no_node_seat_where_people_start_their_own() -> None:
    before = plan(a_lab(), probed := nodes({"n1": 1, "n2": 1}, {}))
    probed = after(before, probed)
    prepared = plan(own_lab(nodes="n1"), probed)
    assert actions(prepared.plan) == {"demo-student": "keep"}  # of n2
    assert {step.node: step.action for step in prepared.plan.steps} == {"n1": "stop", "n2": "keep"}
    assert published(prepared) == {"n1": ("install", cards("n1", 0))}
    assert prepared.plan.image


def test_a_new_node_gets_self_service_and_no_seat() -> None:
    prepared = plan(own_lab(), nodes({"n1": 2}, {}))
    assert prepared.plan.steps == ()
    assert (prepared.plan.nodes, prepared.plan.changed_nodes) == (("n1",), ("n1",))


def test_a_node_that_leaves_the_pattern_loses_its_self_service_and_gets_a_seat() -> None:
    probed = after(plan(own_lab(), nodes({"n1": 1}, {})), nodes({"n1": 1}, {}))
    prepared = plan(own_lab(nodes="gpu*"), probed)
    assert actions(prepared.plan) == {"demo-student": "defer"}
    assert codes(prepared.plan) == {"demo-student": ["gpu_in_pool"]}
    assert published(prepared) == {"n1": ("remove", ())}
    again = plan(own_lab(nodes="gpu*"), after(prepared, probed))
    assert (actions(again.plan), again.plan.publications) == ({"demo-student": "create"}, ())


@pytest.mark.parametrize(
    ("when_busy", "action"),
    [
        (WhenBusy(), "defer"),
        (WhenBusy(policy="force", reason="exam"), "remove"),
        (WhenBusy(policy="wait", seconds=60), "remove"),
    ],
)
def test_self_service_with_seats_in_use_is_removed_by_the_policy_for_busy_seats(
    when_busy: WhenBusy, action: str
) -> None:
    (facts,) = after(plan(own_lab(), nodes({"n1": 1}, {})), nodes({"n1": 1}, {})).values()
    busy = facts.model_copy(update={"seats": (own_seat("ann", at_work=("python of ann",)),)})
    (found,) = plan(a_lab(), {"n1": busy}, when_busy=when_busy).plan.publications
    assert (found.action, found.busy) == (action, ("python of ann",))
    assert len(found.problems) == 1


def test_a_node_of_another_lab_is_skipped_and_keeps_its_node_seat() -> None:
    facts = a_node(self_service=SelfServiceFacts(lab="other"))
    prepared = plan(own_lab(), {"n1": facts})
    assert actions(prepared.plan) == {"demo-student": "create"}
    assert [(one.action, one.problems[0].code) for one in prepared.plan.publications] == [
        ("skip", "self_service_elsewhere")
    ]
    assert prepared.plan.is_incomplete


def test_damaged_self_service_is_repaired_where_the_lab_has_it_and_not_removed_elsewhere() -> None:
    facts = a_node(self_service=SelfServiceFacts(lab=""))
    assert published(plan(own_lab(), {"n1": facts})) == {"n1": ("update", cards("n1", 0))}
    assert plan(a_lab(), {"n1": facts}).plan.publications == ()


def test_a_node_that_does_not_answer_has_no_publication() -> None:
    prepared = plan(own_lab(), {"n1": a_node(engine=None)})
    assert prepared.plan.publications == ()
    assert prepared.plan.is_incomplete


def test_rows_with_own_cards_and_the_pool_have_none_in_common() -> None:
    people = person("ann", gpus=1), person("bob", gpus=1), person("eve", gpus="shared")
    prepared = plan(both_lab(gpus=2), nodes({"n1": 5}, accounts_of(people)), *people)
    assert published(prepared) == {"n1": ("install", cards("n1", 3, 4))}
    gpus = {bundle.seat.person: bundle.seat.gpus for bundle in prepared.bundles["n1"].values()}
    assert gpus == {"ann": cards("n1", 0), "bob": cards("n1", 1), "eve": cards("n1", 2)}


def test_without_a_number_the_pool_is_what_no_row_has_alone() -> None:
    people = person("ann", gpus=1), person("eve", gpus="shared")
    prepared = plan(both_lab(), nodes({"n1": 3}, accounts_of(people)), *people)
    assert published(prepared) == {"n1": ("install", cards("n1", 1, 2))}
    assert [problem.code for problem in prepared.plan.unplaced.values()] == ["no_shared_gpu"]


def test_people_who_share_get_no_card_of_a_pool_before_it_is_smaller() -> None:
    people = (person("eve", gpus="shared"),)
    probed = nodes({"n1": 4}, accounts_of(people))
    own = SelfServiceFacts(lab="demo", pool=cards("n1", 1, 2, 3))
    first = plan(both_lab(gpus=1), {"n1": probed["n1"].model_copy(update={"self_service": own})}, *people)
    assert published(first) == {"n1": ("update", cards("n1", 1))}
    assert [bundle.seat.gpus for bundle in first.bundles["n1"].values()] == [cards("n1", 0)]


def test_a_pool_that_gets_less_says_so() -> None:
    people = (person("ann", gpus=2),)
    prepared = plan(both_lab(gpus=4), nodes({"n1": 4}, accounts_of(people)), *people)
    (found,) = prepared.plan.publications
    assert (len(found.pool), [problem.code for problem in found.problems]) == (2, ["pool_smaller"])
    assert not prepared.plan.is_incomplete


def test_a_card_of_a_seat_that_cannot_be_stopped_now_does_not_join_the_pool() -> None:
    people = (person("ann", gpus=1),)
    probed = after(plan(both_lab(gpus=1), nodes({"n1": 2}, accounts_of(people)), *people), nodes({"n1": 2}, {}))
    busy = with_seat(probed["n1"], "demo_ann", at_work=("python of ann",))
    prepared = plan(both_lab(gpus=2), {"n1": busy})
    assert actions(prepared.plan) == {"ann": "defer"}
    assert published(prepared)["n1"][1] == cards("n1", 1)
    prepared = plan(both_lab(gpus=2), probed)
    assert actions(prepared.plan) == {"ann": "stop"}
    assert published(prepared)["n1"][1] == cards("n1", 0, 1)


def test_a_row_gets_no_card_of_the_pool() -> None:
    people = person("ann"), person("bob", gpus=3)
    probed = nodes({"n1": 4}, accounts_of(people))
    probed = after(plan(both_lab(gpus=2), probed, people[0]), probed)
    prepared = plan(both_lab(gpus=2), probed, *people)
    assert prepared.plan.unplaced["bob"].code == "no_free_gpu"
    assert published(prepared)["n1"] == ("keep", cards("n1", 2, 3))


def test_a_row_waits_for_a_card_that_somebody_has_leased() -> None:
    """Without a number, rows come first: the pool gets smaller, then the lease ends by itself."""
    people = person("ann", gpus=1), person("bob", gpus=1)
    seats = (own_seat("zoe", gpus=cards("n1", 1)),)
    own = SelfServiceFacts(lab="demo", pool=cards("n1", 1), leases=(Lease(seat="demo_zoe", gpus=cards("n1", 1)),))
    (facts,) = nodes({"n1": 2}, accounts_of(people)).values()
    probed = {"n1": facts.model_copy(update={"seats": seats, "self_service": own})}
    prepared = plan(both_lab(), probed, *people)
    assert actions(prepared.plan) == {"ann": "create", "bob": "defer"}
    assert codes(prepared.plan) == {"bob": ["gpu_in_pool"]}
    assert published(prepared)["n1"] == ("update", ())
    again = plan(both_lab(), after(prepared, probed), *people, places=prepared.plan.places)
    assert actions(again.plan) == {"ann": "keep", "bob": "defer"}
    assert codes(again.plan) == {"bob": ["gpu_held"]}


def test_a_row_of_who_has_started_a_seat_waits_until_it_is_stopped() -> None:
    people = (person("ann", gpus=1),)
    (facts,) = nodes({"n1": 2}, accounts_of(people)).values()
    running = facts.model_copy(update={"seats": (own_seat("ann", uid=5001),)})
    prepared = plan(both_lab(gpus=1), {"n1": running}, *people)
    assert (actions(prepared.plan), codes(prepared.plan)) == ({"ann": "skip"}, {"ann": ["seat_of_self_service"]})
    stopped = facts.model_copy(update={"seats": (own_seat("ann", services=dict.fromkeys(HEALTHY, "missing")),)})
    prepared = plan(both_lab(gpus=1), {"n1": stopped}, *people)
    (step,) = prepared.plan.steps
    assert (step.seat, step.action) == ("demo_ann", "update")


def test_seats_that_people_have_started_are_not_rolled_back_and_keep_their_subnet() -> None:
    taken = own_seat("ann", subnet="10.213.0.0/28", ports={"ssh": 22000, "jupyter": 22001})
    facts = a_node(seats=(taken,), self_service=SelfServiceFacts(lab="demo"))
    assert plan_rollback("demo", "student", [FakeHost("n1")], {"n1": facts}, None).steps == ()
    prepared = plan(a_lab(), {"n1": facts})
    (bundle,) = prepared.bundles["n1"].values()
    assert (bundle.seat.subnet, bundle.seat.ports["ssh"]) == ("10.213.0.16/28", 22002)


def test_a_removal_removes_self_service_and_orders_nothing_for_the_seats_of_people() -> None:
    facts = a_node(seats=(own_seat("ann"),), self_service=SelfServiceFacts(lab="demo"))
    found = plan_removal("demo", "student", {"n1": facts})
    assert [step.seat for step in found.steps] == ["demo-student"]
    assert [one.action for one in found.publications] == ["remove"]
    other = a_node(self_service=SelfServiceFacts(lab="other"))
    assert plan_removal("demo", "student", {"n1": other}).publications == ()


def test_a_saved_plan_is_stale_once_self_service_was_published_by_another_run() -> None:
    probed = nodes({"n1": 1}, {})
    saved = plan(own_lab(), probed)
    read = Plan.model_validate_json(saved.plan.model_dump_json())
    assert find_stale_nodes(read, plan(own_lab(), probed).plan) == []
    again = plan(own_lab(), after(saved, probed))
    assert [problem.node for problem in find_stale_nodes(read, again.plan)] == ["n1"]


def test_a_plan_of_an_earlier_release_has_no_publications() -> None:
    old = json.loads(plan(a_lab(), nodes({"n1": 1}, {})).plan.model_dump_json())
    del old["publications"]
    assert Plan.model_validate(old).publications == ()


POOLS = st.one_of(st.integers(1, 4), st.just(cards("n1", 0, 2)))
SETTINGS = st.fixed_dictionaries({}, optional={"nodes": st.sampled_from(["*", "n1"]), "gpus": POOLS})
GivenLab = tuple[Lab, list[Person], dict[str, NodeFacts]]
PEOPLE = st.lists(
    st.builds(
        lambda name, gpus, node: person(name, gpus=gpus, node=node),
        st.sampled_from(["ann", "bob", "eve", "kim", "lee"]),
        st.sampled_from([0, 1, 2, "shared"]),
        st.sampled_from(["", "n1", "n2"]),
    ),
    unique_by=lambda one: one.id,
    max_size=5,
)


@st.composite
def labs(draw: st.DrawFn) -> GivenLab:
    people = draw(PEOPLE)
    probed = nodes({"n1": draw(st.integers(1, 5)), "n2": draw(st.integers(1, 3))}, accounts_of(people))
    names = draw(st.lists(st.sampled_from(["ann", "zoe", "yan"]), unique=True))
    seats = tuple(own_seat(name, uid=6000 + number) for number, name in enumerate(names))
    probed["n1"] = probed["n1"].model_copy(update={"seats": seats})
    return both_lab(**draw(SETTINGS)), people, probed


@costly
@given(labs())
def test_nothing_changes_in_a_plan_after_its_own_rollout(given_lab: GivenLab) -> None:
    lab, people, probed = given_lab
    first = plan(lab, probed, *people)
    again = plan(lab, after(first, probed), *people, places=first.plan.places)
    assert again.plan.changed_nodes == ()
    assert again.plan.places == first.plan.places
    assert {one.action for one in again.plan.publications} <= {"keep"}


@costly
@given(labs(), SETTINGS, PEOPLE, st.integers(0, 2), st.booleans())
def test_an_edit_changes_pools_once_and_ends_no_lease(
    given_lab: GivenLab, settings: dict[str, Any], people: list[Person], leased: int, busy: bool
) -> None:
    lab, before, probed = given_lab
    first = plan(lab, probed, *before)
    probed = {
        name: facts.model_copy(update={"accounts": accounts_of([*before, *people])})
        for name, facts in after(first, probed).items()
    }
    probed["n1"] = with_leases(probed["n1"], leased)
    for seat in probed["n1"].seats if busy else ():
        probed["n1"] = with_seat(probed["n1"], seat.name, at_work=("python",))
    edited = both_lab(**settings)
    second = plan(edited, probed, *people, places=first.plan.places)
    pools = {gpu for one in second.plan.publications for gpu in one.pool}
    assert not pools & {gpu for held in second.plan.places.values() for gpu in held.gpus}
    held = {gpu for facts in probed.values() if facts.self_service for gpu in facts.self_service.pool}
    held |= {gpu for seat in probed["n1"].seats if seat.is_self_service for gpu in seat.gpus}
    changed = {(step.node, step.seat) for step in second.plan.pending if step.action != "stop"}
    bundles = ((node, one.seat) for node, found in second.bundles.items() for one in found.values())
    assert not [seat for node, seat in bundles if (node, seat.name) in changed and held & {*seat.gpus}]
    left = {(step.node, step.seat) for step in second.plan.steps if step.action in {"keep", "defer", "skip"}}
    running = ((name, seat) for name, facts in probed.items() for seat in facts.seats if not seat.is_self_service)
    assert not pools & {gpu for name, seat in running if seat.runs and (name, seat.name) in left for gpu in seat.gpus}
    again = plan(edited, after(second, probed), *people, places=second.plan.places)
    assert {one.action for one in again.plan.publications} <= {"keep"}
    assert again.plan.places == second.plan.places


def with_leases(facts: NodeFacts, number: int) -> NodeFacts:
    """Let so many people have leased a GPU of the pool each."""
    own = facts.self_service
    if own is None:
        return facts
    names = [f"lee{place}" for place in range(number)][: len(own.pool)]
    pairs = list(zip(names, own.pool, strict=False))
    seats = tuple(own_seat(name, gpus=(gpu,)) for name, gpu in pairs)
    leases = tuple(Lease(seat=f"demo_{name}", gpus=(gpu,)) for name, gpu in pairs)
    changes = {"seats": (*facts.seats, *seats), "self_service": own.model_copy(update={"leases": leases})}
    return facts.model_copy(update=changes)


@costly
@given(labs())
def test_pools_and_own_cards_are_disjoint_and_no_seat_of_people_is_in_a_step(given_lab: GivenLab) -> None:
    lab, people, probed = given_lab
    prepared = plan(lab, probed, *people)
    pools = {gpu for one in prepared.plan.publications for gpu in one.pool}
    assert not pools & {gpu for held in prepared.plan.places.values() for gpu in held.gpus}
    assert not pools & {gpu for found in prepared.bundles.values() for one in found.values() for gpu in one.seat.gpus}
    own = {(name, seat.name) for name, facts in probed.items() for seat in facts.seats}
    assert not [step for step in prepared.plan.steps if (step.node, step.seat) in own and step.action != "skip"]


@costly
@given(labs())
def test_publications_do_not_depend_on_the_order_of_the_nodes(given_lab: GivenLab) -> None:
    lab, _, probed = given_lab
    turned = dict(reversed(probed.items()))

    def found(nodes: Mapping[str, NodeFacts]) -> dict[str, Publication]:
        return {one.node: one for one in plan(lab, nodes).plan.publications}

    assert found(probed) == found(turned)


@pytest.mark.parametrize(
    ("pattern", "only", "expected"), [("x*", (), 1), ("x*", ("n1",), 0), ("n2", (), 0), ("n2", ("n1",), 0)]
)
def test_a_pattern_without_a_node_is_a_caution_unless_others_may_match(
    pattern: str, only: tuple[str, ...], expected: int
) -> None:
    made = plan(own_lab(nodes=pattern), nodes({"n1": 1, "n2": 1}, {}), only=only)
    assert len(made.plan.cautions) == expected


def test_a_limit_plans_the_self_service_of_its_nodes_alone() -> None:
    prepared = plan(own_lab(), nodes({"n1": 1, "n2": 1}, {}), only=("n2",))
    assert published(prepared) == {"n2": ("install", cards("n2", 0))}


def test_cards_of_a_split_gpu_are_leased_by_their_own_uuid() -> None:
    device = a_uuid("mig").replace("GPU-", "MIG-")
    gpus = (a_gpu("n1", 0, mig_enabled=True), a_gpu("n1", 0, instance=1, uuid=device))
    listed = own_lab(gpus=[a_uuid("n1/0"), device])
    (found,) = plan(listed, {"n1": a_node(gpus=gpus)}).plan.publications
    assert (found.pool, [problem.code for problem in found.problems]) == ((device,), ["pool_smaller"])
