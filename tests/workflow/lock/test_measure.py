"""Measuring images, with an engine and a registry that record what they are asked for."""

from dataclasses import dataclass, field

import pytest

from provisioner.adapters.lab.compatibility_data import load
from provisioner.domain.registry.catalog import Listing
from provisioner.domain.selection.measured import ImageMeasurement, to_row
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.measured import Measured, Measurement
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport, SyncState
from provisioner.domain.values.version import CudaVersion
from provisioner.workflow.lock.measure import measure_images
from tests.builders import TAG, a_digest

DATA = load()
GONE = Problem("unreachable", "no answer", "it is away", "try again")
FOUND = Measured(
    torch="2.10.0+cu128",
    cuda=CudaVersion("12.8"),
    targets=("sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"),
)
PRIVATE = "registry.lab:5000/ours/train:7"


@dataclass
class FakeEngine:
    """An engine with the images of `has` (name -> digests), and a registry with those of `offered` (name -> digest)."""

    has: dict[str, tuple[str, ...]] = field(default_factory=dict)
    offered: dict[str, str] = field(default_factory=dict)
    found: Measurement = field(default_factory=lambda: Measurement(measured=FOUND, how="library"))
    calls: list[str] = field(default_factory=list)

    def platform(self) -> str:
        return "linux/amd64"

    def digests(self, reference: ImageReference) -> tuple[str, ...] | None:
        return self.has.get(reference.by_digest() if reference.digest else str(reference))

    def pull(self, reference: ImageReference, size: int) -> None:
        self.calls.append(f"pull {reference.by_digest()} {size}")
        if "broken" in str(reference):
            raise ProblemError(Problem("pull_failed", "-", "-", "-"))

    def measure(self, reference: str, script: str) -> Measurement:
        self.calls.append(f"{script} {reference}")
        return self.found

    def inspect(self, reference: ImageReference, platform: str) -> Listing:
        digest = self.offered.get(str(reference))
        state = SyncState.UNKNOWN if digest is None else SyncState.COMPLETE
        problems = (GONE,) if digest is None else ()
        report = SyncReport(
            reference=str(reference), platform=platform, state=state, digest=digest, bytes=7, problems=problems
        )
        return Listing(image=TaggedImage(reference=str(reference), digest=digest), report=report)

    def images(self, *names: str) -> list[ImageMeasurement]:
        references = [ImageReference.parse(name) for name in names]
        return measure_images(references, self, self.inspect, "script", DATA)


def test_an_image_is_pulled_and_measured_by_the_digest_of_its_platform() -> None:
    engine = FakeEngine(offered={TAG: a_digest("image")})
    (found,) = engine.images(TAG)
    name = f"mirror.lab:5200/pytorch/pytorch@{a_digest('image')}"
    assert engine.calls == [f"pull {name} 7", f"script {name}"]
    assert (found.digest, found.measured, found.how) == (a_digest("image"), FOUND, "library")
    assert (found.differences, found.problems) == ((), ())
    row = to_row(found, "2026-12-01")
    assert row is not None
    assert (row.image, row.digest, row.platform, row.targets) == (TAG, a_digest("image"), "linux/amd64", FOUND.targets)
    assert row.source == "provision facts measure, 2026-12-01: the list of targets in its library"


def test_an_image_that_is_present_is_not_pulled() -> None:
    name = f"mirror.lab:5200/pytorch/pytorch@{a_digest('image')}"
    engine = FakeEngine(has={name: (a_digest("image"),)}, offered={TAG: a_digest("image")})
    engine.images(TAG)
    assert engine.calls == [f"script {name}"]


def test_an_image_of_the_engine_is_measured_where_its_registry_does_not_answer() -> None:
    engine = FakeEngine(has={PRIVATE: (a_digest("pushed"),), "train:7": ()})
    with_digest, without = engine.images(PRIVATE, "train:7")
    assert engine.calls == [f"script registry.lab:5000/ours/train@{a_digest('pushed')}", "script train:7"]
    assert (with_digest.digest, with_digest.problems) == (a_digest("pushed"), ())
    assert without.measured == FOUND
    assert [problem.code for problem in without.problems] == ["no_digest"]
    assert to_row(without, "2026-12-01") is None


def test_each_image_that_cannot_be_measured_has_its_problems_and_the_others_go_on() -> None:
    broken = "mirror.lab:5200/broken:1"
    engine = FakeEngine(offered={TAG: a_digest("image"), broken: a_digest("broken")})
    found = engine.images(PRIVATE, "train:7", broken, TAG)
    codes = [[problem.code for problem in each.problems] for each in found]
    assert codes == [["unreachable"], ["no_image"], ["pull_failed"], []]
    assert [each.measured for each in found] == [None, None, None, FOUND]


def test_an_image_without_torch_is_unmeasured() -> None:
    engine = FakeEngine(offered={TAG: a_digest("image")}, found=Measurement(reason="it has no torch"))
    (found,) = engine.images(TAG)
    (problem,) = found.problems
    assert (problem.code, "it has no torch" in problem.what) == ("unmeasured", True)
    assert to_row(found, "2026-12-01") is None


@pytest.mark.parametrize(
    ("name", "differences"),
    [
        (TAG, ()),
        (PRIVATE, None),
        ("mirror.lab:5200/pytorch/pytorch:0.4.1-cuda9-cudnn7-runtime", None),
        (
            "mirror.lab:5200/pytorch/pytorch:2.10.0-cuda12.6-cudnn9-runtime",
            ("CUDA 12.6 is expected", "compute capability 5.0", "5.2", "6.0", "6.1"),
        ),
    ],
)
def test_what_the_data_says_of_a_measured_image(name: str, differences: tuple[str, ...] | None) -> None:
    (found,) = FakeEngine(offered={name: a_digest("image")}).images(name)
    if differences is None or found.differences is None:
        assert found.differences == differences
    else:
        for words, text in zip(differences, found.differences, strict=True):
            assert words in text
