"""Build the lab image from its base and push it to the lab's registry, unless it is there already."""

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Protocol

from jinja2 import Environment, StrictUndefined

from provisioner.adapters.engine import wheels
from provisioner.adapters.engine.base_image import BaseFacts
from provisioner.domain.lab.lab import ImageSettings
from provisioner.domain.lab.lab import Registry as RegistrySettings
from provisioner.domain.lab.lock import LockedImage, verdict_variables
from provisioner.domain.registry.catalog import Listing
from provisioner.domain.values.event import Event, OnEvent
from provisioner.domain.values.image import ImageConfig, ImageFacts, TaggedImage
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

    def config(self, reference: ImageReference, platform: str) -> ImageConfig | None:
        """Return the configuration of an image, None where the registry does not have it."""

    def inspect(self, reference: ImageReference, platform: str) -> Listing:
        """Return an image and the state of its layers."""


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

    def push(self, target: ImageReference) -> None:
        """Push an image by tag."""

    def close(self) -> None:
        """Close the connection to the engine."""


class LabImageBuilder:
    """Finds or builds lab images. `engine` connects to the engine, and is called only where one has to be built."""

    def __init__(  # noqa: PLR0913  (settings, registry and engine come together here)
        self,
        registry: RegistrySettings,
        settings: ImageSettings,
        *,
        lookup: Lookup,
        engine: Callable[[], Engine],
        templates: Mapping[str, str],
        facts: Callable[[TaggedImage], ImageFacts],
        on_event: OnEvent,
    ) -> None:
        """Store the settings. `templates`: text by file name. `facts` reads torch and CUDA of a base image."""
        self._registry = registry
        self._settings = settings
        self._lookup = lookup
        self._engine = engine
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
        if self._exists(target, base, inputs):
            self._on_event(Event(phase="build", kind="skipped", text=f"{target} was built before from the same inputs"))
        else:
            self._create(origin, base, target, inputs)
        return self._locked_image(origin, base, target, inputs)

    def _hash_inputs(self, origin: ImageReference) -> str:
        """Return the hash of what determines the image, without `apt_mirror`: all mirrors hold the same packages."""
        parts = {name: self._templates[name] for name in (_DOCKERFILE, _REQUIREMENTS, *_CONTEXT)}
        inputs = {"base": origin.digest, "complete": self._settings.complete, "parts": parts}
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()

    def _target(self, origin: ImageReference, inputs: str) -> ImageReference:
        suffix = f"-{inputs[:12]}"
        tag = (origin.tag or "latest")[: _TAG_LENGTH - len(suffix)] + suffix
        return ImageReference(registry=self._registry.address, repository=self._registry.repository, tag=tag)

    def _exists(self, target: ImageReference, base: Listing, inputs: str) -> bool:
        """Return whether the registry has the complete image: built with our label, or a copy of the base."""
        config = self._lookup.config(target, base.report.platform)
        if config is None:
            return False
        is_copy = (config.env, config.history) == (base.image.env, base.image.history)
        is_ours = config.labels.get(INPUTS_LABEL) == inputs or is_copy
        return is_ours and self._lookup.inspect(target, base.report.platform).report.state is SyncState.COMPLETE

    def _create(self, origin: ImageReference, base: Listing, target: ImageReference, inputs: str) -> None:
        source = _package_source(self._settings.apt_mirror)
        with closing(self._engine()) as engine:
            engine.pull(origin, base.report.bytes)
            facts = self._read_base(engine, origin)
            if facts is None or facts.complete:
                engine.tag(origin.by_digest(), target)
            else:
                self._build(engine, target, facts, {"BASE": origin.by_digest(), "APT_MIRROR": source}, inputs)
            engine.push(target)

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

    def _locked_image(self, origin: ImageReference, base: Listing, target: ImageReference, inputs: str) -> LockedImage:
        platform = base.report.platform
        found, config = self._lookup.inspect(target, platform), self._lookup.config(target, platform)
        digest = found.report.digest
        if found.report.state is not SyncState.COMPLETE or config is None or digest is None:
            raise ProblemError(found.report.problems or _no_digest(target))
        facts = self._facts(base.image)
        return LockedImage(
            reference=base.image.reference,
            base=origin.by_digest(),
            lab=target.pinned(digest).by_digest(),
            platform=platform,
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
