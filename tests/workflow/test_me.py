import pytest

from provisioner.domain.values.problem import ProblemError
from provisioner.workflow.me import Person, lab_of_one
from tests.builders import a_lock


def test_a_seat_of_ones_own_is_on_loopback_and_runs_as_oneself() -> None:
    lab = lab_of_one(a_lock(), Person(user="li", uid=4242, gid=4242))
    assert (lab.seat.user, lab.seat.uid, lab.seat.gid) == ("li", 4242, 4242)
    assert {lab.services.ssh.bind, lab.services.jupyter.bind} == {"loopback"}
    assert (lab.name, lab.registry.address, lab.registry.repository) == ("demo", "registry.lab:5201", "provisioner/lab")


def test_root_makes_the_seat_that_a_rollout_would_make() -> None:
    assert lab_of_one(a_lock(), None).seat.uid == 1000


def test_a_lock_without_an_image_has_nothing_to_give() -> None:
    with pytest.raises(ProblemError) as ended:
        lab_of_one(a_lock().model_copy(update={"images": ()}), None)
    assert [problem.code for problem in ended.value.problems] == ["empty_lock"]
