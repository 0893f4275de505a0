"""Whether a better tag is within reach: one that the mirror lacks, or has in part, and another registry has whole."""

from collections.abc import Iterator
from typing import NamedTuple

from provisioner.domain.lab.lab import Mirror as MirrorSettings
from provisioner.domain.registry.better_tag import Elsewhere, NextBest
from provisioner.domain.registry.copy_commands import Place, with_engine, with_skopeo
from provisioner.domain.selection.advice import Advice
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.problem import ProblemError
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport, SyncState
from provisioner.workflow.lock.source import Found, Search
from provisioner.workflow.mirror.freshness import named_above
from provisioner.workflow.protocols import Mirror, Upstream


class Around(NamedTuple):
    """The registries beside the mirror, and how a person reaches them. `own`: the lab's, where it is not the mirror."""

    upstream: Upstream | None
    own: Mirror | None
    from_upstream: Place | None
    to_own: Place
    lab: str  # as it is typed


def next_best(search: Search, here: Found, around: Around) -> NextBest | None:
    """None where the choice could not be better by any tag that is known. Asks each registry for one image at most."""
    absent = _only_above(search, here, around.upstream)
    images = [entry.image for entry in here.catalog.listings]
    selection = search.pick([*images, *absent]) if absent else here.selection
    advice = next((one for one in selection.advice if one.code == "sync_tag"), None)
    return None if advice is None else _told(search, here, around, advice)


def _only_above(search: Search, here: Found, upstream: Upstream | None) -> list[TaggedImage]:
    """Tags that upstream alone has, by the names that they would have here."""
    wish = search.wish.upstream
    if upstream is None or wish is None:
        return []
    try:
        listed = upstream.listed(wish.repositories or search.wish.repositories, search.platform, wanted=search.wanted)
    except ProblemError:  # the choice stands without it
        return []
    known = {entry.image.reference for entry in here.catalog.listings}
    names = (_named_here(search.wish, ImageReference.parse(entry.image.reference)) for entry in listed.listings)
    return [TaggedImage(reference=name, sync=SyncState.ABSENT) for name in names if name and name not in known]


def _named_here(wish: MirrorSettings, above: ImageReference) -> str | None:
    name = named_above(wish)
    for repository in wish.repositories:
        here = ImageReference(registry=wish.address, repository=repository, tag=above.tag)
        if name(here) == above:
            return str(here)
    return None


def _told(search: Search, here: Found, around: Around, advice: Advice) -> NextBest:
    reports = {entry.image.reference: entry.report for entry in here.catalog.listings}
    report = reports.get(advice.gains) or SyncReport(
        reference=advice.gains, platform=search.platform, state=SyncState.ABSENT
    )
    found = dict(_asked(search, around, ImageReference.parse(advice.gains)))
    whole = next((entry for entry in found.values() if entry.state is SyncState.COMPLETE), None)
    told = NextBest(
        reference=advice.gains,
        state=report.state,
        gains=advice.why,
        layers=len(report.missing),
        bytes=report.bytes_missing or (whole.bytes if whole is not None else 0),
        elsewhere=tuple(_elsewhere(registry, entry) for registry, entry in found.items()),
        afterwards=_wait(around),
    )
    return _with_commands(search.wish, around, told)


def _asked(search: Search, around: Around, here: ImageReference) -> Iterator[tuple[str, SyncReport]]:
    above = named_above(search.wish)(here)
    if around.upstream is not None and above is not None:
        yield str(above.registry), around.upstream.inspect(above, search.platform).report
    if around.own is not None:
        own = here.model_copy(update={"registry": around.to_own.address})
        yield around.to_own.address, around.own.inspect(own, search.platform).report


def _elsewhere(registry: str, report: SyncReport) -> Elsewhere:
    if report.state is not SyncState.COMPLETE or report.digest is None:
        return Elsewhere(registry=registry, state=report.state, why=report.problems[0].what if report.problems else "")
    pinned = ImageReference.parse(report.reference).pinned(report.digest)
    return Elsewhere(registry=registry, state=report.state, reference=pinned.by_digest())


def _with_commands(wish: MirrorSettings, around: Around, told: NextBest) -> NextBest:
    """From upstream into the lab's own registry; none is needed where that has it already."""
    whole = {place.registry: place.reference for place in told.elsewhere if place.reference is not None}
    if around.to_own.address in whole:
        return told.model_copy(update={"afterwards": _use_own(around)})
    source = None if around.from_upstream is None else whole.get(around.from_upstream.address)
    if source is None or around.from_upstream is None:
        return told
    here = ImageReference.parse(told.reference)
    origin, target = ImageReference.parse(source), here.model_copy(update={"registry": around.to_own.address})
    same = around.to_own.address == wish.address
    return told.model_copy(
        update={
            "skopeo": with_skopeo(origin, around.from_upstream, target, around.to_own),
            "engine": with_engine(origin, target),
            "afterwards": f"then: provision lock {around.lab}" if same else f"then: {_use_own(around)}",
        }
    )


def _use_own(around: Around) -> str:
    return f"set mirror.address to {around.to_own.address} in lab.yml, and: provision lock {around.lab}"


def _wait(around: Around) -> str:
    return f"see when it can be expected: provision mirror status {around.lab}"
