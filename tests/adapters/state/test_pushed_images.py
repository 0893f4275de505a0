"""The record of pushed images: read back for the same key only, private, and absent if it is damaged."""

import json
from pathlib import Path

import pytest

from provisioner.adapters.state.files import state_home
from provisioner.adapters.state.pushed_images import PushedImage, PushedImages
from provisioner.domain.values.reference import ImageReference
from tests.builders import a_digest

TARGET = ImageReference.parse("registry.lab:5201/provisioner/lab:2.10.0-abc")
AMD64 = "linux/amd64"


def pushed(inputs: str, image: str, packages: dict[str, str] | None = None) -> PushedImage:
    place = {"registry": TARGET.registry, "repository": TARGET.repository}
    return PushedImage(**place, inputs=inputs, platform=AMD64, digest=a_digest(image), packages=packages or {})


def test_a_digest_is_found_by_registry_repository_inputs_and_platform() -> None:
    PushedImages().add(pushed("inputs", "old"))
    PushedImages().add(pushed("inputs", "new", {"ffmpeg": "7:5.1.6"}))
    found = PushedImages().find(TARGET.model_copy(update={"tag": "other"}), "inputs", AMD64)
    assert found is not None
    assert (found.digest, found.packages) == (a_digest("new"), {"ffmpeg": "7:5.1.6"})
    assert PushedImages().find(TARGET, "inputs", "linux/arm64") is None
    assert PushedImages().find(TARGET, "others", AMD64) is None
    for other in ({"registry": "registry.lab:5202"}, {"repository": "provisioner/other"}):
        assert PushedImages().find(TARGET.model_copy(update=other), "inputs", AMD64) is None


def test_a_record_is_private() -> None:
    PushedImages().add(pushed("inputs", "image"))
    (path,) = (state_home() / "pushed_images").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b" " * (1 << 17)])
def test_a_damaged_record_counts_as_absent(tmp_path: Path, content: bytes) -> None:
    records = PushedImages(tmp_path)
    records.add(pushed("inputs", "image"))
    (path,) = tmp_path.iterdir()
    path.write_bytes(content)
    assert records.find(TARGET, "inputs", AMD64) is None


def test_a_record_under_another_name_counts_as_absent(tmp_path: Path) -> None:
    records = PushedImages(tmp_path)
    records.add(pushed("one", "one"))
    (one,) = tmp_path.iterdir()
    records.add(pushed("two", "two"))
    (two,) = set(tmp_path.iterdir()) - {one}
    one.replace(two)
    assert records.find(TARGET, "two", AMD64) is None


def test_a_record_of_an_earlier_release_has_no_packages(tmp_path: Path) -> None:
    records = PushedImages(tmp_path)
    records.add(pushed("inputs", "image"))
    (path,) = tmp_path.iterdir()
    before = json.loads(path.read_text())
    del before["packages"]
    path.write_text(json.dumps(before))
    found = records.find(TARGET, "inputs", AMD64)
    assert found is not None
    assert (found.digest, found.packages) == (a_digest("image"), {})
