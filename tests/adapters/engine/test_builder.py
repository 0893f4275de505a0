"""What LabImageBuilder pulls, builds and pushes, with a fake engine and registry that record their calls."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from provisioner.adapters.engine.base_image import BaseFacts
from provisioner.adapters.engine.builder import INPUTS_LABEL, LabImageBuilder
from provisioner.adapters.resources import templates
from provisioner.adapters.templates import read_templates
from provisioner.domain.lab.lab import ImageSettings, Registry
from provisioner.domain.lab.lock import LockedImage
from provisioner.domain.registry.catalog import Listing
from provisioner.domain.values.event import Event
from provisioner.domain.values.image import ImageConfig, ImageFacts, TaggedImage
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport, SyncState
from tests.builders import TAG, a_digest

TEMPLATES = read_templates(templates())
BASE = a_digest("base")
ENV = {"PYTORCH_VERSION": "2.10.0", "HOME": "/root"}
HISTORY = ("ADD rootfs", "COPY torch")
SSHD_ONLY = BaseFacts(
    python="/usr/bin/python3", version="3.12.3", machine="x86_64", glibc="2.39", jupyter=True, sshd=False, apt=True
)
COMPLETE = SSHD_ONLY.model_copy(update={"sshd": True})


def a_listing(reference: str, digest: str | None = BASE, state: SyncState = SyncState.COMPLETE) -> Listing:
    image = TaggedImage(reference=reference, digest=digest, env=ENV, labels={}, history=HISTORY)
    broken = Problem("layer_missing", "a layer is missing", "-", "-")
    report = SyncReport(
        reference=reference,
        platform="linux/amd64",
        state=state,
        digest=digest,
        bytes=4_260,
        problems=() if state is SyncState.COMPLETE else (broken,),
    )
    return Listing(image=image, report=report)


@dataclass
class FakeEngine:
    """An engine and the registry that it pushes to. `calls` lists what the engine was asked to do."""

    base: BaseFacts = COMPLETE
    images: dict[str, ImageConfig] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    context: dict[str, str] = field(default_factory=dict)
    arguments: Mapping[str, str] = field(default_factory=dict)
    built: dict[str, ImageConfig] = field(default_factory=dict)

    def config(self, reference: ImageReference, platform: str) -> ImageConfig | None:
        assert platform == "linux/amd64"
        return self.images.get(str(reference))

    def inspect(self, reference: ImageReference, platform: str) -> Listing:
        assert platform == "linux/amd64"
        exists = str(reference) in self.images
        state = SyncState.PARTIAL if str(reference) in self.broken else SyncState.COMPLETE
        digest = a_digest(str(reference)) if exists else None
        return a_listing(str(reference), digest, state if exists else SyncState.ABSENT)

    def pull(self, reference: ImageReference, size: int) -> None:
        self.calls.append(f"pull {reference.by_digest()} {size}")

    def base_facts(self, reference: str, script: str) -> BaseFacts:
        assert "Print what a base image already contains" in script
        self.calls.append(f"inspect {reference}")
        return self.base

    def build(
        self, context: Path, target: ImageReference, arguments: Mapping[str, str], labels: Mapping[str, str]
    ) -> None:
        self.calls.append(f"build {target}")
        self.context = {path.name: path.read_text() for path in context.iterdir() if path.is_file()}
        self.arguments = arguments
        self.built[str(target)] = ImageConfig(labels=dict(labels), diff_ids=(a_digest("layer"),))

    def tag(self, reference: str, target: ImageReference) -> None:
        self.calls.append(f"tag {reference} {target}")
        self.built[str(target)] = ImageConfig(env=ENV, history=HISTORY)

    def push(self, target: ImageReference) -> None:
        self.calls.append(f"push {target}")
        self.images[str(target)] = self.built[str(target)]
        self.broken.discard(str(target))

    def close(self) -> None:
        self.calls.append("close")

    def builder(self, settings: ImageSettings | None = None, changed: Mapping[str, str] = TEMPLATES) -> LabImageBuilder:
        self.events: list[Event] = []
        return LabImageBuilder(
            Registry(address="registry.lab:5201"),
            settings or ImageSettings(),
            lookup=self,
            engine=lambda: self,
            templates={**TEMPLATES, **changed},
            facts=lambda image: ImageFacts(reference=image.reference, torch="2.10.0", cuda="12.8"),
            on_event=self.events.append,
        )

    def lab_image(self, settings: ImageSettings | None = None, changed: Mapping[str, str] = TEMPLATES) -> LockedImage:
        return self.builder(settings, changed).lab_image(a_listing(TAG))


def target_of(image: LockedImage) -> str:
    return f"registry.lab:5201/provisioner/lab:{TAG.rpartition(':')[2]}-{image.inputs[:12]}"


def test_a_complete_base_is_copied_and_not_built() -> None:
    engine = FakeEngine()
    image = engine.lab_image()
    base, target = image.base, target_of(image)
    assert base == f"mirror.lab:5200/pytorch/pytorch@{BASE}"
    assert engine.calls == [f"pull {base} 4260", f"inspect {base}", f"tag {base} {target}", f"push {target}", "close"]
    assert image.lab == f"registry.lab:5201/provisioner/lab@{a_digest(target)}"
    assert (image.torch, str(image.cuda), image.env) == ("2.10.0", "12.8", {"PYTORCH_VERSION": "2.10.0"})


def test_a_base_declared_complete_in_lab_yml_is_not_inspected() -> None:
    engine = FakeEngine(base=SSHD_ONLY)
    engine.lab_image(ImageSettings(complete=True))
    assert [call.split()[0] for call in engine.calls] == ["pull", "tag", "push", "close"]


def test_only_missing_parts_are_added_to_the_base() -> None:
    engine = FakeEngine(base=SSHD_ONLY)
    image = engine.lab_image(ImageSettings(apt_mirror="mirrors.example.edu"))
    assert [call.split()[0] for call in engine.calls] == ["pull", "inspect", "build", "push", "close"]
    assert "install_sshd.sh" in engine.context["Dockerfile"]
    assert "lab_env.py" not in engine.context["Dockerfile"]
    assert engine.arguments == {
        "BASE": image.base,
        "APT_MIRROR": "http://mirrors.example.edu",
        "PYTHON": "/usr/bin/python3",
    }
    assert image.rootfs == (a_digest("layer"),)


@pytest.mark.parametrize("base", [COMPLETE, SSHD_ONLY])
def test_an_image_built_before_is_found_and_not_built_again(base: BaseFacts) -> None:
    engine = FakeEngine(base=base)
    first = engine.lab_image()
    engine.calls.clear()
    assert engine.lab_image() == first
    assert engine.calls == []
    assert [event.kind for event in engine.events] == ["skipped"]


def test_the_apt_mirror_does_not_change_the_image() -> None:
    engine = FakeEngine(base=SSHD_ONLY)
    assert engine.lab_image() == engine.lab_image(ImageSettings(apt_mirror="mirrors.example.edu"))


@pytest.mark.parametrize(
    "name", ["Dockerfile.j2", "requirements-lab.txt", "lab_env.py", "install_sshd.sh", "provisioner.sh"]
)
def test_every_input_changes_the_image(name: str) -> None:
    engine = FakeEngine(base=SSHD_ONLY)
    first, changed = engine.lab_image(), engine.lab_image(changed={name: TEMPLATES[name] + "\n# changed\n"})
    assert first.inputs != changed.inputs
    assert first.lab != changed.lab


def test_a_tag_pushed_by_another_program_is_not_used() -> None:
    engine = FakeEngine(base=SSHD_ONLY)
    target = target_of(engine.lab_image())
    engine.images[target] = ImageConfig(labels={INPUTS_LABEL: "0" * 64})
    engine.calls.clear()
    engine.lab_image()
    assert f"build {target}" in engine.calls


def test_an_image_with_a_missing_layer_is_pushed_again() -> None:
    engine = FakeEngine(base=SSHD_ONLY)
    image = engine.lab_image()
    engine.broken.add(target_of(image))
    engine.calls.clear()
    assert engine.lab_image() == image
    assert f"push {target_of(image)}" in engine.calls


def test_a_tag_of_maximum_length_is_shortened() -> None:
    long = f"mirror.lab:5200/pytorch/pytorch:{'a' * 128}"
    image = FakeEngine().builder().lab_image(a_listing(long))
    assert image.reference == long


def codes(listing: Listing, settings: ImageSettings | None = None) -> list[str]:
    with pytest.raises(ProblemError) as refused:
        FakeEngine(base=SSHD_ONLY).builder(settings).lab_image(listing)
    return [problem.code for problem in refused.value.problems]


def test_a_base_without_a_digest_is_refused() -> None:
    assert codes(a_listing(TAG, None)) == ["no_digest"]
    assert codes(a_listing(TAG, None, SyncState.ABSENT)) == ["layer_missing"]


@pytest.mark.parametrize("source", ["", "a b", "ftp://x", "x#y", "http://", "mirrors.example.edu/$(id)", "-o"])
def test_an_apt_mirror_that_is_not_a_host_or_url_is_refused(source: str) -> None:
    assert codes(a_listing(TAG), ImageSettings(apt_mirror=source)) == ["bad_apt_mirror"]


def test_a_push_that_the_registry_lost_is_reported() -> None:
    class LosingLayers(FakeEngine):
        def push(self, target: ImageReference) -> None:
            super().push(target)
            self.broken.add(str(target))

    with pytest.raises(ProblemError, match="layer_missing"):
        LosingLayers().lab_image()
