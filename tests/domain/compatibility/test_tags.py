from typing import Any

import pytest

from provisioner.domain.compatibility.tags import may_match
from provisioner.domain.compatibility.torch_version import release_of, torch_fits
from provisioner.domain.values.image import Flavour
from tests.domain.group import cases, facts


@pytest.mark.parametrize("case", cases("tags"), ids=lambda case: case["case"])
def test_facts_from_tag_and_config(case: dict[str, Any]) -> None:
    given = {key: case[key] for key in ("env", "history", "labels", "platforms", "volumes") if key in case}
    found = facts(case["tag"], **given)
    dumped = found.model_dump(mode="json")

    assert {fact: dumped[fact] for fact in case.get("facts", {})} == case.get("facts", {})
    assert found.sources.items() >= case.get("sources", {}).items()
    assert {problem.code for problem in found.problems} <= {case.get("code", "unknown_build")}
    for problem, words in zip(found.problems, case.get("problems", []), strict=True):
        assert words in problem.what


@pytest.mark.parametrize(
    ("torch", "spec", "fits"),
    [
        ("2.8.0", "2.8.0", True),
        ("2.8.1", "2.8", True),
        ("2.8.1", "2", True),
        ("2.0.0", "2", True),
        ("1.13.1", "2", False),
        ("20.0.0", "2", False),
        ("2.8.1", "2.8.0", False),
        ("2.10.0", "2.1", False),
        ("2.9.1", ">=2.6,<2.10", True),
        ("2.10.0", ">=2.6,<2.10", False),
        ("2.9.0a0+50eac811a6", ">=2.6", True),
        (None, ">=2", False),
        ("unreadable", ">=2", False),
    ],
)
def test_a_requested_torch_range(torch: str | None, spec: str, fits: bool) -> None:
    assert torch_fits(torch, spec) is fits


@pytest.mark.parametrize(
    ("tag", "flavour", "fits"),
    [
        ("2.8.0-cuda12.8-cudnn9-runtime", "runtime", True),
        ("2.8.0-cuda12.8-cudnn9-devel", "runtime", True),  # where there is no runtime
        ("2.8.0-cuda12.8-cudnn9-runtime", "devel", False),
        ("2.5.1-cuda12.4-cudnn9-runtime", "runtime", False),
        ("s2026", "runtime", True),  # its config may say
        (f"sha256-{'0' * 64}.sig", "runtime", False),
    ],
)
def test_a_tag_is_ruled_out_by_its_text(tag: str, flavour: Flavour, fits: bool) -> None:
    assert may_match(tag, ">=2.6", flavour) is fits


@pytest.mark.parametrize("torch", ["2.9.0a0+50eac811a6", "2.8.0.dev20250601", "2.8.0+cpu", "", None, "2"])
def test_unpublished_versions_are_not_releases(torch: str | None) -> None:
    assert release_of(torch) is None
