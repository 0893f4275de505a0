import pytest

from provisioner.domain.values.problem import ProblemError
from provisioner.workflow.me import Account, build_personal_lab
from tests.builders import a_lock


def test_a_personal_seat_listens_on_loopback_and_runs_as_its_user() -> None:
    lab = build_personal_lab(a_lock(), Account(user="li", uid=4242, gid=4242))
    assert (lab.seat.user, lab.seat.uid, lab.seat.gid) == ("li", 4242, 4242)
    assert {lab.services.ssh.bind, lab.services.jupyter.bind} == {"loopback"}
    assert (lab.name, lab.registry.address, lab.registry.repository) == ("demo", "registry.lab:5201", "provisioner/lab")


def test_root_gets_the_default_seat_of_a_rollout() -> None:
    assert build_personal_lab(a_lock(), None).seat.uid == 1000


def test_a_lock_without_an_image_is_refused() -> None:
    with pytest.raises(ProblemError) as ended:
        build_personal_lab(a_lock().model_copy(update={"images": ()}), None)
    assert [problem.code for problem in ended.value.problems] == ["empty_lock"]
