"""Images of a real registry, before and after a removal and the registry's garbage collection."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.adapters.registry.client import Registry
from provisioner.domain.registry.gc import sweep
from provisioner.domain.values.problem import ProblemError
from tests.adapters.registry.made_image import Made, a_layer, an_image, an_index, push
from tests.adapters.registry.real_registry import RealRegistry, real_registry
from tests.lab.host import registry_program

pytestmark = pytest.mark.lab

REPOSITORY = "provisioner/lab"
SHARED = a_layer(seed=1)
OLD, NEW = an_image([SHARED, a_layer(seed=2)]), an_image([SHARED, a_layer(seed=3)])


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RealRegistry]:
    with real_registry(tmp_path / "registry", cached=False) as registry:
        push(registry.host, REPOSITORY, "old", OLD)
        push(registry.host, REPOSITORY, "older-name", OLD)
        push(registry.host, REPOSITORY, "new", NEW)
        yield registry


def blobs(image: Made) -> set[str]:
    return {image.config, *image.layers}


def test_held_lists_each_image_once_with_all_tags(real: RealRegistry) -> None:
    with Registry(real.host, plain_http=True) as own:
        held = {image.digest: image for image in own.held(REPOSITORY)}
        assert own.held("no/such") == ()
    assert {digest: set(image.tags) for digest, image in held.items()} == {
        OLD.manifest: {"old", "older-name"},
        NEW.manifest: {"new"},
    }
    assert {blob.digest for blob in held[NEW.manifest].blobs} == blobs(NEW)


def test_held_index_lists_its_children(real: RealRegistry) -> None:
    push(real.host, REPOSITORY, "all", an_index(("linux/amd64", NEW)))
    with Registry(real.host, plain_http=True) as own:
        (index,) = (image for image in own.held(REPOSITORY) if "all" in image.tags)
    assert NEW.manifest in index.children


def test_deleted_image_and_its_unshared_layers_leave_the_disk(real: RealRegistry, tmp_path: Path) -> None:
    with Registry(real.host, plain_http=True) as own:
        _, removed, alone = sweep(own.held(REPOSITORY), {NEW.manifest: ["lock"]})
        for image in removed:
            own.delete(REPOSITORY, image.digest)
        own.delete(REPOSITORY, OLD.manifest)  # removed already: no error
        assert [image.digest for image in own.held(REPOSITORY)] == [NEW.manifest]
    before = real.size()
    collect = [str(registry_program()), "garbage-collect", str(tmp_path / "registry.yml")]
    subprocess.run(collect, check=True, capture_output=True)
    assert all(real.blob(digest).exists() for digest in blobs(NEW))
    assert not any(real.blob(digest).exists() for digest in blobs(OLD) - blobs(NEW))
    assert before - real.size() >= alone


def test_registry_without_delete_raises_delete_disabled(tmp_path: Path) -> None:
    place = tmp_path / "fixed"
    fixed = {"filesystem": {"rootdirectory": str(place)}, "delete": {"enabled": False}}
    with real_registry(place, storage=fixed) as real:
        push(real.host, REPOSITORY, "new", NEW)
        with Registry(real.host, plain_http=True) as own, pytest.raises(ProblemError) as caught:
            own.delete(REPOSITORY, NEW.manifest)
    assert caught.value.problems[0].code == "delete_disabled"
