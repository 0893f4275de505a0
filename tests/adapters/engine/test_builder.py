"""What LabImageBuilder pulls, builds and pushes, with a fake engine and registry that record their calls."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from provisioner.adapters.engine import wheels
from provisioner.adapters.engine.base_image import BaseFacts
from provisioner.adapters.engine.builder import INPUTS_LABEL, LabImageBuilder
from provisioner.adapters.resources import templates
from provisioner.adapters.state.pushed_images import PushedImage, PushedImages
from provisioner.adapters.templates import read_templates
from provisioner.domain.lab.environments import ImageSettings
from provisioner.domain.lab.lab import Registry
from provisioner.domain.lab.lock import UNBUILT, LockedImage
from provisioner.domain.registry.catalog import Listing
from provisioner.domain.values.event import Event
from provisioner.domain.values.image import ImageConfig, ImageFacts, TaggedImage
from provisioner.domain.values.measured import Measured, Measurement
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport, SyncState
from provisioner.domain.values.version import CudaVersion
from tests.builders import TAG, a_digest

MEASURED = Measured(torch="2.10.0+cu128", cuda=CudaVersion("12.8"), targets=("sm_80", "sm_90"))
FOUND = Measurement(measured=MEASURED)
# course_env.py: of a course's wheels.
TEMPLATES = {"course_env.py": "", **read_templates(templates())}
BASE = a_digest("base")
ENV = {"PYTORCH_VERSION": "2.10.0", "HOME": "/root"}
HISTORY = ("ADD rootfs", "COPY torch")
SSHD_ONLY = BaseFacts(
    python="/usr/bin/python3", version="3.12.3", machine="x86_64", glibc="2.39", jupyter=True, sshd=False, apt=True
)
COMPLETE = SSHD_ONLY.model_copy(update={"sshd": True})
BASE_CONFIG = ImageConfig(env=ENV, history=HISTORY, diff_ids=(a_digest("torch"),), digest=a_digest("base config"))


def a_listing(
    reference: str,
    digest: str | None = BASE,
    state: SyncState = SyncState.COMPLETE,
    config: ImageConfig | None = BASE_CONFIG,
) -> Listing:
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
    return Listing(image=image, report=report, config=config)


def a_build(*layers: str, base: ImageConfig = BASE_CONFIG, labels: Mapping[str, str] | None = None) -> ImageConfig:
    """Return the config of an image with layers on those of the base."""
    diff_ids = (*base.diff_ids, *map(a_digest, layers))
    return ImageConfig(labels=dict(labels or {}), diff_ids=diff_ids, digest=a_digest(f"config of {diff_ids} {labels}"))


@dataclass
class FakeEngine:
    """An engine, the registry that it pushes to, and the records of the machine that it runs on.

    `images`: what the registry has, by tag and by digest. `calls` lists what the engine was asked to do.
    """

    base: BaseFacts = COMPLETE
    images: dict[str, ImageConfig] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    locked: tuple[LockedImage, ...] = ()
    calls: list[str] = field(default_factory=list)
    context: dict[str, str] = field(default_factory=dict)
    arguments: Mapping[str, str] = field(default_factory=dict)
    built: dict[str, ImageConfig] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    courses: "FakeCourses | None" = None
    measurement: Measurement = FOUND
    differs: bool = False

    def inspect(self, reference: ImageReference, platform: str) -> Listing:
        assert platform == "linux/amd64"
        name = reference.by_digest() if reference.digest else str(reference)
        config = self.images.get(name)
        if config is None:
            return a_listing(name, None, SyncState.ABSENT, None)
        state = SyncState.PARTIAL if name in self.broken else SyncState.COMPLETE
        return a_listing(name, reference.digest or digest_of(config), state, config)

    def exists(self, reference: ImageReference) -> str | None:
        config = self.images.get(str(reference))
        return None if config is None else digest_of(config)

    def pull(self, reference: ImageReference, size: int) -> None:
        self.calls.append(f"pull {reference.by_digest()} {size}")

    def base_facts(self, reference: str, script: str) -> BaseFacts:
        assert "Print what a base image already contains" in script
        self.calls.append(f"inspect {reference}")
        return self.base

    def measure(self, reference: str, script: str) -> Measurement:
        assert "Print what the torch of an image was compiled for" in script
        self.calls.append(f"measure {reference}")
        return self.measurement

    def verify(self, measured: Measured) -> None:
        assert measured == MEASURED
        if self.differs:
            raise ProblemError(Problem("measured_differs", "-", "-", "-"))

    def build(
        self, context: Path, target: ImageReference, arguments: Mapping[str, str], labels: Mapping[str, str]
    ) -> None:
        self.calls.append(f"build {target}")
        files = [path for path in context.rglob("*") if path.is_file()]
        self.context = {str(path.relative_to(context)): path.read_text() for path in files}
        self.arguments = arguments
        self.built[str(target)] = a_build("layer", labels=labels)

    def tag(self, reference: str, target: ImageReference) -> None:
        self.calls.append(f"tag {reference} {target}")
        self.built[str(target)] = BASE_CONFIG

    def push(self, target: ImageReference) -> str:
        self.calls.append(f"push {target}")
        self.put(target, self.built[str(target)])
        return digest_of(self.built[str(target)])

    def put(self, target: ImageReference, config: ImageConfig) -> None:
        """Store an image under its tag and its digest, as a push does."""
        name = target.pinned(digest_of(config)).by_digest()
        self.images |= {str(target): config, name: config}
        self.broken.discard(name)

    def close(self) -> None:
        self.calls.append("close")

    def read_file(self, reference: ImageReference, path: str) -> str:
        self.calls.append(f"read {reference} {path}")
        return "".join(f"{name} {version}\n" for name, version in self.versions.items())

    def builder(
        self,
        settings: ImageSettings | None = None,
        changed: Mapping[str, str] = TEMPLATES,
        environment: str = "default",
        *,
        builds: bool = True,
    ) -> LabImageBuilder:
        self.events: list[Event] = []
        return LabImageBuilder(
            Registry(address="registry.lab:5201"),
            {environment: settings or ImageSettings()},
            lookup=self,
            engine=lambda: self,
            records=PushedImages(),
            locked=self.locked,
            courses=self.courses or FakeCourses(),
            templates={**TEMPLATES, **changed},
            facts=lambda image: ImageFacts(reference=image.reference, torch="2.10.0", cuda="12.8"),
            on_event=self.events.append,
            builds=builds,
        )

    def lab_image(self, settings: ImageSettings | None = None, changed: Mapping[str, str] = TEMPLATES) -> LockedImage:
        return self.builder(settings, changed).lab_image(a_listing(TAG), "default", self.verify)


@dataclass(frozen=True)
class FakeCourse:
    sha256: str


@dataclass
class FakeCourses:
    """The courses of a lab: a file requirements.lock once it was resolved, and what asks for that."""

    file: FakeCourse | None = None
    base: BaseFacts = SSHD_ONLY
    resolved: FakeCourse = FakeCourse("1" * 64)

    def find(self, environment: str, base: str) -> FakeCourse | None:
        assert (environment, base) == ("default", BASE)
        return self.file

    def resolve(self, environment: str, base: str, facts: BaseFacts) -> FakeCourse:
        assert (environment, base, facts) == ("default", BASE, self.base)
        self.file = self.resolved
        return self.resolved

    def fill(self, folder: Path, course: FakeCourse, facts: BaseFacts) -> None:
        assert facts == self.base
        (folder / "requirements.txt").write_text(f"# {course.sha256}\n")


def digest_of(config: ImageConfig) -> str:
    return a_digest(f"manifest of {config.digest}")


def test_a_builder_that_only_finds_images_needs_no_engine_and_knows_no_digest_of_another() -> None:
    for settings in (ImageSettings(), WITH_PIP):
        engine = FakeEngine(base=SSHD_ONLY)
        builder = engine.builder(settings, builds=False)
        builder.resolve_course(a_listing(TAG), "default")
        image = builder.lab_image(a_listing(TAG), "default", engine.verify)
        assert (image.is_built, image.lab) == (False, f"registry.lab:5201/provisioner/lab@{UNBUILT}")
        assert (image.reference, image.torch, image.platform) == (TAG, "2.10.0", "linux/amd64")
        assert engine.calls == []
        built = engine.lab_image(settings)
        found = engine.builder(settings, builds=False).lab_image(a_listing(TAG), "default", engine.verify)
        if settings.pip is None:
            assert found == built


def target_of(image: LockedImage) -> str:
    return f"registry.lab:5201/provisioner/lab:{TAG.rpartition(':')[2]}-{image.inputs[:12]}"


def test_a_complete_base_is_copied_and_not_built() -> None:
    engine = FakeEngine()
    image = engine.lab_image()
    base, target = image.base, target_of(image)
    assert base == f"mirror.lab:5200/pytorch/pytorch@{BASE}"
    looked = [f"pull {base} 4260", f"measure {base}", f"inspect {base}"]
    assert engine.calls == [*looked, f"tag {base} {target}", f"push {target}", "close"]
    assert image.lab == f"registry.lab:5201/provisioner/lab@{digest_of(BASE_CONFIG)}"
    assert image.rootfs == BASE_CONFIG.diff_ids
    assert (image.torch, str(image.cuda), image.env) == ("2.10.0", "12.8", {"PYTORCH_VERSION": "2.10.0"})
    assert image.measured == MEASURED


def test_a_base_declared_complete_in_lab_yml_is_not_inspected() -> None:
    engine = FakeEngine(base=SSHD_ONLY)
    engine.lab_image(ImageSettings(complete=True))
    assert [call.split()[0] for call in engine.calls] == ["pull", "measure", "tag", "push", "close"]


def test_only_missing_parts_are_added_to_the_base() -> None:
    engine = FakeEngine(base=SSHD_ONLY)
    image = engine.lab_image(ImageSettings(apt_mirror="mirrors.example.edu"))
    assert [call.split()[0] for call in engine.calls] == ["pull", "measure", "inspect", "build", "push", "close"]
    assert "install_packages.sh" in engine.context["Dockerfile"]
    assert "lab_env.py" not in engine.context["Dockerfile"]
    assert engine.arguments == {
        "BASE": image.base,
        "APT_MIRROR": "http://mirrors.example.edu",
        "PYTHON": "/usr/bin/python3",
    }
    assert image.rootfs == (a_digest("torch"), a_digest("layer"))


def test_a_base_that_differs_from_what_it_was_chosen_for_is_not_built() -> None:
    engine = FakeEngine(base=SSHD_ONLY, differs=True)
    with pytest.raises(ProblemError, match="measured_differs"):
        engine.lab_image()
    assert [call.split()[0] for call in engine.calls] == ["pull", "measure", "close"]


def test_what_was_measured_is_verified_again_where_the_image_is_found() -> None:
    """For a lab may have other cards since."""
    engine = FakeEngine(base=SSHD_ONLY)
    engine.lab_image()
    engine.differs = True
    with pytest.raises(ProblemError, match="measured_differs"):
        engine.lab_image()


def test_a_base_without_torch_is_built_and_a_note_says_that_it_is_unmeasured() -> None:
    engine = FakeEngine(base=SSHD_ONLY, measurement=Measurement(reason="it has no torch"), differs=True)
    assert engine.lab_image().measured is None
    assert engine.lab_image().measured is None
    engine = FakeEngine(base=COMPLETE, measurement=Measurement(reason="it has no torch"))
    engine.lab_image()
    (note,) = [event.text for event in engine.events if "unmeasured" in event.text]
    assert note.endswith("what its torch was compiled for is unmeasured: it has no torch")


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
    "name",
    [
        *("Dockerfile.j2", "requirements-lab.txt", "lab_env.py", "install_packages.sh", "provisioner.sh"),
        *("base_facts.py", "matplotlibrc", "provisioner_matplotlib.py"),
    ],
)
def test_every_input_changes_the_image(name: str) -> None:
    engine = FakeEngine(base=SSHD_ONLY)
    first, changed = engine.lab_image(), engine.lab_image(changed={name: TEMPLATES[name] + "\n# changed\n"})
    assert first.inputs != changed.inputs
    assert first.lab != changed.lab


@pytest.mark.parametrize("base", [COMPLETE, SSHD_ONLY])
def test_an_image_of_another_machine_with_our_tag_and_label_is_built_again(
    base: BaseFacts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever can push to the registry knows the tag and the label: both follow from public data."""
    engine = FakeEngine(base=base)
    image = engine.lab_image()
    target = ImageReference.parse(target_of(image))
    evil = a_build("backdoor", labels={INPUTS_LABEL: image.inputs})
    engine.put(target, evil.model_copy(update={"env": ENV, "history": HISTORY}))
    engine.calls.clear()
    assert engine.lab_image() == image  # by the recorded digest, whatever the tag names now
    assert engine.calls == []
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))  # a machine that has not pushed it
    engine.lab_image()
    assert f"push {target}" in engine.calls


def test_a_copy_with_equal_settings_and_other_layers_is_not_taken_for_the_base() -> None:
    engine, settings = FakeEngine(), ImageSettings(complete=True)
    target = ImageReference.parse(target_of(FakeEngine().lab_image(settings)))
    inputs = FakeEngine().lab_image(settings).inputs
    place = {"registry": target.registry, "repository": target.repository}
    PushedImages().add(PushedImage(**place, inputs=inputs, platform="linux/amd64", digest=BASE))
    evil = BASE_CONFIG.model_copy(update={"diff_ids": (a_digest("backdoor"),), "digest": a_digest("other config")})
    engine.images |= {str(target): evil, target.pinned(BASE).by_digest(): evil}
    assert engine.lab_image(settings).rootfs == BASE_CONFIG.diff_ids
    assert f"push {target}" in engine.calls


def test_a_tag_that_is_overwritten_after_the_push_is_not_locked() -> None:
    class Overwritten(FakeEngine):
        def push(self, target: ImageReference) -> str:
            pushed = super().push(target)
            self.put(target, a_build("backdoor"))
            return pushed

    assert Overwritten(base=SSHD_ONLY).lab_image().rootfs == (a_digest("torch"), a_digest("layer"))


def test_an_image_that_the_own_lock_pins_is_used_without_a_record(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine = FakeEngine(base=SSHD_ONLY)
    image = engine.lab_image()
    engine.calls.clear()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    engine.locked = (image,)
    assert engine.lab_image() == image
    assert engine.calls == []
    for other in ({"inputs": "0" * 64}, {"platform": "linux/arm64"}, {"lab": f"elsewhere.lab/x@{a_digest('x')}"}):
        engine.locked = (image.model_copy(update=other),)
        assert engine.builder().lab_image(a_listing(TAG), "default", engine.verify) == image
        shutil.rmtree(tmp_path / "provisioner")
    assert [call.split()[0] for call in engine.calls].count("push") == 3


def test_a_build_that_does_not_contain_its_base_is_refused() -> None:
    class OtherBase(FakeEngine):
        def push(self, target: ImageReference) -> str:
            self.built[str(target)] = a_build("layer", base=ImageConfig(diff_ids=(a_digest("other"),)))
            return super().push(target)

    for base in (COMPLETE, SSHD_ONLY):
        engine = OtherBase(base=base)
        for _ in range(2):  # it is not recorded
            with pytest.raises(ProblemError, match="other_base"):
                engine.lab_image()


def test_an_image_with_a_missing_layer_is_pushed_again() -> None:
    engine = FakeEngine(base=SSHD_ONLY)
    image = engine.lab_image()
    engine.broken.add(image.lab)
    engine.calls.clear()
    assert engine.lab_image() == image
    assert f"push {target_of(image)}" in engine.calls


def test_a_tag_of_maximum_length_is_shortened() -> None:
    long = f"mirror.lab:5200/pytorch/pytorch:{'a' * 128}"
    image = FakeEngine().builder().lab_image(a_listing(long), "default", lambda _: None)
    assert image.reference == long


def codes(listing: Listing, settings: ImageSettings | None = None) -> list[str]:
    with pytest.raises(ProblemError) as refused:
        FakeEngine(base=SSHD_ONLY).builder(settings).lab_image(listing, "default", lambda _: None)
    return [problem.code for problem in refused.value.problems]


def test_a_base_without_a_digest_is_refused() -> None:
    assert codes(a_listing(TAG, None)) == ["no_digest"]
    assert codes(a_listing(TAG, None, SyncState.ABSENT)) == ["layer_missing"]


@pytest.mark.parametrize("source", ["", "a b", "ftp://x", "x#y", "http://", "mirrors.example.edu/$(id)", "-o"])
def test_an_apt_mirror_that_is_not_a_host_or_url_is_refused(source: str) -> None:
    assert codes(a_listing(TAG), ImageSettings(apt_mirror=source)) == ["bad_apt_mirror"]


def test_a_push_that_the_registry_lost_is_reported() -> None:
    class LosingLayers(FakeEngine):
        def push(self, target: ImageReference) -> str:
            digest = super().push(target)
            self.broken.add(target.pinned(digest).by_digest())
            return digest

    with pytest.raises(ProblemError, match="layer_missing"):
        LosingLayers().lab_image()


def test_a_registry_that_does_not_answer_is_reported_before_the_build() -> None:
    class Silent(FakeEngine):
        def exists(self, reference: ImageReference) -> str | None:
            raise ProblemError(Problem("unreachable", f"{reference.registry} does not answer", "-", "-"))

    engine = Silent()
    with pytest.raises(ProblemError, match="unreachable"):
        engine.lab_image()
    assert engine.calls == []


COURSE = ImageSettings(apt=("sox", "ffmpeg"))
VERSIONS = {"ffmpeg": "7:5.1.6", "sox": "14.4.2", "of an earlier layer": "1"}


def test_versions_of_packages_are_read_from_the_built_image_and_locked() -> None:
    engine = FakeEngine(base=SSHD_ONLY, versions=VERSIONS)
    image = engine.lab_image(COURSE)
    assert image.packages == {"ffmpeg": "7:5.1.6", "sox": "14.4.2"}
    assert image.format == 2
    assert [call.split()[0] for call in engine.calls] == [
        "pull",
        "measure",
        "inspect",
        "build",
        "read",
        "push",
        "close",
    ]
    assert '"${APT_MIRROR}" ffmpeg sox' in engine.context["Dockerfile"]


def test_a_found_image_has_the_versions_with_which_it_was_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine = FakeEngine(base=SSHD_ONLY, versions=VERSIONS)
    image = engine.lab_image(COURSE)
    assert engine.lab_image(COURSE) == image
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))  # another machine, with the lab's own lock
    engine.locked, engine.calls = (image,), []
    assert engine.lab_image(COURSE) == image
    assert engine.calls == []


def test_order_repetition_and_names_of_environments_do_not_change_an_image() -> None:
    engine = FakeEngine(base=SSHD_ONLY, versions=VERSIONS)
    image = engine.lab_image(COURSE)
    engine.calls.clear()
    again = ImageSettings(apt=("ffmpeg", "sox", "ffmpeg"))
    assert engine.builder(again, environment="nlp").lab_image(a_listing(TAG), "nlp", engine.verify) == image
    assert engine.calls == []


@pytest.mark.parametrize("change", [{"apt": ("ffmpeg",)}, {"tools": False}, {"complete": True, "apt": ()}])
def test_what_an_environment_contains_changes_the_image(change: Mapping[str, object]) -> None:
    engine = FakeEngine(base=SSHD_ONLY, versions=VERSIONS)
    changed = engine.lab_image(COURSE.model_copy(update=dict(change)))
    assert changed.inputs != engine.lab_image(COURSE).inputs


def test_a_build_that_recorded_no_version_of_a_package_is_not_pushed() -> None:
    engine = FakeEngine(base=SSHD_ONLY, versions={"ffmpeg": "7:5.1.6"})
    with pytest.raises(ProblemError, match="sox cannot be installed"):
        engine.lab_image(COURSE)
    assert "push" not in [call.split()[0] for call in engine.calls]


def test_tools_that_cannot_be_installed_are_left_out_with_a_note() -> None:
    base = COMPLETE.model_copy(update={"apt": False, "missing_tools": ("git", "tmux")})
    engine = FakeEngine(base=base)
    engine.lab_image()
    assert [call.split()[0] for call in engine.calls] == ["pull", "measure", "inspect", "tag", "push", "close"]
    notes = [event.text for event in engine.events if event.kind == "note"]
    assert "stays without git, tmux" in notes[0]


def test_the_size_of_a_new_image_is_reported() -> None:
    engine = FakeEngine(base=SSHD_ONLY)
    engine.lab_image()
    assert "a pull has 4.26 kB, of which 0 B are not of the base" in engine.events[-1].text


WITH_PIP = ImageSettings(tools=False, pip="course.txt")


def test_wheels_of_a_course_are_installed_in_a_stage_of_their_own() -> None:
    engine = FakeEngine(base=SSHD_ONLY, courses=FakeCourses())
    image = engine.lab_image(WITH_PIP)
    assert image.requirements == "1" * 64
    assert engine.context["course/requirements.txt"] == f"# {image.requirements}\n"
    assert "course/course_env.py" in engine.context
    assert "FROM ${BASE} AS course" in engine.context["Dockerfile"]
    assert "RUN cp /opt/provisioner/course/provisioner.pth" in engine.context["Dockerfile"]
    assert "ENV PATH=/opt/provisioner/course/bin:${PATH}" in engine.context["Dockerfile"]


def test_a_committed_course_is_found_without_an_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    engine = FakeEngine(base=SSHD_ONLY, courses=FakeCourses())
    image = engine.lab_image(WITH_PIP)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))  # another machine, with the lab's own files
    engine.locked, engine.calls = (image,), []
    assert engine.lab_image(WITH_PIP) == image
    assert engine.calls == []


def test_a_course_that_resolves_as_it_did_before_is_not_built_again() -> None:
    engine = FakeEngine(base=SSHD_ONLY, courses=FakeCourses())
    image = engine.lab_image(WITH_PIP)
    engine.courses, engine.calls = FakeCourses(), []  # the file is not there any more
    assert engine.lab_image(WITH_PIP) == image
    assert [call.split()[0] for call in engine.calls] == ["pull", "measure", "inspect", "close"]


def test_a_course_is_resolved_before_the_build_and_its_base_is_pulled_once() -> None:
    engine = FakeEngine(base=SSHD_ONLY, courses=FakeCourses())
    builder = engine.builder(WITH_PIP)
    builder.resolve_course(a_listing(TAG), "default")
    assert [call.split()[0] for call in engine.calls] == ["pull", "inspect", "close"]
    image = builder.lab_image(a_listing(TAG), "default", engine.verify)
    assert image.requirements == "1" * 64
    assert [call.split()[0] for call in engine.calls[3:]] == ["measure", "build", "push", "close"]


@pytest.mark.parametrize("settings", [WITH_PIP, ImageSettings(tools=False)])
def test_where_no_course_has_to_be_resolved_no_engine_is_asked(settings: ImageSettings) -> None:
    engine = FakeEngine(courses=FakeCourses(file=FakeCourse("1" * 64)))
    engine.builder(settings).resolve_course(a_listing(TAG), "default")
    assert engine.calls == []


def test_another_version_of_a_courses_package_changes_the_image() -> None:
    engine = FakeEngine(base=SSHD_ONLY, courses=FakeCourses())
    image = engine.lab_image(WITH_PIP)
    engine.courses = FakeCourses(resolved=FakeCourse("2" * 64))
    assert engine.lab_image(WITH_PIP).inputs != image.inputs


@pytest.fixture
def without_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "download_wheels", lambda _requirements, folder, _base: folder.mkdir())


@pytest.mark.usefixtures("without_downloads")
def test_what_changes_most_often_comes_last_and_each_stage_copies_its_own_folder() -> None:
    base = SSHD_ONLY.model_copy(update={"jupyter": False, "missing_tools": ("git", "fonts-wqy-microhei")})
    engine = FakeEngine(base=base, versions=VERSIONS)
    engine.courses = FakeCourses(base=base)
    engine.lab_image(COURSE.model_copy(update={"pip": "course.txt"}))
    lines = [line for line in engine.context["Dockerfile"].splitlines() if line.startswith(("FROM", "COPY", "ENV"))]
    assert lines == [
        "FROM ${BASE} AS env",
        "COPY jupyter /build",
        "FROM env AS course",
        "COPY course /course",
        "FROM ${BASE}",
        "COPY install_packages.sh /tmp/",
        "COPY provisioner.sh /etc/profile.d/",
        "COPY --from=env /opt/provisioner /opt/provisioner",
        "COPY matplotlibrc /opt/provisioner/matplotlib/",
        "COPY install_packages.sh /tmp/",
        "COPY --from=course /opt/provisioner/course /opt/provisioner/course",
        "ENV PATH=/opt/provisioner/env/bin:/opt/provisioner/course/bin:${PATH}",
        "ENV LANG=C.UTF-8",
    ]
    names = {name for name in engine.context if name.startswith(("jupyter/", "course/"))}
    assert names == {
        *("jupyter/lab_env.py", "jupyter/provisioner_matplotlib.py", "jupyter/requirements.txt"),
        *("course/course_env.py", "course/requirements.txt"),
    }
    assert "nvitop==" in engine.context["jupyter/requirements.txt"]
