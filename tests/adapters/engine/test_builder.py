"""What is pulled, built and pushed, and what is not: a builder with an engine and a registry that only write down."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from provisioner.adapters.engine.base_image import BaseFacts
from provisioner.adapters.engine.builder import INPUTS_LABEL, EngineBuilder
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
class World:
    """An engine and the registry that it pushes to."""

    base: BaseFacts = COMPLETE
    images: dict[str, ImageConfig] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    acts: list[str] = field(default_factory=list)
    context: dict[str, str] = field(default_factory=dict)
    arguments: Mapping[str, str] = field(default_factory=dict)
    made: dict[str, ImageConfig] = field(default_factory=dict)

    def config(self, reference: ImageReference, platform: str) -> ImageConfig | None:
        assert platform == "linux/amd64"
        return self.images.get(str(reference))

    def inspect(self, reference: ImageReference, platform: str) -> Listing:
        assert platform == "linux/amd64"
        there = str(reference) in self.images
        state = SyncState.PARTIAL if str(reference) in self.broken else SyncState.COMPLETE
        digest = a_digest(str(reference)) if there else None
        return a_listing(str(reference), digest, state if there else SyncState.ABSENT)

    def pull(self, reference: ImageReference, size: int) -> None:
        self.acts.append(f"pull {reference.by_digest()} {size}")

    def base_facts(self, reference: str, script: str) -> BaseFacts:
        assert "What a base image has already" in script
        self.acts.append(f"look {reference}")
        return self.base

    def build(
        self, context: Path, target: ImageReference, arguments: Mapping[str, str], labels: Mapping[str, str]
    ) -> None:
        self.acts.append(f"build {target}")
        self.context = {path.name: path.read_text() for path in context.iterdir() if path.is_file()}
        self.arguments = arguments
        self.made[str(target)] = ImageConfig(labels=dict(labels), diff_ids=(a_digest("layer"),))

    def tag(self, reference: str, target: ImageReference) -> None:
        self.acts.append(f"tag {reference} {target}")
        self.made[str(target)] = ImageConfig(env=ENV, history=HISTORY)

    def push(self, target: ImageReference) -> None:
        self.acts.append(f"push {target}")
        self.images[str(target)] = self.made[str(target)]
        self.broken.discard(str(target))

    def close(self) -> None:
        self.acts.append("close")

    def builder(self, wish: ImageSettings | None = None, changed: Mapping[str, str] = TEMPLATES) -> EngineBuilder:
        self.events: list[Event] = []
        return EngineBuilder(
            Registry(address="registry.lab:5201"),
            wish or ImageSettings(),
            lookup=self,
            engine=lambda: self,
            templates={**TEMPLATES, **changed},
            facts=lambda image: ImageFacts(reference=image.reference, torch="2.10.0", cuda="12.8"),
            on_event=self.events.append,
        )

    def lab_image(self, wish: ImageSettings | None = None, changed: Mapping[str, str] = TEMPLATES) -> LockedImage:
        return self.builder(wish, changed).lab_image(a_listing(TAG))


def target_of(image: LockedImage) -> str:
    return f"registry.lab:5201/provisioner/lab:{TAG.rpartition(':')[2]}-{image.inputs[:12]}"


def test_a_base_that_has_both_is_copied_and_not_built() -> None:
    world = World()
    image = world.lab_image()
    base, target = image.base, target_of(image)
    assert base == f"mirror.lab:5200/pytorch/pytorch@{BASE}"
    assert world.acts == [f"pull {base} 4260", f"look {base}", f"tag {base} {target}", f"push {target}", "close"]
    assert image.lab == f"registry.lab:5201/provisioner/lab@{a_digest(target)}"
    assert (image.torch, str(image.cuda), image.env) == ("2.10.0", "12.8", {"PYTORCH_VERSION": "2.10.0"})


def test_a_base_that_the_lab_calls_complete_is_not_even_started() -> None:
    world = World(base=SSHD_ONLY)
    world.lab_image(ImageSettings(complete=True))
    assert [act.split()[0] for act in world.acts] == ["pull", "tag", "push", "close"]


def test_only_what_the_base_lacks_is_built() -> None:
    world = World(base=SSHD_ONLY)
    image = world.lab_image(ImageSettings(apt_mirror="mirrors.example.edu"))
    assert [act.split()[0] for act in world.acts] == ["pull", "look", "build", "push", "close"]
    assert "install_sshd.sh" in world.context["Dockerfile"]
    assert "lab_env.py" not in world.context["Dockerfile"]
    assert world.arguments == {
        "BASE": image.base,
        "APT_MIRROR": "http://mirrors.example.edu",
        "PYTHON": "/usr/bin/python3",
    }
    assert image.rootfs == (a_digest("layer"),)


@pytest.mark.parametrize("base", [COMPLETE, SSHD_ONLY])
def test_what_was_made_before_is_found_and_nothing_is_done(base: BaseFacts) -> None:
    world = World(base=base)
    first = world.lab_image()
    world.acts.clear()
    assert world.lab_image() == first
    assert world.acts == []
    assert [event.kind for event in world.events] == ["skipped"]


def test_the_packages_source_makes_no_other_image() -> None:
    world = World(base=SSHD_ONLY)
    assert world.lab_image() == world.lab_image(ImageSettings(apt_mirror="mirrors.example.edu"))


@pytest.mark.parametrize(
    "name", ["Dockerfile.j2", "requirements-lab.txt", "lab_env.py", "install_sshd.sh", "provisioner.sh"]
)
def test_every_input_makes_another_image(name: str) -> None:
    world = World(base=SSHD_ONLY)
    first, changed = world.lab_image(), world.lab_image(changed={name: TEMPLATES[name] + "\n# changed\n"})
    assert first.inputs != changed.inputs
    assert first.lab != changed.lab


def test_a_tag_that_somebody_else_pushed_is_not_taken_for_ours() -> None:
    world = World(base=SSHD_ONLY)
    target = target_of(world.lab_image())
    world.images[target] = ImageConfig(labels={INPUTS_LABEL: "0" * 64})
    world.acts.clear()
    world.lab_image()
    assert f"build {target}" in world.acts


def test_an_image_that_the_registry_has_lost_a_part_of_is_made_again() -> None:
    world = World(base=SSHD_ONLY)
    image = world.lab_image()
    world.broken.add(target_of(image))
    world.acts.clear()
    assert world.lab_image() == image
    assert f"push {target_of(image)}" in world.acts


def test_a_long_tag_still_makes_a_tag() -> None:
    long = f"mirror.lab:5200/pytorch/pytorch:{'a' * 128}"
    image = World().builder().lab_image(a_listing(long))
    assert image.reference == long


def codes(listing: Listing, wish: ImageSettings | None = None) -> list[str]:
    with pytest.raises(ProblemError) as refused:
        World(base=SSHD_ONLY).builder(wish).lab_image(listing)
    return [problem.code for problem in refused.value.problems]


def test_a_base_without_a_digest_is_a_problem() -> None:
    assert codes(a_listing(TAG, None)) == ["no_digest"]
    assert codes(a_listing(TAG, None, SyncState.ABSENT)) == ["layer_missing"]


@pytest.mark.parametrize("source", ["", "a b", "ftp://x", "x#y", "http://", "mirrors.example.edu/$(id)", "-o"])
def test_a_packages_source_that_is_no_host_or_url_is_a_mistake(source: str) -> None:
    assert codes(a_listing(TAG), ImageSettings(apt_mirror=source)) == ["bad_apt_mirror"]


def test_a_push_that_the_registry_did_not_keep_is_told() -> None:
    class Forgetful(World):
        def push(self, target: ImageReference) -> None:
            super().push(target)
            self.broken.add(str(target))

    with pytest.raises(ProblemError, match="layer_missing"):
        Forgetful().lab_image()
