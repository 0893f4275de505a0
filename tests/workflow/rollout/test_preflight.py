"""The last look before the first node is touched, on a registry that remembers what it was asked."""

from collections.abc import Mapping, Sequence

import pytest

from provisioner.domain.lab.lock import LockedImage
from provisioner.domain.registry.image_problems import layer_missing, unreachable
from provisioner.domain.rollout.plan import Action, Plan, Step
from provisioner.domain.seat.seat import SeatBundle
from provisioner.domain.values.event import Event
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport, SyncState
from provisioner.workflow.rollout.plan import PreparedPlan
from provisioner.workflow.rollout.preflight import confirm, to_pull
from tests.builders import a_digest, a_locked_image
from tests.workflow.fake_fleet import a_seat

OLD = a_locked_image("mirror.lab:5200/pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime")
NEW = a_locked_image("mirror.lab:5200/pytorch/pytorch:2.10.0-cuda12.8-cudnn9-runtime")
ARM = a_locked_image("mirror.lab:5200/pytorch/pytorch:2.10.0-arm", platform="linux/arm64")
LOST = layer_missing(a_digest("layer"), 7)
SILENT = unreachable("registry.lab:5201", "no connection within 5 s")


class AShelf:
    """Has every image, but for those whose fault is given (by the lab image's name)."""

    def __init__(self, faults: Mapping[str, tuple[SyncState, Sequence[Problem]]] | None = None) -> None:
        self.faults, self.asked = faults or {}, list[tuple[str, list[str]]]()

    def check(self, references: Sequence[ImageReference], platform: str) -> Sequence[SyncReport]:
        self.asked.append((platform, [str(reference) for reference in references]))
        return [self._report(str(reference), platform) for reference in references]

    def _report(self, name: str, platform: str) -> SyncReport:
        state, problems = self.faults.get(name, (SyncState.COMPLETE, ()))
        return SyncReport(reference=name, platform=platform, state=state, bytes=10**9, problems=tuple(problems))


def prepared(*steps: tuple[Action, LockedImage, int]) -> PreparedPlan:
    """`steps`: what is to be done, with which image, and how much of it is to be pulled."""
    made = [
        Step(node=f"n{place}", seat="s", action=action, why="", bytes_to_pull=size)
        for place, (action, _, size) in enumerate(steps)
    ]
    bundles = {
        f"n{place}": SeatBundle(seat=a_seat(f"n{place}"), image=image, files={})
        for place, (_, image, _) in enumerate(steps)
    }
    return PreparedPlan(Plan(lab="demo", image=None, steps=tuple(made)), bundles)


def looked(shelf: AShelf, *steps: tuple[Action, LockedImage, int], certain: bool = False) -> list[Event]:
    news: list[Event] = []
    confirm(to_pull(prepared(*steps)), shelf, news.append, again="provision lock demo", certain=certain)
    return news


def test_each_image_that_is_to_be_pulled_is_looked_at_once_and_by_digest() -> None:
    shelf = AShelf()
    news = looked(shelf, ("create", OLD, 5), ("update", OLD, 5), ("update", NEW, 5), ("create", ARM, 5))
    assert shelf.asked == [("linux/amd64", [OLD.lab, NEW.lab]), ("linux/arm64", [ARM.lab])]
    assert all("@sha256:" in name for _, names in shelf.asked for name in names)
    assert [event.kind for event in news] == ["started", "done"]
    assert "3 GB to be pulled" in news[-1].text


@pytest.mark.parametrize(
    "step", [("keep", OLD, 5), ("skip", OLD, 5), ("defer", OLD, 5), ("restart", OLD, 0), ("update", OLD, 0)]
)
def test_what_nobody_pulls_is_not_asked_for(step: tuple[Action, LockedImage, int]) -> None:
    shelf = AShelf()
    assert looked(shelf, step) == []
    assert shelf.asked == []


def test_an_image_of_unknown_size_counts_as_to_be_pulled() -> None:
    shelf = AShelf()
    looked(shelf, ("create", a_locked_image(OLD.reference, bytes=0), 0))
    assert shelf.asked == [("linux/amd64", [OLD.lab])]


@pytest.mark.parametrize("state", [state for state in SyncState if state is not SyncState.COMPLETE])
def test_anything_but_complete_ends_the_run_and_says_what_and_how_to_get_it_back(state: SyncState) -> None:
    shelf = AShelf({NEW.lab: (state, [LOST.problem])})
    with pytest.raises(ProblemError) as ended:
        looked(shelf, ("create", OLD, 5), ("create", NEW, 5))
    (problem,) = ended.value.problems
    assert (ended.value.ending, problem.code) == ("failed", "not_on_registry")
    assert all(word in problem.what for word in (NEW.reference, NEW.lab, a_digest("layer")))
    assert "none was touched" in problem.why
    assert problem.fix.startswith("provision lock demo")


def test_a_state_without_a_word_is_told_all_the_same() -> None:
    with pytest.raises(ProblemError) as ended:
        looked(AShelf({NEW.lab: (SyncState.UNKNOWN, [])}), ("create", NEW, 5))
    assert NEW.reference in ended.value.problems[0].what


def test_who_may_not_be_able_to_ask_is_stopped_only_by_what_is_certain() -> None:
    silent = AShelf({NEW.lab: (SyncState.UNKNOWN, [SILENT.problem])})
    assert [event.kind for event in looked(silent, ("create", NEW, 5), certain=True)] == ["started", "note"]
    gone = AShelf({NEW.lab: (SyncState.PARTIAL, [LOST.problem])})
    with pytest.raises(ProblemError):
        looked(gone, ("create", NEW, 5), certain=True)
