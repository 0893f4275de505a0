"""Choose among the complete images of the mirror for the nodes of each environment, and build the lock."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.lab.environments import DEFAULT_ENVIRONMENT, setting_of
from provisioner.domain.lab.kept import elsewhere_problems, keep_default, kept_environments
from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.lock import LockedEnvironment, LockedNode, Lockfile
from provisioner.domain.people.environments import environment_nodes
from provisioner.domain.people.person import Person
from provisioner.domain.registry.catalog import Catalog, Listing
from provisioner.domain.selection.measured import find_differences, measured_differs
from provisioner.domain.selection.selection import Selection, select
from provisioner.domain.values.event import OnEvent
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.measured import Measured
from provisioner.domain.values.node import NodeFacts, profile
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.workflow.lock.better_tag import BetterTagSources, find_better_tag
from provisioner.workflow.lock.source import Search, SourceResult, find_source
from provisioner.workflow.protocols import Builder, Mirror, Probed, Upstream

_MAX_PLATFORMS = 3  # each is a search of the mirror; labs have one, rarely two


class Choice(NamedTuple):
    """The selection of an environment, and the catalog of the registry that it was made from."""

    selection: Selection
    catalog: Catalog

    @property
    def listings(self) -> list[Listing]:
        """The chosen tags, in the order of their references, whatever the order of the registry."""
        listed = {entry.image.reference: entry for entry in self.catalog.listings}
        return [listed[reference] for reference in sorted(self.selection.tags)]

    def serves(self, nodes: Iterable[str]) -> bool:
        """Whether each of these nodes gets an image."""
        chosen = self.selection.nodes
        return all(node in chosen and chosen[node].tag for node in nodes)


Choices = Mapping[str, Choice]  # by environment; without a named one whose nodes did not answer


class LockResult(NamedTuple):
    """The lock, and the choices that it was built from."""

    lock: Lockfile
    choices: Choices

    @property
    def default(self) -> Choice:
        """The choice of the environment `default`."""
        return self.choices[DEFAULT_ENVIRONMENT]


def choose_all(  # noqa: PLR0913, PLR0917  (settings, nodes, registries and data)
    lab: Lab,
    people: Sequence[Person],
    probed: Probed,
    mirror: Mirror,
    data: CompatibilityData,
    on_event: OnEvent,
    *,
    upstream: Upstream | None = None,
    registries: BetterTagSources | None = None,
    metered: bool = False,
) -> Choices:
    """Return the choice of each environment for the nodes that may run it, `default` first; see `choose`.

    Environments that ask for the same on the same nodes share one search. Problems of a named one name it.
    """
    choices, searched = dict[str, Choice](), dict[object, Choice]()
    for name, nodes in environment_nodes(lab, people, list(probed)).items():
        found = {node: probed[node] for node in nodes}
        if name != DEFAULT_ENVIRONMENT and not any(isinstance(facts, NodeFacts) for facts in found.values()):
            continue
        settings = lab.all_environments[name]
        search = (settings.torch, settings.flavour, nodes)
        if search not in searched:
            with _naming(name):
                searched[search] = choose(
                    lab,
                    found,
                    mirror,
                    data,
                    on_event,
                    environment=name,
                    upstream=upstream,
                    registries=registries,
                    metered=metered,
                )
        choices[name] = searched[search]
    return choices


@contextmanager
def _naming(environment: str) -> Iterator[None]:
    """Add the name of the environment to every problem that ends the block; nothing for `default`."""
    try:
        yield
    except ProblemError as error:
        if environment == DEFAULT_ENVIRONMENT:
            raise
        named = (
            problem.model_copy(update={"what": f"environment {environment}: {problem.what}"})
            for problem in error.problems
        )
        raise ProblemError(named, error.ending) from error


def choose(  # noqa: PLR0913  (settings, nodes, registries and data)
    lab: Lab,
    probed: Probed,
    mirror: Mirror,
    data: CompatibilityData,
    on_event: OnEvent,
    *,
    environment: str = DEFAULT_ENVIRONMENT,
    upstream: Upstream | None = None,
    registries: BetterTagSources | None = None,
    metered: bool = False,
) -> Choice:
    """Return the selection from the mirror, or from upstream instead of it, and the catalog of that source.

    A tag that means another image upstream is never chosen. `registries`: where to look for a better tag. `metered`:
    the mirror counts requests or fetches what is requested, so only tags that would be chosen are inspected.
    In a lab of several platforms the one is chosen whose images serve the most nodes, whatever the order of the nodes.
    Raises ProblemError where no node answered or no complete tag serves any node.
    """
    profiles = [profile(facts) for facts in probed.values() if isinstance(facts, NodeFacts)]
    if not profiles:
        raise ProblemError([value for value in probed.values() if isinstance(value, Problem)])
    settings = lab.all_environments[environment]
    spec, flavour = settings.torch, settings.flavour

    def pick(images: Sequence[TaggedImage]) -> Selection:
        return select(profiles, images, data, torch=spec, flavour=flavour)

    platforms = rank_platforms(node.platform for node in profiles)
    searches = [Search(lab.mirror, spec, flavour, platform, pick, on_event, metered) for platform in platforms]
    search, found = _find_best_source(searches, mirror, upstream)
    is_mirror = found.catalog.mirror == lab.mirror.address
    better = find_better_tag(search, found, registries) if registries and is_mirror else None
    if found.selection.decision == "none":
        problems = _refusals(lab, environment, found.catalog, found.selection)
        raise ProblemError(problems if better is None else [*problems, better.to_problem()])
    return Choice(found.selection, found.catalog.model_copy(update={"next_best": better}))


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
    choices: Choices,
    builder: Builder,
    data: CompatibilityData,
    *,
    registry_ca: str | None,
    before: Lockfile | None,
    keep_as: str | None = None,
) -> LockResult:
    """Build the lab image of every chosen tag and pin both by digest. Before, the packages of all courses are chosen.

    `registry_ca` is PEM text. `before`: the lock that is replaced; people keep their places, kept environments stay,
    and so does a named one without a choice. `keep_as`: the name under which `default` of the lock before is kept.
    Raises ProblemError (usage) where a kept environment lies in another registry than the lab's.
    """
    kept = keep_default(before, keep_as) if before and keep_as else kept_environments(before)
    if problems := elsewhere_problems(kept, lab.registry.address):
        raise ProblemError(problems, "usage")
    for name, choice in choices.items():
        with _naming(name):
            for entry in choice.listings:
                builder.resolve_course(entry, name)
    verify = partial(_verify, data)
    locked = {name: _lock_environment(name, choice, probed, builder, verify) for name, choice in choices.items()}
    default = locked.pop(DEFAULT_ENVIRONMENT)
    silent = {name: _as_before(before, name) for name in lab.environments if name not in locked}
    lock = Lockfile(
        lab=lab.name,
        mirror=choices[DEFAULT_ENVIRONMENT].catalog.mirror,
        registry_ca=registry_ca,
        data_version=data.version,
        torch=default.torch,
        images=default.images,
        nodes=default.nodes,
        unserved=default.unserved,
        environments=kept | silent | locked,
        people={} if before is None else before.people,
    )
    return LockResult(lock, choices)


def _as_before(before: Lockfile | None, name: str) -> LockedEnvironment:
    """Return an environment none of whose nodes answered: as it was locked, or without images."""
    found = {} if before is None else before.environments
    return found.get(name, LockedEnvironment())


def _lock_environment(
    name: str,
    choice: Choice,
    probed: Probed,
    builder: Builder,
    verify: Callable[[Listing, Collection[LockedNode], Measured], None],
) -> LockedEnvironment:
    selection = choice.selection
    served = {
        node: _locked_node(facts, selection)
        for node, facts in sorted(probed.items())
        if isinstance(facts, NodeFacts) and node in selection.nodes and selection.nodes[node].tag is not None
    }
    with _naming(name):
        images = [builder.lab_image(entry, name, partial(verify, entry, served.values())) for entry in choice.listings]
    return LockedEnvironment(
        torch=selection.torch,
        images=tuple(images),
        nodes=served,
        unserved=tuple(sorted(node for node, given in selection.nodes.items() if given.tag is None)),
    )


def _verify(data: CompatibilityData, entry: Listing, nodes: Collection[LockedNode], measured: Measured) -> None:
    """Raise ProblemError where what was measured in an image differs from what it was chosen for on its nodes."""
    image = entry.image
    cards = [card for node in nodes if node.image == image.reference for card in node.capabilities]
    if differences := find_differences(image, measured, entry.report.platform, cards, data):
        raise ProblemError(measured_differs(image, differences))


def _locked_node(facts: NodeFacts, selection: Selection) -> LockedNode:
    choice = selection.nodes[facts.name]
    chosen = [facts.offered_gpus[index] for index in choice.gpus]
    return LockedNode(
        image=str(choice.tag),
        gpus=tuple(gpu.uuid for gpu in chosen if gpu.uuid),
        capabilities=tuple(gpu.compute_capability for gpu in chosen if gpu.compute_capability),
    )


def _refusals(lab: Lab, environment: str, catalog: Catalog, selection: Selection) -> list[Problem]:
    """Return why no tag serves any node: an empty catalog, or each different problem once."""
    if not catalog.listings:
        spec = lab.all_environments[environment].torch
        return [
            Problem(
                "no_tag",
                f"{lab.mirror.address} has no tag of {', '.join(lab.mirror.repositories)} with torch {spec}",
                "images are chosen among the tags that the mirror lists",
                f"see `provision mirror tags`; widen {setting_of(environment)}.torch in lab.yml or name another mirror",
            )
        ]
    found = {
        (problem.code, problem.what): problem
        for choice in selection.nodes.values()
        for verdict in choice.verdicts.values()
        for problem in verdict.problems
    }
    return list(found.values())
