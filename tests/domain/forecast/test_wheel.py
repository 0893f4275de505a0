import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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

REQUEST = WheelRequest(torch="2.8.0", cuda="cu128", python="cp311")
BASE = "https://m.example/pytorch-wheels/cu128/"


@pytest.mark.parametrize("case", cases("wheels")["links"], ids=lambda case: case["href"][:40])
def test_link_of_an_index_is_parsed(case: dict[str, Any]) -> None:
    (target,) = read_index(f'<a class="x" href="{case["href"]}">x</a><a name="y">', BASE)
    link = WheelLink.of(target)
    assert (link.name if link else None) == case["name"]
    if link is not None:
        assert link.sha256 == case.get("sha256")
        assert link.url.endswith(".whl")


@pytest.mark.parametrize(("name", "fits"), cases("wheels")["fits"].items())
def test_request_fits_only_matching_wheels(name: str, fits: bool) -> None:
    assert REQUEST.fits(name) is fits


def test_nearest_wheels_may_differ_in_cuda_but_not_in_platform() -> None:
    links = wheels_in(f"{BASE}{name}" for name in cases("wheels")["fits"])
    near = nearest(links, REQUEST.model_copy(update={"torch": "2.8.0", "cuda": "cu118"}))
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
        ([a_name("2.8.0", "cu126")], SyncState.ABSENT, "present", False),  # pip treats another CUDA as another choice
        ([], SyncState.ABSENT, "absent", False),
        ([], SyncState.ABSENT, "not_asked", False),
        ([], SyncState.UNKNOWN, "unknown", False),
    ],
)
def test_index_is_stale_if_it_lacks_an_existing_torch(
    names: list[str], state: SyncState, upstream: Any, is_stale: bool
) -> None:
    report = WheelReport(name="w", url="u", state=state, upstream=upstream)
    problem = stale_index("https://files.campus/simple", names, REQUEST, [report])
    assert (problem.code if problem else None) == ("stale_index" if is_stale else None)


@pytest.mark.parametrize(
    ("page", "targets"),
    [
        ('<A\nHREF = "x.whl" >', ["x.whl"]),
        ("<a data-x='>' href='x.whl'>y</a>", ["x.whl"]),
        ("<a href=x.whl>y</a><a href=y.whl>", ["x.whl", "y.whl"]),
        ('<a href="a&amp;b&#x2b;c.whl">', ["a&b+c.whl"]),
        ('<a name="y">href="x.whl"</a>', []),
        ('<abbr href="x.whl">', []),
        ('<a href="http://[x">', []),
        ('<a href="x.whl', []),
    ],
)
def test_links_of_a_page(page: str, targets: list[str]) -> None:
    assert read_index(page, BASE) == tuple(f"{BASE}{target}" for target in targets)


@pytest.mark.parametrize("part", ["<!", "<a ", "<a href=", '<a href="', "<a\t\t", "&#", "<a href='x' ", "<![CDATA["])
def test_a_page_is_read_in_linear_time(part: str) -> None:
    began = time.monotonic()
    read_index(part * (400_000 // len(part)), BASE)
    assert time.monotonic() - began < 10


@given(st.text() | st.lists(st.sampled_from(["<a ", "href=", '"', "'", ">", "x.whl", "//", "[", "&#0;"])).map("".join))
def test_every_page_is_read_without_an_exception(page: str) -> None:
    for link in wheels_in(read_index(page, BASE)):
        assert len(link.name) < 256


def test_a_name_that_stands_for_very_many_tags_is_no_wheel() -> None:
    many = ".".join(f"cp{number}" for number in range(20))
    assert WheelLink.of(f"{BASE}torch-2.8.0-{many}-{many}-linux_x86_64.whl") is None
