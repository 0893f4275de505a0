from provisioner.adapters.lab.compatibility_data import load
from provisioner.domain.compatibility.tags import read_facts
from provisioner.domain.forecast.mirror_status import newest_first
from provisioner.domain.values.image import TaggedImage

NEWEST = [
    "m/pytorch/pytorch:2.13.0-cuda13.2-cudnn9-runtime",
    "m/pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime",
    "m/pytorch/pytorch:2.9.1-cuda12.10-cudnn9-runtime",
    "m/pytorch/pytorch:2.9.1-cuda12.9-cudnn9-runtime",
    "m/nvidia/pytorch:99.12-py3",
    "m/nvidia/pytorch:99.02-py3",
    "m/lab/torch:v2.10",
    "m/lab/torch:v2.9",
    "m/lab/torch:latest",
]


def test_tags_are_sorted_by_their_versions_and_not_by_their_text() -> None:
    for order in (NEWEST, NEWEST[::-1], sorted(NEWEST)):
        found = newest_first(read_facts(TaggedImage(reference=reference), load()) for reference in order)
        assert [facts.reference for facts in found] == NEWEST


def test_tags_of_any_text_are_sorted() -> None:
    odd = ["m/a:" + "9" * 5000, "m/a:٣", "m/a", "", "m/a@sha256:" + "0" * 64]
    assert len(newest_first(read_facts(TaggedImage(reference=reference), load()) for reference in odd)) == len(odd)
