from typing import Any

import pytest

from provisioner.domain.wheel import WheelLink, WheelWish, nearest, read_index, wheels_in
from tests.domain.group import cases

WISH = WheelWish(torch="2.8.0", cuda="cu128", python="cp311")
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
