"""The profiles of the field's mirrors that come with the package."""

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provisioner.domain.forecast.mirror_profile import MirrorProfiles


@cache
def load() -> "MirrorProfiles":
    import yaml  # noqa: PLC0415  (not for `--help`)

    from provisioner.domain.forecast.mirror_profile import MirrorProfiles  # noqa: PLC0415

    text = files("provisioner").joinpath("data/mirrors.yaml").read_text(encoding="utf-8")
    return MirrorProfiles.model_validate(yaml.load(text, yaml.CSafeLoader))
