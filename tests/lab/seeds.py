"""Saved contents of registries: a copy is faster than a push, which compresses every layer again."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.lab import images
from tests.lab.engine import Engine
from tests.lab.host import content_hash, locked, run
from tests.lab.registry import Registry


def fill(registry: Registry, name: str, of: Iterable[str], push: Callable[[], object]) -> None:
    """Fill a registry from the seed `name` if it was made of the same images (`of`); otherwise call `push`."""
    kept = _folder(registry.engine, name, of)
    with locked("seeds"):
        if kept.exists():
            registry.storage.mkdir(parents=True, exist_ok=True)
            run("cp", "-a", f"{kept}/.", registry.storage)
            return
        was_empty = not registry.storage.exists()
        push()
        if was_empty:
            _keep(registry, kept, name)


def _folder(engine: Engine, name: str, of: Iterable[str]) -> Path:
    inputs = images.inputs_of(engine, of)
    digest = content_hash([], *(f"{image}={found}" for image, found in sorted(inputs.items())))
    return engine.root / "seeds" / f"{name}-{digest}"


def _keep(registry: Registry, kept: Path, name: str) -> None:
    for older in kept.parent.glob(f"{name}-*"):
        shutil.rmtree(older)
    kept.parent.mkdir(exist_ok=True)
    run("cp", "-a", registry.storage, kept.with_suffix(".draft"))
    kept.with_suffix(".draft").rename(kept)
