"""Choose among the complete images of the mirror for the probed nodes, and build the lock."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.lock import LockedNode, Lockfile
from provisioner.domain.registry.catalog import Catalog
from provisioner.domain.selection.selection import Selection, select
from provisioner.domain.values.event import OnEvent
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.node import NodeFacts, profile
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.workflow.lock.better_tag import BetterTagSources, find_better_tag
from provisioner.workflow.lock.source import Search, SourceResult, find_source
from provisioner.workflow.protocols import Builder, Mirror, Probed, Upstream

_MAX_PLATFORMS = 3  # each is a search of the mirror; labs have one, rarely two


class LockResult(NamedTuple):
    """The lock, with the selection and the catalog that it was built from."""

    lock: Lockfile
    selection: Selection
    catalog: Catalog


def choose(  # noqa: PLR0913  (settings, nodes, registries and data)
    lab: Lab,
    probed: Probed,
    mirror: Mirror,
    data: CompatibilityData,
    on_event: OnEvent,
    *,
    torch: str | None = None,
    upstream: Upstream | None = None,
    registries: BetterTagSources | None = None,
    metered: bool = False,
) -> tuple[Selection, Catalog]:
    """Return the selection from the mirror, or from upstream instead of it, and the catalog of that source.

    A tag that means another image upstream is never chosen. `registries`: where to look for a better tag. `metered`:
    the mirror counts requests or fetches what is requested, so only tags that would be chosen are inspected.
    In a lab of several platforms the one is chosen whose images serve the most nodes, whatever the order of the nodes.
    Raises ProblemError where no node answered or no complete tag serves any node.
    """
    profiles = [profile(facts) for facts in probed.values() if isinstance(facts, NodeFacts)]
    if not profiles:
        raise ProblemError([value for value in probed.values() if isinstance(value, Problem)])
    spec, flavour = torch or lab.image.torch, lab.image.flavour

    def pick(images: Sequence[TaggedImage]) -> Selection:
        return select(profiles, images, data, torch=spec, flavour=flavour)

    platforms = rank_platforms(node.platform for node in profiles)
    searches = [Search(lab.mirror, spec, flavour, platform, pick, on_event, metered) for platform in platforms]
    search, found = _find_best_source(searches, mirror, upstream)
    is_mirror = found.catalog.mirror == lab.mirror.address
    better = find_better_tag(search, found, registries) if registries and is_mirror else None
    if found.selection.decision == "none":
        problems = _refusals(lab, spec, found.catalog, found.selection)
        raise ProblemError(problems if better is None else [*problems, better.to_problem()])
    return found.selection, found.catalog.model_copy(update={"next_best": better})


def rank_platforms(platforms: Iterable[str]) -> list[str]:
    """Return the platforms of nodes, the most frequent one first; of equally frequent ones linux/amd64 first."""
    counts = Counter(platforms)
    return sorted(counts, key=lambda name: (-counts[name], name != "linux/amd64", name))[:_MAX_PLATFORMS]


def _find_best_source(
    searches: Sequence[Search], mirror: Mirror, upstream: Upstream | None
) -> tuple[Search, SourceResult]:
    """Return the search that serves the most nodes; of equal ones the first.

    Raises ProblemError where none has a result: that of the first.
    """
    found: list[tuple[Search, SourceResult]] = []
    failed: list[ProblemError] = []
    for search in searches:
        try:
            found.append((search, find_source(search, mirror, upstream)))
        except ProblemError as error:
            failed.append(error)
    if not found:
        raise failed[0]
    return max(found, key=lambda each: each[1].served_count)


def make_lock(  # noqa: PLR0913
    lab: Lab,
    probed: Probed,
    chosen: tuple[Selection, Catalog],
    builder: Builder,
    data: CompatibilityData,
    *,
    registry_ca: str | None,
    before: Lockfile | None,
) -> LockResult:
    """Build the lab image of every chosen tag and pin both by digest.

    Images stand in catalog order, so that the lock replays the choice. `registry_ca` is PEM text. `before`: the lock
    that is replaced; people keep their places.
    """
    selection, catalog = chosen
    served = {
        name: _locked_node(facts, selection)
        for name, facts in sorted(probed.items())
        if isinstance(facts, NodeFacts) and selection.nodes[name].tag is not None
    }
    images = [builder.lab_image(entry) for entry in catalog.listings if entry.image.reference in selection.tags]
    lock = Lockfile(
        lab=lab.name,
        mirror=catalog.mirror,
        registry_ca=registry_ca,
        data_version=data.version,
        torch=selection.torch,
        images=tuple(images),
        nodes=served,
        unserved=tuple(sorted(name for name, choice in selection.nodes.items() if choice.tag is None)),
        people={} if before is None else before.people,
    )
    return LockResult(lock, selection, catalog)


def _locked_node(facts: NodeFacts, selection: Selection) -> LockedNode:
    choice = selection.nodes[facts.name]
    chosen = [facts.offered_gpus[index] for index in choice.gpus]
    return LockedNode(
        image=str(choice.tag),
        gpus=tuple(gpu.uuid for gpu in chosen if gpu.uuid),
        capabilities=tuple(gpu.compute_capability for gpu in chosen if gpu.compute_capability),
    )


def _refusals(lab: Lab, spec: str, catalog: Catalog, selection: Selection) -> list[Problem]:
    """Return why no tag serves any node: an empty catalog, or each different problem once."""
    if not catalog.listings:
        return [
            Problem(
                "no_tag",
                f"{lab.mirror.address} has no tag of {', '.join(lab.mirror.repositories)} with torch {spec}",
                "images are chosen among the tags that the mirror lists",
                "see `provision mirror tags`; widen image.torch in lab.yml or name another mirror",
            )
        ]
    found = {
        (problem.code, problem.what): problem
        for choice in selection.nodes.values()
        for verdict in choice.verdicts.values()
        for problem in verdict.problems
    }
    return list(found.values())
