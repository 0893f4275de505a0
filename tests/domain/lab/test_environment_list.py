"""The list of environments, and which of them can be removed."""

import pytest

from provisioner.domain.lab.environment_list import list_environments, removal_problem
from provisioner.domain.lab.lock import LockedEnvironment, LockedNode
from tests.builders import TAG, a_lab, a_lock, a_locked_image

NODE = LockedNode(image=TAG, gpus=("GPU-1",), capabilities=())
NAMED = {
    "nlp": LockedEnvironment(torch="2.8.0", images=(a_locked_image(),), nodes={"n2": NODE, "n1": NODE}),
    "gone": LockedEnvironment(unserved=("n3",)),
    "2026s": LockedEnvironment(torch="2.8.0", kept_from="default"),
}
LAB = a_lab(environments={"nlp": {}, "cv": {}})
LOCK = a_lock().model_copy(update={"environments": NAMED})


def test_environments_of_lab_yml_come_first_and_then_those_of_the_lock() -> None:
    found = list_environments(LAB, LOCK).environments
    assert [(one.name, one.in_lab, one.locked, one.kept_from) for one in found] == [
        ("default", True, True, ""),
        ("nlp", True, True, ""),
        ("cv", True, False, ""),
        ("2026s", False, True, "default"),
        ("gone", False, True, ""),
    ]
    assert (found[1].nodes, found[1].images, found[1].torch) == (("n1", "n2"), (TAG,), "2.8.0")


def test_a_lab_without_a_lock_has_environments_that_are_not_locked() -> None:
    assert [(one.name, one.locked) for one in list_environments(LAB, None).environments] == [
        ("default", False),
        ("nlp", False),
        ("cv", False),
    ]


@pytest.mark.parametrize(
    ("name", "users", "code"),
    [
        ("default", (), "is_default"),
        ("nlp", (), "in_lab_yml"),
        ("cv", (), "in_lab_yml"),
        ("2026", (), "unknown_environment"),
        ("gone", (), "not_kept"),
        ("2026s", ("anna (row 2)",), "environment_in_use"),
        ("2026s", (), ""),
    ],
)
def test_only_what_was_kept_and_is_named_by_no_seat_can_be_removed(
    name: str, users: tuple[str, ...], code: str
) -> None:
    problem = removal_problem(name, LAB, LOCK, users)
    assert (problem.code if problem else "") == code


def test_many_users_are_counted() -> None:
    problem = removal_problem("2026s", LAB, LOCK, tuple(f"p{number}" for number in range(8)))
    assert problem is not None
    assert problem.what == "2026s is named by p0, p1, p2, p3, p4 and 3 more"
