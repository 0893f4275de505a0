"""Build the lab image from its base and push it to the lab's registry, unless it was pushed from here already."""

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

from jinja2 import Environment, StrictUndefined

from provisioner.adapters.engine import wheels
from provisioner.adapters.engine.base_image import BaseFacts
from provisioner.domain.lab.environments import ImageSettings
from provisioner.domain.lab.lab import Registry as RegistrySettings
from provisioner.domain.lab.lock import LockedImage, verdict_variables
from provisioner.domain.registry.catalog import Listing
from provisioner.domain.values.event import Event, OnEvent
from provisioner.domain.values.image import ImageFacts, TaggedImage
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncState

INPUTS_LABEL = "provisioner.inputs"

_DOCKERFILE, _REQUIREMENTS, _BASE_FACTS = "Dockerfile.j2", "requirements-lab.txt", "base_facts.py"
_CONTEXT = ("install_sshd.sh", "lab_env.py", "provisioner.sh")
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

    def find(self, target: ImageReference, inputs: str, platform: str) -> str | None:
        """Return the digest that was recorded for a build of `inputs`, None if there is none."""

    def add(self, target: ImageReference, inputs: str, platform: str, digest: str) -> None:
        """Record a digest. Raises ProblemError where it cannot be written."""


class Engine(Protocol):
    """The Docker Engine that builds. Methods raise ProblemError."""

    def pull(self, reference: ImageReference, size: int) -> None:
        """Pull an image by digest. `size` in bytes, for progress."""

    def base_facts(self, reference: str, script: str) -> BaseFacts:
        """Run the Python `script` in an image and parse what it prints."""

    def build(
        self, context: Path, target: ImageReference, arguments: Mapping[str, str], labels: Mapping[str, str]
    ) -> None:
        """Build `target` from the Dockerfile in the directory `context`."""

    def tag(self, reference: str, target: ImageReference) -> None:
        """Give an image that the engine has another name."""

    def push(self, target: ImageReference) -> str:
        """Push an image by tag, and return the digest that the engine computed for it."""

    def close(self) -> None:
        """Close the connection to the engine."""


class LabImageBuilder:
    """Finds or builds lab images. `engine` connects to the engine, and is called only where one has to be built.

    An image of the registry is used only by a digest that this control machine recorded when it pushed it, or that the
    lab's own lab.lock pins. Tags and labels prove nothing: any user who can push to the registry can set them.
    """

    def __init__(  # noqa: PLR0913  (settings, registry and engine come together here)
        self,
        registry: RegistrySettings,
        settings: ImageSettings,
        *,
        lookup: Lookup,
        engine: Callable[[], Engine],
        records: Records,
        locked: Sequence[LockedImage] = (),
        templates: Mapping[str, str],
        facts: Callable[[TaggedImage], ImageFacts],
        on_event: OnEvent,
    ) -> None:
        """Store the settings. `locked`: the images of the lab's own lab.lock, never of a fetched lock.

        `templates`: text by file name. `facts` reads torch and CUDA of a base image.
        """
        self._registry = registry
        self._settings = settings
        self._lookup = lookup
        self._engine = engine
        self._records = records
        self._locked = locked
        self._templates = templates
        self._facts = facts
        self._on_event = on_event

    def lab_image(self, base: Listing) -> LockedImage:
        """Return the lab image of a base, built if the registry does not have it.

        Raises ProblemError where it cannot be built or pushed.
        """
        origin = _pinned(base)
        inputs = self._hash_inputs(origin)
        target = self._target(origin, inputs)
        found = self._find(target, base, inputs)
        if found is None:
            found = self._create(origin, base, target, inputs)
        else:
            self._on_event(Event(phase="build", kind="skipped", text=f"{target} was built before from the same inputs"))
        return self._locked_image(origin, base, target, inputs, found)

    def _hash_inputs(self, origin: ImageReference) -> str:
        """Return the hash of what determines the image, without `apt_mirror`: all mirrors hold the same packages."""
        parts = {name: self._templates[name] for name in (_DOCKERFILE, _REQUIREMENTS, *_CONTEXT)}
        inputs = {"base": origin.digest, "complete": self._settings.complete, "parts": parts}
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()

    def _target(self, origin: ImageReference, inputs: str) -> ImageReference:
        suffix = f"-{inputs[:12]}"
        tag = (origin.tag or "latest")[: _TAG_LENGTH - len(suffix)] + suffix
        return ImageReference(registry=self._registry.address, repository=self._registry.repository, tag=tag)

    def _find(self, target: ImageReference, base: Listing, inputs: str) -> Listing | None:
        """Return the complete image by the first trusted digest under which the registry has one."""
        for digest in self._trusted_digests(target, inputs, base.report.platform):
            found = self._lookup.inspect(target.pinned(digest), base.report.platform)
            if found.report.state is SyncState.COMPLETE and self._is_based_on(found, base, self._settings.complete):
                return found
        return None

    def _trusted_digests(self, target: ImageReference, inputs: str, platform: str) -> Iterator[str]:
        recorded = self._records.find(target, inputs, platform)
        if recorded is not None:
            yield recorded
        place = f"{target.registry}/{target.repository}@"
        for image in self._locked:
            if (image.inputs, image.platform) == (inputs, platform) and image.lab.startswith(place):
                yield image.lab.removeprefix(place)

    def _create(self, origin: ImageReference, base: Listing, target: ImageReference, inputs: str) -> Listing:
        """Build or copy the image, push it, and return what the registry has under the pushed digest.

        The tag is not read again: another user may have pushed to it since.
        """
        source, platform = _package_source(self._settings.apt_mirror), base.report.platform
        self._lookup.exists(target)  # a registry that gives no answer is reported before the build, not after it
        with closing(self._engine()) as engine:
            engine.pull(origin, base.report.bytes)
            facts = self._read_base(engine, origin)
            is_copy = True
            if facts is None or facts.complete:
                engine.tag(origin.by_digest(), target)
            else:
                is_copy = False
                self._build(engine, target, facts, {"BASE": origin.by_digest(), "APT_MIRROR": source}, inputs)
            digest = engine.push(target)
        found = self._lookup.inspect(target.pinned(digest), platform)
        if found.report.state is not SyncState.COMPLETE:
            raise ProblemError(found.report.problems or _no_digest(target))
        if not self._is_based_on(found, base, is_copy):
            raise ProblemError(_other_base(target.pinned(digest), origin))
        self._records.add(target, inputs, platform, digest)
        return found

    @staticmethod
    def _is_based_on(found: Listing, base: Listing, is_copy: bool) -> bool:
        """Whether the image is the base itself, or begins with all layers of the base."""
        if found.config is None or base.config is None or not base.config.diff_ids:
            return False
        if is_copy:
            return found.config.digest == base.config.digest
        return found.config.diff_ids[: len(base.config.diff_ids)] == base.config.diff_ids

    def _read_base(self, engine: Engine, origin: ImageReference) -> BaseFacts | None:
        """Return None where lab.yml declares the base as complete."""
        return None if self._settings.complete else engine.base_facts(origin.by_digest(), self._templates[_BASE_FACTS])

    def _build(
        self, engine: Engine, target: ImageReference, facts: BaseFacts, arguments: Mapping[str, str], inputs: str
    ) -> None:
        with tempfile.TemporaryDirectory(prefix="provisioner-build-") as folder:
            self._fill_context(Path(folder), facts)
            engine.build(Path(folder), target, {**arguments, "PYTHON": facts.python}, {INPUTS_LABEL: inputs})

    def _fill_context(self, folder: Path, facts: BaseFacts) -> None:
        template = Environment(undefined=StrictUndefined, trim_blocks=True).from_string(self._templates[_DOCKERFILE])  # noqa: S701
        text = template.render(jupyter=not facts.jupyter, sshd=not facts.sshd)
        (folder / "Dockerfile").write_text(text, encoding="utf-8")
        for name in _CONTEXT:
            path = folder / name
            path.write_text(self._templates[name], encoding="utf-8")
            path.chmod(0o644)  # independent of the umask: users of the image read provisioner.sh
        if not facts.jupyter:
            requirements = folder / "requirements.txt"
            requirements.write_text(wheels.select_requirements(self._templates[_REQUIREMENTS], facts), encoding="utf-8")
            self._on_event(Event(phase="build", kind="started", text="downloading Jupyter's wheels"))
            wheels.download_wheels(requirements, folder / "wheels", facts)

    def _locked_image(
        self, origin: ImageReference, base: Listing, target: ImageReference, inputs: str, found: Listing
    ) -> LockedImage:
        config, digest = found.config, found.report.digest
        if config is None or digest is None:
            raise ProblemError(found.report.problems or _no_digest(target))
        facts = self._facts(base.image)
        return LockedImage(
            reference=base.image.reference,
            base=origin.by_digest(),
            lab=target.pinned(digest).by_digest(),
            platform=base.report.platform,
            torch=facts.torch,
            cuda=facts.cuda,
            env=verdict_variables(base.image.env or {}),
            inputs=inputs,
            bytes=found.report.bytes,
            rootfs=config.diff_ids,
        )


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
