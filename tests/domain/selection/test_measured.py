"""What was measured in an image, against what the data takes it for; and as rows that a lab has of its own."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.compatibility.overlay import Overlay, apply_overlay
from provisioner.domain.compatibility.tags import read_facts
from provisioner.domain.selection.measured import find_differences
from provisioner.domain.selection.selection import select
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.measured import Measured
from provisioner.domain.values.version import ComputeCapability
from tests.builders import a_digest
from tests.domain.group import DATA, a_profile, cases

DIGEST = a_digest("image")


@pytest.mark.parametrize("case", cases("measured_differences"), ids=lambda case: case["case"])
def test_differences_between_what_is_expected_and_what_is_in_an_image(case: dict[str, Any]) -> None:
    image = TaggedImage(reference=case["tag"], env=case.get("env"))
    cards = [ComputeCapability(card) for card in case["cards"]]
    measured = Measured.model_validate(case["measured"])
    found = find_differences(image, measured, case.get("platform", "linux/amd64"), cards, DATA)
    assert len(found) == len(case.get("said", []))
    for text, words in zip(found, case.get("said", []), strict=True):
        assert words in text


def rows(**over: Any) -> Overlay:
    row = {
        "image": "mirror.lab:5200/ours/train:7",
        "digest": DIGEST,
        "platform": "linux/amd64",
        "torch": "2.8.0+cu128",
        "cuda": "12.8",
        "targets": ["sm_89"],
        "source": "a test",
    }
    return Overlay.model_validate({"measured": [row | over]})


def chosen(node: str, image: TaggedImage, overlay: Overlay) -> list[str]:
    """Return [] where the image is chosen for the node, else the codes of its problems."""
    choice = select([a_profile(node)], [image], apply_overlay(DATA, overlay)).nodes["n"]
    return [] if choice.tag else [problem.code for problem in choice.verdicts[image.reference].problems]


PRIVATE = "mirror.lab:5200/ours/train:7"
NGC = "nvcr.io/nvidia/pytorch:21.03-py3"  # of which the data has no CUDA


@pytest.mark.parametrize("name", [PRIVATE, NGC, "mirror.lab:5200/pytorch/pytorch:0.4.1-cuda9-cudnn7-runtime"])
def test_a_measured_image_stops_being_unknown_by_its_digest(name: str) -> None:
    image = TaggedImage(reference=name, digest=DIGEST)
    assert "unknown_build" in chosen("rtx4090", image, Overlay())
    assert chosen("rtx4090", image, rows()) == []
    assert "unknown_build" in chosen("rtx4090", image.model_copy(update={"digest": a_digest("other")}), rows())
    assert chosen("rtx4090", image, rows(targets=["sm_90"])) == ["no_kernel"]
    assert "unknown_build" in chosen("rtx4090", image, rows(cuda=None, targets=[]))


def test_ptx_that_is_reported_to_hang_is_no_code_for_a_newer_card() -> None:
    """Conda builds of CUDA 11 hold PTX of compute_37, which a driver would compile for any newer card."""
    image, old = TaggedImage(reference=PRIVATE, digest=DIGEST), {"torch": "1.13.1", "cuda": "11.7"}
    choice = select([a_profile("rtx5090")], [image], apply_overlay(DATA, rows(**old, targets=["sm_86", "compute_37"])))
    (problem,) = choice.nodes["n"].verdicts[PRIVATE].problems
    assert (problem.code, "PTX 37 does not count" in problem.why) == ("no_kernel", True)
    measured = Measured(**old, targets=("sm_86", "compute_37"))
    blackwell = [ComputeCapability("12.0")]
    assert find_differences(image, measured, "linux/amd64", blackwell, DATA)
    usual = measured.model_copy(update={"targets": ("sm_86", "compute_86")})
    assert not find_differences(image, usual, "linux/amd64", blackwell, DATA)


def test_what_was_measured_goes_before_tag_and_config_that_contradict_each_other() -> None:
    tag = "mirror.lab:5200/pytorch/pytorch:2.9.1-cuda13.0-cudnn9-runtime"
    image = TaggedImage(reference=tag, digest=DIGEST, env={"PYTORCH_VERSION": "2.7.0", "CUDA_VERSION": "12.6"})
    assert [problem.code for problem in read_facts(image, DATA).problems] == ["unknown_build", "unknown_build"]
    facts = read_facts(image, apply_overlay(DATA, rows()))
    assert (facts.torch, str(facts.cuda), facts.problems) == ("2.8.0", "12.8", ())
    assert facts.sources["torch"] == facts.sources["cuda"] == "measured"


def test_code_for_one_card_alone_runs_on_no_later_one() -> None:
    image = TaggedImage(reference=PRIVATE, digest=DIGEST)
    assert chosen("rtx4090", image, rows(targets=["sm_89a"])) == []
    assert chosen("rtx4090", image, rows(targets=["sm_80a", "compute_80a"])) == ["no_kernel"]
    assert chosen("rtx4090", image, rows(targets=["sm_80f"])) == []


def test_images_that_differ_only_in_what_was_measured_are_told_apart() -> None:
    images = [TaggedImage(reference=f"{PRIVATE}-{name}", digest=a_digest(name)) for name in ("no", "yes")]
    measured = [
        row.model_copy(update={"digest": image.digest, "targets": (target,)})
        for image, target in zip(images, ("sm_90", "sm_86"), strict=True)
        for row in rows().measured
    ]
    data = apply_overlay(DATA, Overlay(measured=tuple(measured)))
    assert select([a_profile("rtx4090")], images, data).nodes["n"].tag == images[1].reference


def test_rows_without_measurements_keep_the_hash_of_earlier_releases() -> None:
    floor = {"cuda": "13.9", "driver": "600.10", "source": "a test"}
    assert apply_overlay(DATA, Overlay.model_validate({"driver_floors": [floor]})).version.endswith("+ef4765b6")
    assert apply_overlay(DATA, rows()).own[0].row.startswith(f"{PRIVATE}: torch 2.8.0+cu128 built with CUDA 12.8 for")


@given(st.text(max_size=40), st.lists(st.text(max_size=10), max_size=5))
def test_no_text_is_a_measurement_by_chance(torch: str, targets: list[str]) -> None:
    """What an image prints becomes rows and locks: it has the form of a version and of targets, or it is refused."""
    try:
        found = Measured.model_validate({"torch": torch, "targets": targets})
    except ValueError:
        return
    assert set(f"{found.torch}{''.join(found.targets)}") <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.+_-"
    )
