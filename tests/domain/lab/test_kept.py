"""Environments that an upgrade keeps: which stay, who may have them, and which names are free."""

import pytest

from provisioner.domain.lab.kept import (
    allowed_environments,
    elsewhere_problems,
    keep_default,
    keep_problem,
    kept_environments,
    name_origins,
)
from provisioner.domain.lab.lock import LockedEnvironment, LockedNode, Lockfile
from tests.builders import TAG, a_digest, a_lock, a_locked_image


def with_named(**kept_from: str) -> Lockfile:
    named = {name: LockedEnvironment(torch="2.8.0", kept_from=origin) for name, origin in kept_from.items()}
    return a_lock().model_copy(update={"environments": named})


LOCK = with_named(nlp="", old="default", older="default", nlp25="nlp")


def test_only_kept_environments_are_kept_in_the_order_of_their_names() -> None:
    assert list(kept_environments(LOCK)) == ["nlp25", "old", "older"]
    assert kept_environments(None) == kept_environments(a_lock()) == {}


@pytest.mark.parametrize(
    ("names", "allowed"),
    [
        (("default",), ("default", "old", "older")),
        (("nlp",), ("nlp", "nlp25")),
        (("nlp", "default", "nlp"), ("nlp", "default", "nlp25", "old", "older")),
        (("cv",), ("cv",)),
        ((), ()),
    ],
)
def test_a_group_may_have_what_was_kept_from_its_environments(names: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    assert allowed_environments(names, LOCK) == allowed
    assert allowed_environments(names, None) == tuple(dict.fromkeys(names))


def test_a_kept_name_follows_the_permission_of_its_origin() -> None:
    assert name_origins(("default", "nlp"), LOCK) == {
        "default": "default",
        "nlp": "nlp",
        "nlp25": "nlp",
        "old": "default",
        "older": "default",
    }


def test_default_is_kept_as_it_is_beside_what_was_kept_before() -> None:
    node = LockedNode(image=TAG, gpus=("GPU-1",), capabilities=())
    lock = with_named(old="default", nlp="").model_copy(update={"nodes": {"n1": node}, "unserved": ("n2",)})
    kept = keep_default(lock, "2026s")
    assert list(kept) == ["old", "2026s"]
    assert kept["2026s"].kept_from == "default"
    assert (kept["2026s"].images, kept["2026s"].nodes, kept["2026s"].unserved) == (lock.images, lock.nodes, ("n2",))


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("default", "lab.yml has an environment default"),
        ("cv", "lab.yml has an environment cv"),
        ("old", "lab.lock has an environment old that was kept before"),
        ("nlp", "lab.lock has an environment nlp"),  # lab.yml no longer names it, and seats may still run it
        ("2026s", ""),
    ],
)
def test_a_name_that_stands_for_another_image_is_refused(name: str, taken: str) -> None:
    problem = keep_problem(name, ("default", "cv"), LOCK)
    assert (problem.what if problem else "") == (f"--keep-as {name}: {taken}" if taken else "")


def test_kept_images_in_another_registry_are_named() -> None:
    moved = a_locked_image(lab=f"old.lab:5000/provisioner/lab@{a_digest('x')}")
    kept = {
        "old": LockedEnvironment(images=(a_locked_image(), moved), kept_from="default"),
        "here": LockedEnvironment(images=(a_locked_image(),), kept_from="default"),
    }
    (problem,) = elsewhere_problems(kept, "registry.lab:5201")
    assert problem.code == "kept_elsewhere"
    assert "kept environment old lie in old.lab:5000, and lab.yml names registry.lab:5201" in problem.what
