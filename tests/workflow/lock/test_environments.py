"""Locking a lab with named environments: each is selected for its own nodes, and old ones are kept."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from provisioner.adapters.lab.lockfile import lock_text
from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.lock import LockedEnvironment, LockedImage, Lockfile
from provisioner.domain.people.person import Person
from provisioner.domain.registry.catalog import Catalog, Listing
from provisioner.domain.values.measured import Measured
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.sync import SyncState
from provisioner.workflow.lock.lock import LockResult, choose_all, make_lock
from tests.builders import a_digest, a_gpu, a_lab, a_locked_image, a_node
from tests.workflow.lock.test_lock import ALL, DATA, MIDDLE, NEW, OLD, PREFIX, SILENT, ABuilder, AMirror

BLACKWELL = a_node("n2", gpus=(a_gpu("n2", capability="12.0", name="NVIDIA GeForce RTX 5090"),))
PAIR: Mapping[str, NodeFacts | Problem] = {"n1": a_node(), "n2": BLACKWELL}
ADA = "2.6.0-cuda12.4-cudnn9-runtime"  # no code for Blackwell
ROSTER = {"people": {"roster": "roster.csv"}}


class CountingMirror(AMirror):
    """Counts how often its tags are listed."""

    def __init__(self, tags: Mapping[str, SyncState]) -> None:
        super().__init__(tags)
        self.listings = 0

    def catalog(self, repositories: Sequence[str], platform: str, *, wanted: Callable[[str], bool]) -> Catalog:
        self.listings += 1
        return super().catalog(repositories, platform, wanted=wanted)


class RecordingBuilder(ABuilder):
    def __init__(self) -> None:
        super().__init__()
        self.built: list[tuple[str, str]] = []

    def lab_image(self, base: Listing, environment: str, verify: Callable[[Measured], None]) -> LockedImage:
        self.built.append((environment, base.image.reference.removeprefix(PREFIX)))
        return super().lab_image(base, environment, verify)


def lab_with(environments: Mapping[str, Any], **settings: Any) -> Lab:
    return a_lab(environments=environments, **settings)


def lock_of(  # noqa: PLR0913, PLR0917  (everything in one call)
    lab: Lab,
    people: Sequence[Person] = (),
    probed: Mapping[str, NodeFacts | Problem] = PAIR,
    mirror: AMirror | None = None,
    builder: ABuilder | None = None,
    before: Lockfile | None = None,
    keep_as: str | None = None,
) -> LockResult:
    choices = choose_all(lab, people, probed, mirror or AMirror(ALL), DATA, lambda _: None)
    made_by = builder or ABuilder()
    return make_lock(lab, probed, choices, made_by, DATA, registry_ca=None, before=before, keep_as=keep_as)


def tags(environment: LockedEnvironment) -> list[str]:
    return [image.reference.removeprefix(PREFIX) for image in environment.images]


def test_each_environment_gets_the_newest_image_that_it_asks_for() -> None:
    lab, builder = lab_with({"nlp": {"torch": "2.10.*"}, "old": {"torch": "2.8.0"}}), RecordingBuilder()
    lock = lock_of(lab, builder=builder).lock
    assert {name: tags(found) for name, found in lock.all_environments.items()} == {
        "default": [NEW],
        "nlp": [MIDDLE],
        "old": [OLD],
    }
    assert builder.built == [("default", NEW), ("nlp", MIDDLE), ("old", OLD)]
    assert [found.torch for found in lock.all_environments.values()] == ["2.11.0", "2.10.0", "2.8.0"]
    assert all(list(found.nodes) == ["n1", "n2"] for found in lock.all_environments.values())


def test_default_is_the_same_with_and_without_other_environments() -> None:
    alone, beside = lock_of(a_lab()).lock, lock_of(lab_with({"nlp": {"torch": "2.8.0"}})).lock
    assert beside.model_copy(update={"environments": {}}) == alone
    assert "environments" not in lock_text(alone)


def test_an_environment_is_selected_for_the_nodes_that_may_run_it_alone() -> None:
    """On both nodes 2.6 would serve n1 only; on n1 alone it serves all."""
    lab, mirror = lab_with({"ada": {"torch": "2.6.0"}}, **ROSTER), AMirror({**ALL, ADA: SyncState.COMPLETE})
    row = Person(id="anna", node="n1", environment="ada", row=2)
    ada = lock_of(lab, (row,), mirror=mirror).lock.environments["ada"]
    assert (tags(ada), list(ada.nodes), ada.unserved) == ([ADA], ["n1"], ())
    everywhere = lock_of(lab, mirror=mirror).lock.environments["ada"]
    assert (tags(everywhere), list(everywhere.nodes), everywhere.unserved) == ([ADA], ["n1"], ("n2",))


def test_equal_environments_on_equal_nodes_share_one_search_and_are_built_by_name() -> None:
    mirror, builder = CountingMirror(ALL), RecordingBuilder()
    lock_of(lab_with({"nlp": {}, "cv": {"apt": ["ffmpeg"]}}), mirror=mirror, builder=builder)
    assert mirror.listings == 1
    assert builder.built == [("default", NEW), ("nlp", NEW), ("cv", NEW)]
    lock_of(lab_with({"nlp": {"torch": "2.8.0"}}), mirror=mirror)
    assert mirror.listings == 3


def test_an_environment_that_no_tag_serves_is_named_with_its_setting() -> None:
    with pytest.raises(ProblemError) as ended:
        lock_of(lab_with({"nlp": {"torch": "1.13.*"}}))
    (problem,) = ended.value.problems
    assert problem.code == "no_tag"
    assert problem.what.startswith("environment nlp: mirror.lab:5200 has no tag of pytorch/pytorch with torch 1.13.*")
    assert "widen environments.nlp.torch in lab.yml" in problem.fix


class BrokenBuilder(ABuilder):
    def lab_image(self, base: Listing, environment: str, verify: Callable[[Measured], None]) -> LockedImage:
        if environment == "nlp":
            raise ProblemError(Problem("build_failed", "E: no package gti", "why", "fix"))
        return super().lab_image(base, environment, verify)


def test_a_build_that_fails_names_its_environment() -> None:
    with pytest.raises(ProblemError, match="build_failed: environment nlp: E: no package gti"):
        lock_of(lab_with({"nlp": {}}), builder=BrokenBuilder())


class ConflictingBuilder(RecordingBuilder):
    def resolve_course(self, base: Listing, environment: str) -> None:  # noqa: ARG002
        if environment == "nlp":
            raise ProblemError(Problem("torch_conflict", "old==1 needs torch 1", "why", "fix"))


def test_a_conflict_in_the_course_of_the_last_environment_is_found_before_anything_is_built() -> None:
    builder = ConflictingBuilder()
    with pytest.raises(ProblemError, match="torch_conflict: environment nlp: old==1 needs torch 1"):
        lock_of(lab_with({"cv": {}, "nlp": {}}), builder=builder)
    assert builder.built == []


BEFORE = lock_of(lab_with({"nlp": {"torch": "2.8.0"}, "cv": {}})).lock
N1_ONLY = Person(id="anna", node="n1", environment="nlp", row=2)


@pytest.mark.parametrize(("before", "locked"), [(BEFORE, [OLD]), (None, [])])
def test_an_environment_whose_nodes_are_all_silent_stays_as_it_was(before: Lockfile | None, locked: list[str]) -> None:
    """One broken node of a course must not keep the others from a new lock, nor take the course's image away."""
    lab = lab_with({"nlp": {"torch": "2.10.*"}}, **ROSTER)
    probed: Mapping[str, NodeFacts | Problem] = {"n1": SILENT, "n2": BLACKWELL}
    found = lock_of(lab, (N1_ONLY,), probed, before=before)
    assert tags(found.lock.environments["nlp"]) == locked
    assert "nlp" not in found.choices
    assert list(found.lock.nodes) == ["n2"]


def test_default_is_kept_under_a_name_and_stays_in_every_later_lock() -> None:
    kept = lock_of(lab_with({}), before=BEFORE, keep_as="2026s", mirror=AMirror({OLD: SyncState.COMPLETE})).lock
    assert (tags(kept.default), list(kept.environments)) == ([OLD], ["2026s"])
    old = kept.environments["2026s"]
    assert (old.kept_from, old.images, old.nodes, old.torch) == ("default", BEFORE.images, BEFORE.nodes, BEFORE.torch)
    later = lock_of(lab_with({"nlp": {}}), before=kept).lock
    assert later.environments["2026s"] == old
    both = lock_of(lab_with({}), before=later, keep_as="2026w").lock
    assert sorted(both.environments) == ["2026s", "2026w"]


def test_an_environment_that_lab_yml_does_not_name_any_more_goes() -> None:
    assert list(lock_of(lab_with({"cv": {}}), before=BEFORE).lock.environments) == ["cv"]


def test_a_kept_image_in_another_registry_stops_the_lock_before_anything_is_built() -> None:
    image = a_locked_image(lab=f"old.lab:5000/l@{a_digest('x')}")
    before = BEFORE.model_copy(
        update={"environments": {"2026s": LockedEnvironment(images=(image,), kept_from="default")}}
    )
    builder = RecordingBuilder()
    with pytest.raises(ProblemError, match="kept_elsewhere") as ended:
        lock_of(lab_with({}), before=before, builder=builder)
    assert (ended.value.ending, builder.built) == ("usage", [])


def test_a_limit_without_the_nodes_of_an_environment_leaves_it_as_it_was() -> None:
    lab = lab_with({"nlp": {"torch": "2.10.*"}}, **ROSTER)
    found = lock_of(lab, (N1_ONLY,), {"n2": BLACKWELL}, before=BEFORE).lock
    assert found.environments["nlp"] == BEFORE.environments["nlp"]
