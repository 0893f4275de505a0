"""The check of all images before the first change, on a registry that records its requests."""

from collections.abc import Mapping, Sequence

import pytest

from provisioner.domain.lab.lock import LockedImage
from provisioner.domain.registry.image_problems import layer_missing, unreachable
from provisioner.domain.rollout.plan import Action, Plan, Step
from provisioner.domain.seat.document import SeatBundle, SeatDocument
from provisioner.domain.values.event import Event
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport, SyncState
from provisioner.workflow.rollout.plan import PreparedPlan
from provisioner.workflow.rollout.preflight import check_images, images_to_pull
from tests.builders import a_digest, a_locked_image
from tests.workflow.fake_fleet import a_seat

OLD = a_locked_image("mirror.lab:5200/pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime")
NEW = a_locked_image("mirror.lab:5200/pytorch/pytorch:2.10.0-cuda12.8-cudnn9-runtime")
ARM = a_locked_image("mirror.lab:5200/pytorch/pytorch:2.10.0-arm", platform="linux/arm64")
LOST = layer_missing(a_digest("layer"), 7)
SILENT = unreachable("registry.lab:5201", "no connection within 5 s")


class FakeRegistry:
    """Has every image complete, except those in `faults` (by the name of the lab image)."""

    def __init__(self, faults: Mapping[str, tuple[SyncState, Sequence[Problem]]] | None = None) -> None:
        self.faults, self.asked = faults or {}, list[tuple[str, list[str]]]()

    def check(self, references: Sequence[ImageReference], platform: str) -> Sequence[SyncReport]:
        self.asked.append((platform, [str(reference) for reference in references]))
        return [self._report(str(reference), platform) for reference in references]

    def _report(self, name: str, platform: str) -> SyncReport:
        state, problems = self.faults.get(name, (SyncState.COMPLETE, ()))
        return SyncReport(reference=name, platform=platform, state=state, bytes=10**9, problems=tuple(problems))


def prepared(*steps: tuple[Action, LockedImage, int]) -> PreparedPlan:
    """`steps`: action, image and bytes to pull."""
    made = [
        Step(node=f"n{place}", seat="s", action=action, why="", bytes_to_pull=size)
        for place, (action, _, size) in enumerate(steps)
    ]
    bundles = {
        f"n{place}": {"s": SeatBundle(seat=a_seat(f"n{place}"), image=image, document=SeatDocument(files={}))}
        for place, (_, image, _) in enumerate(steps)
    }
    return PreparedPlan(Plan(lab="demo", image=None, steps=tuple(made)), bundles)


def check_planned(
    registry: FakeRegistry, *steps: tuple[Action, LockedImage, int], only_certain: bool = False
) -> list[Event]:
    news: list[Event] = []
    check_images(
        images_to_pull(prepared(*steps)), registry, news.append, fix="provision lock demo", only_certain=only_certain
    )
    return news


def test_each_image_to_be_pulled_is_checked_once_and_by_digest() -> None:
    registry = FakeRegistry()
    news = check_planned(registry, ("create", OLD, 5), ("update", OLD, 5), ("update", NEW, 5), ("create", ARM, 5))
    assert registry.asked == [("linux/amd64", [OLD.lab, NEW.lab]), ("linux/arm64", [ARM.lab])]
    assert all("@sha256:" in name for _, names in registry.asked for name in names)
    assert [event.kind for event in news] == ["started", "done"]
    assert "3 GB to pull" in news[-1].text


@pytest.mark.parametrize(
    "step", [("keep", OLD, 5), ("skip", OLD, 5), ("defer", OLD, 5), ("restart", OLD, 0), ("update", OLD, 0)]
)
def test_an_image_that_no_step_pulls_is_not_checked(step: tuple[Action, LockedImage, int]) -> None:
    registry = FakeRegistry()
    assert check_planned(registry, step) == []
    assert registry.asked == []


def test_an_image_of_unknown_size_is_checked() -> None:
    registry = FakeRegistry()
    check_planned(registry, ("create", a_locked_image(OLD.reference, bytes=0), 0))
    assert registry.asked == [("linux/amd64", [OLD.lab])]


@pytest.mark.parametrize("state", [state for state in SyncState if state is not SyncState.COMPLETE])
def test_an_incomplete_image_ends_the_run_with_the_image_and_how_to_restore_it(state: SyncState) -> None:
    registry = FakeRegistry({NEW.lab: (state, [LOST.problem])})
    with pytest.raises(ProblemError) as ended:
        check_planned(registry, ("create", OLD, 5), ("create", NEW, 5))
    (problem,) = ended.value.problems
    assert (ended.value.ending, problem.code) == ("failed", "not_on_registry")
    assert all(word in problem.what for word in (NEW.reference, NEW.lab, a_digest("layer")))
    assert "none was touched" in problem.why
    assert problem.fix.startswith("provision lock demo")


def test_an_incomplete_image_without_a_reason_is_reported() -> None:
    with pytest.raises(ProblemError) as ended:
        check_planned(FakeRegistry({NEW.lab: (SyncState.UNKNOWN, [])}), ("create", NEW, 5))
    assert NEW.reference in ended.value.problems[0].what


def test_only_certain_faults_end_the_run_where_the_registry_may_be_out_of_reach() -> None:
    silent = FakeRegistry({NEW.lab: (SyncState.UNKNOWN, [SILENT.problem])})
    assert [event.kind for event in check_planned(silent, ("create", NEW, 5), only_certain=True)] == ["started", "note"]
    gone = FakeRegistry({NEW.lab: (SyncState.PARTIAL, [LOST.problem])})
    with pytest.raises(ProblemError):
        check_planned(gone, ("create", NEW, 5), only_certain=True)
