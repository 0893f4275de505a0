from typing import Any

import pytest

from provisioner.domain.compatibility.gpu import build_cards
from provisioner.domain.compatibility.requirement import devel_requirement, is_satisfied, read_requirements
from provisioner.domain.values.version import CudaVersion
from tests.domain.group import DATA, a_profile, cases

_FILE = cases("requirements")
(A100,) = build_cards(a_profile("a100", driver="535.183.01"), DATA)


@pytest.mark.parametrize(("expression", "holds"), _FILE["expressions"])
def test_an_expression_holds_as_the_container_runtime_reads_it(expression: str, holds: bool) -> None:
    assert is_satisfied(expression, A100, DATA) is holds


@pytest.mark.parametrize("case", _FILE["environments"])
def test_the_variables_that_form_requirements(case: dict[str, Any]) -> None:
    assert list(read_requirements(case["env"])) == case["expressions"]


def test_the_assumed_requirement_of_a_devel_image_admits_old_branches() -> None:
    demanded = devel_requirement(CudaVersion("12.6.3"), DATA).split()

    assert demanded[0] == "cuda>=12.6"
    assert "brand=tesla,driver>=550,driver<551" in demanded
    assert not any("geforce" in word or "titan" in word for word in demanded)
    assert len(demanded) == 1 + 3 * 12


def test_a_devel_image_with_an_unlisted_cuda_admits_no_old_branch() -> None:
    assert devel_requirement(CudaVersion("13.4"), DATA) == "cuda>=13.4"


def test_an_unknown_brand_meets_no_brand_condition() -> None:
    (unknown,) = build_cards(a_profile("future", driver="535.183.01"), DATA)

    assert unknown.brand == ""
    assert not is_satisfied("brand=unknown,driver>=535", unknown, DATA)
    assert not is_satisfied("brand!=geforce", unknown, DATA)
