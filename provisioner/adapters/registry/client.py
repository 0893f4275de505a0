"""A registry, looked at without an engine: what it offers, and whether every part of it can be had now.

One look goes through three rounds, each of bounded width: lists of tags, manifests with their configs, and each blob
once however many images share it.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from provisioner.adapters.registry import image_identities
from provisioner.adapters.registry.blob_probe import Probe
from provisioner.adapters.registry.contents import delete, held
from provisioner.adapters.registry.http import Refused
from provisioner.adapters.registry.layer_cache import Verdicts
from provisioner.adapters.registry.listing import layers_of, listing
from provisioner.adapters.registry.reader import ManifestMissing, Reader, Seen
from provisioner.adapters.registry.retry import Sender
from provisioner.adapters.registry.session import Session, api_host
from provisioner.adapters.registry.transport import Patience, Wire
from provisioner.domain.lab.lab import MirrorKind
from provisioner.domain.registry.catalog import Catalog, Listing
from provisioner.domain.registry.gc import HeldImage
from provisioner.domain.registry.image_problems import Fault, listed_only, not_looked_at
from provisioner.domain.registry.manifest import Blob, digest_of
from provisioner.domain.values.event import Event, OnEvent
from provisioner.domain.values.image import ImageConfig
from provisioner.domain.values.image_identity import Identity
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.proxy import asked_through
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport, SyncState

A = TypeVar("A")
B = TypeVar("B")

# For these a question about a layer may be answered by downloading it, so lists of tags are read without layers.
_LAZY: frozenset[MirrorKind] = frozenset({"registry-proxy", "harbor-proxy", "lazy"})
# Campus and public mirrors ban clients that open many connections (tuna/issues#1922, #2354).
_PUBLIC: frozenset[MirrorKind] = frozenset({"lazy", "redirector"})
# A registry of the lab's own is bound by its processor beyond that (bench/registry.py).
_CONNECTIONS, _PUBLIC_CONNECTIONS = 32, 8
_NEWS = 50  # progress events of one round, at most


def _ignore(_: Event) -> None:
    """Nobody listens."""


def _any_tag(_: str) -> bool:
    return True


def _now() -> datetime:
    return datetime.now(UTC)


def _known(ask: Callable[[], A]) -> A | None:
    """None where the registry answers that it has no such image."""
    try:
        return ask()
    except ManifestMissing:
        return None
    except Refused as refused:
        raise ProblemError(refused.fault.problem) from None


class Registry:
    """One registry. A context manager: on leaving, also by ^C, nothing of it runs any more.

    `remembered`: for how many seconds a layer that was seen whole, by this run or another, is not asked for again.

    `inspect` and `check` never raise for a fault of an image or of the registry: it stands in the report. The others
    raise ProblemError where there is neither yes nor no.
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
        remembered: float = 0,
    ) -> None:
        patience = patience or Patience()
        width = connections or (_PUBLIC_CONNECTIONS if kind in _PUBLIC else _CONNECTIONS)
        self.address = address
        self._lazy = kind in _LAZY
        self._on_event = on_event
        environment = os.environ if environment is None else environment
        self._wire = Wire(ca=ca, connections=width, patience=patience, environment=environment)
        self._sender = Sender(self._wire, patience, api_host(address))
        session = Session(address, plain_http=plain_http, sender=self._sender, environment=environment)
        self._proxied = self._wire.proxy(session.base)
        self._verdicts = Verdicts(session.base, remembered)
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
        self._verdicts.keep()

    def tags(self, repository: str) -> tuple[str, ...]:
        """In the registry's order, without signatures. Raises ProblemError."""
        try:
            return self._reader.tags(repository)
        except Refused as refused:
            problem = refused.fault.problem
            raise ProblemError((problem, *self._in_between([problem]))) from None

    def exists(self, reference: ImageReference) -> str | None:
        """The digest of its manifest or index; None where the registry says that it has none. Raises ProblemError."""
        return _known(lambda: digest_of(self._reader.manifest(reference)))

    def digest(self, reference: ImageReference) -> str | None:
        """What the tag names now, for the price of a HEAD; None where there is no such tag. Raises ProblemError."""
        return _known(lambda: self._reader.digest(reference))

    def identity(self, reference: ImageReference, platform: str) -> Identity | None:
        """Which image it means; None where there is none. What a digest means is asked once. Raises ProblemError."""
        seen = None if reference.digest is None else image_identities.known(reference.digest, platform)
        if seen is None and (seen := _known(lambda: self._reader.identity(reference, platform))) is not None:
            image_identities.keep(seen, platform)
        return seen

    def config(self, reference: ImageReference, platform: str) -> ImageConfig | None:
        """None where the registry says that it has no such image. Raises ProblemError."""
        if self.exists(reference) is None:
            return None
        seen = self._reader.image(reference, platform, with_config=True)
        if seen.fault is not None:
            raise ProblemError(seen.fault.problem)
        return seen.config

    def labels(self, reference: ImageReference, platform: str = "linux/amd64") -> dict[str, str] | None:
        """None where the registry says that it has no such image. Raises ProblemError."""
        config = self.config(reference, platform)
        return None if config is None else config.labels

    def held(self, repository: str) -> tuple[HeldImage, ...]:
        """Every image that has a tag there; none where there is no such repository. Raises ProblemError."""
        try:
            return held(self._reader, repository, self._reader.tags(repository))
        except Refused as refused:
            if refused.fault.problem.code == "repository_missing":
                return ()
            raise ProblemError(refused.fault.problem) from None

    def delete(self, repository: str, digest: str) -> None:
        """Takes an image with all its tags out. Raises ProblemError."""
        try:
            delete(self._reader, repository, digest)
        except Refused as refused:
            raise ProblemError(refused.fault.problem) from None

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
        """Every wanted tag. Raises ProblemError where not one repository could be listed."""
        references, problems = self._listed(repositories, wanted)
        listings = self._look(references, platform, layers=not self._lazy)
        return Catalog(mirror=self.address, checked_at=clock(), listings=listings, problems=problems)

    def listed(
        self,
        repositories: Sequence[str],
        platform: str,
        *,
        wanted: Callable[[str], bool] = _any_tag,
        clock: Callable[[], datetime] = _now,
    ) -> Catalog:
        """Every wanted tag by its name alone, for one request a repository. Raises ProblemError as `catalog` does."""
        references, problems = self._listed(repositories, wanted)
        listings = tuple(listing(Seen(reference), platform, {}, [listed_only()]) for reference in references)
        return Catalog(mirror=self.address, checked_at=clock(), listings=listings, problems=problems)

    def _listed(
        self, repositories: Sequence[str], wanted: Callable[[str], bool]
    ) -> tuple[list[ImageReference], tuple[Problem, ...]]:
        listed = self._each(self._tags_or_fault, repositories, "Listing tags")
        faults = [answer for answer in listed if isinstance(answer, Fault)]
        if faults and len(faults) == len(repositories):
            problems = tuple(dict.fromkeys(fault.problem for fault in faults))
            raise ProblemError((*problems, *self._in_between(problems)))
        references = [
            ImageReference(registry=self.address, repository=repository, tag=tag)
            for repository, tags in zip(repositories, listed, strict=True)
            if not isinstance(tags, Fault)
            for tag in tags
            if wanted(tag)
        ]
        return references, tuple(fault.problem for fault in faults)

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
        findings = self._found(blobs, deep=deep)
        lists = []
        for image in seen:
            its = {b: findings[at] for b in layers_of(image) if (at := self._located(b, image)) in findings}
            lists.append(listing(image, platform, its, () if layers else (not_looked_at(),)))
        return tuple(map(self._remarked, lists))

    def _remarked(self, entry: Listing) -> Listing:
        """What is not complete, and was asked through a proxy, may be the proxy's word."""
        if self._proxied is None or entry.report.state in {SyncState.COMPLETE, SyncState.COLD}:
            return entry
        problems = (*entry.report.problems, *self._in_between(entry.report.problems))
        report, image = (one.model_copy(update={"problems": problems}) for one in (entry.report, entry.image))
        return Listing(image=image, report=report)

    def _in_between(self, problems: Iterable[Problem]) -> tuple[Problem, ...]:
        """Nothing where a problem of the proxy is among them."""
        if self._proxied is None or any(problem.code == "proxy_failed" for problem in problems):
            return ()
        return (asked_through(self.address, self._proxied),)

    def _found(self, blobs: Sequence[tuple[str, Blob]], *, deep: bool) -> dict[tuple[str, Blob], Fault | None]:
        """A deep look believes nothing that was seen before: only the ends were."""
        known = dict.fromkeys(at for at in blobs if not deep and self._verdicts.knows(*at))
        unknown = [at for at in blobs if at not in known]
        found = self._each(lambda at: self._probe.look(*at, deep=deep), unknown, "Looking at layers")
        asked = dict(zip(unknown, found, strict=True))
        self._verdicts.add(asked)
        if known:
            text = f"{len(known)} of {len(blobs)} layers were seen whole a moment ago, and not asked for again"
            self._on_event(Event(phase="catalog", kind="note", text=f"{text}; --fresh does"))
        return known | asked

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
