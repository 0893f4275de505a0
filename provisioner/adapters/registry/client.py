"""A registry, looked at without an engine: what it offers, and whether every part of it can be had now.

One look goes through three rounds, each of bounded width: lists of tags, manifests with their configs, and each blob
once however many images share it.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from provisioner.adapters.registry.contents import delete, held
from provisioner.adapters.registry.http import Refused
from provisioner.adapters.registry.listing import layers_of, listing
from provisioner.adapters.registry.probe import Probe
from provisioner.adapters.registry.read import ManifestMissing, Reader, Seen
from provisioner.adapters.registry.sender import Sender
from provisioner.adapters.registry.session import Session, api_host
from provisioner.adapters.registry.wire import Patience, Wire
from provisioner.domain.catalog import Catalog, Listing
from provisioner.domain.event import Event, OnEvent
from provisioner.domain.fault import Fault, not_looked_at
from provisioner.domain.image import ImageConfig
from provisioner.domain.lab import MirrorKind
from provisioner.domain.manifest import Blob, digest_of
from provisioner.domain.problem import CannotGoOn
from provisioner.domain.reference import ImageReference
from provisioner.domain.sweep import HeldImage
from provisioner.domain.sync import SyncReport

A = TypeVar("A")
B = TypeVar("B")

# For these a question about a layer may be answered by downloading it, so lists of tags are read without layers.
_LAZY: frozenset[MirrorKind] = frozenset({"registry-proxy", "harbor-proxy", "lazy"})
# Campus and public mirrors ban clients that open many connections (tuna/issues#1922, #2354).
_PUBLIC: frozenset[MirrorKind] = frozenset({"lazy", "redirector"})
_CONNECTIONS, _PUBLIC_CONNECTIONS = 16, 8
_NEWS = 50  # progress events of one round, at most


def _ignore(_: Event) -> None:
    """Nobody listens."""


def _any_tag(_: str) -> bool:
    return True


def _now() -> datetime:
    return datetime.now(UTC)


class Registry:
    """One registry. A context manager: on leaving, also by ^C, nothing of it runs any more.

    `inspect` and `check` never raise for a fault of an image or of the registry: it stands in the report. The others
    raise CannotGoOn where there is neither yes nor no.
    """

    def __init__(  # noqa: PLR0913  (where it is, how to reach it, how to treat it)
        self,
        address: str,
        *,
        ca: Path | None = None,
        plain_http: bool = False,
        kind: MirrorKind = "static",
        connections: int | None = None,
        on_event: OnEvent = _ignore,
        environment: Mapping[str, str] | None = None,
        patience: Patience | None = None,
    ) -> None:
        patience = patience or Patience()
        width = connections or (_PUBLIC_CONNECTIONS if kind in _PUBLIC else _CONNECTIONS)
        self.address = address
        self._lazy = kind in _LAZY
        self._on_event = on_event
        self._wire = Wire(ca=ca, connections=width, patience=patience)
        self._sender = Sender(self._wire, patience, api_host(address))
        environment = os.environ if environment is None else environment
        session = Session(address, plain_http=plain_http, sender=self._sender, environment=environment)
        self._reader = Reader(session, address)
        self._probe = Probe(session, self._lazy)
        self._workers = ThreadPoolExecutor(width, thread_name_prefix="registry")
        self._running: list[Future[Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cuts what is under way and waits for its threads."""
        self._sender.stopped.set()
        self._workers.shutdown(wait=False, cancel_futures=True)
        while not all(future.done() for future in self._running):
            self._wire.cut()  # again and again: a thread may just have sent its request
            wait(self._running, timeout=0.1)
        self._wire.close()

    def tags(self, repository: str) -> tuple[str, ...]:
        """In the registry's order, without signatures. Raises CannotGoOn."""
        try:
            return self._reader.tags(repository)
        except Refused as refused:
            raise CannotGoOn(refused.fault.problem) from None

    def exists(self, reference: ImageReference) -> str | None:
        """The digest of its manifest or index; None where the registry says that it has none. Raises CannotGoOn."""
        try:
            return digest_of(self._reader.manifest(reference))
        except ManifestMissing:
            return None
        except Refused as refused:
            raise CannotGoOn(refused.fault.problem) from None

    def config(self, reference: ImageReference, platform: str) -> ImageConfig | None:
        """None where the registry says that it has no such image. Raises CannotGoOn."""
        if self.exists(reference) is None:
            return None
        seen = self._reader.image(reference, platform, with_config=True)
        if seen.fault is not None:
            raise CannotGoOn(seen.fault.problem)
        return seen.config

    def labels(self, reference: ImageReference, platform: str = "linux/amd64") -> dict[str, str] | None:
        """None where the registry says that it has no such image. Raises CannotGoOn."""
        config = self.config(reference, platform)
        return None if config is None else config.labels

    def held(self, repository: str) -> tuple[HeldImage, ...]:
        """Every image that has a tag there; none where there is no such repository. Raises CannotGoOn."""
        try:
            return held(self._reader, repository, self._reader.tags(repository))
        except Refused as refused:
            if refused.fault.problem.code == "repository_missing":
                return ()
            raise CannotGoOn(refused.fault.problem) from None

    def delete(self, repository: str, digest: str) -> None:
        """Takes an image with all its tags out. Raises CannotGoOn."""
        try:
            delete(self._reader, repository, digest)
        except Refused as refused:
            raise CannotGoOn(refused.fault.problem) from None

    def inspect(self, reference: ImageReference, platform: str) -> Listing:
        return self._look([reference], platform, layers=True)[0]

    def check(
        self, references: Sequence[ImageReference], platform: str, *, deep: bool = False
    ) -> tuple[SyncReport, ...]:
        """`deep` reads and hashes every byte of every layer."""
        return tuple(entry.report for entry in self._look(references, platform, layers=True, deep=deep))

    def catalog(
        self,
        repositories: Sequence[str],
        platform: str,
        *,
        wanted: Callable[[str], bool] = _any_tag,
        clock: Callable[[], datetime] = _now,
    ) -> Catalog:
        """Every wanted tag. Raises CannotGoOn where not one repository could be listed."""
        listed = self._each(self._tags_or_fault, repositories, "Listing tags")
        faults = [answer for answer in listed if isinstance(answer, Fault)]
        if faults and len(faults) == len(repositories):
            raise CannotGoOn(dict.fromkeys(fault.problem for fault in faults))
        references = [
            ImageReference(registry=self.address, repository=repository, tag=tag)
            for repository, tags in zip(repositories, listed, strict=True)
            if not isinstance(tags, Fault)
            for tag in tags
            if wanted(tag)
        ]
        listings = self._look(references, platform, layers=not self._lazy)
        problems = tuple(fault.problem for fault in faults)
        return Catalog(mirror=self.address, checked_at=clock(), listings=listings, problems=problems)

    def _tags_or_fault(self, repository: str) -> tuple[str, ...] | Fault:
        try:
            return self._reader.tags(repository)
        except Refused as refused:
            return refused.fault

    def _look(
        self, references: Sequence[ImageReference], platform: str, *, layers: bool, deep: bool = False
    ) -> tuple[Listing, ...]:
        named = [ref.model_copy(update={"registry": ref.registry or self.address}) for ref in references]
        seen = self._each(lambda ref: self._reader.image(ref, platform, with_config=layers), named, "Reading manifests")
        blobs = list(dict.fromkeys(self._located(b, image) for image in seen if layers for b in layers_of(image)))
        found = self._each(lambda at: self._probe.look(*at, deep=deep), blobs, "Looking at layers")
        findings = dict(zip(blobs, found, strict=True))
        lists = []
        for image in seen:
            its = {b: findings[at] for b in layers_of(image) if (at := self._located(b, image)) in findings}
            lists.append(listing(image, platform, its, () if layers else (not_looked_at(),)))
        return tuple(lists)

    def _located(self, blob: Blob, image: Seen) -> tuple[str, Blob]:
        return self._reader.repository(image.reference.repository), blob

    def _each(self, work: Callable[[A], B], items: Sequence[A], text: str) -> list[B]:
        """`work` on each, at the registry's width; in order. The first exception ends it, ^C included."""
        self._running = futures = [self._workers.submit(work, item) for item in items]
        step = max(1, len(items) // _NEWS)
        try:
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                if done % step == 0 or done == len(items):
                    self._on_event(Event(phase="catalog", kind="progress", text=text, done=done, total=len(items)))
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        return [future.result() for future in futures]
