"""What is not known of an image: its kind, the way on, and when measuring it is advised."""

from typing import Any

import pytest

from provisioner.console.selection import selection_view
from provisioner.domain.compatibility.verdict import judge
from provisioner.domain.selection.selection import select
from tests.console.screen import render_text
from tests.domain.group import DATA, a_profile, a_tag, cases, facts

_NEWEST = "2.15.0-cuda13.2-cudnn9-runtime"
_NEWER = "2.99.0-cuda13.2-cudnn9-runtime"


@pytest.mark.parametrize("case", cases("unknown"), ids=lambda case: case["kind"])
def test_each_kind_of_unknown_has_its_reason_and_way_on(case: dict[str, Any]) -> None:
    node = a_profile(
        case.get("card", "rtx3090"),
        driver=case.get("driver", "580.95.05"),
        platform=case.get("platform", "linux/amd64"),
    )
    problems = judge(node, facts(case["tag"], env=case.get("env")), DATA).problems
    why = " ".join(problem.why for problem in problems)
    fix = " ".join(problem.fix for problem in problems)

    assert {problem.code for problem in problems} == {"unknown_build"}
    assert case["why"] in why
    assert case["fix"].replace("{ref}", case["tag"]) in fix
    assert "not" not in case or case["not"] not in fix


def test_an_unread_image_of_amd64_runs_with_a_caution() -> None:
    verdict = judge(a_profile("rtx3090"), facts("lab/torch:2.9.1-cuda12.6-cudnn9-runtime"), DATA)

    assert verdict.ok
    assert "unread_platform" in {caution.code for caution in verdict.cautions}


def test_references_of_one_unknown_build_have_their_own_fix() -> None:
    tags = [a_tag(f"{mirror}/pytorch/pytorch:{_NEWER}") for mirror in ("a.example", "b.example")]
    verdicts = select([a_profile("rtx3090")], tags, DATA).nodes["n"].verdicts

    for reference, verdict in verdicts.items():
        assert f"provision facts measure {reference}`" in verdict.problems[0].fix


def test_an_unknown_image_that_would_be_the_best_is_advised_to_be_measured() -> None:
    chosen = select([a_profile("rtx3090", driver="595.58.03")], [a_tag(_NEWEST), a_tag(_NEWER)], DATA)
    (advice,) = chosen.advice

    assert (advice.code, advice.node, advice.gains) == ("measure_image", None, f"pytorch/pytorch:{_NEWER}")
    assert advice.why == "if it has code for the cards, torch is 2.99.0 instead of 2.15.0"
    text = " ".join(render_text(selection_view(chosen, 100), 100).split())
    assert f"run `provision facts measure pytorch/pytorch:{_NEWER}`; then if it has code" in text


def test_a_private_image_is_advised_to_be_measured_where_nothing_else_serves() -> None:
    (advice,) = select([a_profile("rtx3090")], [a_tag("lab/torch:s2026")], DATA).advice

    assert (advice.code, advice.gains) == ("measure_image", "lab/torch:s2026")
    assert advice.why == "if it has code for the cards, 1 more node gets an image"


@pytest.mark.parametrize(
    "tag",
    [
        "rocm/pytorch:latest",  # not CUDA
        "ghcr.io/pytorch/pytorch-nightly:2.99.0.dev20270101-cuda12.8-cudnn9-devel",
        "2.16.0-cuda12.6-cudnn9-runtime",  # the lab does not want it
        "2.99.0-cuda14.0-cudnn9-runtime",  # the driver floor is not known either
        f"{_NEWER}=partial",
        "2.12.0-cuda12.9-cudnn9-runtime",  # unknown, and older than the best
    ],
)
def test_measuring_is_not_advised_where_it_would_gain_nothing(tag: str) -> None:
    node = a_profile("rtx3090", driver="595.58.03")
    offer = [a_tag(_NEWEST), a_tag(tag)]
    codes = {advice.code for advice in select([node], offer, DATA, torch="<2.16" if "2.16" in tag else None).advice}

    assert "measure_image" not in codes
