"""Choose the registry of a lab's images: the mirror, or all from upstream where lab.yml allows it and it serves more.

The two are never mixed: a lock names one source, and all nodes of a lab pull from it.
"""

from collections.abc import Sequence
from typing import NamedTuple

from provisioner.domain.compatibility.tags import may_match
from provisioner.domain.lab.lab import Mirror as MirrorSettings
from provisioner.domain.registry.catalog import Catalog
from provisioner.domain.selection.selection import Selection
from provisioner.domain.values.event import Event, OnEvent
from provisioner.domain.values.image import Flavour
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.workflow.lock.refine import Pick, assume_complete, refine_catalog
from provisioner.workflow.mirror.freshness import Freshness, upstream_mapper
from provisioner.workflow.protocols import Mirror, Upstream


class Search(NamedTuple):
    """What to search for on either source. `metered`: only the tags that would be chosen are inspected."""

    settings: MirrorSettings
    torch: str
    flavour: Flavour
    platform: str
    pick: Pick
    on_event: OnEvent
    metered: bool = False

    def accepts(self, tag: str) -> bool:
        """Return whether the text of a tag allows the requested torch and flavour."""
        return may_match(tag, self.torch, self.flavour)


class SourceResult(NamedTuple):
    """The catalog of one source, and the selection from it."""

    selection: Selection
    catalog: Catalog

    @property
    def served_count(self) -> int:
        """Return the number of nodes that get an image."""
        return sum(choice.tag is not None for choice in self.selection.nodes.values())


def find_source(search: Search, mirror: Mirror, upstream: Upstream | None) -> SourceResult:
    """Return the result of the mirror, or that of upstream where the fallback is allowed and serves more nodes.

    Raises ProblemError where the mirror cannot be listed and upstream does not replace it.
    """
    fallback = None if search.settings.upstream is None or not search.settings.upstream.fallback else upstream
    try:
        here = _search_mirror(search, mirror, upstream)
    except ProblemError as stopped:
        instead = None if fallback is None else _search_upstream(search, fallback, 0, stopped.problems)
        if instead is None:
            raise
        return instead
    if fallback is None or here.served_count == len(here.selection.nodes):
        return here
    return _search_upstream(search, fallback, here.served_count, _unserved_problems(here)) or here


def _search_mirror(search: Search, mirror: Mirror, upstream: Upstream | None) -> SourceResult:
    search.on_event(Event(phase="catalog", kind="started", text=f"listing {search.settings.address}"))
    list_tags = mirror.listed if search.metered else mirror.catalog
    listed = list_tags(search.settings.repositories, search.platform, wanted=search.accepts)
    fresh = None if upstream is None else Freshness(mirror, upstream, upstream_mapper(search.settings))
    catalog = refine_catalog(listed, mirror, search.platform, search.pick, fresh)
    for problem in () if fresh is None else fresh.unknown:
        text = f"the mirror's tags are not compared with upstream: {problem.what}"
        search.on_event(Event(phase="catalog", kind="note", text=text))
    return _pick_from(search, catalog)


def _search_upstream(search: Search, upstream: Upstream, served: int, why: Sequence[Problem]) -> SourceResult | None:
    """Return upstream's result if it serves more than `served` nodes, else None.

    Images are inspected only if their names allow that.
    """
    mirror, settings = search.settings, search.settings.upstream
    if settings is None:
        return None
    text = f"listing {settings.address}: {mirror.address} does not serve every node"
    search.on_event(Event(phase="catalog", kind="started", text=text))
    try:
        listed = upstream.listed(settings.repositories or mirror.repositories, search.platform, wanted=search.accepts)
        possible = search.pick([assume_complete(entry, ()) for entry in listed.listings])
        if SourceResult(possible, listed).served_count <= served:
            return None
        found = _pick_from(search, refine_catalog(listed, upstream, search.platform, search.pick))
    except ProblemError as stopped:
        text = f"{settings.address} cannot be used instead: {stopped.problems[0].what}"
        search.on_event(Event(phase="catalog", kind="note", text=text))
        return None
    if found.served_count <= served:
        return None
    problem = _fallback_problem(mirror.address, settings.address, found, served, why)
    catalog = found.catalog.model_copy(update={"problems": (*found.catalog.problems, problem)})
    return found._replace(catalog=catalog)


def _pick_from(search: Search, catalog: Catalog) -> SourceResult:
    return SourceResult(search.pick([listing.image for listing in catalog.listings]), catalog)


def _unserved_problems(here: SourceResult) -> list[Problem]:
    """Return the problems of the mirror's tags on the nodes that get none."""
    unserved = [choice for choice in here.selection.nodes.values() if choice.tag is None]
    return [problem for choice in unserved for verdict in choice.verdicts.values() for problem in verdict.problems]


def _fallback_problem(mirror: str, upstream: str, found: SourceResult, served: int, why: Sequence[Problem]) -> Problem:
    reason = f": {why[0].what}" if why else ""
    nodes = f"{mirror} serves {served} of {len(found.selection.nodes)} nodes, {upstream} serves {found.served_count}"
    return Problem(
        "taken_from_upstream",
        f"all images of the lab come from {upstream}, none from {mirror}",
        f"lab.yml allows this fallback, and {nodes}{reason}",
        f"`provision lock` uses {mirror} again once it has the tag complete; "
        "mirror.upstream.fallback: false forbids the fallback",
    )
