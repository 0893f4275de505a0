import re
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from provisioner.adapters.lab.compatibility_data import OVERLAY, load, load_for_lab, load_with_overlay
from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.values.problem import ProblemError
from provisioner.domain.values.version import CudaVersion, DottedVersion


def _raw() -> dict[str, object]:
    text = files("provisioner").joinpath("data/compatibility.yaml").read_text(encoding="utf-8")
    read: dict[str, object] = yaml.safe_load(text)
    return read


def test_the_packages_data_is_read_once() -> None:
    assert load() is load()
    assert isinstance(load(), CompatibilityData)


def test_the_model_keeps_every_block_and_row_of_the_file() -> None:
    raw = _raw()

    assert set(raw) == set(CompatibilityData.model_fields) - {"measured", "own"}
    read = load().model_dump(mode="json", exclude_unset=True)
    assert read == yaml.safe_load(yaml.safe_dump(raw)) | {key: read[key] for key in ("code_rules",)}


def test_every_block_names_its_source() -> None:
    raw = _raw()
    sourced = {
        "releases",
        "driver_floors",
        "toolkit_drivers",
        "driver_branches",
        "architectures",
        "products",
        "devel_requires",
        "forward_brands",
        "ngc",
    }

    assert all(re.search(r"\w{4}", str(raw[f"{block}_source"])) for block in sourced)


GOOD = """\
products:
  - {name: RTX 5090 SUPER, capability: "12.0", min_driver: "595.45.04", source: our node g7}
releases:
  - version: "2.16"
    builds: [{cuda: "13.2", sm: [75, 80, 120], evidence: measured(2.16.0)}]
"""


def test_a_lab_without_rows_gets_the_packages_data(tmp_path: Path) -> None:
    assert load_for_lab(tmp_path) is load()
    (tmp_path / OVERLAY).write_text("# nothing yet\n")
    assert load_for_lab(tmp_path) is load()


def test_a_labs_rows_are_added_to_the_packages_data(tmp_path: Path) -> None:
    (tmp_path / OVERLAY).write_text(GOOD)
    data = load_for_lab(tmp_path)
    build = data.build(DottedVersion("2.16.0"), CudaVersion("13.2"))
    assert build is not None
    assert build.sm == (75, 80, 120)
    assert re.fullmatch(rf"{load().version}\+[0-9a-f]{{8}}", data.version)
    assert [(row.block, row.row, row.source, row.replaced) for row in data.own] == [
        ("releases", "torch 2.16 with CUDA 13.2", "measured(2.16.0)", False),
        ("products", "RTX 5090 SUPER", "our node g7", False),
    ]


def test_the_version_depends_on_the_rows_and_not_on_their_layout(tmp_path: Path) -> None:
    (tmp_path / OVERLAY).write_text(GOOD)
    (tmp_path / "other.yaml").write_text("# a note\n" + GOOD.replace("our node g7}", "'our node g7' }"))
    (tmp_path / "another.yaml").write_text(GOOD.replace("120]", "100]"))
    found = [load_with_overlay(tmp_path / name).version for name in (OVERLAY, "other.yaml", "another.yaml")]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("wrong", "right", "message"),
    [
        ("12.0,", '"12.0",', '2:40: 12.0 is read as a number; write it in quotes: "12.0"'),
        ("", ", source: our node g7", '2:5: the key "source" is missing in "products[0]"'),
        ("prodcts", "products", '1:1: unknown key "prodcts"; did you mean "products"?'),
        ("evidnce", "evidence", '5:48: unknown key "evidnce" in "releases[0].builds[0]"; did you mean "evidence"?'),
        ("12O", "120", '5:42: releases[0].builds[0].sm[2]: "12O" is not a whole number'),
        ('"5.95.x"', '"595.45.04"', "2:60: products[0].min_driver: not a version: '5.95.x'"),
    ],
)
def test_every_mistake_in_a_labs_rows_is_reported_with_its_place(
    tmp_path: Path, wrong: str, right: str, message: str
) -> None:
    path = tmp_path / OVERLAY
    path.write_text(GOOD.replace(right, wrong))
    with pytest.raises(ProblemError) as refused:
        load_for_lab(tmp_path)
    assert refused.value.ending == "usage"
    assert f"{path}:{message}" in {problem.what for problem in refused.value.problems}


def test_aliases_that_multiply_take_no_time(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1.5]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (tmp_path / "compatibility.yaml").write_text("\n".join(lines))
    with pytest.raises(ProblemError):
        load_for_lab(tmp_path)
