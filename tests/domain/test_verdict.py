from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provisioner.domain.node import NodeProfile
from provisioner.domain.verdict import judge
from tests.domain.group import CARDS, DATA, a_profile, cases, facts

_TABLE = cases("verdicts")["cases"]
_TAGS = sorted({case["tag"] for case in _TABLE})
_UNTIMED = settings(deadline=None)
_DRIVERS = [str(driver) for driver in DATA.known_drivers]
_DRIVER = st.sampled_from([*_DRIVERS, "615.10.01"])


def _codes(node: NodeProfile, tag: str, **over: Any) -> set[str]:
    return {problem.code for problem in judge(node, facts(tag, **over), DATA).problems}


@pytest.mark.parametrize("case", _TABLE, ids=lambda case: f"{case['card']}-{case['driver']}-{case['tag']}")
def test_a_card_a_driver_and_a_tag_give_every_reason_at_once(case: dict[str, Any]) -> None:
    node = a_profile(
        case["card"],
        driver=case["driver"],
        kernel_module=case.get("module"),
        toolkit_mode=case.get("mode", "legacy"),
        platform=case.get("platform", "linux/amd64"),
    )

    assert _codes(node, case["tag"]) == set(case["codes"])


@_UNTIMED
@given(card=st.sampled_from(sorted(CARDS)), driver=st.none() | _DRIVER, tag=st.sampled_from(_TAGS))
def test_a_refusal_says_what_why_and_what_to_do(card: str, driver: str | None, tag: str) -> None:
    for problem in judge(a_profile(card, driver=driver), facts(tag), DATA).problems:
        assert all((problem.code, problem.what, problem.why, problem.fix)), problem


@_UNTIMED
@given(
    cards=st.lists(st.sampled_from(sorted(CARDS)), min_size=1, max_size=4),
    more=st.sampled_from(sorted(CARDS)),
    driver=_DRIVER,
    module=st.sampled_from(["open", "proprietary", None]),
    tag=st.sampled_from(_TAGS),
)
def test_another_card_never_makes_a_tag_run(
    cards: list[str], more: str, driver: str, module: str | None, tag: str
) -> None:
    before = a_profile(*cards, driver=driver, kernel_module=module)
    after = a_profile(*cards, more, driver=driver, kernel_module=module)

    assert _codes(before, tag) <= _codes(after, tag)


@_UNTIMED
@given(card=st.sampled_from(sorted(CARDS)), drivers=st.tuples(_DRIVER, _DRIVER), tag=st.sampled_from(_TAGS))
def test_a_newer_driver_of_the_same_branch_never_loses_a_tag(card: str, drivers: tuple[str, str], tag: str) -> None:
    older, newer = sorted(drivers, key=lambda text: [int(part) for part in text.split(".")])
    if older.split(".")[0] != newer.split(".")[0]:
        newer = f"{older}.99"

    if not _codes(a_profile(card, driver=older), tag):
        assert not _codes(a_profile(card, driver=newer), tag)


def test_a_driver_that_cannot_be_had_for_the_card_is_not_advised() -> None:
    problems = judge(a_profile("k80", driver="470.256.02"), facts("2.7.1-cuda12.6-cudnn9-runtime"), DATA).problems

    fixes = {problem.code: problem.fix for problem in problems}
    assert "no driver after branch 470" in fixes["driver_too_old"]


def test_the_newest_build_with_code_for_the_card_is_named() -> None:
    (problem,) = judge(a_profile("v100"), facts("2.14.1-cuda13.0-cudnn9-runtime"), DATA).problems

    assert problem.fix.endswith("torch 2.14 with CUDA 12.6")


def test_a_node_without_gpus_is_refused_for_that_reason() -> None:
    assert _codes(a_profile(), "2.14.1-cuda13.0-cudnn9-runtime") == {"gpu_not_visible"}


@pytest.mark.parametrize(
    "state", ["partial", "absent", "cold", "denied", "limited", "stale", "no_such_service", "unknown"]
)
def test_what_is_not_complete_is_not_synced_beside_all_else(state: str) -> None:
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
def test_an_ngc_image_runs_where_its_own_architecture_list_says(listed: str, card: str, codes: set[str]) -> None:
    env = {"PYTORCH_VERSION": "2.8.0a0+5228986c39", "CUDA_VERSION": "12.9.1", "TORCH_CUDA_ARCH_LIST": listed}
    env |= {"NVIDIA_REQUIRE_CUDA": "cuda>=9.0"}

    assert _codes(a_profile(card), "nvcr.io/nvidia/pytorch:25.06-py3", env=env) == codes


def test_the_arm64_wheels_have_their_own_list() -> None:
    node = a_profile("t4", platform="linux/arm64")
    tag = "2.14.1-cuda13.0-cudnn9-runtime"

    assert _codes(node, tag, platforms=("linux/amd64", "linux/arm64/v8")) == {"no_kernel"}
    assert not _codes(a_profile("gh200", platform="linux/arm64"), tag, platforms=("linux/arm64",))
    assert _codes(node, "2.8.0-cuda12.8-cudnn9-runtime", platforms=("linux/arm64",)) == {"unknown_build"}
