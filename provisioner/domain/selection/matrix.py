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
        self._by_words = _group_ranks([(_make(image, data), _words(image, data)) for image in images])
        self._unread = _ranks(not image.platforms for image in images)
        self._cards: dict[Machine, tuple[Card, ...]] = {}
        self._driver_problems: dict[Card, tuple[Problem, ...]] = {}
        self._runnable: dict[Card, TagSet] = {}
        self._safe: dict[DriverVersion | None, tuple[TagSet, TagSet]] = {}
        self._unknowns: dict[Card, TagSet] = {}
        self._faults: dict[ComputeCapability, TagSet] = {}
        self._problems: dict[Card, list[tuple[Problem, ...]]] = {}

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
        if card not in self._runnable:
            self._runnable[card] = sum(
                tags
                for first, tags in ({} if self.driver_problems(card) else self._by_make).items()
                if not image_problems(card.platform, self.images[first])
                and runs_on(card, self.images[first], self.data)
            )
        return self._runnable[card]

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
            problems = self.problems(card)
            self._unknowns[card] = sum(
                1 << tag
                for tag in list_ranks(self.measurable & ~self.runnable(card))
                if {problem.code for problem in problems[tag]} == {"unknown_build"}
                and (self.images[tag].problems or find_compiled(self.images[tag], card.platform, self.data) is None)
            )
        return self._unknowns[card]

    def problems(self, card: Card) -> list[tuple[Problem, ...]]:
        """Return the problems of every image on a card, by rank, apart from those of the mirror."""
        if card not in self._problems:
            found: list[tuple[Problem, ...]] = [()] * len(self.images)
            runnable = self.runnable(card)
            for first, tags in self._by_words.items():
                if runnable >> first & 1:
                    continue
                own = (*self.driver_problems(card), *card_image_problems(card, self.images[first], self.data))
                for tag in list_ranks(tags):
                    found[tag] = (*image_problems(card.platform, self.images[tag]), *own)
            self._problems[card] = found
        return self._problems[card]

    def verdicts(self, node: Machine, fit: Fit) -> dict[str, Verdict]:
        """Return the verdict on every image, by reference, on the cards that count."""
        kept = [card for gpu, card in zip(node.gpus, self.cards(node), strict=True) if gpu in fit.kept]
        by_card = [self.problems(card) for card in kept]
        several = node.has_several(fit.kept)
        virtual = any(map(is_virtual, kept))
        found = {}
        for tag, image in enumerate(self.images):
            problems = [problem for of_card in by_card for problem in of_card[tag]]
            if not by_card:
                problems = [no_gpu_problem(), *image_problems(node.platform, image)]
            cautions: tuple[Problem, ...] = ()
            if not problems and (virtual or not fit.support.clear >> tag & 1):
                cautions = caution_problems(kept, image, self.data, several=several)
            problems = list(dict.fromkeys((*problems, *sync_problems(image))))
            found[image.reference] = Verdict(problems=tuple(problems), cautions=cautions)
        return found

    def problems_of(self, node: Machine, gpu: GpuProfile, tag: int) -> tuple[Problem, ...]:
        """Return why one card of a machine does not run one image."""
        return self.problems(self.cards(node)[node.gpus.index(gpu)])[tag]

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


def _group_ranks(keys: Sequence[Hashable]) -> dict[int, TagSet]:
    """Return the set of tags that share a key, under the first of them."""
    first: dict[Hashable, int] = {}
    groups: dict[int, TagSet] = {}
    for rank, key in enumerate(keys):
        at = first.setdefault(key, rank)
        groups[at] = groups.get(at, 0) | 1 << rank
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
