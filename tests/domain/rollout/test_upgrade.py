from provisioner.domain.lab.lock import LockedNode, Lockfile
from provisioner.domain.rollout.upgrade import Move, lock_change
from provisioner.domain.values.problem import Problem
from tests.builders import a_lock, a_locked_image

OLD = a_locked_image("m/p:2.8.0-cuda12.8", torch="2.8.0")
NEW = a_locked_image("m/p:2.10.0-cuda12.8", torch="2.10.0")
OLDEST = a_locked_image("m/p:2.8.0-cuda11.8", torch="2.8.0")
OFF = Problem("unreachable", "no route to host", "w", "switch it on")


def lock(torch: str, **nodes: str) -> Lockfile:
    images = [image for image in (OLDEST, OLD, NEW) if image.reference in nodes.values()]
    held = {node: LockedNode(image=image, gpus=(), capabilities=()) for node, image in nodes.items()}
    return a_lock(*images, nodes=held).model_copy(update={"torch": torch})


BEFORE = lock("2.8.0", n1=OLD.reference, n2=OLD.reference)


def test_the_same_lock_changes_nothing() -> None:
    change = lock_change(BEFORE, BEFORE, {"n1": None, "n2": None})
    assert change.is_empty
    assert change.left_behind == {}


def test_what_changes_and_for_whom() -> None:
    after = lock("2.10.0", n1=NEW.reference, n2=OLD.reference, n3=NEW.reference)
    change = lock_change(BEFORE, after, dict.fromkeys(("n1", "n2", "n3")))
    assert (change.torch_before, change.torch_after) == ("2.8.0", "2.10.0")
    assert (change.gone, change.new) == ((), (NEW,))
    assert change.moves == (
        Move(node="n1", before=OLD.reference, after=NEW.reference),
        Move(node="n3", before=None, after=NEW.reference),
    )


def test_the_same_tag_built_anew_is_another_image() -> None:
    rebuilt = OLD.model_copy(update={"lab": NEW.lab})
    after = BEFORE.model_copy(update={"images": (rebuilt,)})
    change = lock_change(BEFORE, after, {"n1": None, "n2": None})
    assert (change.gone, change.new) == ((OLD,), (rebuilt,))
    assert [move.node for move in change.moves] == ["n1", "n2"]


def test_a_node_that_would_lose_its_image_is_named_with_the_reason() -> None:
    change = lock_change(BEFORE, lock("2.10.0", n1=NEW.reference), {"n1": None, "n2": OFF})
    assert change.left_behind.keys() == {"n2"}
    problem = change.left_behind["n2"]
    assert problem.code == "left_behind"
    assert problem.what == "n2 has an image now, and would have none: no route to host"
    assert "--leave-behind" in problem.fix


def test_a_node_that_left_the_inventory_is_left_behind_by_nobody() -> None:
    change = lock_change(BEFORE, lock("2.10.0", n1=NEW.reference), {"n1": None})
    assert [move.after for move in change.moves if move.node == "n2"] == [None]
    assert change.left_behind == {}


def test_a_node_without_an_image_before_and_after_loses_none() -> None:
    before = BEFORE.model_copy(update={"unserved": ("n9",)})
    assert lock_change(before, before, {"n1": None, "n2": None, "n9": OFF}).left_behind == {}
