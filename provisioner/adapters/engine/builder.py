"""Build the lab image from its base and push it to the lab's registry, unless it was pushed from here already."""

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from jinja2 import Environment, StrictUndefined

from provisioner.adapters.engine import wheels
from provisioner.adapters.engine.base_image import BaseFacts
from provisioner.adapters.engine.build_failure import packages_failed
from provisioner.adapters.engine.parts import Parts, check_settings, choose_parts, normal_names
from provisioner.adapters.state.pushed_images import PushedImage
from provisioner.domain.lab.environments import ImageSettings
from provisioner.domain.lab.lab import Registry as RegistrySettings
from provisioner.domain.lab.lock import UNBUILT, LockedImage, verdict_variables
from provisioner.domain.registry.catalog import Listing
from provisioner.domain.values.event import Event, OnEvent
from provisioner.domain.values.image import ImageFacts, TaggedImage
from provisioner.domain.values.measured import Measured, Measurement
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.size import human_size
from provisioner.domain.values.sync import SyncState

INPUTS_LABEL = "provisioner.inputs"

REQUIREMENTS = "requirements-lab.txt"  # of Jupyter's environment
_DOCKERFILE, _BASE_FACTS = "Dockerfile.j2", "base_facts.py"
TORCH_FACTS = "torch_facts.py"  # it reads what is in a base, and changes nothing in the lab image
_JUPYTER = ("lab_env.py", "provisioner_matplotlib.py")  # in the context's folder of that name, which one stage copies
_COURSE = "course_env.py"
_CONTEXT = ("install_packages.sh", "provisioner.sh", "matplotlibrc")
_PACKAGES = "/opt/provisioner/packages"  # written by install_packages.sh
_TAG_LENGTH = 128
_SOURCE = re.compile(r"(?:https?://)?[A-Za-z0-9][A-Za-z0-9.-]*(?::\d{1,5})?(?:/[A-Za-z0-9._~/-]*)?")


class Lookup(Protocol):
    """The lab's registry, read without an engine."""

    def exists(self, reference: ImageReference) -> str | None:
        """Return the digest of a tag, or None. Raises ProblemError where the registry gives no answer."""

    def inspect(self, reference: ImageReference, platform: str) -> Listing:
        """Return an image, its config and the state of its layers. With a digest, that very image."""


class Records(Protocol):
    """The digests of the images that this control machine has pushed."""

    def find(self, target: ImageReference, inputs: str, platform: str) -> PushedImage | None:
        """Return what was recorded for a build of `inputs`, None if there is nothing."""

    def add(self, image: PushedImage) -> None:
        """Record an image. Raises ProblemError where that cannot be written."""


class Course(Protocol):
    """A course's pip packages for one kind of base."""

    @property
    def sha256(self) -> str:
        """The hash of the packages: by it the lab image is found again."""


AnyCourse = TypeVar("AnyCourse", bound=Course)


class Courses(Protocol[AnyCourse]):
    """The pip packages of environments. Methods raise ProblemError."""

    def find(self, environment: str, base: str) -> AnyCourse | None:
        """Return the committed packages for a base (its digest), None where they were not made from these inputs."""

    def resolve(self, environment: str, base: str, facts: BaseFacts) -> AnyCourse:
        """Return the packages for a base: the committed ones where they fit, else newly resolved ones."""

    def fill(self, folder: Path, course: AnyCourse, facts: BaseFacts) -> None:
        """Put what course_env.py reads into `folder`: requirements and wheels."""


class Engine(Protocol):
    """The Docker Engine that builds. Methods raise ProblemError."""

    def pull(self, reference: ImageReference, size: int) -> None:
        """Pull an image by digest. `size` in bytes, for progress."""

    def base_facts(self, reference: str, script: str) -> BaseFacts:
        """Run the Python `script` in an image and parse what it prints."""

    def measure(self, reference: str, script: str) -> Measurement:
        """Run the Python `script` in an image and parse what it prints of torch. Never raises."""

    def build(
        self, context: Path, target: ImageReference, arguments: Mapping[str, str], labels: Mapping[str, str]
    ) -> None:
        """Build `target` from the Dockerfile in the directory `context`."""

    def read_file(self, reference: ImageReference, path: str) -> str:
        """Return a text file of an image."""

    def tag(self, reference: str, target: ImageReference) -> None:
        """Give an image that the engine has another name."""

    def push(self, target: ImageReference) -> str:
        """Push an image by tag, and return the digest that the engine computed for it."""

    def close(self) -> None:
        """Close the connection to the engine."""


class _Order(NamedTuple):
    """The base of a lab image, and the environment for which it is built.

    `verify` raises ProblemError where what was measured in the base differs from what it was chosen for.
    """

    base: Listing
    origin: ImageReference
    environment: str
    settings: ImageSettings
    verify: Callable[[Measured], None] = lambda _: None

    @property
    def digest(self) -> str:
        return self.origin.digest or ""

    @property
    def platform(self) -> str:
        return self.base.report.platform


class _Result(NamedTuple):
    """A lab image in the registry: its tag, what it was built from, and what the build installed and measured."""

    target: ImageReference
    inputs: str
    found: Listing
    packages: Mapping[str, str]
    course: Course | None
    measured: Measured | None


class _Trusted(NamedTuple):
    """A digest that this control machine has pushed, or the lab's own lock pins, and what only its build knows."""

    digest: str
    packages: Mapping[str, str]
    measured: Measured | None


class LabImageBuilder:
    """Finds or builds lab images. `engine` connects to the engine, and is called only where one has to be built.

    An image of the registry is used only by a digest that this control machine recorded when it pushed it, or that the
    lab's own lab.lock pins. Tags and labels prove nothing: any user who can push to the registry can set them.
    """

    def __init__(  # noqa: PLR0913  (settings, registry and engine come together here)
        self,
        registry: RegistrySettings,
        settings: Mapping[str, ImageSettings],
        *,
        lookup: Lookup,
        engine: Callable[[], Engine],
        records: Records,
        locked: Sequence[LockedImage] = (),
        courses: Courses[Any],
        templates: Mapping[str, str],
        facts: Callable[[TaggedImage], ImageFacts],
        on_event: OnEvent,
        builds: bool = True,
    ) -> None:
        """Store the settings, by environment. `locked`: the images of the lab's own lab.lock, never of a fetched lock.

        `courses`: of the environments that have `pip`. `templates`: text by file name. `facts` reads torch and CUDA
        of a base image. `builds`: False only finds images, and changes nothing anywhere.
        """
        self._builds = builds
        self._registry = registry
        self._settings = settings
        self._lookup = lookup
        self._engine = engine
        self._records = records
        self._locked = locked
        self._courses = courses
        self._templates = templates
        self._facts = facts
        self._on_event = on_event
        self._pulled: set[str] = set()
        self._bases: dict[str, BaseFacts] = {}

    def resolve_course(self, base: Listing, environment: str) -> None:
        """Choose the packages of an environment's `pip` for a base where requirements.lock lacks them; build nothing.

        `lab_image` takes these. Raises ProblemError where they do not fit the base, or cannot be chosen.
        """
        settings = self._settings[environment]
        check_settings(environment, settings)
        order = _Order(base, _pinned(base), environment, settings)
        is_known = settings.pip is None or self._courses.find(environment, order.digest) is not None
        if is_known or not self._builds:
            return
        with closing(self._engine()) as engine:
            self._pull(engine, order)
            self._resolve_course(order, self._read_base(engine, order))

    def lab_image(self, base: Listing, environment: str, verify: Callable[[Measured], None]) -> LockedImage:
        """Return the lab image of a base for an environment, built if the registry does not have it.

        Environments with the same contents have one image. The torch of a base is measured before a build, and `verify`
        raises ProblemError where it differs from what the base was chosen for; later calls verify what was recorded.
        Raises ProblemError where the image cannot be built or pushed. Of one that is not to be built, the digest is
        UNBUILT.
        """
        settings = self._settings[environment]
        check_settings(environment, settings)
        order = _Order(base, _pinned(base), environment, settings, verify)
        result = self._find_known(order)
        if result is None and not self._builds:
            return self._unbuilt_image(order)
        if result is None:
            result = self._create(order)
        else:
            text = f"{result.target} was built before from the same inputs"
            self._on_event(Event(phase="build", kind="skipped", text=text))
        return self._locked_image(order, result)

    def _find_known(self, order: _Order) -> _Result | None:
        """Return an image that can be found without its base."""
        if order.settings.pip is None:
            return self._find(order, None)
        course = self._courses.find(order.environment, order.digest)
        return None if course is None else self._find(order, course)

    def _hash_inputs(self, order: _Order, course: Course | None) -> str:
        """Return the hash of what determines the image.

        Without `apt_mirror`, as all mirrors hold the same packages, and without the name of the environment.
        """
        names = (_DOCKERFILE, REQUIREMENTS, _BASE_FACTS, *_JUPYTER, *_CONTEXT, *(() if course is None else (_COURSE,)))
        inputs = {
            "base": order.digest,
            "complete": order.settings.complete,
            "tools": order.settings.tools,
            "apt": normal_names(order.settings),
            "course": None if course is None else course.sha256,
            "parts": {name: self._templates[name] for name in names},
        }
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()

    def _target(self, origin: ImageReference, inputs: str) -> ImageReference:
        suffix = f"-{inputs[:12]}"
        tag = (origin.tag or "latest")[: _TAG_LENGTH - len(suffix)] + suffix
        return ImageReference(registry=self._registry.address, repository=self._registry.repository, tag=tag)

    def _find(self, order: _Order, course: Course | None) -> _Result | None:
        """Return the complete image by the first trusted digest under which the registry has one."""
        inputs = self._hash_inputs(order, course)
        target = self._target(order.origin, inputs)
        for trusted in self._trusted(target, inputs, order.platform):
            found = self._lookup.inspect(target.pinned(trusted.digest), order.platform)
            is_based = self._is_based_on(found, order.base, order.settings.complete)
            if found.report.state is SyncState.COMPLETE and is_based:
                if trusted.measured is not None:
                    order.verify(trusted.measured)
                return _Result(target, inputs, found, trusted.packages, course, trusted.measured)
        return None

    def _trusted(self, target: ImageReference, inputs: str, platform: str) -> Iterator[_Trusted]:
        recorded = self._records.find(target, inputs, platform)
        if recorded is not None:
            yield _Trusted(recorded.digest, recorded.packages, recorded.measured)
        place = f"{target.registry}/{target.repository}@"
        for image in self._locked:
            if (image.inputs, image.platform) == (inputs, platform) and image.lab.startswith(place):
                yield _Trusted(image.lab.removeprefix(place), image.packages, image.measured)

    def _create(self, order: _Order) -> _Result:
        """Build or copy the image, and push it."""
        source = _package_source(order.settings.apt_mirror)
        # A registry that gives no answer is reported before the build, not after it.
        self._lookup.exists(self._target(order.origin, self._hash_inputs(order, None)))
        with closing(self._engine()) as engine:
            self._pull(engine, order)
            measured = self._measure(engine, order)
            facts = self._read_base(engine, order)
            course = self._resolve_course(order, facts)
            if course is not None and (known := self._find(order, course)):
                return known
            return self._build_and_push(engine, order, facts, course, source, measured)

    def _measure(self, engine: Engine, order: _Order) -> Measured | None:
        """Return what the torch of the base was compiled for. A base in which it cannot be read is used, with a note.

        Raises ProblemError where it differs from what the base was chosen for.
        """
        found = engine.measure(order.origin.by_digest(), self._templates[TORCH_FACTS])
        if found.measured is None:
            text = f"{order.origin}: what its torch was compiled for is unmeasured: {found.reason}"
            self._on_event(Event(phase="build", kind="note", text=text))
            return None
        order.verify(found.measured)
        return found.measured

    def _resolve_course(self, order: _Order, facts: BaseFacts | None) -> Course | None:
        if order.settings.pip is None or facts is None:
            return None
        course: Course = self._courses.resolve(order.environment, order.digest, facts)
        return course

    def _build_and_push(  # noqa: PLR0913, PLR0917  (what is known of the base)
        self,
        engine: Engine,
        order: _Order,
        facts: BaseFacts | None,
        course: Course | None,
        source: str,
        measured: Measured | None,
    ) -> _Result:
        inputs = self._hash_inputs(order, course)
        target = self._target(order.origin, inputs)
        is_copy, packages = True, {}
        parts = None if facts is None else self._choose_parts(order, facts)
        if facts is None or parts is None or parts.is_nothing:
            engine.tag(order.origin.by_digest(), target)
        else:
            is_copy = False
            with tempfile.TemporaryDirectory(prefix="provisioner-build-") as folder:
                self._fill_context(Path(folder), facts, parts, course)
                arguments = {"BASE": order.origin.by_digest(), "APT_MIRROR": source, "PYTHON": facts.python}
                engine.build(Path(folder), target, arguments, {INPUTS_LABEL: inputs})
            packages = _read_packages(engine, target, parts.apt)
        found = self._push(engine, order, target, is_copy=is_copy)
        self._records.add(
            PushedImage(
                registry=self._registry.address,
                repository=self._registry.repository,
                inputs=inputs,
                platform=order.platform,
                digest=found.report.digest or "",
                packages=dict(packages),
                measured=measured,
            )
        )
        self._report_size(order.base, target, found)
        return _Result(target, inputs, found, packages, course, measured)

    def _push(self, engine: Engine, order: _Order, target: ImageReference, *, is_copy: bool) -> Listing:
        """Push the image, and return what the registry has under the pushed digest.

        The tag is not read again: another user may have pushed to it since.
        """
        digest = engine.push(target)
        found = self._lookup.inspect(target.pinned(digest), order.platform)
        if found.report.state is not SyncState.COMPLETE or found.report.digest is None:
            raise ProblemError(found.report.problems or _no_digest(target))
        if not self._is_based_on(found, order.base, is_copy):
            raise ProblemError(_other_base(target.pinned(digest), order.origin))
        return found

    def _report_size(self, base: Listing, target: ImageReference, found: Listing) -> None:
        size, own = found.report.bytes, max(found.report.bytes - base.report.bytes, 0)
        text = f"{target}: a pull has {human_size(size)}, of which {human_size(own)} are not of the base"
        self._on_event(Event(phase="build", kind="note", text=text))

    @staticmethod
    def _is_based_on(found: Listing, base: Listing, is_copy: bool) -> bool:
        """Whether the image is the base itself, or begins with all layers of the base."""
        if found.config is None or base.config is None or not base.config.diff_ids:
            return False
        if is_copy:
            return found.config.digest == base.config.digest
        return found.config.diff_ids[: len(base.config.diff_ids)] == base.config.diff_ids

    def _pull(self, engine: Engine, order: _Order) -> None:
        """Pull a base, each one once."""
        if (name := order.origin.by_digest()) not in self._pulled:
            engine.pull(order.origin, order.base.report.bytes)
            self._pulled.add(name)

    def _read_base(self, engine: Engine, order: _Order) -> BaseFacts | None:
        """Return the facts of a base that was pulled, read once; None where lab.yml declares it as complete."""
        if order.settings.complete:
            return None
        if (name := order.origin.by_digest()) not in self._bases:
            self._bases[name] = engine.base_facts(name, self._templates[_BASE_FACTS])
        return self._bases[name]

    def _choose_parts(self, order: _Order, facts: BaseFacts) -> Parts:
        if order.settings.tools and facts.missing_tools and not facts.apt:
            text = f"{order.origin} has no apt-get, so it stays without {', '.join(facts.missing_tools)}"
            self._on_event(Event(phase="build", kind="note", text=text))
        return choose_parts(order.origin.by_digest(), order.settings, facts, order.base.image.env or {})

    def _fill_context(self, folder: Path, facts: BaseFacts, parts: Parts, course: Course | None) -> None:
        template = Environment(undefined=StrictUndefined, trim_blocks=True).from_string(self._templates[_DOCKERFILE])  # noqa: S701
        text = template.render(**parts._asdict(), programs=parts.programs)
        (folder / "Dockerfile").write_text(text, encoding="utf-8")
        self._put(folder, _CONTEXT)
        if parts.jupyter:
            self._fill_jupyter(folder / "jupyter", facts)
        if course is not None and self._courses is not None:
            self._put(folder / "course", (_COURSE,))
            self._courses.fill(folder / "course", course, facts)

    def _put(self, folder: Path, names: Sequence[str]) -> None:
        folder.mkdir(exist_ok=True)
        for name in names:
            path = folder / name
            path.write_text(self._templates[name], encoding="utf-8")
            path.chmod(0o644)  # independent of the umask: users of the image read some of them

    def _fill_jupyter(self, folder: Path, facts: BaseFacts) -> None:
        self._put(folder, _JUPYTER)
        requirements = folder / "requirements.txt"
        requirements.write_text(wheels.select_requirements(self._templates[REQUIREMENTS], facts), encoding="utf-8")
        self._on_event(Event(phase="build", kind="started", text="downloading Jupyter's wheels"))
        wheels.download_wheels(requirements, folder / "wheels", facts)

    def _locked_image(self, order: _Order, result: _Result) -> LockedImage:
        found = result.found
        if found.config is None or found.report.digest is None:
            raise ProblemError(found.report.problems or _no_digest(result.target))
        built = {
            "lab": result.target.pinned(found.report.digest).by_digest(),
            "inputs": result.inputs,
            "bytes": found.report.bytes,
            "rootfs": found.config.diff_ids,
            "packages": dict(result.packages),
            "requirements": "" if result.course is None else result.course.sha256,
            "measured": result.measured,
        }
        return self._unbuilt_image(order).model_copy(update=built)

    def _unbuilt_image(self, order: _Order) -> LockedImage:
        """Return what is known of a lab image before it is built: a pull has at least the bytes of its base."""
        base = order.base
        facts = self._facts(base.image)
        return LockedImage(
            reference=base.image.reference,
            base=order.origin.by_digest(),
            lab=self._target(order.origin, "").pinned(UNBUILT).by_digest(),
            platform=order.platform,
            torch=facts.torch,
            cuda=facts.cuda,
            env=verdict_variables(base.image.env or {}),
            bytes=base.report.bytes,
            format=2,
        )


def _read_packages(engine: Engine, target: ImageReference, names: Sequence[str]) -> dict[str, str]:
    """Return the version of each package that the environment names, as the build has recorded them."""
    lines = engine.read_file(target, _PACKAGES).splitlines() if names else []
    versions = dict(line.split(" ", 1) for line in lines if " " in line)
    if missing := [name for name in names if name not in versions]:
        raise ProblemError(packages_failed(str(target), ", ".join(missing), "the build has recorded no version"))
    return {name: versions[name] for name in names}


def _pinned(base: Listing) -> ImageReference:
    """Return the base by digest. Raises ProblemError where the mirror did not resolve the tag to a digest."""
    digest = base.report.digest or base.image.digest
    if digest is None:
        raise ProblemError(base.report.problems or _no_digest(ImageReference.parse(base.image.reference)))
    return ImageReference.parse(base.image.reference).pinned(digest)


def _package_source(text: str | None) -> str:
    """Return the URL of the apt mirror.

    The default scheme is http: a base may lack CA certificates, and apt checks signatures itself.
    """
    if text is None:
        return ""
    if not _SOURCE.fullmatch(text):
        problem = Problem(
            "bad_apt_mirror",
            f"image.apt_mirror is neither a host nor a URL: {text!r}",
            "it replaces the hosts of the base's package sources while the lab image is built",
            "write it as mirrors.example.edu or http://mirrors.example.edu/path",
        )
        raise ProblemError(problem, "usage")
    return (text if "://" in text else f"http://{text}").rstrip("/")


def _no_digest(reference: ImageReference) -> Problem:
    return Problem(
        "no_digest",
        f"the registry returned no digest for {reference}",
        "a lock pins every image by its digest",
        f"provision mirror check {reference}",
    )


def _other_base(image: ImageReference, base: ImageReference) -> Problem:
    return Problem(
        "other_base",
        f"the lab image {image} does not contain {base}",
        "a lab image holds all layers of its base, so the engine or the registry has exchanged something",
        "find out who else uses the engine and the registry, then run `provision lock` again",
    )
