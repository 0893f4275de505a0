"""Every image, driver, kernel module and way round a check that a fix names is tried on that node."""

import re
from collections.abc import Iterator
from itertools import combinations, product
from typing import Any

import pytest

from provisioner.domain.compatibility.gpu import build_cards, driver_problems
from provisioner.domain.compatibility.verdict import judge
from provisioner.domain.values.image import ImageFacts
from provisioner.domain.values.node import NodeProfile
from provisioner.domain.values.problem import Problem
from tests.domain.group import CARDS, DATA, a_profile, facts

_IMAGE = re.compile(
    r"an image of torch (\S+) with CUDA (\S+?)(?: for (\S+?))?, (?:the newest|and install driver ([\d.]+\d))"
)
_DRIVER = re.compile(r"(?:install driver|branch, for example) ([\d.]+\d)")
_TAGS = [
    f"{tag}-{flavour}"
    for tag in (
        "1.13.1-cuda11.6-cudnn8",
        "2.7.1-cuda12.8-cudnn9",
        "2.8.0-cuda12.9-cudnn9",
        "2.14.1-cuda12.6-cudnn9",
        "2.14.1-cuda13.0-cudnn9",
        "2.15.0-cuda13.4-cudnn9",
        "2.16.0-cuda14.0-cudnn9",
    )
    for flavour in ("runtime", "devel")
]
_ARM = [f"lab/torch:{tag}" for tag in _TAGS]
_DRIVERS = ("450.80.02", "470.256.02", "535.183.01", "570.172.08", "595.58.03", None)
_NODES = [(card,) for card in CARDS] + list(combinations(("k80", "v100", "rtx3090", "rtx5090"), 2))


def _images(node: NodeProfile) -> list[ImageFacts]:
    if node.platform == "linux/amd64":
        return [facts(tag) for tag in _TAGS]
    return [facts(tag, platforms=("linux/arm64",)) for tag in _ARM]


def _changed(node: NodeProfile, **over: Any) -> NodeProfile:
    return NodeProfile.model_validate(dict(node) | over)


def _visible(node: NodeProfile) -> set[str]:
    return {card.name for card in build_cards(node, DATA) if not driver_problems(card, DATA)}


def _with_either_module(node: NodeProfile) -> list[NodeProfile]:
    """The fix of a kernel module stands in a problem of its own."""
    return [_changed(node, kernel_module=module) for module in ("open", "proprietary")]


def _named_image(match: re.Match[str], platform: str) -> ImageFacts:
    release = next(release for release in DATA.releases if str(release.version) == match[1])
    tag = f"{release.patches[-1]}-cuda{match[2]}-cudnn9-runtime"
    assert match[3] == (None if platform == "linux/amd64" else platform)
    return facts(f"lab/torch:{tag}", platforms=(platform,))


def _alone(node: NodeProfile) -> Iterator[NodeProfile]:
    return (node.model_copy(update={"gpus": (gpu,)}) for gpu in node.gpus)


def _check(node: NodeProfile, image: ImageFacts, problem: Problem) -> None:
    for match in _IMAGE.finditer(problem.fix):
        driver = str(match[4] or node.driver)
        ways = [
            way for one in _alone(_changed(node, driver=driver)) for way in _with_either_module(one)
        ]  # it is about one of the cards
        assert any(judge(way, _named_image(match, node.platform), DATA).ok for way in ways)
    for driver in _DRIVER.findall(problem.fix):
        after = _changed(node, driver=driver)
        assert max(map(len, map(_visible, _with_either_module(after)))) > 0
        assert _visible(after) >= _visible(node)
    if "-runtime tag" in problem.fix:
        twin = image.model_copy(update={"flavour": "runtime", "requires": ()})
        assert any(judge(way, twin, DATA).ok for one in _alone(node) for way in _with_either_module(one))
    if "-devel tag" in problem.fix:
        twin = facts(image.reference.replace("-runtime", "-devel"), platforms=(node.platform,))
        assert any(judge(way, twin, DATA).ok for one in _alone(node) for way in _with_either_module(one))
    if "CDI" in problem.fix:
        ways = [way for one in _alone(_changed(node, toolkit_mode="cdi")) for way in _with_either_module(one)]
        assert any(judge(way, image, DATA).ok for way in ways)


def _check_module(node: NodeProfile, problem: Problem) -> None:
    match = re.search(r"install the (\w+) flavour of (?:driver ([\d.]+\d)|the same)", problem.fix)
    if match:
        driver = match[2] or node.driver
        after = _changed(node, kernel_module=match[1], driver=driver)
        assert _visible(after) > _visible(node)


@pytest.mark.parametrize("cards", _NODES, ids="-".join)
def test_what_a_fix_names_passes_the_judge_on_that_node(cards: tuple[str, ...]) -> None:
    for driver, platform in product(_DRIVERS, ("linux/amd64", "linux/arm64")):
        node = a_profile(*cards, driver=driver, platform=platform)
        for image in _images(node):
            for problem in judge(node, image, DATA).problems:
                try:
                    _check(node, image, problem)
                except AssertionError:
                    raise AssertionError((node, image.reference, problem)) from None


@pytest.mark.parametrize("cards", _NODES, ids="-".join)
def test_another_kernel_module_is_proposed_only_where_it_makes_one_more_card_visible(cards: tuple[str, ...]) -> None:
    for driver, module in product(_DRIVERS, ("open", "proprietary")):
        node = a_profile(*cards, driver=driver, kernel_module=module)
        for problem in judge(node, facts(_TAGS[0]), DATA).problems:
            _check_module(node, problem)
