"""List the tags of registries, and inspect those of the mirror that may meet a request, as few as possible."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.tags import may_match, read_facts
from provisioner.domain.compatibility.torch_version import torch_fits
from provisioner.domain.forecast.feed import FeedReading
from provisioner.domain.forecast.history import Observation
from provisioner.domain.forecast.mirror_profile import MirrorProfile
from provisioner.domain.forecast.mirror_status import meets, newest_first, state_of
from provisioner.domain.lab.lab import ON_DEMAND, MirrorKind
from provisioner.domain.lab.lab import Mirror as MirrorSettings
from provisioner.domain.registry.catalog import Listing
from provisioner.domain.values.image import Flavour, ImageFacts, TaggedImage
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport, SyncState
from provisioner.workflow.mirror.freshness import Freshness, upstream_mapper
from provisioner.workflow.protocols import Upstream

_BATCH = 5  # images of a public mirror or a cache inspected at once, newest first, until one is complete
_ALTERNATIVES = 2


class ObservationStore(Protocol):
    """The observations of each host, kept between runs."""

    def read(self, host: str) -> list[Observation]:
        """Return all observations of a host, oldest first."""

    def add(self, host: str, known: Sequence[Observation], seen: Iterable[Observation]) -> None:
        """Write those of `seen` that `known` does not hold."""


class MirrorQuery(NamedTuple):
    """The image that a status is about.

    `kind`: how the mirror is treated. `is_public`: it is asked seldom. `is_metered`: its tags are not all inspected.
    """

    mirror: MirrorSettings
    kind: MirrorKind
    torch: str
    flavour: Flavour
    platform: str
    is_public: bool
    is_metered: bool

    @property
    def host(self) -> str:
        """Return the address of the mirror."""
        return self.mirror.address


class MirrorSources(NamedTuple):
    """What a status is read from: the mirror, its upstream, its sync feed, earlier observations and static data."""

    mirror: Upstream
    upstream: Upstream | None
    feed: FeedReading | None
    memory: ObservationStore
    data: CompatibilityData
    profile: MirrorProfile | None

    def facts(self, reference: str) -> ImageFacts:
        """Return what the text of a reference says about the image."""
        return read_facts(TaggedImage(reference=reference), self.data)


class TagList(NamedTuple):
    """The tags of one registry: facts from their text by `repository:tag`, and the problems of failed listings.

    `repositories` are those that could be listed.
    """

    facts: dict[str, ImageFacts]
    repositories: tuple[str, ...]
    problems: tuple[Problem, ...]

    @property
    def tags(self) -> set[str]:
        """Return the tags without their repositories."""
        return {tag_of(reference) for reference in self.facts}

    @property
    def unlisted_state(self) -> SyncState:
        """Return the state of a tag that is not in the list."""
        return state_of(self.problems) if self.problems and not self.repositories else SyncState.ABSENT


class Inspection(NamedTuple):
    """The reports, by tag, of the mirror's images that meet the query. `problems`: why some were not inspected."""

    reports: dict[str, SyncReport]
    problems: tuple[Problem, ...] = ()


def list_tags(registry: Upstream, repositories: Iterable[str], sources: MirrorSources) -> TagList:
    """List the tags of each repository. A repository that cannot be listed is a problem in the result."""
    facts, answered, problems = dict[str, ImageFacts](), list[str](), list[Problem]()
    for repository in repositories:
        try:
            names = [f"{repository}:{tag}" for tag in registry.tags(repository)]
        except ProblemError as stopped:
            problems += stopped.problems
            continue
        answered.append(repository)
        facts |= {name: sources.facts(name) for name in names}
    return TagList(facts, tuple(answered), tuple(dict.fromkeys(problems)))


def find_candidates(among: TagList, query: MirrorQuery) -> list[str]:
    """Return the references that may meet the query by their text, newest first; those without a torch version last."""
    fit = [
        facts
        for reference, facts in among.facts.items()
        if may_match(tag_of(reference), query.torch, query.flavour)
        and (facts.torch is None or torch_fits(facts.torch, query.torch))
    ]
    return [facts.reference for facts in newest_first(fit)]


def inspect_candidates(query: MirrorQuery, sources: MirrorSources, here: TagList) -> Inspection:
    """Inspect the candidates on the mirror and compare complete ones with upstream.

    On a public or metered mirror this stops at the first batch with a complete image. A cache is not asked for layers.
    """
    names, found = find_candidates(here, query), dict[str, SyncReport]()
    upstream = sources.upstream
    fresh = None if upstream is None else Freshness(sources.mirror, upstream, upstream_mapper(query.mirror))
    step = _BATCH if query.is_public or query.is_metered else max(len(names), 1)
    for start in range(0, len(names), step):
        tags = {tag_of(name) for name in names[start : start + step]}
        try:
            listings = sources.mirror.catalog(here.repositories, query.platform, wanted=tags.__contains__).listings
        except ProblemError as stopped:  # it answered a moment ago
            return Inspection(found, stopped.problems)
        found |= {tag_of(e.image.reference): e.report for e in listings if _meets_query(e, query, sources)}
        if fresh is not None:
            found |= _compare_newest([tag_of(name) for name in names], found, fresh)
        if query.kind in ON_DEMAND or any(report.state is SyncState.COMPLETE for report in found.values()):
            break
    return Inspection(found)


def _compare_newest(newest: Iterable[str], found: Mapping[str, SyncReport], fresh: Freshness) -> dict[str, SyncReport]:
    """Compare complete tags with upstream, newest first, up to the first that is fresh; return the compared ones."""
    compared = dict[str, SyncReport]()
    for tag in newest:
        if tag in found and found[tag].state is SyncState.COMPLETE:
            compared[tag] = fresh.report(found[tag])
            if compared[tag].state is SyncState.COMPLETE:
                break
    return compared


def _meets_query(listing: Listing, query: MirrorQuery, sources: MirrorSources) -> bool:
    return meets(read_facts(listing.image, sources.data), query.torch, query.flavour)


def find_alternatives(query: MirrorQuery, sources: MirrorSources, here: TagList) -> tuple[str, ...]:
    """Return tags of other torch versions that are complete on the mirror now.

    Empty for a cache: it would fetch the images if they were inspected.
    """
    if query.kind in ON_DEMAND:
        return ()
    outside = [facts for facts in here.facts.values() if facts.torch and not torch_fits(facts.torch, query.torch)]
    fit = [f.reference for f in newest_first(outside) if query.flavour in {"runtime", f.flavour}][:_ALTERNATIVES]
    inspected = [sources.mirror.inspect(ImageReference.parse(name), query.platform) for name in fit]
    return tuple(tag_of(e.image.reference) for e in inspected if e.report.state is SyncState.COMPLETE)


def newest_tags(listed: TagList, query: MirrorQuery) -> tuple[str, ...]:
    """Return the newest tags of the query's flavour in a list, whatever their torch version."""
    known = [facts for facts in listed.facts.values() if facts.torch and facts.flavour in {query.flavour, None}]
    return tuple(tag_of(facts.reference) for facts in newest_first(known)[:_ALTERNATIVES])


def tag_of(reference: str) -> str:
    """Return the part of a reference behind its last colon."""
    return reference.rpartition(":")[2]
