"""Where a lab is taken from: the mirror; or, where lab.yml allows it and the mirror serves less, wholly from upstream.

Never half from each: a lock names one source, and nodes of one lab do not differ by where their image came from.
"""

from collections.abc import Sequence
from typing import NamedTuple

from provisioner.domain.compatibility.tags import may_fit
from provisioner.domain.lab.lab import Mirror as MirrorSettings
from provisioner.domain.registry.catalog import Catalog
from provisioner.domain.selection.selection import Selection
from provisioner.domain.values.event import Event, OnEvent
from provisioner.domain.values.image import Flavour
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.workflow.lock.refine import Pick, hoped_for, settled
from provisioner.workflow.mirror.freshness import Freshness, named_above
from provisioner.workflow.protocols import Mirror, Upstream


class Search(NamedTuple):
    """What is looked for on either source. `sparing`: the mirror is asked only for what would be chosen."""

    wish: MirrorSettings
    torch: str
    flavour: Flavour
    platform: str
    pick: Pick
    on_event: OnEvent
    sparing: bool = False

    def wanted(self, tag: str) -> bool:
        return may_fit(tag, self.torch, self.flavour)


class Found(NamedTuple):
    selection: Selection
    catalog: Catalog

    @property
    def served(self) -> int:
        return sum(choice.tag is not None for choice in self.selection.nodes.values())

    @property
    def serves_all(self) -> bool:
        return self.served == len(self.selection.nodes)


def find(search: Search, mirror: Mirror, upstream: Upstream | None) -> Found:
    """Find the better source. Raises ProblemError where the mirror cannot be asked and has no substitute."""
    above = None if search.wish.upstream is None or not search.wish.upstream.fallback else upstream
    try:
        here = _on_mirror(search, mirror, upstream)
    except ProblemError as stopped:
        instead = None if above is None else _instead(search, above, 0, stopped.problems)
        if instead is None:
            raise
        return instead
    if above is None or here.serves_all:
        return here
    return _instead(search, above, here.served, _against(here)) or here


def _on_mirror(search: Search, mirror: Mirror, upstream: Upstream | None) -> Found:
    search.on_event(_asking(f"{search.wish.address} what it has"))
    look = mirror.listed if search.sparing else mirror.catalog
    offered = look(search.wish.repositories, search.platform, wanted=search.wanted)
    fresh = None if upstream is None else Freshness(mirror, upstream, named_above(search.wish))
    catalog = settled(offered, mirror, search.platform, search.pick, fresh)
    for problem in () if fresh is None else fresh.unknown:
        text = f"whether the mirror's tags are still upstream's is not known: {problem.what}"
        search.on_event(Event(phase="catalog", kind="note", text=text))
    return _found(search, catalog)


def _instead(search: Search, above: Upstream, served: int, why: Sequence[Problem]) -> Found | None:
    """Upstream's choice where it serves more nodes than `served`. Names alone tell whether it can."""
    if (wish := search.wish.upstream) is None:
        return None
    search.on_event(_asking(f"{wish.address}, since {search.wish.address} does not serve every node"))
    try:
        listed = above.listed(wish.repositories or search.wish.repositories, search.platform, wanted=search.wanted)
        hoped = search.pick([hoped_for(entry, ()) for entry in listed.listings])
        if Found(hoped, listed).served <= served:
            return None
        found = _found(search, settled(listed, above, search.platform, search.pick))
    except ProblemError as stopped:
        text = f"{wish.address} does not stand in: {stopped.problems[0].what}"
        search.on_event(Event(phase="catalog", kind="note", text=text))
        return None
    told = (*found.catalog.problems, _taken(search.wish.address, wish.address, found, served, why))
    return (
        None if found.served <= served else found._replace(catalog=found.catalog.model_copy(update={"problems": told}))
    )


def _found(search: Search, catalog: Catalog) -> Found:
    return Found(search.pick([listing.image for listing in catalog.listings]), catalog)


def _against(here: Found) -> list[Problem]:
    """What stands against the best tag of the mirror for a node that gets none."""
    unserved = [choice for choice in here.selection.nodes.values() if choice.tag is None]
    return [problem for choice in unserved for verdict in choice.verdicts.values() for problem in verdict.problems]


def _taken(mirror: str, upstream: str, found: Found, served: int, why: Sequence[Problem]) -> Problem:
    reason = f": {why[0].what}" if why else ""
    nodes = len(found.selection.nodes)
    return Problem(
        "taken_from_upstream",
        f"the whole lab is taken from {upstream} and nothing of it from {mirror}",
        (
            f"lab.yml allows it, and {mirror} serves {served} of {nodes} nodes where {upstream} serves "
            f"{found.served}{reason}"
        ),
        (
            f"once {mirror} has the tag whole, `provision lock` takes it from there again; "
            "mirror.upstream.fallback: false forbids this"
        ),
    )


def _asking(whom: str) -> Event:
    return Event(phase="catalog", kind="started", text=f"asking {whom}")
