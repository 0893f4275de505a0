"""Plans for labs with several environments: whose seat has which image, and what is published where."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.lock import LockedImage, Lockfile
from provisioner.domain.people.person import Person
from provisioner.domain.rollout.plan import Plan
from provisioner.domain.rollout.publish import PublicationOrder
from provisioner.domain.rollout.run_spec import Rules, build_run_spec
from provisioner.domain.rollout.stale import find_stale_nodes
from provisioner.domain.self_service.config import SelfServiceConfig
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.workflow.rollout.one_person import place_on
from provisioner.workflow.rollout.plan import PlanInputs, PreparedPlan
from provisioner.workflow.rollout.publications import publication_orders
from provisioner.workflow.rollout.rollback import plan_rollback, with_earlier_publications
from provisioner.workflow.rollout.run import _bytes_to_publish, _bytes_to_pull
from provisioner.workflow.status import build_status
from tests.builders import a_gpu, a_lab, a_lock, a_lock_of, a_locked_image, a_node, a_uuid
from tests.costly import costly
from tests.domain.seats import DOCUMENTS
from tests.workflow.fake_fleet import reported
from tests.workflow.rollout.roster_lab import (
    DATA,
    TODAY,
    FakeHost,
    accounts_of,
    actions,
    after_rollout,
    codes,
    person,
    plan_people,
    roster_lab,
)
from tests.workflow.rollout.test_run import BEGAN

NEW = a_locked_image("mirror.lab:5200/pytorch/pytorch:2.14.1-cuda13.0-cudnn9-runtime")  # for drivers from 580 on
OLD = a_locked_image("mirror.lab:5200/pytorch/pytorch:2.7.1-cuda11.8-cudnn9-runtime")  # has no code for a 5090
BASE = a_locked_image()
OWN = {"unix_group": "lab-students"}


def lab_with(*names: str, **over: Any) -> Lab:
    """Return a lab with these environments, which its students may have."""
    groups = {"student": {"memory": "1g", "cpus": 1, "environments": ["default", *names]}}
    return roster_lab(environments={name: {} for name in names}, groups=groups, **over)


def plan(
    lab: Lab, lock: Lockfile, probed: Mapping[str, NodeFacts | Problem], *people: Person, **how: Any
) -> PreparedPlan:
    return plan_people(people, probed, lab=lab, lock=lock, **how)


def images(prepared: PreparedPlan) -> dict[str, LockedImage]:
    """Return the image of the seat of each person."""
    bundles = (bundle for seats in prepared.bundles.values() for bundle in seats.values())
    return {bundle.seat.person: bundle.image for bundle in bundles}


def a_new_node(name: str, cards: int = 2) -> NodeFacts:
    """Return a node on which all three images run."""
    return old_driver(name, cards).model_copy(update={"driver": "580.95.05"})


def old_driver(name: str = "n1", cards: int = 2) -> NodeFacts:
    """Return a node whose driver is too old for NEW."""
    return a_node(
        name, gpus=tuple(a_gpu(name, index) for index in range(cards)), driver="570.172.08", accounts=accounts_of(ALL)
    )


ANN, BOB, CLEO = person("ann"), person("bob", environment="nlp"), person("cleo", environment="nlp", gpus=1)
ALL = (ANN, BOB, CLEO)


def after(prepared: PreparedPlan, probed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nodes after the plan was carried out, with what they report of self-service."""
    found = dict(after_rollout(prepared, probed))
    for node, order in publication_orders(prepared.plan.publications, prepared.published, "r1", "").items():
        sent = json.loads(json.dumps(order.for_node()))
        own = None if order.act == "remove" else reported(sent, leases=())
        found[node] = found[node].model_copy(update={"self_service": own})
    return found


# --- whose seat has which image


def test_each_seat_has_the_image_of_its_environment() -> None:
    probed = {"n1": a_new_node("n1")}
    prepared = plan(lab_with("nlp"), a_lock_of(default=BASE, nlp=NEW), probed, *ALL)
    assert images(prepared) == {"ann": BASE, "bob": NEW, "cleo": NEW}
    assert {step.person: step.environment for step in prepared.plan.steps} == {
        "ann": "default",
        "bob": "nlp",
        "cleo": "nlp",
    }
    assert prepared.plan.image == f"{BASE.reference}, {NEW.reference}"
    assert [seat.seat.environment for seat in prepared.bundles["n1"].values()] == ["default", "nlp", "nlp"]


def test_a_seat_of_a_lab_without_a_roster_has_the_environment_of_lab_yml() -> None:
    lab = a_lab(environments={"nlp": {}}, seat={"environment": "nlp"})
    prepared = plan(lab, a_lock_of(default=BASE, nlp=NEW), {"n1": a_new_node("n1"), "n2": old_driver("n2")})
    assert [(step.action, step.image) for step in prepared.plan.steps] == [("create", NEW.reference), ("skip", None)]
    (problem,) = prepared.plan.steps[1].problems
    assert problem.what.startswith("n2: the environment nlp of seat.environment in lab.yml has no image there: ")


def test_who_can_have_no_seat_in_their_environment_is_told_which_and_disturbs_no_other() -> None:
    probed = {"n1": old_driver()}
    lock = a_lock_of(default=BASE, nlp=NEW)
    alone = plan(lab_with("nlp"), lock, probed, ANN)
    prepared = plan(lab_with("nlp"), lock, probed, ANN, BOB)
    assert [step for step in prepared.plan.steps if step.person == "ann"] == list(alone.plan.steps)
    problem = prepared.plan.unplaced["bob"]
    assert (problem.code, "environment nlp, which has no image on n1" in problem.what) == ("environment_unserved", True)


def test_a_person_whose_environment_changes_keeps_their_place_and_is_told_where_it_cannot_be() -> None:
    probed = {"n1": old_driver("n1"), "n2": a_new_node("n2")}
    lab, lock = lab_with("nlp"), a_lock_of(default=BASE, nlp=NEW)
    first = plan(lab, lock, probed, ann := person("ann", node="n1"), person("bob"))
    world = after(first, probed)
    changed = ann.model_copy(update={"node": "", "environment": "nlp"})
    second = plan(lab, lock, world, changed, person("bob"), places=first.plan.places)
    assert actions(second.plan) == {"ann": "skip", "bob": "keep"}
    assert codes(second.plan)["ann"] == ["environment_unserved"]
    assert second.plan.places == first.plan.places
    back = plan(lab, lock, world, ann, person("bob"), places=second.plan.places)
    assert actions(back.plan) == {"ann": "keep", "bob": "keep"}


def test_a_new_person_gets_a_place_where_their_environment_has_an_image() -> None:
    probed = {"n1": old_driver("n1", cards=8), "n2": a_new_node("n2")}
    prepared = plan(lab_with("nlp"), a_lock_of(default=BASE, nlp=NEW), probed, *ALL)
    assert {name: held.node for name, held in prepared.plan.places.items()} == {"ann": "n1", "bob": "n2", "cleo": "n2"}
    assert prepared.plan.unplaced == {}


def test_a_node_without_an_image_of_default_still_gets_seats_of_another_environment() -> None:
    probed = {"n1": old_driver()}
    prepared = plan(lab_with("nlp"), a_lock_of(default=NEW, nlp=BASE), probed, *ALL)
    assert images(prepared) == {"bob": BASE, "cleo": BASE}
    assert prepared.plan.unplaced["ann"].code == "environment_unserved"


def test_a_node_that_no_environment_serves_is_skipped_for_the_reason_of_default() -> None:
    (step,) = plan(lab_with("nlp"), a_lock_of(default=NEW, nlp=NEW), {"n1": old_driver()}, *ALL).plan.steps
    assert (step.action, step.problems[0].code) == ("skip", "driver_too_old")


def test_an_environment_that_is_not_in_the_lock_yet_is_named() -> None:
    probed = {"n1": a_new_node("n1")}
    prepared = plan(lab_with("nlp"), a_lock(BASE), probed, *ALL)
    assert actions(prepared.plan) == {"ann": "create", "bob": "skip", "cleo": "skip"}
    assert codes(prepared.plan)["bob"] == ["environment_not_locked"]


def mixed(**over: Any) -> NodeFacts:
    """Return a node with a 4090 and two 5090, of which OLD runs on the 4090 alone."""
    cards = [a_gpu("n1", 0, "8.9"), *(a_gpu("n1", n, "12.0", name="NVIDIA GeForce RTX 5090") for n in (1, 2))]
    return a_node("n1", gpus=tuple(cards), accounts=accounts_of(ALL), **over)


def test_own_cards_are_those_that_the_environment_runs_on() -> None:
    people = [person("ann", gpus=1), person("bob", gpus=1, environment="nlp"), person("cleo", gpus=1)]
    lock = a_lock_of(default=BASE, nlp=OLD)
    prepared = plan(lab_with("nlp"), lock, {"n1": mixed()}, *people[1:], people[0])
    assert images(prepared) == {"ann": BASE, "bob": OLD, "cleo": BASE}
    assert prepared.plan.places["bob"].gpus == (a_uuid("n1/0"),)
    taken = plan(lab_with("nlp"), lock, {"n1": mixed()}, *people)
    assert taken.plan.unplaced["bob"].code == "no_free_gpu"
    assert "the most that are free on a node are 0, on n1" in taken.plan.unplaced["bob"].what


def test_people_share_the_cards_that_their_environment_runs_on() -> None:
    people = [person("ann", gpus="shared"), person("bob", gpus="shared", environment="nlp")]
    prepared = plan(lab_with("nlp"), a_lock_of(default=BASE, nlp=OLD), {"n1": mixed()}, *people)
    seats = {bundle.seat.person: len(bundle.seat.gpus) for bundle in prepared.bundles["n1"].values()}
    assert seats == {"ann": 3, "bob": 1}


def test_who_has_a_card_that_the_new_environment_cannot_use_gets_no_seat_in_it() -> None:
    lab, lock, ann = lab_with("nlp"), a_lock_of(default=BASE, nlp=OLD), person("ann", gpus=3)
    first = plan(lab, lock, {"n1": mixed()}, ann)
    changed = ann.model_copy(update={"environment": "nlp"})
    second = plan(lab, lock, after(first, {"n1": mixed()}), changed, places=first.plan.places)
    assert codes(second.plan) == {"ann": ["environment_lacks_gpus"]}
    assert a_uuid("n1/1") in second.plan.steps[0].why


def test_a_person_is_not_moved_to_a_node_without_their_environment() -> None:
    probed = {"n1": old_driver("n1"), "n2": a_new_node("n2")}
    inputs = PlanInputs(lab_with("nlp"), a_lock_of(default=BASE, nlp=NEW), DATA, DOCUMENTS, (), people=ALL, today=TODAY)
    hosts = [FakeHost(name) for name in probed]
    with pytest.raises(ProblemError) as caught:
        place_on(inputs, hosts, probed, CLEO, "n1")
    assert caught.value.problems[0].code == "environment_unserved"
    assert place_on(inputs, hosts, probed, CLEO, "n2").places["cleo"].node == "n2"


# --- what changes


def test_a_changed_environment_is_an_update_and_makes_a_saved_plan_stale() -> None:
    lab, lock, probed = lab_with("nlp"), a_lock_of(default=BASE, nlp=NEW), {"n1": a_new_node("n1")}
    first = plan(lab, lock, probed, ANN)
    changed = ANN.model_copy(update={"environment": "nlp"})
    saved = Plan.model_validate_json(first.plan.model_dump_json())
    assert find_stale_nodes(saved, first.plan) == []
    other = plan(lab, lock, probed, changed)
    assert [problem.node for problem in find_stale_nodes(saved, other.plan)] == ["n1"]
    (step,) = plan(lab, lock, after(first, probed), changed, places=first.plan.places).plan.steps
    assert (step.action, step.why, step.environment) == ("update", "the image changes", "nlp")


def test_a_changed_environment_with_the_same_image_restarts_nothing_and_makes_a_saved_plan_stale() -> None:
    lab, lock, probed = lab_with("nlp"), a_lock_of(default=BASE, nlp=BASE), {"n1": a_new_node("n1")}
    first = plan(lab, lock, probed, ANN)
    changed = ANN.model_copy(update={"environment": "nlp"})
    assert find_stale_nodes(first.plan, plan(lab, lock, probed, changed).plan)
    second = plan(lab, lock, after(first, probed), changed, places=first.plan.places)
    assert actions(second.plan) == {"ann": "keep"}


def test_a_seat_is_held_against_the_image_of_its_environment() -> None:
    lab, lock, probed = lab_with("nlp"), a_lock_of(default=BASE, nlp=NEW), {"n1": a_new_node("n1")}
    first = plan(lab, lock, probed, ANN, BOB)
    world, newer = after(first, probed), a_lock_of(default=OLD, nlp=NEW)
    prepared = plan(lab, newer, world, ANN, BOB, places=first.plan.places)
    status = build_status(prepared, world)
    assert {seat.person: (seat.drift, seat.environment) for seat in status.seats} == {
        "ann": ("the image changes", "default"),
        "bob": ("", "nlp"),
    }
    shown = [seat.model_dump().get("environment", "") for seat in status.seats]
    assert shown == ["", "nlp"]  # documents of a lab without environments are as before


def test_a_seat_of_a_kept_environment_stays_on_it_after_an_upgrade() -> None:
    lock = a_lock_of(default=NEW, **{"2026s": BASE})
    kept = lock.environments["2026s"].model_copy(update={"kept_from": "default"})
    lock = lock.model_copy(update={"environments": {"2026s": kept}})
    probed = {"n1": a_new_node("n1")}
    before = plan(roster_lab(), a_lock(BASE), probed, ANN, person("bob"))
    world = after(before, probed)
    moved = ANN.model_copy(update={"environment": "2026s"})
    prepared = plan(roster_lab(), lock, world, moved, person("bob"), places=before.plan.places)
    assert actions(prepared.plan) == {"ann": "keep", "bob": "update"}


# --- what is published


def published(prepared: PreparedPlan, node: str = "n1") -> dict[str, str]:
    """Return the tags of the published environments of a node, by name."""
    return {name: one.image.tag for name, one in prepared.published[node].config.environments.items()}


def own_lab(*names: str, allowed: tuple[str, ...] | None = None, **settings: Any) -> Lab:
    groups = {"student": {"environments": list(allowed or ("default", *names))}}
    return roster_lab(
        people=None, environments={name: {} for name in names}, groups=groups, self_service=OWN | settings
    )


def test_every_environment_that_a_group_may_have_and_the_node_can_run_is_published() -> None:
    probed = {"n1": a_new_node("n1"), "n2": old_driver("n2")}
    prepared = plan(own_lab("nlp"), a_lock_of(default=BASE, nlp=NEW), probed)
    assert published(prepared) == {"default": BASE.reference, "nlp": NEW.reference}
    assert published(prepared, "n2") == {"default": BASE.reference}
    assert {one.node: [problem.code for problem in one.problems] for one in prepared.plan.publications} == {
        "n1": [],
        "n2": ["environment_unserved"],
    }
    documents = prepared.published["n1"].documents
    assert {name: document.environment for name, document in documents.items()} == {"default": "default", "nlp": "nlp"}


def test_what_no_group_may_have_is_not_published() -> None:
    prepared = plan(own_lab("nlp", allowed=("default",)), a_lock_of(default=BASE, nlp=NEW), {"n1": a_new_node("n1")})
    assert published(prepared) == {"default": BASE.reference}
    assert prepared.plan.publications[0].problems == ()


def test_a_kept_environment_is_for_the_groups_of_the_one_that_it_was() -> None:
    lock = a_lock_of(default=NEW, nlp=NEW, old=BASE)
    kept = lock.environments["old"].model_copy(update={"kept_from": "nlp"})
    lock = lock.model_copy(update={"environments": {**lock.environments, "old": kept}})
    groups = {"student": {"environments": ["nlp"]}, "zoo": {"unix": "zoo"}}
    lab = roster_lab(people=None, environments={"nlp": {}}, groups=groups, self_service=OWN)
    config = plan(lab, lock, {"n1": a_new_node("n1")}).published["n1"].config
    assert {name: group.environments for name, group in config.groups.items()} == {
        "student": ("nlp", "old"),
        "zoo": ("default",),
    }
    assert set(config.environments) == {"default", "nlp", "old"}


def test_a_node_without_any_environment_that_groups_may_have_keeps_its_self_service() -> None:
    prepared = plan(own_lab("nlp", allowed=("nlp",)), a_lock_of(default=BASE, nlp=NEW), {"n1": old_driver()})
    (found,) = prepared.plan.publications
    assert (found.action, found.problems[0].code) == ("skip", "no_environment")


def test_an_environment_is_not_published_where_it_cannot_use_each_gpu_that_is_lent() -> None:
    lock = a_lock_of(default=BASE, nlp=OLD)
    prepared = plan(own_lab("nlp"), lock, {"n1": mixed()})
    (found,) = prepared.plan.publications
    assert (len(found.pool), set(found.environments)) == (3, {"default"})
    assert [problem.code for problem in found.problems] == ["environment_not_for_pool"]
    fitting = plan(own_lab("nlp", gpus=[a_uuid("n1/0")]), lock, {"n1": mixed()})
    assert fitting.plan.publications[0].environments.keys() >= {"default", "nlp"}


def test_an_image_that_environments_share_is_pulled_once() -> None:
    (one,) = plan(own_lab(), a_lock_of(default=BASE), {"n1": a_new_node("n1")}).plan.publications
    (two,) = plan(own_lab("nlp"), a_lock_of(default=BASE, nlp=BASE), {"n1": a_new_node("n1")}).plan.publications
    assert one.bytes_to_pull == two.bytes_to_pull == BASE.bytes


def test_what_seats_pull_is_not_counted_again_for_self_service() -> None:
    people = [ANN.model_copy(update={"gpus": 1})]
    lab = lab_with("nlp", self_service=OWN | {"gpus": 1})
    prepared = plan(lab, a_lock_of(default=BASE, nlp=NEW), {"n1": a_new_node("n1")}, *people)
    orders = publication_orders(prepared.plan.publications, prepared.published, "r1", "")
    spec = build_run_spec("r1", prepared.plan, {}, Rules(), BEGAN, publications=orders)
    assert (_bytes_to_pull(spec), _bytes_to_publish(spec)) == ({"n1": BASE.bytes}, {"n1": NEW.bytes})


def test_an_environment_that_is_removed_from_the_lab_is_withdrawn() -> None:
    probed = {"n1": a_new_node("n1")}
    world = after(plan(own_lab("nlp"), a_lock_of(default=BASE, nlp=NEW), probed), probed)
    (found,) = plan(own_lab(), a_lock(BASE), world).plan.publications
    assert found.action == "update"
    assert any(change.startswith("environment nlp ") and change.endswith(" -> none") for change in found.changes)


class Earlier:
    """What runs have published: of each node what it had before."""

    def __init__(self, *runs: dict[str, PublicationOrder]) -> None:
        self.first, self.second = runs

    def config(self, digest: str) -> SelfServiceConfig | None:
        found = (order.config for orders in (self.first, self.second) for order in orders.values())
        return next((config for config in found if config and config.digest == digest), None)

    def before(self, node: str, digest: str) -> PublicationOrder | None:
        later = self.second[node].config
        return self.first[node] if later and later.digest == digest else None


def test_a_rollback_publishes_what_was_there_before_for_every_environment() -> None:
    probed = {"n1": a_new_node("n1")}
    first = plan(own_lab("nlp"), a_lock_of(default=BASE, nlp=NEW), probed)
    world = after(first, probed)
    second = plan(own_lab("cv"), a_lock_of(default=OLD, cv=NEW), world)
    earlier = Earlier(*(publication_orders(one.plan.publications, one.published, "r", "") for one in (first, second)))
    back = plan_rollback("demo", "student", [FakeHost("n1")], now := after(second, world), None)
    changed, published_again = with_earlier_publications(back, now, earlier, "")
    (found,) = changed.publications
    assert (found.action, found.environments) == ("update", first.plan.publications[0].environments)
    assert published_again["n1"].config.versions.keys() == published_again["n1"].documents.keys() == {"default", "nlp"}


# --- documents of earlier releases


def test_the_plan_of_a_lab_without_environments_has_no_field_for_them() -> None:
    prepared = plan(roster_lab(), a_lock(BASE), {"n1": a_new_node("n1")}, ANN)
    (step,) = prepared.plan.model_dump(mode="json")["steps"]
    assert "environment" not in step
    assert Plan.model_validate(prepared.plan.model_dump(mode="json")) == prepared.plan
    seat = after(prepared, {"n1": a_new_node("n1")})["n1"].seats[0]
    assert "environment" not in seat.model_copy(update={"environment": "default"}).model_dump()
    assert seat.model_copy(update={"environment": "nlp"}).model_dump()["environment"] == "nlp"


# --- laws


@st.composite
def people_of(draw: st.DrawFn) -> list[Person]:
    wishes = st.sampled_from([0, 0, 1, 2, "shared"])
    environments = st.sampled_from(["default", "nlp"])
    return [person(f"p{n}", gpus=draw(wishes), environment=draw(environments)) for n in range(draw(st.integers(0, 6)))]


def without_name(prepared: PreparedPlan) -> list[Any]:
    """Return what a plan does, without the names of environments and what follows from them."""
    steps = [step.model_copy(update={"environment": "default"}) for step in prepared.plan.steps]
    publications = [(one.node, one.action, one.pool, one.bytes_to_pull) for one in prepared.plan.publications]
    return [steps, publications, prepared.plan.places, prepared.plan.unplaced, prepared.plan.image]


@costly
@given(people_of(), st.sampled_from([{}, {"gpus": 1}]))
def test_environments_with_the_images_of_default_change_nothing_but_the_name(
    people: list[Person], settings: dict[str, Any]
) -> None:
    probed = {
        name: a_new_node(name, cards).model_copy(update={"accounts": accounts_of(people)})
        for name, cards in {"n1": 4, "n2": 1}.items()
    }
    lab, own = lab_with("nlp"), {"nodes": "n1", **OWN, **settings}
    with_own = lab.model_copy(update={"self_service": lab_with(self_service=own).self_service})
    both = plan(with_own, a_lock_of(default=BASE, nlp=BASE), probed, *people)
    alone = [one.model_copy(update={"environment": "default"}) for one in people]
    one = plan(lab_with(self_service=own), a_lock(BASE), probed, *alone)
    assert without_name(both) == without_name(one)


@costly
@given(people_of(), st.sampled_from([NEW, OLD, BASE]), st.booleans())
def test_a_plan_made_right_after_its_own_rollout_has_no_step(
    people: list[Person], other: LockedImage, has_own: bool
) -> None:
    probed = {"n1": mixed(), "n2": old_driver("n2"), "n3": a_new_node("n3")}
    probed = {name: facts.model_copy(update={"accounts": accounts_of(people)}) for name, facts in probed.items()}
    own = {"self_service": {"nodes": "n[13]", "gpus": 1, **OWN}} if has_own else {}
    lab, lock = lab_with("nlp", **own), a_lock_of(default=BASE, nlp=other)
    first = plan(lab, lock, probed, *people)
    second = plan(lab, lock, after(first, probed), *people, places=first.plan.places)
    third = plan(lab, lock, after(second, after(first, probed)), *people, places=second.plan.places)
    assert second.plan.pending == ()
    assert third.plan.changed_nodes == ()
