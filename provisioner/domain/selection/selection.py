"""Which image each node of a group gets, and why not each of the others."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from pydantic import InstanceOf

from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.tags import read_facts
from provisioner.domain.compatibility.torch_version import torch_fits
from provisioner.domain.compatibility.verdict import Verdict
from provisioner.domain.selection.advice import Advice, advise
from provisioner.domain.selection.choice import Decision, GroupChoice, rank_images
from provisioner.domain.selection.matrix import Fit, Machine, Matrix
from provisioner.domain.selection.node_classes import NodeClasses
from provisioner.domain.values.image import Flavour, ImageFacts, TaggedImage
from provisioner.domain.values.model import Value
from provisioner.domain.values.node import NodeProfile
from provisioner.domain.values.problem import Problem

SELECTION_SCHEMA: Literal["provisioner/selection/1"] = "provisioner/selection/1"


class LeftOutGpu(Value):
    """A card that no tag runs on, while other cards of its node are served. `gpu` is its index in the node's list."""

    gpu: int
    name: str
    problems: tuple[Problem, ...]


class TagVerdicts(Mapping[str, Verdict]):
    """The verdicts on every tag by reference, best tag first. Equal nodes share one object.

    A verdict, with its sentences, is made when it is read: few of 500 tags on 10,000 nodes are shown.
    """

    def __init__(self, ranks: Mapping[str, int], judge: Callable[[int], Verdict]) -> None:
        """`ranks` has the rank of each reference, the best first; `judge` returns the verdict on a rank."""
        self._ranks = ranks
        self._judge = judge
        self._made: dict[str, Verdict] = {}

    def __getitem__(self, reference: str) -> Verdict:
        """Return the verdict on a tag. Raises KeyError for a reference that was not offered."""
        if reference not in self._made:
            self._made[reference] = self._judge(self._ranks[reference])
        return self._made[reference]

    def __iter__(self) -> Iterator[str]:
        """Yield the references, the best tag first."""
        return iter(self._ranks)

    def __len__(self) -> int:
        """Return the number of tags."""
        return len(self._ranks)


class NodeChoice(Value):
    """The tag of a node, None where no tag serves it. `gpus` are the indices of the cards that it serves."""

    tag: str | None
    gpus: tuple[int, ...]
    left_out: tuple[LeftOutGpu, ...] = ()
    verdicts: InstanceOf[TagVerdicts]

    @property
    def cautions(self) -> tuple[Problem, ...]:
        """What is known to go wrong with the tag that the node gets."""
        return self.verdicts[self.tag].cautions if self.tag else ()


class Selection(Value):
    """The choice for every node of a group. `torch` and `tag` are None unless all served nodes share them.

    `data_version` is the version of the compatibility data.
    """

    decision: Decision
    torch: str | None = None
    tag: str | None = None
    nodes: dict[str, NodeChoice] = {}
    advice: tuple[Advice, ...] = ()
    data_version: str = ""

    @property
    def tags(self) -> frozenset[str]:
        """The references that at least one node gets."""
        return frozenset(choice.tag for choice in self.nodes.values() if choice.tag is not None)

    def to_json(self) -> dict[str, Any]:
        """Return the document `provisioner/selection/1`. Equal nodes share the same objects in it."""
        distinct = {id(choice.verdicts): choice.verdicts for choice in self.nodes.values()}
        shared = {key: _verdicts_json(verdicts) for key, verdicts in distinct.items()}
        return {
            "schema": SELECTION_SCHEMA,
            "decision": self.decision,
            "torch": self.torch,
            "tag": self.tag,
            "nodes": {name: _node_json(choice, shared[id(choice.verdicts)]) for name, choice in self.nodes.items()},
            "advice": [advice.model_dump(exclude_none=True) for advice in self.advice],
        }


def _verdicts_json(verdicts: TagVerdicts) -> dict[str, Any]:
    return {
        reference: {
            "ok": verdict.ok,
            "problems": [problem.model_dump() for problem in verdict.problems],
            "cautions": [caution.model_dump() for caution in verdict.cautions],
        }
        for reference, verdict in verdicts.items()
    }


def _node_json(choice: NodeChoice, verdicts: dict[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = {"tag": choice.tag, "gpus": list(choice.gpus), "verdicts": verdicts}
    if choice.left_out:
        document["left_out"] = [card.model_dump() for card in choice.left_out]
    return document


def select(
    nodes: Sequence[NodeProfile],
    tags: Sequence[TaggedImage],
    data: CompatibilityData,
    *,
    torch: str | None = None,
    flavour: Flavour = "runtime",
) -> Selection:
    """Choose a tag for each node of a group.

    `torch` limits the versions ("2.8.0", ">=2.6,<3"); `flavour` devel limits the tags to -devel ones. The result does
    not depend on the order of nodes, cards or tags.
    """
    matrix = Matrix(rank_images(_read_facts(tags, data)), data, lambda image: _is_wanted(image, torch, flavour))
    group = NodeClasses.build(matrix, nodes)
    chosen = group.choose(group.fits, matrix.available)
    choices = {
        name: choice
        for machine, members in group.nodes.items()
        for name, choice in _node_choices(matrix, machine, group.fits[machine], chosen, members)
    }
    images = [matrix.images[tag] for tag in sorted(set(chosen.chosen.values()))]
    return Selection(
        decision=chosen.decision,
        torch=images[0].torch if chosen.torch is not None else None,
        tag=images[0].reference if chosen.decision == "single_tag" else None,
        nodes=dict(sorted(choices.items())),
        advice=advise(group),
        data_version=data.version,
    )


def _read_facts(tags: Sequence[TaggedImage], data: CompatibilityData) -> list[ImageFacts]:
    """Read each reference once; of one that is listed twice, the less complete counts."""
    by_reference = {tag.reference: tag for tag in sorted(tags, key=lambda tag: tag.sync != "complete")}
    return [read_facts(tag, data) for tag in by_reference.values()]


def _is_wanted(image: ImageFacts, torch: str | None, flavour: Flavour) -> bool:
    return (torch is None or torch_fits(image.torch, torch)) and flavour in {"runtime", image.flavour}


def _node_choices(
    matrix: Matrix, machine: Machine, fit: Fit, chosen: GroupChoice, nodes: Sequence[NodeProfile]
) -> Iterator[tuple[str, NodeChoice]]:
    """Yield the choice of each of the nodes that are this machine, by name."""
    tag = chosen.chosen.get(fit.support)
    verdicts = TagVerdicts(matrix.ranks, partial(matrix.verdict, machine, fit))
    why = {gpu: matrix.problems_of(machine, gpu, tag or 0) for gpu in fit.left_out}
    for node in nodes:
        own = list(enumerate(node.gpus))
        yield (
            node.name,
            NodeChoice(
                tag=None if tag is None else matrix.images[tag].reference,
                gpus=() if tag is None else tuple(at for at, gpu in own if gpu in fit.kept),
                left_out=tuple(LeftOutGpu(gpu=at, name=gpu.name, problems=why[gpu]) for at, gpu in own if gpu in why),
                verdicts=verdicts,
            ),
        )
