"""A real registry with as many images as a benchmark wants, put into its storage as a push would leave them there."""

from collections.abc import Sequence
from pathlib import Path

from tests.adapters.registry.made_image import Made, a_layer, an_image

LAYER = 66_000  # bytes: above what is read whole, so that it is looked at as a layer of gigabytes is
LAYERS = 8


def image(number: int, shared: int = 0) -> Made:
    """One config and eight layers, the first `shared` of them the same in every image."""
    seeds = [at if at < shared else LAYERS * (number + 1) + at for at in range(LAYERS)]
    return an_image([a_layer(LAYER, seed) for seed in seeds], env=[f"NUMBER={number}"])


def fill(root: Path, repository: str, images: Sequence[Made]) -> list[str]:
    """The tags, in order. `root` is a registry's `rootdirectory`; its layout is that of distribution 2 and 3."""
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
