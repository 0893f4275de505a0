import re
from importlib.resources import files

import yaml

from provisioner.adapters.compatdata import load
from provisioner.domain.compatibility import CompatibilityData


def _raw() -> dict[str, object]:
    text = files("provisioner").joinpath("data/compatibility.yaml").read_text(encoding="utf-8")
    read: dict[str, object] = yaml.safe_load(text)
    return read


def test_the_data_is_read_once() -> None:
    assert load() is load()
    assert isinstance(load(), CompatibilityData)


def test_the_model_reads_every_block_and_row_of_the_file() -> None:
    raw = _raw()

    assert set(raw) == set(CompatibilityData.model_fields)
    read = load().model_dump(mode="json", exclude_unset=True)
    assert read == yaml.safe_load(yaml.safe_dump(raw)) | {key: read[key] for key in ("code_rules",)}


def test_every_block_says_where_it_is_from() -> None:
    raw = _raw()
    sourced = {"releases", "driver_floors", "toolkit_drivers", "architectures", "products", "devel_requires", "ngc"}

    assert all(re.search(r"\w{4}", str(raw[f"{block}_source"])) for block in sourced)
