"""The rules of choice: which tag each class of nodes gets, given the tags that run there.

A tag is its rank among the images: 0 is the best. A set of tags is an integer with one bit a rank, which makes a
selection about a tenth faster than with frozensets.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from operator import and_
from typing import Literal, NamedTuple

from packaging.version import Version

from provisioner.domain.compatibility.torch_version import torch_order
from provisioner.domain.values.image import ImageFacts

TagSet = int
Decision = Literal["single_tag", "split_same_torch", "split", "none"]
_UNIFORMITY: dict[Decision, int] = {"none": 0, "split": 1, "split_same_torch": 2, "single_tag": 3}
_FLAVOURS = {"runtime": 0, None: 1, "devel": 2}


class TagSupport(NamedTuple):
    """The tags that run on a node, and of all tags those without a known risk there.

    `clear`: no caution sets them apart. `own_libcuda`: the node's own driver library stays in place. `native`: their
    CUDA is not newer than the driver's.
    """

    runnable: TagSet
    clear: TagSet
    own_libcuda: TagSet
    native: TagSet


_RISKS = tuple(map(TagSupport._fields.index, ("clear", "own_libcuda", "native")))  # the greatest first


class GroupChoice(NamedTuple):
    """`chosen` gives the rank of its tag for each support class that is served; `served` counts nodes."""

    decision: Decision
    torch: Version | None
    chosen: Mapping[TagSupport, int]
    served: int

    @property
    def score(self) -> tuple[int, int, Version]:
        """Nodes served, then uniformity, then torch: an advice has to improve this."""
        return self.served, _UNIFORMITY[self.decision], self.torch or Version("0")


def rank_images(images: Sequence[ImageFacts]) -> list[ImageFacts]:
    """Sort by newest torch, then newest CUDA, then runtime before devel, then reference."""
    by_reference = sorted(images, key=lambda image: (_FLAVOURS[image.flavour], image.reference))
    return sorted(by_reference, key=_newness, reverse=True)


def _newness(image: ImageFacts) -> tuple[Version, tuple[int, ...]]:
    return torch_order(image.torch), image.cuda.key[:2] if image.cuda else ()


def list_ranks(tags: TagSet) -> list[int]:
    """Return the ranks in a set, the best first."""
    found = []
    while tags:
        low = tags & -tags
        found.append(low.bit_length() - 1)
        tags ^= low
    return found


def group_by_torch(torches: Sequence[Version]) -> list[TagSet]:
    """Return the tags of each torch version, in the order of `torches`, which gives the version of each rank."""
    by_torch: dict[Version, TagSet] = {}
    for rank, torch in enumerate(torches):
        by_torch[torch] = by_torch.get(torch, 0) | 1 << rank
    return list(by_torch.values())


def choose_tags(
    nodes: Mapping[TagSupport, int], releases: Sequence[TagSet], torches: Sequence[Version], allowed: TagSet
) -> GroupChoice:
    """Choose for a group, whose `nodes` are counted by support class, among the `allowed` tags.

    One tag for all is better than any split; then the newest torch that every node can have; then the best tag of each
    node. A node that no tag serves does not count. `torches` gives the version of each rank, `releases` the tags of
    each version, newest first.
    """
    usable = {support: tags for support in nodes if (tags := support.runnable & allowed)}
    served = sum(nodes[support] for support in usable)
    if not usable:
        return GroupChoice("none", None, {}, 0)
    if common := reduce(and_, usable.values()):
        best = _best_tag(common, nodes, usable, releases)
        return GroupChoice("single_tag", torches[best], dict.fromkeys(usable, best), served)
    shared = next((release for release in releases if all(release & tags for tags in usable.values())), None)
    within = usable if shared is None else {support: tags & shared for support, tags in usable.items()}
    chosen = {support: _best_tag(tags, nodes, [support], releases) for support, tags in within.items()}
    if shared is None:
        return GroupChoice("split", None, chosen, served)
    return GroupChoice("split_same_torch", torches[min(chosen.values())], chosen, served)


def _best_tag(
    tags: TagSet, nodes: Mapping[TagSupport, int], classes: Collection[TagSupport], releases: Sequence[TagSet]
) -> int:
    """Return the tag of the newest torch with the least risk, and of those the first in rank.

    A caution counts most: a CUDA newer than the driver's own, allowed within its major, on several cards (a CUDA 13.2
    image failed in NCCL on an R580 driver where 13.0 ran), or a known fault. The next risk is an image that replaces
    the driver's library by its own (forward compatibility), then a newer CUDA on a single card.
    """
    newest = next(tags & release for release in releases if tags & release)
    if len(classes) == 1:  # each risk is there or not: keep the tags without it, where there are any
        (support,) = classes
        for kind in _RISKS:
            newest = newest & support[kind] or newest
        return (newest & -newest).bit_length() - 1

    def risk(rank: int) -> tuple[int, ...]:
        return tuple(sum(nodes[support] for support in classes if not support[kind] >> rank & 1) for kind in _RISKS)

    return min(list_ranks(newest), key=risk)
