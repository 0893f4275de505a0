"""What runs with a caution: it is judged ok, shown, and never chosen over an equal image without."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.console.selection import selection_view
from provisioner.domain.compatibility.tags import read_facts
from provisioner.domain.compatibility.verdict import judge
from provisioner.domain.selection.selection import select
from provisioner.domain.values.node import GpuProfile, NodeProfile
from provisioner.domain.values.version import ComputeCapability
from tests.console.screen import render_text
from tests.domain.group import CARDS, DATA, a_profile, a_tag, cases, facts

_CASES = cases("cautions")
_TAGS = [
    "2.9.1-cuda12.6-cudnn9-runtime",
    "2.9.1-cuda12.8-cudnn9-runtime",
    "2.9.1-cuda13.0-cudnn9-devel",
    "2.14.1-cuda12.6-cudnn9-runtime",
    "2.14.1-cuda13.0-cudnn9-devel",
    "2.14.1-cuda13.0-cudnn9-runtime",
    "2.14.1-cuda13.2-cudnn9-devel",
    "2.14.1-cuda13.2-cudnn9-runtime",
]


def _gpu(text: str) -> GpuProfile:
    if text in CARDS:
        return CARDS[text]
    name, capability, *brand = text.split(", ")
    return GpuProfile(name=name, compute_capability=ComputeCapability(capability), brand="".join(brand))


def _node(case: dict[str, Any]) -> NodeProfile:
    return a_profile(driver=case["driver"], gpus=[_gpu(text) for text in case["cards"]])


@pytest.mark.parametrize("case", _CASES, ids=lambda case: f"{'-'.join(case['cards'])}-{case['driver']}-{case['tag']}")
def test_an_image_with_cautions_runs(case: dict[str, Any]) -> None:
    verdict = judge(_node(case), facts(case["tag"]), DATA)

    assert verdict.ok
    assert sorted(caution.code for caution in verdict.cautions) == case["cautions"]
    assert all((caution.what, caution.why, caution.fix) for caution in verdict.cautions)


@pytest.mark.parametrize("case", _CASES, ids=lambda case: f"{'-'.join(case['cards'])}-{case['driver']}-{case['tag']}")
def test_a_selection_has_the_cautions_of_the_judge_and_shows_them(case: dict[str, Any]) -> None:
    node, tag = _node(case), a_tag(case["tag"])
    chosen = select([node], [tag], DATA)
    document = chosen.to_json()["nodes"]["n"]["verdicts"][tag.reference]
    shown = render_text(selection_view(chosen, 80), 80)

    assert chosen.tag == tag.reference
    assert sorted(caution["code"] for caution in document["cautions"]) == case["cautions"]
    assert all(code in shown for code in case["cautions"])


@given(
    cards=st.lists(st.sampled_from(sorted(CARDS)), min_size=1, max_size=3),
    driver=st.sampled_from(["535.183.01", "570.172.08", "575.57.08", "580.95.05", "595.58.03"]),
    offer=st.lists(st.sampled_from(_TAGS), unique=True, min_size=1),
)
def test_no_tag_with_a_caution_is_chosen_over_one_of_the_same_torch_without(
    cards: list[str], driver: str, offer: list[str]
) -> None:
    choice = select([a_profile(*cards, driver=driver)], [a_tag(text) for text in offer], DATA).nodes["n"]
    torch = {reference: read_facts(a_tag(reference), DATA).torch for reference in choice.verdicts}
    clear = {torch[reference] for reference, verdict in choice.verdicts.items() if verdict.ok and not verdict.cautions}

    if choice.tag is not None and choice.cautions:
        assert torch[choice.tag] not in clear


def test_a_refused_image_has_no_cautions() -> None:
    verdict = judge(a_profile("gtx1080ti", "gtx1080ti"), facts("2.9.1-cuda13.0-cudnn9-runtime"), DATA)

    assert not verdict.ok
    assert not verdict.cautions


def test_a_tag_that_fits_with_a_caution_is_shown_so() -> None:
    tags = [a_tag(f"2.14.1-cuda{cuda}-cudnn9-runtime") for cuda in ("13.0", "13.2")]
    text = render_text(selection_view(select([a_profile("rtx5090", "rtx5090")], tags, DATA), 80), 80)

    assert "2.14.1 cu132   fits !" in text
