from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.compatibility.verdict import judge
from provisioner.domain.values.image import ImageFacts
from provisioner.domain.values.node import NodeProfile
from provisioner.domain.values.version import DriverVersion
from tests.domain.group import CARDS, DATA, a_profile, cases, facts

_TABLE = cases("verdicts")["cases"]
_REPORTED = cases("reported")
_TAGS = sorted({case["tag"] for case in _TABLE})
_DRIVERS = [
    *cases("first_driver")["releases"],
    *(str(driver) for row in DATA.toolkit_drivers for driver in row.drivers if len(driver.key) > 1),
    *map(str, DATA.supported_releases),
]
_DRIVER = st.sampled_from([*_DRIVERS, "615.10.01"])


def _codes(node: NodeProfile, tag: str, **over: Any) -> set[str]:
    return {problem.code for problem in judge(node, facts(tag, **over), DATA).problems}


@pytest.mark.parametrize("case", _TABLE, ids=lambda case: f"{case['card']}-{case['driver']}-{case['tag']}")
def test_a_verdict_has_every_reason_against_a_tag(case: dict[str, Any]) -> None:
    node = a_profile(
        case["card"],
        driver=case["driver"],
        kernel_module=case.get("module"),
        toolkit_mode=case.get("mode", "legacy"),
        platform=case.get("platform", "linux/amd64"),
    )

    assert _codes(node, case["tag"]) == set(case["codes"])


@pytest.mark.parametrize(
    "case", _REPORTED, ids=lambda case: f"{case['gpu']}-{case['driver']}-{case['tag']}-{case['source']}"
)
def test_verdicts_agree_with_public_reports(case: dict[str, Any]) -> None:
    name, _, capability = case["gpu"].rpartition(", ")
    gpu = {"name": name, "compute_capability": capability}
    gpu |= {key: case[key] for key in ("brand", "integrated") if key in case}
    node = a_profile(
        driver=case["driver"],
        kernel_module=case.get("module"),
        toolkit_mode=case.get("mode", "legacy"),
        platform=case.get("platform", "linux/amd64"),
        gpus=[gpu],
    )

    assert _codes(node, case["tag"], **{key: case[key] for key in ("env", "platforms") if key in case}) == set(
        case["codes"]
    )


def test_every_case_names_its_source() -> None:
    assert all(case["source"] for case in (*_TABLE, *_REPORTED))
    assert all(case["reported"] for case in _REPORTED)


_NGC = {
    "PYTORCH_VERSION": "2.9.0a0+50eac811a6",
    "CUDA_VERSION": "13.0.1",
    "NVIDIA_REQUIRE_CUDA": "cuda>=13.0 brand=tesla,driver>=535,driver<536 brand=nvidia,driver>=535,driver<536",
}
_IMAGES = [
    *(facts(tag) for tag in _TAGS),
    *(facts(f"lab/torch:{tag}", platforms=("linux/arm64",)) for tag in _TAGS if tag.startswith("2.1")),
    *(
        facts("nvcr.io/nvidia/pytorch:25.09-py3", env={**_NGC, "TORCH_CUDA_ARCH_LIST": listed})
        for listed in ("7.5 8.0 8.6 9.0 10.0 12.0+PTX", "8.0 9.0a 10.0f+PTX", "8.7")
    ),
]


@st.composite
def _nodes(draw: st.DrawFn) -> NodeProfile:
    """Of one to three cards, of both platforms, under every kind of module and toolkit."""
    cards = draw(st.lists(st.sampled_from(sorted(CARDS)), min_size=1, max_size=3))
    return a_profile(
        *cards,
        driver=draw(st.none() | _DRIVER),
        kernel_module=draw(st.sampled_from(["open", "proprietary", None])),
        toolkit_mode=draw(st.sampled_from(["legacy", "cdi", None])),
        platform=draw(st.sampled_from(["linux/amd64", "linux/arm64/v8"])),
    )


@pytest.mark.parametrize(("number", "card"), list(enumerate(sorted(CARDS))))
def test_every_problem_has_what_why_and_fix(number: int, card: str) -> None:
    """Each card is tried with a third of the images, and the next one with another third."""
    nodes = [a_profile(card, driver=driver) for driver in (None, "304.1", "470.256.02", "570.26", "580.65.06", "615.1")]
    nodes += [
        a_profile(card, driver="580.65.06", kernel_module=module, platform="linux/arm64")
        for module in ("open", "proprietary")
    ]
    images = _IMAGES[number % 3 :: 3]
    for problem in {problem for node in nodes for image in images for problem in judge(node, image, DATA).problems}:
        assert all((problem.code, problem.what, problem.why, problem.fix)), problem


@given(node=_nodes(), more=st.sampled_from(sorted(CARDS)), image=st.sampled_from(_IMAGES))
def test_an_additional_card_never_makes_a_tag_run(node: NodeProfile, more: str, image: ImageFacts) -> None:
    wider = node.model_copy(update={"gpus": (*node.gpus, CARDS[more])})
    before = {problem.code for problem in judge(node, image, DATA).problems}

    assert before <= {problem.code for problem in judge(wider, image, DATA).problems}


@given(node=_nodes(), image=st.sampled_from(_IMAGES), drivers=st.tuples(_DRIVER, _DRIVER))
def test_a_newer_driver_of_the_same_line_never_loses_a_tag(
    node: NodeProfile, image: ImageFacts, drivers: tuple[str, str]
) -> None:
    older, newer = sorted(map(DriverVersion, drivers))
    if DATA.line_of(older) != DATA.line_of(newer):
        newer = DriverVersion(f"{older}.99")

    if judge(node.model_copy(update={"driver": older}), image, DATA).ok:
        assert judge(node.model_copy(update={"driver": newer}), image, DATA).ok


def test_a_driver_that_no_longer_supports_the_card_is_not_advised() -> None:
    problems = judge(a_profile("k80", driver="470.256.02"), facts("2.7.1-cuda12.6-cudnn9-runtime"), DATA).problems

    fixes = {problem.code: problem.fix for problem in problems}
    assert "install" not in fixes["driver_too_old"]
    assert "no driver with this CUDA drives the cards" in fixes["driver_too_old"]


def test_no_kernel_names_the_newest_build_with_code_for_the_card() -> None:
    (problem,) = judge(a_profile("v100"), facts("2.14.1-cuda13.0-cudnn9-runtime"), DATA).problems

    assert problem.fix.startswith("use an image of torch 2.14 with CUDA 12.6, the newest known that runs")


def test_a_node_without_gpus_has_no_visible_gpu() -> None:
    assert _codes(a_profile(), "2.14.1-cuda13.0-cudnn9-runtime") == {"gpu_not_visible"}


@pytest.mark.parametrize(
    "state", ["partial", "absent", "cold", "denied", "limited", "stale", "no_such_service", "unknown"]
)
def test_an_incomplete_tag_is_not_synced_in_addition_to_other_reasons(state: str) -> None:
    node = a_profile("rtx5090", driver="570.172.08")

    assert _codes(node, f"2.9.1-cuda13.0-cudnn9-runtime={state}") == {"driver_too_old", "not_synced"}


@pytest.mark.parametrize(
    ("listed", "card", "codes"),
    [
        ("7.5 8.0 8.6 9.0 10.0 12.0+PTX", "rtx5090", set()),
        ("7.5 8.0 8.6 9.0 10.0 12.0+PTX", "v100", {"no_kernel"}),
        ("8.0;9.0a;12.0", "h100", set()),
        ("8.0 9.0a 10.0a", "b300", {"no_kernel"}),
        ("8.0 10.0f", "b300", set()),
        ("8.0 8.6+PTX", "rtx5090", set()),
    ],
)
def test_an_ngc_image_runs_on_the_architectures_of_its_own_list(listed: str, card: str, codes: set[str]) -> None:
    env = {"PYTORCH_VERSION": "2.8.0a0+5228986c39", "CUDA_VERSION": "12.9.1", "TORCH_CUDA_ARCH_LIST": listed}
    env |= {"NVIDIA_REQUIRE_CUDA": "cuda>=9.0"}

    assert _codes(a_profile(card), "nvcr.io/nvidia/pytorch:25.06-py3", env=env) == codes


def test_arm64_wheels_have_their_own_architecture_list() -> None:
    node = a_profile("t4", platform="linux/arm64")
    tag = "2.14.1-cuda13.0-cudnn9-runtime"

    assert _codes(node, tag, platforms=("linux/amd64", "linux/arm64/v8")) == {"no_kernel"}
    assert not _codes(a_profile("gh200", platform="linux/arm64"), tag, platforms=("linux/arm64",))
    assert _codes(node, "2.8.0-cuda12.8-cudnn9-runtime", platforms=("linux/arm64",)) == {"unknown_build"}
