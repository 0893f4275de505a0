"""Nodes and tags for tests of the selection, from the short forms that the case files use."""

from pathlib import Path
from typing import Any

import yaml

from provisioner.adapters.lab.compatibility_data import load
from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.tags import read_facts
from provisioner.domain.values.image import ImageFacts, TaggedImage
from provisioner.domain.values.node import GpuProfile, NodeProfile
from provisioner.domain.values.sync import SyncState

DATA = load()


def data_with(**over: Any) -> CompatibilityData:
    """Return the data with other fields; `model_copy` would keep what was computed from the old ones."""
    fields = {name: getattr(DATA, name) for name in CompatibilityData.model_fields}
    return CompatibilityData.model_construct(**(fields | over))


def cases(name: str) -> Any:
    path = Path(__file__).parent / "cases" / f"{name}.yaml"
    return yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)


def _card(row: dict[str, Any]) -> GpuProfile:
    return GpuProfile.model_validate({"compute_capability": row["capability"], **row})


CARDS = {name: _card(row) for name, row in cases("verdicts")["cards"].items()}


def a_profile(*cards: str, name: str = "n", driver: str | None = "580.95.05", **over: Any) -> NodeProfile:
    given = {"name": name, "driver": driver, "toolkit_mode": "legacy", "gpus": [CARDS[card] for card in cards]}
    return NodeProfile.model_validate(given | over)


def a_tag(text: str, **over: Any) -> TaggedImage:
    """`2.8.0-cuda12.8-cudnn9-runtime` or a whole reference; `=partial` behind it is its state on the mirror."""
    tag, _, state = text.partition("=")
    reference = tag if ":" in tag else f"pytorch/pytorch:{tag}"
    return TaggedImage.model_validate({"reference": reference, "sync": state or SyncState.COMPLETE} | over)


def facts(text: str, **over: Any) -> ImageFacts:
    return read_facts(a_tag(text, **over), DATA)
