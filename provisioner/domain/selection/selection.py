"""Which image each node of a group gets, and why not each of the others."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.tags import read_facts
from provisioner.domain.compatibility.torch_version import torch_fits
from provisioner.domain.compatibility.verdict import Verdict
from provisioner.domain.selection.advice import Advice, advise
from provisioner.domain.selection.choice import Decision, Outcome, ranked
from provisioner.domain.selection.matrix import Fitting, Machine, Matrix
from provisioner.domain.selection.node_classes import Situation
from provisioner.domain.values.image import Flavour, ImageFacts, TaggedImage
from provisioner.domain.values.model import Value
from provisioner.domain.values.node import NodeProfile
from provisioner.domain.values.problem import Problem

SELECTION_SCHEMA: Literal["provisioner/selection/1"] = "provisioner/selection/1"


class LeftOut(Value):
    """A card that no tag runs on, beside others of its node that are served. `gpu` is its place in the node's list."""

    gpu: int
    name: str
    problems: tuple[Problem, ...]


class Judgement(Value):
    """The verdicts on every tag, best tag first. Nodes that are alike share one."""

    verdicts: dict[str, Verdict]


class NodeChoice(Value):
    """`tag` is None where no tag serves the node; `gpus` are the places of the cards that it serves."""

    tag: str | None
    gpus: tuple[int, ...]
    left_out: tuple[LeftOut, ...] = ()
    judgement: Judgement

    @property
    def verdicts(self) -> Mapping[str, Verdict]:
        return self.judgement.verdicts


class Selection(Value):
    """`torch` and `tag` are None where the nodes do not share one. `data_version`: of the compatibility data."""

    decision: Decision
    torch: str | None = None
    tag: str | None = None
    nodes: dict[str, NodeChoice] = {}
    advice: tuple[Advice, ...] = ()
    data_version: str = ""

    @property
    def tags(self) -> frozenset[str]:
        """The references that some node was given."""
        return frozenset(choice.tag for choice in self.nodes.values() if choice.tag is not None)

    def to_json(self) -> dict[str, Any]:
        """The document `provisioner/selection/1`. Nodes that are alike share the very same objects in it."""
        judgements = {id(choice.judgement): choice.judgement for choice in self.nodes.values()}
        shared = {key: _verdicts_json(judgement) for key, judgement in judgements.items()}
        return {
            "schema": SELECTION_SCHEMA,
            "decision": self.decision,
            "torch": self.torch,
            "tag": self.tag,
            "nodes": {name: _node_json(choice, shared[id(choice.judgement)]) for name, choice in self.nodes.items()},
            "advice": [advice.model_dump(exclude_none=True) for advice in self.advice],
        }


def _verdicts_json(judgement: Judgement) -> dict[str, Any]:
    return {
        reference: {"ok": verdict.ok, "problems": [dict(problem) for problem in verdict.problems]}
        for reference, verdict in judgement.verdicts.items()
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
    """Choose for a group. `torch`: only versions that meet it ("2.8.0", ">=2.6,<3"); `flavour` devel: only such tags.

    The result depends on no order, neither of nodes nor of cards nor of tags.
    """
    matrix = Matrix(ranked(_facts(tags, data)), data, lambda image: _wanted(image, torch, flavour))
    lab = Situation.of(matrix, nodes)
    outcome = lab.choose(lab.fittings, matrix.now)
    choices = {
        name: choice
        for node, names in lab.groups.items()
        for name, choice in _choices(matrix, node, lab.fittings[node], outcome, names)
    }
    given = [matrix.images[place] for place in sorted(set(outcome.chosen.values()))]
    return Selection(
        decision=outcome.decision,
        torch=given[0].torch if outcome.torch is not None else None,
        tag=given[0].reference if outcome.decision == "single_tag" else None,
        nodes=dict(sorted(choices.items())),
        advice=advise(lab),
        data_version=data.version,
    )


def _facts(tags: Sequence[TaggedImage], data: CompatibilityData) -> list[ImageFacts]:
    """Of a reference that is listed twice, the less complete counts."""
    by_reference = {tag.reference: tag for tag in sorted(tags, key=lambda tag: tag.sync != "complete")}
    return [read_facts(tag, data) for tag in by_reference.values()]


def _wanted(image: ImageFacts, torch: str | None, flavour: Flavour) -> bool:
    return (torch is None or torch_fits(image.torch, torch)) and flavour in {"runtime", image.flavour}


def _choices(
    matrix: Matrix, alike: Machine, fitting: Fitting, outcome: Outcome, nodes: Sequence[NodeProfile]
) -> Iterator[tuple[str, NodeChoice]]:
    place = outcome.chosen.get(fitting.kind)
    judgement = Judgement(verdicts=matrix.verdicts(alike, fitting))
    why = {gpu: matrix.against(alike, gpu, place or 0) for gpu in fitting.left_out}
    for node in nodes:
        own = list(enumerate(node.gpus))
        yield (
            node.name,
            NodeChoice(
                tag=None if place is None else matrix.images[place].reference,
                gpus=() if place is None else tuple(at for at, gpu in own if gpu in fitting.kept),
                left_out=tuple(LeftOut(gpu=at, name=gpu.name, problems=why[gpu]) for at, gpu in own if gpu in why),
                judgement=judgement,
            ),
        )
