"""The compatibility data that comes with the package."""

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provisioner.domain.compatibility import CompatibilityData


@cache
def load() -> "CompatibilityData":
    """Read once; every later call gives the same value."""
    import yaml  # noqa: PLC0415  (not for `--help`)

    from provisioner.domain.compatibility import CompatibilityData  # noqa: PLC0415

    text = files("provisioner").joinpath("data/compatibility.yaml").read_text(encoding="utf-8")
    return CompatibilityData.model_validate(yaml.load(text, yaml.CSafeLoader))
