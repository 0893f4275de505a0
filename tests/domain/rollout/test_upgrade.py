from collections.abc import Mapping

import pytest

from provisioner.domain.lab.lock import LockedEnvironment, LockedImage, LockedNode, Lockfile
from provisioner.domain.rollout.upgrade import ImageChange, LockChange
from provisioner.domain.rollout.upgrade import compare_locks as compare
from provisioner.domain.values.problem import Problem
from tests.builders import a_lock, a_locked_image

OLD = a_locked_image("m/p:2.8.0-cuda12.8", torch="2.8.0")
NEW = a_locked_image("m/p:2.10.0-cuda12.8", torch="2.10.0")
OLDEST = a_locked_image("m/p:2.8.0-cuda11.8", torch="2.8.0")
OFF = Problem("unreachable", "no route to host", "w", "switch it on")


def lock(torch: str, **nodes: str) -> Lockfile:
    images = [image for image in (OLDEST, OLD, NEW) if image.reference in nodes.values()]
    locked = {node: LockedNode(image=image, gpus=(), capabilities=()) for node, image in nodes.items()}
    return a_lock(*images, nodes=locked).model_copy(update={"torch": torch})


BEFORE = lock("2.8.0", n1=OLD.reference, n2=OLD.reference)


def compare_locks(old: Lockfile, new: Lockfile, reasons: Mapping[str, Problem | None]) -> LockChange:
    """Compare locks that have `default` alone."""
    return compare(old, new, {"default": reasons})


def test_equal_locks_have_no_changes() -> None:
    change = compare_locks(BEFORE, BEFORE, {"n1": None, "n2": None})
    assert change.is_empty
    assert change.left_behind == {}


def test_change_names_images_and_nodes() -> None:
    after = lock("2.10.0", n1=NEW.reference, n2=OLD.reference, n3=NEW.reference)
    change = compare_locks(BEFORE, after, dict.fromkeys(("n1", "n2", "n3")))
    assert (change.torch_before, change.torch_after) == ("2.8.0", "2.10.0")
    assert (change.gone, change.new) == ((), (NEW,))
    assert change.moves == (
        ImageChange(node="n1", before=OLD.reference, after=NEW.reference),
        ImageChange(node="n3", before=None, after=NEW.reference),
    )


def test_rebuilt_tag_is_another_image() -> None:
    rebuilt = OLD.model_copy(update={"lab": NEW.lab})
    after = BEFORE.model_copy(update={"images": (rebuilt,)})
    change = compare_locks(BEFORE, after, {"n1": None, "n2": None})
    assert (change.gone, change.new) == ((OLD,), (rebuilt,))
    assert [move.node for move in change.moves] == ["n1", "n2"]


def test_node_without_an_image_is_left_behind_with_the_reason() -> None:
    change = compare_locks(BEFORE, lock("2.10.0", n1=NEW.reference), {"n1": None, "n2": OFF})
    assert change.left_behind.keys() == {"n2"}
    problem = change.left_behind["n2"]
    assert (problem.code, problem.node) == ("left_behind", "n2")
    assert problem.what == "n2 has an image now, and would have none: no route to host"
    assert "--leave-behind" in problem.fix


def test_node_that_left_the_inventory_is_not_left_behind() -> None:
    change = compare_locks(BEFORE, lock("2.10.0", n1=NEW.reference), {"n1": None})
    assert [move.after for move in change.moves if move.node == "n2"] == [None]
    assert change.left_behind == {}


def test_node_that_never_had_an_image_is_not_left_behind() -> None:
    before = BEFORE.model_copy(update={"unserved": ("n9",)})
    assert compare_locks(before, before, {"n1": None, "n2": None, "n9": OFF}).left_behind == {}


def with_named(**environments: LockedEnvironment) -> Lockfile:
    return BEFORE.model_copy(update={"environments": environments})


def environment(image: LockedImage, *nodes: str, kept_from: str = "") -> LockedEnvironment:
    locked = {node: LockedNode(image=image.reference, gpus=(), capabilities=()) for node in nodes}
    return LockedEnvironment(torch=image.torch, images=(image,), nodes=locked, kept_from=kept_from)


NONE = {"default": {"n1": None, "n2": None}}


@pytest.mark.parametrize(
    ("old", "new", "state"),
    [
        ({}, {"nlp": environment(OLD, "n1")}, "added"),
        ({}, {"nlp": environment(OLD, "n1", kept_from="default")}, "kept"),
        ({"nlp": environment(OLD, "n1")}, {}, "removed"),
        ({"nlp": environment(OLD, "n1")}, {"nlp": environment(NEW, "n1")}, "changed"),
    ],
)
def test_a_named_environment_changes_the_lock(
    old: dict[str, LockedEnvironment], new: dict[str, LockedEnvironment], state: str
) -> None:
    change = compare(with_named(**old), with_named(**new), NONE)
    assert not change.is_empty
    assert (change.moves, change.gone, change.new) == ((), (), ())
    assert change.environments["nlp"].state == state
    assert [move.node for move in change.environments["nlp"].moves] == ["n1"]
    assert list(change.all_left_behind) == []


def test_an_environment_that_stays_is_not_in_the_change() -> None:
    lock = with_named(nlp=environment(OLD, "n1"), old=environment(OLD, "n2", kept_from="default"))
    change = compare(lock, lock, NONE)
    assert change.is_empty
    assert "environments" not in change.model_dump(mode="json")


def test_a_node_that_loses_its_image_of_a_named_environment_is_left_behind() -> None:
    old, new = with_named(nlp=environment(OLD, "n1", "n2")), with_named(nlp=environment(NEW, "n1"))
    change = compare(old, new, {**NONE, "nlp": {"n1": None, "n2": OFF}})
    ((node, problem),) = change.all_left_behind
    assert node == "n2"
    assert problem.what == "n2 has an image of nlp now, and would have none: no route to host"


def test_a_node_that_may_no_longer_run_an_environment_is_not_left_behind() -> None:
    old, new = with_named(nlp=environment(OLD, "n1", "n2")), with_named(nlp=environment(NEW, "n1"))
    assert list(compare(old, new, {**NONE, "nlp": {"n1": None}}).all_left_behind) == []
