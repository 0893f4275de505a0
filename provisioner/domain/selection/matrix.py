"""Judges many nodes against many images: equal cards and equal images are judged once."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import reduce
from operator import and_
from typing import NamedTuple

from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.forward_compatibility import replaces_libcuda
from provisioner.domain.compatibility.gpu import Card, build_cards, driver_problems
from provisioner.domain.compatibility.gpu_code import find_compiled, find_wheel_build
from provisioner.domain.compatibility.torch_version import torch_order
from provisioner.domain.compatibility.verdict import (
    Verdict,
    card_image_problems,
    caution_problems,
    image_problems,
    is_virtual,
    no_gpu_problem,
    runs_on,
    sync_problems,
)
from provisioner.domain.selection.choice import TagSet, TagSupport, group_by_torch, list_ranks
from provisioner.domain.values.image import PLATFORMS, ImageFacts
from provisioner.domain.values.node import GpuProfile, NodeProfile
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.sync import SyncState
from provisioner.domain.values.version import ComputeCapability, DriverVersion


class Machine(NodeProfile):
    """What nodes with the same cards under the same driver share: no name, and each distinct card once, in order.

    `repeated`: those that the node has more than once.
    """

    name: str = ""
    repeated: tuple[GpuProfile, ...] = ()

    def has_several(self, kept: Sequence[GpuProfile]) -> bool:
        """Return whether these cards are more than one, equal ones counted."""
        return len(kept) > 1 or any(gpu in self.repeated for gpu in kept)


def to_machine(node: NodeProfile) -> Machine:
    """Return the machine that a node is; equal machines are judged once."""
    counted = Counter(node.gpus)
    gpus = sorted(counted, key=lambda gpu: tuple(dict(gpu).values()))
    repeated = tuple(gpu for gpu in gpus if counted[gpu] > 1)
    return Machine(**{**dict(node), "name": "", "gpus": tuple(gpus), "repeated": repeated})


class Fit(NamedTuple):
    """A machine against all images: the cards that count, those left out, and the tags that run on the former.

    `support` ignores how far the mirror has a tag.
    """

    kept: tuple[GpuProfile, ...]
    left_out: tuple[GpuProfile, ...]
    support: TagSupport


class Matrix:
    """Verdicts of images on machines, computed on demand and cached.

    `images` are in rank, the best first. `is_wanted` says which of them the lab's settings allow.
    """

    def __init__(
        self, images: Sequence[ImageFacts], data: CompatibilityData, is_wanted: Callable[[ImageFacts], bool]
    ) -> None:
        """Group the images that are judged alike."""
        self.images = images
        self.data = data
        self.ranks = {image.reference: rank for rank, image in enumerate(images)}
        self.torches = [torch_order(image.torch) for image in images]
        self.releases = group_by_torch(self.torches)
        self.wanted = _ranks(is_wanted(image) for image in images)
        self.complete = _ranks(image.sync is SyncState.COMPLETE for image in images)
        # Tags that wait for the mirror may only be advised.
        self.available = self.wanted & self.complete
        # Where the driver floor of its CUDA is not known either, measuring an image is not enough.
        self.measurable = _ranks(
            image.is_measurable and (image.cuda is None or data.driver_floor(image.cuda) is not None)
            for image in images
        )
        self._by_make = _group_ranks([_make(image, data) for image in images])
        # The first of the images that are described alike, for each image.
        self._described = _firsts([(_make(image, data), _words(image, data)) for image in images])
        self._unread = _ranks(not image.platforms for image in images)
        self._cards: dict[Machine, tuple[Card, ...]] = {}
        self._driver_problems: dict[Card, tuple[Problem, ...]] = {}
        self._runnable: dict[Card, TagSet] = {}
        self._safe: dict[DriverVersion | None, tuple[TagSet, TagSet]] = {}
        self._unknowns: dict[Card, TagSet] = {}
        self._unread_codes: dict[str, TagSet] = {}
        self._faults: dict[ComputeCapability, TagSet] = {}
        self._problems: dict[tuple[Card, int], tuple[Problem, ...]] = {}

    def cards(self, node: Machine) -> tuple[Card, ...]:
        """Return the cards of a machine, in the order of its GPUs."""
        if node not in self._cards:
            self._cards[node] = build_cards(node, self.data)
        return self._cards[node]

    def driver_problems(self, card: Card) -> tuple[Problem, ...]:
        """Return why the driver does not drive the card, whatever the image; empty where it does."""
        if card not in self._driver_problems:
            self._driver_problems[card] = driver_problems(card, self.data)
        return self._driver_problems[card]

    def runnable(self, card: Card) -> TagSet:
        """Return the tags that run on one card, whatever their state on the mirror."""
        if self.driver_problems(card):
            return 0
        # What decides whether the driver drives the card, and what is said of it, does not decide on the image.
        alone = card.model_copy(update={"reported": True, "module": None, "mixed": False, "beside": ()})
        if alone not in self._runnable:
            self._runnable[alone] = sum(
                tags
                for first, tags in self._by_make.items()
                if not image_problems(alone.platform, self.images[first])
                and runs_on(alone, self.images[first], self.data)
            )
        return self._runnable[alone]

    def safe(self, driver: DriverVersion | None) -> tuple[TagSet, TagSet]:
        """Return the tags that leave the driver's libcuda in place, and those whose CUDA is not newer than its own."""
        if driver not in self._safe:
            cuda = self.data.cuda_of(driver) if driver else None
            self._safe[driver] = (
                _ranks(not replaces_libcuda(driver, image, self.data) for image in self.images),
                _ranks(
                    cuda is not None and image.cuda is not None and image.cuda.key[:2] <= cuda.key
                    for image in self.images
                ),
            )
        return self._safe[driver]

    def fit(self, node: Machine) -> Fit:
        """Judge a machine. A card that no wanted tag runs on is left out, if one tag runs on all the others."""
        own = self.cards(node)
        fitting = [at for at, card in enumerate(own) if self.runnable(card) & self.wanted]
        common = _intersection(self.runnable(own[at]) for at in fitting)
        # A contested module: which of the cards are visible is not known, so none is left out.
        if not common & self.wanted or any(card.module == "contested" for card in own):
            return Fit(node.gpus, (), self._support(node, node.gpus, _intersection(map(self.runnable, own))))
        kept = tuple(node.gpus[at] for at in fitting)
        left_out = tuple(gpu for gpu in node.gpus if gpu not in kept)
        return Fit(kept, left_out, self._support(node, kept, common))

    def _support(self, node: Machine, kept: Sequence[GpuProfile], runnable: TagSet) -> TagSupport:
        own_libcuda, native = self.safe(node.driver)
        faulty = self._unread
        for gpu in kept:
            faulty |= self._faulty(gpu.compute_capability)
        if node.has_several(kept):
            faulty |= own_libcuda & ~native
        return TagSupport(runnable, ~faulty & (1 << len(self.images)) - 1, own_libcuda, native)

    def _faulty(self, capability: ComputeCapability) -> TagSet:
        """Return the tags with a known fault on cards of a compute capability."""
        if capability not in self._faults:
            self._faults[capability] = _ranks(
                any(row.affects(image, capability) for row in self.data.known_faults) for image in self.images
            )
        return self._faults[capability]

    def hopeful(self, node: Machine, fit: Fit) -> TagSet:
        """Return the tags that run on the cards that count, or whose contents alone are not known there."""
        kept = (card for gpu, card in zip(node.gpus, self.cards(node), strict=True) if gpu in fit.kept)
        return _intersection(self.runnable(card) | self._unknown(card) for card in kept)

    def _unknown(self, card: Card) -> TagSet:
        """Return the tags of images whose contents alone are not known on a card, and can be measured."""
        if card not in self._unknowns:
            unread = self.measurable & self._unread_code(card.platform) & ~self.runnable(card)
            self._unknowns[card] = sum(
                alike
                for tags in self._by_make.values()
                if (alike := tags & unread)
                and {problem.code for problem in self.problems(card, list_ranks(alike)[0])} == {"unknown_build"}
            )
        return self._unknowns[card]

    def _unread_code(self, platform: str) -> TagSet:
        """Return the tags of images whose code for a platform is not known."""
        if platform not in self._unread_codes:
            self._unread_codes[platform] = _ranks(
                bool(image.problems) or find_compiled(image, platform, self.data) is None for image in self.images
            )
        return self._unread_codes[platform]

    def problems(self, card: Card, tag: int) -> tuple[Problem, ...]:
        """Return why an image, given by its rank, does not run on a card, apart from its state on the mirror."""
        if self.runnable(card) >> tag & 1:
            return ()
        key = card, self._described[tag]
        if key not in self._problems:
            image = self.images[self._described[tag]]
            self._problems[key] = (*self.driver_problems(card), *card_image_problems(card, image, self.data))
        return (*image_problems(card.platform, self.images[tag]), *self._problems[key])

    def verdict(self, node: Machine, fit: Fit, tag: int) -> Verdict:
        """Return the verdict on an image, given by its rank, on the cards that count."""
        image = self.images[tag]
        kept = [card for gpu, card in zip(node.gpus, self.cards(node), strict=True) if gpu in fit.kept]
        problems = [problem for card in kept for problem in self.problems(card, tag)]
        if not kept:
            problems = [no_gpu_problem(), *image_problems(node.platform, image)]
        cautions: tuple[Problem, ...] = ()
        if not problems and (any(map(is_virtual, kept)) or not fit.support.clear >> tag & 1):
            cautions = caution_problems(kept, image, self.data, several=node.has_several(fit.kept))
        return Verdict(problems=tuple(dict.fromkeys((*problems, *sync_problems(image)))), cautions=cautions)

    def problems_of(self, node: Machine, gpu: GpuProfile, tag: int) -> tuple[Problem, ...]:
        """Return why one card of a machine does not run one image."""
        return self.problems(self.cards(node)[node.gpus.index(gpu)], tag)

    def visible(self, node: Machine) -> frozenset[GpuProfile]:
        """Return the cards that the driver drives, or may drive where the module is contested."""
        return frozenset(
            gpu
            for gpu, card in zip(node.gpus, self.cards(node), strict=True)
            if card.module == "contested" or not self.driver_problems(card)
        )


def _ranks(flags: Iterable[bool]) -> TagSet:
    return sum(1 << rank for rank, flag in enumerate(flags) if flag)


def _intersection(sets: Iterable[TagSet]) -> TagSet:
    """Return what all sets share; empty where there is no set."""
    return reduce(and_, [*sets] or [0])


def _firsts(keys: Sequence[Hashable]) -> list[int]:
    """Return, for each key, the place of the first that equals it."""
    first: dict[Hashable, int] = {}
    return [first.setdefault(key, place) for place, key in enumerate(keys)]


def _group_ranks(keys: Sequence[Hashable]) -> dict[int, TagSet]:
    """Return the set of tags that share a key, under the first of them."""
    groups: dict[int, TagSet] = {}
    for rank, first in enumerate(_firsts(keys)):
        groups[first] = groups.get(first, 0) | 1 << rank
    return groups


def _words(image: ImageFacts, data: CompatibilityData) -> Hashable:
    """Return what the sentences about an image name: the reference only where its build is not known."""
    platforms = image.platforms or PLATFORMS
    known = all(find_compiled(image, platform, data) for platform in platforms)
    return image.torch, str(image.cuda), None if known else image.reference


def _make(image: ImageFacts, data: CompatibilityData) -> Hashable:
    """Return everything about an image that decides where it runs."""
    build = find_wheel_build(image, data) if image.family == "wheel" else None
    made = (build.sm, build.ptx, build.aarch64_sm, build.cudnn) if build else None
    measured = image.measured and (image.measured.targets, image.measured.platform)
    rest = (image.family, image.month, image.integrated, image.compiled_for, image.cudnn, measured)
    return made, rest, image.cuda, image.platforms, image.requires, bool(image.problems)
