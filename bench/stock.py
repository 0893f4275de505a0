"""Fill the storage of a real registry with images, in the form in which a push leaves them."""

from collections.abc import Sequence
from pathlib import Path

from tests.adapters.registry.made_image import Made, a_layer, an_image

LAYER = 66_000  # bytes: larger than blobs that are read completely, so it is inspected like a layer of gigabytes
LAYERS = 8


def image(number: int, shared: int = 0) -> Made:
    """Return an image of one config and eight layers. The first `shared` layers are the same in every image."""
    seeds = [at if at < shared else LAYERS * (number + 1) + at for at in range(LAYERS)]
    return an_image([a_layer(LAYER, seed) for seed in seeds], env=[f"NUMBER={number}"])


def fill(root: Path, repository: str, images: Sequence[Made]) -> list[str]:
    """Write images and return their tags in order. `root`: the `rootdirectory` of a registry (distribution 2 or 3)."""
    tags = [f"2.{number}.0-cuda12.8-cudnn9-runtime" for number in range(len(images))]
    for tag, made in zip(tags, images, strict=True):
        _put(root / "docker/registry/v2", repository, tag, made)
    return tags


def _put(root: Path, repository: str, tag: str, made: Made) -> None:
    of_repository = root / "repositories" / repository
    for digest, blob in {**made.blobs, made.manifest: made.body}.items():
        _write(_folder(root / "blobs", digest, split=True) / "data", blob)
    for digest in made.blobs:
        _write(_folder(of_repository / "_layers", digest) / "link", digest.encode())
    named = of_repository / "_manifests"
    for folder in (_folder(named / "revisions", made.manifest), named / "tags" / tag / "current"):
        _write(folder / "link", made.manifest.encode())


def _folder(above: Path, digest: str, *, split: bool = False) -> Path:
    algorithm, digits = digest.split(":")
    return above / algorithm / digits[:2] / digits if split else above / algorithm / digits


def _write(path: Path, content: bytes) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
