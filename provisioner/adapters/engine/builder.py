"""The lab image: found in the lab's registry where it was made before, else made of its base and pushed there."""

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
from provisioner.domain.lab.lock import LockedImage, telling
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
    """The lab's registry, looked at without an engine."""

    def config(self, reference: ImageReference, platform: str) -> ImageConfig | None: ...
    def inspect(self, reference: ImageReference, platform: str) -> Listing: ...


class Engine(Protocol):
    def pull(self, reference: ImageReference, size: int) -> None: ...
    def base_facts(self, reference: str, script: str) -> BaseFacts: ...
    def build(
        self, context: Path, target: ImageReference, arguments: Mapping[str, str], labels: Mapping[str, str]
    ) -> None: ...
    def tag(self, reference: str, target: ImageReference) -> None: ...
    def push(self, target: ImageReference) -> None: ...
    def close(self) -> None: ...


class EngineBuilder:
    """`engine` is asked for only where something has to be made; `facts` says what an image is."""

    def __init__(  # noqa: PLR0913  (the wish, the registry and the engine meet here)
        self,
        registry: RegistrySettings,
        wish: ImageSettings,
        *,
        lookup: Lookup,
        engine: Callable[[], Engine],
        templates: Mapping[str, str],
        facts: Callable[[TaggedImage], ImageFacts],
        on_event: OnEvent,
    ) -> None:
        self._registry = registry
        self._wish = wish
        self._lookup = lookup
        self._engine = engine
        self._templates = templates
        self._facts = facts
        self._on_event = on_event

    def lab_image(self, base: Listing) -> LockedImage:
        """Raises ProblemError where it can be neither found nor made."""
        origin = _pinned(base)
        inputs = self._inputs(origin)
        target = self._target(origin, inputs)
        if self._is_there(target, base, inputs):
            self._on_event(Event(phase="build", kind="skipped", text=f"{target} was made before of the same inputs"))
        else:
            self._make(origin, base, target, inputs)
        return self._locked(origin, base, target, inputs)

    def _inputs(self, origin: ImageReference) -> str:
        """The hash of what decides the image; not of `apt_mirror`, as the packages are the same from everywhere."""
        parts = {name: self._templates[name] for name in (_DOCKERFILE, _REQUIREMENTS, *_CONTEXT)}
        given = {"base": origin.digest, "complete": self._wish.complete, "parts": parts}
        return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()

    def _target(self, origin: ImageReference, inputs: str) -> ImageReference:
        ending = f"-{inputs[:12]}"
        tag = (origin.tag or "latest")[: _TAG_LENGTH - len(ending)] + ending
        return ImageReference(registry=self._registry.address, repository=self._registry.repository, tag=tag)

    def _is_there(self, target: ImageReference, base: Listing, inputs: str) -> bool:
        """Known by the label that a build gives it; a copy has none, and the base's own configuration."""
        config = self._lookup.config(target, base.report.platform)
        if config is None:
            return False
        copied = (config.env, config.history) == (base.image.env, base.image.history)
        ours = config.labels.get(INPUTS_LABEL) == inputs or copied
        return ours and self._lookup.inspect(target, base.report.platform).report.state is SyncState.COMPLETE

    def _make(self, origin: ImageReference, base: Listing, target: ImageReference, inputs: str) -> None:
        source = _package_source(self._wish.apt_mirror)
        with closing(self._engine()) as engine:
            engine.pull(origin, base.report.bytes)
            facts = self._read_base(engine, origin)
            if facts is None or facts.complete:
                engine.tag(origin.by_digest(), target)
            else:
                self._build(engine, target, facts, {"BASE": origin.by_digest(), "APT_MIRROR": source}, inputs)
            engine.push(target)

    def _read_base(self, engine: Engine, origin: ImageReference) -> BaseFacts | None:
        """None where the lab says that the base is complete."""
        return None if self._wish.complete else engine.base_facts(origin.by_digest(), self._templates[_BASE_FACTS])

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
            path.chmod(0o644)  # whatever the umask here: people read one of them inside
        if not facts.jupyter:
            requirements = folder / "requirements.txt"
            requirements.write_text(wheels.requirements_for(self._templates[_REQUIREMENTS], facts), encoding="utf-8")
            self._on_event(Event(phase="build", kind="started", text="downloading Jupyter's wheels"))
            wheels.download(requirements, folder / "wheels", facts)

    def _locked(self, origin: ImageReference, base: Listing, target: ImageReference, inputs: str) -> LockedImage:
        platform = base.report.platform
        found, config = self._lookup.inspect(target, platform), self._lookup.config(target, platform)
        digest = found.report.digest
        if found.report.state is not SyncState.COMPLETE or config is None or digest is None:
            raise ProblemError(found.report.problems or _not_there(target))
        facts = self._facts(base.image)
        return LockedImage(
            reference=base.image.reference,
            base=origin.by_digest(),
            lab=target.pinned(digest).by_digest(),
            platform=platform,
            torch=facts.torch,
            cuda=facts.cuda,
            env=telling(base.image.env or {}),
            inputs=inputs,
            bytes=found.report.bytes,
            rootfs=config.diff_ids,
        )


def _pinned(base: Listing) -> ImageReference:
    """Raises ProblemError where the mirror has not said which manifest the tag means."""
    digest = base.report.digest or base.image.digest
    if digest is None:
        raise ProblemError(base.report.problems or _not_there(ImageReference.parse(base.image.reference)))
    return ImageReference.parse(base.image.reference).pinned(digest)


def _package_source(text: str | None) -> str:
    """With a scheme; plain http is what a base without CA certificates can speak, and apt checks signatures itself."""
    if text is None:
        return ""
    if not _SOURCE.fullmatch(text):
        raise ProblemError(_bad_source(text), "usage")
    return (text if "://" in text else f"http://{text}").rstrip("/")


def _bad_source(text: str) -> Problem:
    return Problem(
        "bad_apt_mirror",
        f"image.apt_mirror is neither a host nor a URL: {text!r}",
        "it replaces the hosts of the base's own package sources while the lab image is built",
        "write it as mirrors.example.edu or http://mirrors.example.edu/path",
    )


def _not_there(reference: ImageReference) -> Problem:
    return Problem(
        "no_digest",
        f"the registry does not say which image {reference} is",
        "a lock holds every image by its digest",
        f"provision mirror check {reference}",
    )
