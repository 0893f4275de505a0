import pytest

from provisioner.domain.values.problem import ProblemError
from provisioner.workflow.me import Account, build_personal_lab, choose_environment
from tests.builders import a_lock, a_lock_of, a_locked_image


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


IMAGE = a_locked_image()


@pytest.mark.parametrize(
    ("asked", "running", "chosen"),
    [(None, "", "default"), (None, "nlp", "nlp"), ("nlp", "", "nlp"), ("default", "nlp", "default")],
)
def test_the_environment_is_the_one_that_is_asked_for_else_that_of_the_seat(
    asked: str | None, running: str, chosen: str
) -> None:
    assert choose_environment(a_lock_of(default=IMAGE, nlp=IMAGE), asked, running) == chosen


@pytest.mark.parametrize(("asked", "running"), [("nlpp", ""), (None, "nlpp")])
def test_an_environment_that_the_lock_does_not_have_is_an_error_that_lists_them(
    asked: str | None, running: str
) -> None:
    with pytest.raises(ProblemError) as ended:
        choose_environment(a_lock_of(default=IMAGE, nlp=IMAGE), asked, running)
    (problem,) = ended.value.problems
    assert problem.what == 'the lock of demo has no environment nlpp; did you mean "nlp"?'
    assert problem.fix == "choose with --env one of: default, nlp"


def test_a_lock_whose_default_has_no_image_serves_the_others() -> None:
    lock = a_lock_of(default=IMAGE, nlp=IMAGE).model_copy(update={"images": ()})
    assert choose_environment(lock, None, "") == "nlp"
    assert build_personal_lab(lock, None).registry.address == "registry.lab:5201"
