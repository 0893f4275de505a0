"""Garbage collection: which images of a lab's registry stay, and how many bytes the others hold."""

from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.lab.lock import LockedEnvironment
from provisioner.domain.registry.gc import HeldImage, ImageUsers, find_users, has_complete_facts, sweep
from provisioner.domain.registry.manifest import Blob
from provisioner.domain.values.node import NodeFacts, RunningSeat
from tests.builders import a_digest, a_lock, a_locked_image, a_node

REGISTRY = "registry.lab:5201/provisioner/lab"


def at(name: str) -> str:
    return f"{REGISTRY}@{a_digest(name)}"


def held(name: str, *layers: tuple[str, int], children: tuple[str, ...] = ()) -> HeldImage:
    blobs = tuple(Blob(digest=a_digest(layer), size=size) for layer, size in layers)
    return HeldImage(digest=a_digest(name), tags=(name,), blobs=blobs, children=tuple(map(a_digest, children)))


def a_seat(image: str) -> RunningSeat:
    return RunningSeat(name="demo-student", generation=3, image=at(image))


def node(name: str, *kept: str, runs: str | None = None) -> NodeFacts:
    return a_node(name, kept=tuple(map(at, kept)), seats=() if runs is None else (a_seat(runs),))


def test_image_stays_if_a_lock_names_it_or_a_node_can_roll_back_to_it() -> None:
    lock = a_lock(a_locked_image(lab=at("new")))
    other = a_lock(a_locked_image(lab=at("other")))
    users = find_users(
        {"lab.lock": lock, "other.lock": other}, [node("n1", "new", "old", runs="new"), node("n2", "old")]
    )
    images = [held(name) for name in ("older", "old", "new", "other")]
    kept, removed, _ = sweep(images, users)
    assert {image.tags[0]: image.because for image in kept} == {
        "old": ("node n1", "node n2"),
        "new": ("lock lab.lock", "node n1"),
        "other": ("lock other.lock",),
    }
    assert [image.tags for image in removed] == [("older",)]


def test_images_of_named_and_kept_environments_stay() -> None:
    course = LockedEnvironment(images=(a_locked_image(lab=at("nlp")),))
    old = LockedEnvironment(images=(a_locked_image(lab=at("old")),), kept_from="default")
    lock = a_lock().model_copy(update={"environments": {"nlp": course, "2026s": old}})
    kept, removed, _ = sweep([held(name) for name in ("nlp", "old", "older")], find_users({"lab.lock": lock}, []))
    assert [image.tags[0] for image in kept] == ["nlp", "old"]
    assert [image.tags[0] for image in removed] == ["older"]


def test_facts_are_incomplete_if_a_generation_has_no_digest() -> None:
    assert has_complete_facts(node("n1"))
    assert has_complete_facts(node("n1", "old", "new"))
    assert not has_complete_facts(a_node("n1", kept=(at("old"), "unknown")))


def test_layers_shared_with_a_kept_image_are_not_counted_as_freed() -> None:
    users: ImageUsers = {a_digest("new"): ["lock"]}
    images = [
        held("new", ("base", 100), ("top", 10)),
        held("old", ("base", 100), ("older top", 7)),
        held("oldest", ("older top", 7), ("alone", 1)),
    ]
    kept, removed, size = sweep(images, users)
    assert ([image.bytes for image in kept], [image.bytes for image in removed], size) == ([110], [107, 8], 8)


def test_manifests_of_a_kept_index_stay() -> None:
    images = [held("index", children=("amd64", "arm64")), held("amd64"), held("s390x")]
    kept, removed, _ = sweep(images, {a_digest("index"): ["lock"]})
    assert [image.tags[0] for image in kept] == ["index", "amd64"]
    assert [image.tags[0] for image in removed] == ["s390x"]


NAMES = st.sampled_from("abcdefgh")


@given(
    st.dictionaries(NAMES, st.lists(st.tuples(NAMES, st.integers(0, 9)), max_size=4)),
    st.sets(NAMES),
)
def test_used_images_stay_and_every_image_is_kept_or_removed(
    contents: dict[str, list[tuple[str, int]]], names: set[str]
) -> None:
    images = [held(name, *layers) for name, layers in contents.items()]
    kept, removed, size = sweep(images, {a_digest(name): ["lock"] for name in names})
    assert {image.digest for image in kept} == {a_digest(name) for name in names & set(contents)}
    assert len(kept) + len(removed) == len(images)
    assert 0 <= size <= sum(image.bytes for image in removed)
