"""The rules of choice, on bare sets: which tag, given which tags run on which kinds of node.

A set of tags is an integer, one bit a tag, the best tag in bit 0; so a lab of ten thousand nodes costs a few `and`s.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from operator import and_
from typing import Literal, NamedTuple

from packaging.version import Version

from provisioner.domain.compatibility.torch_version import torch_order
from provisioner.domain.values.image import ImageFacts

Decision = Literal["single_tag", "split_same_torch", "split", "none"]
_RANK: dict[Decision, int] = {"none": 0, "split": 1, "split_same_torch": 2, "single_tag": 3}
_FLAVOURS = {"runtime": 0, None: 1, "devel": 2}


class Kind(NamedTuple):
    """Nodes that are alike: the tags that run on them, and of all tags those that take no risk of a kind there.

    `own_libcuda`: the node's own driver library stays in place. `native`: their CUDA is not newer than the driver's.
    """

    runs: int
    own_libcuda: int
    native: int


class Outcome(NamedTuple):
    """`chosen` has the place of its tag for each kind that is served; `served` counts nodes."""

    decision: Decision
    torch: Version | None
    chosen: Mapping[Kind, int]
    served: int

    @property
    def worth(self) -> tuple[int, int, Version]:
        """What an advice has to improve: nodes served, then uniformity, then torch."""
        return self.served, _RANK[self.decision], self.torch or Version("0")


def ranked(images: Sequence[ImageFacts]) -> list[ImageFacts]:
    """Newest torch first, then newest CUDA, runtime before devel; the reference decides what else is equal."""
    by_reference = sorted(images, key=lambda image: (_FLAVOURS[image.flavour], image.reference))
    return sorted(by_reference, key=_newness, reverse=True)


def _newness(image: ImageFacts) -> tuple[Version, tuple[int, ...]]:
    return torch_order(image.torch), image.cuda.key[:2] if image.cuda else ()


def places(bits: int) -> list[int]:
    """The places of a set, the best tag first."""
    found = []
    while bits:
        low = bits & -bits
        found.append(low.bit_length() - 1)
        bits ^= low
    return found


def same_torch(torches: Sequence[Version]) -> list[int]:
    """The sets of tags of one torch each, in the order of `torches`."""
    sets: dict[Version, int] = {}
    for place, torch in enumerate(torches):
        sets[torch] = sets.get(torch, 0) | 1 << place
    return list(sets.values())


def choose(nodes: Mapping[Kind, int], releases: Sequence[int], torches: Sequence[Version], allowed: int) -> Outcome:
    """The choice for a group: `nodes` are counted by kind, `allowed` are the tags to choose from.

    One tag for all beats any split, then the newest torch that every node can have, then each node its best. A node
    that no tag serves has no say. `torches` are those of the tags in their order, `releases` the same as sets.
    """
    masks = {kind: kind.runs & allowed for kind in nodes if kind.runs & allowed}
    served = sum(nodes[kind] for kind in masks)
    if not masks:
        return Outcome("none", None, {}, 0)
    if common := reduce(and_, masks.values()):
        best = _best(common, nodes, masks, releases)
        return Outcome("single_tag", torches[best], dict.fromkeys(masks, best), served)
    shared = next((release for release in releases if all(mask & release for mask in masks.values())), None)
    within = masks if shared is None else {kind: mask & shared for kind, mask in masks.items()}
    chosen = {kind: _best(mask, nodes, [kind], releases) for kind, mask in within.items()}
    if shared is None:
        return Outcome("split", None, chosen, served)
    return Outcome("split_same_torch", torches[min(chosen.values())], chosen, served)


def _best(tags: int, nodes: Mapping[Kind, int], kinds: Collection[Kind], releases: Sequence[int]) -> int:
    """Among the newest torch: the least risk, then the first in rank.

    Riskiest is an image that replaces the driver's library by its own (forward compatibility). Then comes a CUDA newer
    than the driver's own, allowed within its major: a CUDA 13.2 image failed in NCCL on an R580 driver where 13.0 ran.
    """
    newest = next(tags & release for release in releases if tags & release)

    def risk(place: int) -> tuple[int, int]:
        replaced = sum(nodes[kind] for kind in kinds if not kind.own_libcuda >> place & 1)
        return replaced, sum(nodes[kind] for kind in kinds if not kind.native >> place & 1)

    return min(places(newest), key=risk)
