from typing import Any

import pytest

from provisioner.domain.forecast.wheel import (
    WheelLink,
    WheelReport,
    WheelRequest,
    nearest,
    read_index,
    stale_index,
    wheels_in,
)
from provisioner.domain.values.sync import SyncState
from tests.domain.group import cases

WISH = WheelRequest(torch="2.8.0", cuda="cu128", python="cp311")
BASE = "https://m.example/pytorch-wheels/cu128/"


@pytest.mark.parametrize("case", cases("wheels")["links"], ids=lambda case: case["href"][:40])
def test_a_link_of_an_index(case: dict[str, Any]) -> None:
    (target,) = read_index(f'<a class="x" href="{case["href"]}">x</a><a name="y">', BASE)
    link = WheelLink.of(target)
    assert (link.name if link else None) == case["name"]
    if link is not None:
        assert link.sha256 == case.get("sha256")
        assert link.url.endswith(".whl")


@pytest.mark.parametrize(("name", "fits"), cases("wheels")["fits"].items())
def test_whether_a_wheel_is_the_one(name: str, fits: bool) -> None:
    assert WISH.fits(name) is fits


def test_another_cuda_is_near_and_another_machine_is_not() -> None:
    links = wheels_in(f"{BASE}{name}" for name in cases("wheels")["fits"])
    near = nearest(links, WISH.model_copy(update={"torch": "2.8.0", "cuda": "cu118"}))
    assert near
    assert all("torch-2.8.0" in name and "x86_64" in name and "cp311" in name for name in near)


def a_name(torch: str, cuda: str = "cu128", machine: str = "x86_64") -> str:
    return f"torch-{torch}+{cuda}-cp311-cp311-manylinux_2_28_{machine}.whl"


@pytest.mark.parametrize(
    ("names", "state", "upstream", "is_stale"),
    [
        ([], SyncState.ABSENT, "present", True),
        ([a_name("2.7.1")], SyncState.COMPLETE, "not_asked", True),
        ([a_name("2.8.0", machine="aarch64")], SyncState.COMPLETE, "not_asked", True),
        ([a_name("2.8.0", "cu126")], SyncState.ABSENT, "present", False),  # another CUDA is another choice of pip's
        ([], SyncState.ABSENT, "absent", False),
        ([], SyncState.ABSENT, "not_asked", False),
        ([], SyncState.UNKNOWN, "unknown", False),
    ],
)
def test_an_index_is_stale_where_it_lacks_what_exists(
    names: list[str], state: SyncState, upstream: Any, is_stale: bool
) -> None:
    report = WheelReport(name="w", url="u", state=state, upstream=upstream)
    problem = stale_index("https://files.campus/simple", names, WISH, [report])
    assert (problem.code if problem else None) == ("stale_index" if is_stale else None)
