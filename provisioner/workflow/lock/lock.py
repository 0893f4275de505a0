"""From what the mirror has complete and what the nodes are, to the images that a lab is held to."""

from collections.abc import Sequence
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
from provisioner.workflow.lock.better_tag import Around, next_best
from provisioner.workflow.lock.source import Search, find
from provisioner.workflow.protocols import Builder, Mirror, Probed, Upstream


class Locked(NamedTuple):
    """The lock, and how it came about."""

    lock: Lockfile
    selection: Selection
    catalog: Catalog


def choose(  # noqa: PLR0913  (the wish, the nodes, the mirror and the data meet here)
    lab: Lab,
    probed: Probed,
    mirror: Mirror,
    data: CompatibilityData,
    on_event: OnEvent,
    *,
    torch: str | None = None,
    upstream: Upstream | None = None,
    around: Around | None = None,
    sparing: bool = False,
) -> tuple[Selection, Catalog]:
    """Look at the mirror, or at what stands in for it, and choose; never a tag that means another image upstream.

    `around`: where a better tag is looked for. `sparing`: the mirror counts what it is asked, or fetches it.
    Raises ProblemError where no node answered or no complete tag serves any.
    """
    profiles = [profile(facts) for facts in probed.values() if isinstance(facts, NodeFacts)]
    if not profiles:
        raise ProblemError([value for value in probed.values() if isinstance(value, Problem)])
    spec, flavour = torch or lab.image.torch, lab.image.flavour

    def pick(images: Sequence[TaggedImage]) -> Selection:
        return select(profiles, images, data, torch=spec, flavour=flavour)

    search = Search(lab.mirror, spec, flavour, profiles[0].platform, pick, on_event, sparing)
    found = find(search, mirror, upstream)
    better = next_best(search, found, around) if around and found.catalog.mirror == lab.mirror.address else None
    catalog = found.catalog.model_copy(update={"next_best": better})
    if found.selection.decision == "none":
        told = [] if better is None else [better.told()]
        raise ProblemError([*_nothing(lab, spec, catalog, found.selection), *told])
    return found.selection, catalog


def make_lock(  # noqa: PLR0913
    lab: Lab,
    probed: Probed,
    chosen: tuple[Selection, Catalog],
    builder: Builder,
    data: CompatibilityData,
    *,
    registry_ca: str | None,
) -> Locked:
    """Pin base and lab image of every chosen tag, in catalog order, so that the lock replays the choice."""
    selection, catalog = chosen
    images = [builder.lab_image(entry) for entry in catalog.listings if entry.image.reference in selection.tags]
    lock = Lockfile(
        lab=lab.name,
        mirror=catalog.mirror,
        registry_ca=registry_ca,
        data_version=data.version,
        torch=selection.torch,
        images=tuple(images),
        nodes={name: _held(facts, selection) for name, facts in sorted(_served(probed, selection))},
        unserved=tuple(sorted(name for name, choice in selection.nodes.items() if choice.tag is None)),
    )
    return Locked(lock, selection, catalog)


def _served(probed: Probed, selection: Selection) -> Sequence[tuple[str, NodeFacts]]:
    return [
        (name, facts)
        for name, facts in probed.items()
        if isinstance(facts, NodeFacts) and selection.nodes[name].tag is not None
    ]


def _held(facts: NodeFacts, selection: Selection) -> LockedNode:
    choice = selection.nodes[facts.name]
    usable = [gpu for gpu in facts.gpus if gpu.usable]
    held = [usable[index] for index in choice.gpus]
    return LockedNode(
        image=str(choice.tag),
        gpus=tuple(gpu.uuid for gpu in held if gpu.uuid),
        capabilities=tuple(gpu.compute_capability for gpu in held if gpu.compute_capability),
    )


def _nothing(lab: Lab, spec: str, catalog: Catalog, selection: Selection) -> list[Problem]:
    """Why no tag serves anybody: the mirror's own faults once, then each node's reasons."""
    if not catalog.listings:
        return [
            Problem(
                "no_tag",
                f"{lab.mirror.address} has no tag of {', '.join(lab.mirror.repositories)} with torch {spec}",
                "an image is chosen among the tags that the mirror lists",
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
