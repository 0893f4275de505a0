"""Find a better tag: one that the mirror lacks or has in part, and that another registry has complete."""

from collections.abc import Iterator
from typing import NamedTuple

from provisioner.domain.lab.lab import Mirror as MirrorSettings
from provisioner.domain.registry.better_tag import NextBest, OtherRegistry
from provisioner.domain.registry.copy_commands import RegistryEndpoint, engine_commands, skopeo_commands
from provisioner.domain.selection.advice import Advice
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.problem import ProblemError
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport, SyncState
from provisioner.workflow.lock.source import Search, SourceResult
from provisioner.workflow.mirror.freshness import upstream_mapper
from provisioner.workflow.protocols import Mirror, Upstream


class BetterTagSources(NamedTuple):
    """Where to look for a better tag: the registries beside the mirror, and their addresses for copy commands.

    `own` is the lab's registry, or None where it is the mirror itself. `lab` is the LAB argument for printed commands.
    """

    upstream: Upstream | None
    own: Mirror | None
    upstream_endpoint: RegistryEndpoint | None
    own_endpoint: RegistryEndpoint
    lab: str


def find_better_tag(search: Search, here: SourceResult, registries: BetterTagSources) -> NextBest | None:
    """Return the tag that would improve the choice if the mirror had it complete, or None if no known tag would.

    Inspects at most one image on each other registry.
    """
    absent = _upstream_only_tags(search, here, registries.upstream)
    images = [entry.image for entry in here.catalog.listings]
    selection = search.pick([*images, *absent]) if absent else here.selection
    advice = next((one for one in selection.advice if one.code == "sync_tag"), None)
    return None if advice is None else _build_next_best(search, here, registries, advice)


def _upstream_only_tags(search: Search, here: SourceResult, upstream: Upstream | None) -> list[TaggedImage]:
    """Return the tags that only upstream has, under the names they would have on the mirror."""
    settings = search.settings.upstream
    if upstream is None or settings is None:
        return []
    repositories = settings.repositories or search.settings.repositories
    try:
        listed = upstream.listed(repositories, search.platform, wanted=search.accepts)
    except ProblemError:  # the choice is valid without upstream
        return []
    known = {entry.image.reference for entry in here.catalog.listings}
    names = (_mirror_name(search.settings, ImageReference.parse(entry.image.reference)) for entry in listed.listings)
    return [TaggedImage(reference=name, sync=SyncState.ABSENT) for name in names if name and name not in known]


def _mirror_name(settings: MirrorSettings, upstream_name: ImageReference) -> str | None:
    map_name = upstream_mapper(settings)
    for repository in settings.repositories:
        name = ImageReference(registry=settings.address, repository=repository, tag=upstream_name.tag)
        if map_name(name) == upstream_name:
            return str(name)
    return None


def _build_next_best(search: Search, here: SourceResult, registries: BetterTagSources, advice: Advice) -> NextBest:
    reports = {entry.image.reference: entry.report for entry in here.catalog.listings}
    report = reports.get(advice.gains) or SyncReport(
        reference=advice.gains, platform=search.platform, state=SyncState.ABSENT
    )
    elsewhere = dict(_inspect_elsewhere(search, registries, ImageReference.parse(advice.gains)))
    complete = next((entry for entry in elsewhere.values() if entry.state is SyncState.COMPLETE), None)
    better = NextBest(
        reference=advice.gains,
        state=report.state,
        gains=advice.why,
        layers=len(report.missing),
        bytes=report.bytes_missing or (complete.bytes if complete is not None else 0),
        elsewhere=tuple(_elsewhere(registry, entry) for registry, entry in elsewhere.items()),
        afterwards=f"see when it can be expected: provision mirror status {registries.lab}",
    )
    return _with_commands(search.settings, registries, better)


def _inspect_elsewhere(
    search: Search, registries: BetterTagSources, reference: ImageReference
) -> Iterator[tuple[str, SyncReport]]:
    """Yield the address of each other registry with its report on the image."""
    upstream_name = upstream_mapper(search.settings)(reference)
    if registries.upstream is not None and upstream_name is not None:
        yield str(upstream_name.registry), registries.upstream.inspect(upstream_name, search.platform).report
    if registries.own is not None:
        own = reference.model_copy(update={"registry": registries.own_endpoint.address})
        yield registries.own_endpoint.address, registries.own.inspect(own, search.platform).report


def _elsewhere(registry: str, report: SyncReport) -> OtherRegistry:
    if report.state is not SyncState.COMPLETE or report.digest is None:
        return OtherRegistry(
            registry=registry, state=report.state, why=report.problems[0].what if report.problems else ""
        )
    pinned = ImageReference.parse(report.reference).pinned(report.digest)
    return OtherRegistry(registry=registry, state=report.state, reference=pinned.by_digest())


def _with_commands(settings: MirrorSettings, registries: BetterTagSources, better: NextBest) -> NextBest:
    """Add the commands that copy the tag from upstream to the lab's registry, unless it is there already."""
    own, upstream = registries.own_endpoint, registries.upstream_endpoint
    use_own = f"set mirror.address to {own.address} in lab.yml, and: provision lock {registries.lab}"
    complete = {place.registry: place.reference for place in better.elsewhere if place.reference is not None}
    if own.address in complete:
        return better.model_copy(update={"afterwards": use_own})
    source = None if upstream is None else complete.get(upstream.address)
    if source is None or upstream is None:
        return better
    origin = ImageReference.parse(source)
    target = ImageReference.parse(better.reference).model_copy(update={"registry": own.address})
    is_mirror = own.address == settings.address
    return better.model_copy(
        update={
            "skopeo": skopeo_commands(origin, upstream, target, own),
            "engine": engine_commands(origin, target),
            "afterwards": f"then: provision lock {registries.lab}" if is_mirror else f"then: {use_own}",
        }
    )
