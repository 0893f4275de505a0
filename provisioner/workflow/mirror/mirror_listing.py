"""What registries list, and how far the mirror has those tags that may meet a wish: asked no more than needed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.tags import may_fit, read_facts
from provisioner.domain.compatibility.torch_version import torch_fits
from provisioner.domain.forecast.feed import FeedReading
from provisioner.domain.forecast.history import Sighting
from provisioner.domain.forecast.mirror_profile import MirrorProfile
from provisioner.domain.forecast.mirror_status import meets, newest_first, state_of
from provisioner.domain.lab.lab import ON_DEMAND, MirrorKind
from provisioner.domain.lab.lab import Mirror as MirrorSettings
from provisioner.domain.registry.catalog import Listing
from provisioner.domain.values.image import Flavour, ImageFacts, TaggedImage
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport, SyncState
from provisioner.workflow.mirror.freshness import Freshness, named_above
from provisioner.workflow.protocols import Upstream

_FEW = 5  # images of a public mirror or a cache that are looked at in one go, newest first, until one is complete
_OTHERS = 2


class Memory(Protocol):
    """What was seen of each host before. `add` writes what of `seen` is new."""

    def read(self, host: str) -> list[Sighting]: ...
    def add(self, host: str, known: Sequence[Sighting], seen: Iterable[Sighting]) -> None: ...


class Wanted(NamedTuple):
    """`kind`: how the mirror is treated. `is_public`: asked seldom; `is_sparing`: and never for all."""

    mirror: MirrorSettings
    kind: MirrorKind
    torch: str
    flavour: Flavour
    platform: str
    is_public: bool
    is_sparing: bool

    @property
    def host(self) -> str:
        return self.mirror.address


class World(NamedTuple):
    mirror: Upstream
    upstream: Upstream | None
    feed: FeedReading | None
    memory: Memory
    data: CompatibilityData
    profile: MirrorProfile | None

    def facts(self, reference: str) -> ImageFacts:
        """What the text of a reference says."""
        return read_facts(TaggedImage(reference=reference), self.data)


class Listed(NamedTuple):
    """The tags of one registry, `repository:tag`, as facts by their text; and why others could not be listed."""

    facts: dict[str, ImageFacts]
    repositories: tuple[str, ...]
    problems: tuple[Problem, ...]

    @property
    def tags(self) -> set[str]:
        return {tag_of(reference) for reference in self.facts}

    @property
    def unlisted(self) -> SyncState:
        """The state of a tag that is not among them."""
        return state_of(self.problems) if self.problems and not self.repositories else SyncState.ABSENT


class LookedAt(NamedTuple):
    """By tag, how far the mirror has each that meets the wish, by its config where that could be read.

    `problems`: why some were not looked at.
    """

    reports: dict[str, SyncReport]
    problems: tuple[Problem, ...] = ()


def listed(offer: Upstream, repositories: Iterable[str], world: World) -> Listed:
    facts, answered, problems = dict[str, ImageFacts](), list[str](), list[Problem]()
    for repository in repositories:
        try:
            names = [f"{repository}:{tag}" for tag in offer.tags(repository)]
        except ProblemError as stopped:
            problems += stopped.problems
            continue
        answered.append(repository)
        facts |= {name: world.facts(name) for name in names}
    return Listed(facts, tuple(answered), tuple(dict.fromkeys(problems)))


def candidates(among: Listed, wanted: Wanted) -> list[str]:
    """What may meet the wish by its text, newest first; names that say nothing of torch last."""
    fit = [
        facts
        for reference, facts in among.facts.items()
        if may_fit(tag_of(reference), wanted.torch, wanted.flavour)
        and (facts.torch is None or torch_fits(facts.torch, wanted.torch))
    ]
    return [facts.reference for facts in newest_first(fit)]


def look_at(wanted: Wanted, world: World, here: Listed) -> LookedAt:
    names, found = candidates(here, wanted), dict[str, SyncReport]()
    above = world.upstream
    fresh = None if above is None else Freshness(world.mirror, above, named_above(wanted.mirror))
    step = _FEW if wanted.is_public or wanted.is_sparing else max(len(names), 1)
    for start in range(0, len(names), step):
        tags = {tag_of(name) for name in names[start : start + step]}
        try:
            listings = world.mirror.catalog(here.repositories, wanted.platform, wanted=tags.__contains__).listings
        except ProblemError as stopped:  # it answered a moment ago
            return LookedAt(found, stopped.problems)
        found |= {tag_of(e.image.reference): e.report for e in listings if _is_wanted(e, wanted, world)}
        if fresh is not None:
            found |= _held_against([tag_of(name) for name in names], found, fresh)
        if wanted.kind in ON_DEMAND or any(report.state is SyncState.COMPLETE for report in found.values()):
            break
    return LookedAt(found)


def _held_against(newest: Iterable[str], found: Mapping[str, SyncReport], fresh: Freshness) -> dict[str, SyncReport]:
    """The newest complete one that is still upstream's, and those before it that are not."""
    judged = dict[str, SyncReport]()
    for tag in newest:
        if tag in found and found[tag].state is SyncState.COMPLETE:
            judged[tag] = fresh.report(found[tag])
            if judged[tag].state is SyncState.COMPLETE:
                break
    return judged


def _is_wanted(listing: Listing, wanted: Wanted, world: World) -> bool:
    return meets(read_facts(listing.image, world.data), wanted.torch, wanted.flavour)


def others(wanted: Wanted, world: World, here: Listed) -> tuple[str, ...]:
    """Tags outside the wish that are complete here now; a cache is not asked, since it would fetch them."""
    if wanted.kind in ON_DEMAND:
        return ()
    outside = [facts for facts in here.facts.values() if facts.torch and not torch_fits(facts.torch, wanted.torch)]
    fit = [f.reference for f in newest_first(outside) if wanted.flavour in {"runtime", f.flavour}][:_OTHERS]
    looked = [world.mirror.inspect(ImageReference.parse(name), wanted.platform) for name in fit]
    return tuple(tag_of(e.image.reference) for e in looked if e.report.state is SyncState.COMPLETE)


def nearest(above: Listed, wanted: Wanted) -> tuple[str, ...]:
    """The newest that upstream has of that flavour."""
    known = [facts for facts in above.facts.values() if facts.torch and facts.flavour in {wanted.flavour, None}]
    return tuple(tag_of(facts.reference) for facts in newest_first(known)[:_OTHERS])


def tag_of(reference: str) -> str:
    return reference.rpartition(":")[2]
