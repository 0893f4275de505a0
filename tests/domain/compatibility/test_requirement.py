from typing import Any

import pytest

from provisioner.domain.compatibility.gpu import cards
from provisioner.domain.compatibility.requirement import devel_requirement, requirements, satisfied
from provisioner.domain.values.version import CudaVersion
from tests.domain.group import DATA, a_profile, cases

_FILE = cases("requirements")
(A100,) = cards(a_profile("a100", driver="535.183.01"), DATA)


@pytest.mark.parametrize(("expression", "holds"), _FILE["expressions"])
def test_an_expression_holds_as_the_container_runtime_reads_it(expression: str, holds: bool) -> None:
    assert satisfied(expression, A100, DATA) is holds


@pytest.mark.parametrize("case", _FILE["environments"])
def test_which_variables_count(case: dict[str, Any]) -> None:
    assert list(requirements(case["env"])) == case["expressions"]


def test_what_a_devel_image_demands_where_nobody_read_its_environment() -> None:
    demanded = devel_requirement(CudaVersion("12.6.3"), DATA).split()

    assert demanded[0] == "cuda>=12.6"
    assert "brand=tesla,driver>=550,driver<551" in demanded
    assert not any("geforce" in word or "titan" in word for word in demanded)
    assert len(demanded) == 1 + 3 * 12


def test_a_cuda_without_known_exceptions_has_none() -> None:
    assert devel_requirement(CudaVersion("13.4"), DATA) == "cuda>=13.4"


def test_an_unknown_brand_is_no_exception() -> None:
    (unknown,) = cards(a_profile("future", driver="535.183.01"), DATA)

    assert unknown.brand == ""
    assert not satisfied("brand=unknown,driver>=535", unknown, DATA)
    assert not satisfied("brand!=geforce", unknown, DATA)
