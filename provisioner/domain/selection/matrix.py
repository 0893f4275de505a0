"""Judges many nodes against many images: equal cards and equal images are judged once."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import reduce
from operator import and_
from typing import NamedTuple

from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.forward_compatibility import replaces_libcuda
from provisioner.domain.compatibility.gpu import Card, cards, driven
from provisioner.domain.compatibility.gpu_code import wheel
from provisioner.domain.compatibility.torch_version import torch_order
from provisioner.domain.compatibility.verdict import Verdict, image_problems, no_gpu, problems_together, sync_problems
from provisioner.domain.selection.choice import Kind, places, same_torch
from provisioner.domain.values.image import ImageFacts
from provisioner.domain.values.node import GpuProfile, NodeProfile
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.sync import SyncState
from provisioner.domain.values.version import DriverVersion


class Machine(NodeProfile):
    """What nodes with the same cards under the same driver are: no name, and every card only once, in a fixed order."""

    name: str = ""


def machine(node: NodeProfile) -> Machine:
    gpus = sorted(set(node.gpus), key=lambda gpu: tuple(dict(gpu).values()))
    return Machine(**{**dict(node), "name": "", "gpus": tuple(gpus)})


class Fitting(NamedTuple):
    """A machine against all images: the cards that count, those left out, and the tags that run on the former.

    Sets of tags are integers. `kind.runs` leaves aside how far the mirror has a tag.
    """

    kept: tuple[GpuProfile, ...]
    left_out: tuple[GpuProfile, ...]
    kind: Kind


class Matrix:
    """`images` in rank, the best first; `wanted` says which of them the lab would take."""

    def __init__(
        self, images: Sequence[ImageFacts], data: CompatibilityData, wanted: Callable[[ImageFacts], bool]
    ) -> None:
        self.images = images
        self.data = data
        self.torches = [torch_order(image.torch) for image in images]
        self.releases = same_torch(self.torches)
        self.wanted = _bits(wanted(image) for image in images)
        self.complete = _bits(image.sync is SyncState.COMPLETE for image in images)
        self._twins = _twins([_make(image, data) for image in images])
        self._named = _twins([(_make(image, data), image.torch, str(image.cuda)) for image in images])
        self._cards: dict[Machine, tuple[Card, ...]] = {}
        self._driven: dict[Card, tuple[Problem, ...]] = {}
        self._runs: dict[Card, int] = {}
        self._safe: dict[DriverVersion | None, tuple[int, int]] = {}
        self._problems: dict[Card, list[tuple[Problem, ...]]] = {}

    @property
    def now(self) -> int:
        """The tags that may be chosen: wanted, and complete on the mirror."""
        return self.wanted & self.complete

    def cards(self, node: Machine) -> tuple[Card, ...]:
        if node not in self._cards:
            self._cards[node] = cards(node, self.data)
        return self._cards[node]

    def driven(self, card: Card) -> tuple[Problem, ...]:
        """Why the card is not driven, whatever the image; empty where it is."""
        if card not in self._driven:
            self._driven[card] = driven(card, self.data)
        return self._driven[card]

    def runs(self, card: Card) -> int:
        if card not in self._runs:
            self._runs[card] = sum(
                bits
                for place, bits in self._twins.items()
                if not self.driven(card)
                and not image_problems(card.platform, self.images[place])
                and not problems_together(card, self.images[place], self.data)
            )
        return self._runs[card]

    def safe(self, driver: DriverVersion | None) -> tuple[int, int]:
        """The tags that leave the driver's libcuda in place, and those whose CUDA is not newer than the driver's."""
        if driver not in self._safe:
            cuda = self.data.cuda_of(driver) if driver else None
            self._safe[driver] = (
                _bits(not replaces_libcuda(driver, image, self.data) for image in self.images),
                _bits(
                    cuda is not None and image.cuda is not None and image.cuda.key[:2] <= cuda.key
                    for image in self.images
                ),
            )
        return self._safe[driver]

    def fit(self, node: Machine) -> Fitting:
        """A card that no wanted tag runs on is left out, so long as one tag runs on all the others."""
        own = self.cards(node)
        safe = self.safe(node.driver)
        fitting = [place for place, card in enumerate(own) if self.runs(card) & self.wanted]
        common = reduce(and_, (self.runs(own[place]) for place in fitting)) if fitting else 0
        # Where the flavour of the kernel module is in doubt, nobody knows which of the cards are there at all.
        if not common & self.wanted or any(card.module == "contested" for card in own):
            every = reduce(and_, (self.runs(card) for card in own)) if own else 0
            return Fitting(node.gpus, (), Kind(every, *safe))
        kept = tuple(node.gpus[place] for place in fitting)
        return Fitting(kept, tuple(gpu for gpu in node.gpus if gpu not in kept), Kind(common, *safe))

    def problems(self, card: Card) -> list[tuple[Problem, ...]]:
        """Of every image, in rank, apart from the mirror."""
        if card not in self._problems:
            found: list[tuple[Problem, ...]] = [()] * len(self.images)
            for place, bits in self._named.items():
                own = (*self.driven(card), *problems_together(card, self.images[place], self.data))
                for twin in places(bits):
                    found[twin] = (*image_problems(card.platform, self.images[twin]), *own)
            self._problems[card] = found
        return self._problems[card]

    def verdicts(self, node: Machine, fitting: Fitting) -> dict[str, Verdict]:
        """Of every image, on the cards that count."""
        own = self.cards(node)
        against = [self.problems(card) for gpu, card in zip(node.gpus, own, strict=True) if gpu in fitting.kept]
        found = {}
        for place, image in enumerate(self.images):
            problems = [problem for of_card in against for problem in of_card[place]]
            if not against:
                problems = [no_gpu(), *image_problems(node.platform, image)]
            found[image.reference] = Verdict(problems=tuple(dict.fromkeys((*problems, *sync_problems(image)))))
        return found

    def against(self, node: Machine, gpu: GpuProfile, place: int) -> tuple[Problem, ...]:
        """Why one card of a machine does not run one image."""
        return self.problems(self.cards(node)[node.gpus.index(gpu)])[place]

    def visible(self, node: Machine) -> frozenset[GpuProfile]:
        """The cards that are driven now, or may be."""
        return frozenset(
            gpu
            for gpu, card in zip(node.gpus, self.cards(node), strict=True)
            if card.module == "contested" or not self.driven(card)
        )


def _bits(flags: Iterable[bool]) -> int:
    return sum(1 << place for place, flag in enumerate(flags) if flag)


def _twins(keys: Sequence[Hashable]) -> dict[int, int]:
    """The first place of each key, and the set of all its places."""
    first: dict[Hashable, int] = {}
    sets: dict[int, int] = {}
    for place, key in enumerate(keys):
        at = first.setdefault(key, place)
        sets[at] = sets.get(at, 0) | 1 << place
    return sets


def _make(image: ImageFacts, data: CompatibilityData) -> Hashable:
    """All of an image that decides where it runs."""
    build = wheel(image, data) if image.family == "wheel" else None
    made = (build.sm, build.ptx, build.aarch64_sm, build.cudnn) if build else None
    rest = (image.family, image.month, image.integrated, image.compiled_for, image.cudnn)
    return made, rest, image.cuda, image.platforms, image.requires, bool(image.problems)
