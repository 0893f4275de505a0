"""Real registries as the table of faults wants them: a damaged image for each row, each in a repository of its own."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from provisioner.adapters.registry.client import Registry
from provisioner.domain.lab.lab import MirrorKind
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport
from tests.adapters.registry.damage import DAMAGES
from tests.adapters.registry.made_image import Made, a_layer, an_image, push
from tests.adapters.registry.real_registry import RealRegistry, real_registry

TAG = "2.8.0-cuda12.8-cudnn9-runtime"
AMD64 = "linux/amd64"
_SECONDS = 30


def repository(fault: str) -> str:
    return "lab/" + "".join(letter if letter.isalnum() else "-" for letter in fault).lower()


def check(host: str, name: str, *, kind: MirrorKind = "static", deep: bool = False) -> SyncReport:
    with Registry(host, plain_http=True, kind=kind, environment={}) as mirror:
        return mirror.check([ImageReference(repository=name, tag=TAG)], AMD64, deep=deep)[0]


@contextmanager
def static(place: Path, faults: Sequence[str], *, cached: bool) -> Iterator[str]:
    with real_registry(place / "registry", cached=cached) as registry:
        images = _push_all(registry, faults)
        for name in map(repository, faults):
            _await_complete(registry.host, name, "static")
        _damage(registry, images)
        yield registry.host


@contextmanager
def behind(place: Path, faults: Sequence[str], *, filled: bool, away: bool) -> Iterator[str]:
    """A cache before an upstream: damaged is its own copy where it is warm, the upstream's where it is cold."""
    with ExitStack() as upstream_up:
        upstream = upstream_up.enter_context(real_registry(place / "upstream"))
        images = _push_all(upstream, faults)
        with real_registry(place / "cache", proxy={"remoteurl": f"http://{upstream.host}"}) as cache:
            if filled:
                for fault, image in images.items():
                    warm(cache, repository(fault), image)
            _damage(cache if filled else upstream, images)
            if away:  # only now: the registry does not come up without its upstream
                upstream_up.close()
            yield cache.host


def _push_all(registry: RealRegistry, faults: Sequence[str]) -> Mapping[str, Made]:
    images = {}
    for number, fault in enumerate(faults):
        layers = [a_layer(seed=3 * number), a_layer(seed=3 * number + 1), a_layer(100, seed=3 * number + 2)]
        images[fault] = an_image(layers, env=[f"FAULT={fault}"])
        push(registry.host, repository(fault), TAG, images[fault])
    return images


def _damage(registry: RealRegistry, images: Mapping[str, Made]) -> None:
    for fault, image in images.items():
        DAMAGES[fault](registry, image)


def warm(cache: RealRegistry, name: str, image: Made) -> None:
    """The cache stores a blob beside sending it, and may end later."""
    check(cache.host, name, kind="registry-proxy", deep=True)
    until = time.monotonic() + _SECONDS
    while not all(cache.links(digest) for digest in image.blobs):
        if time.monotonic() > until:
            pytest.fail(f"the cache did not keep {name}")
        time.sleep(0.02)
    _await_complete(cache.host, name, "registry-proxy")


def _await_complete(host: str, name: str, kind: MirrorKind) -> None:
    until = time.monotonic() + _SECONDS
    while (report := check(host, name, kind=kind)).state != "complete":
        if time.monotonic() > until:
            pytest.fail(f"{name} is {report}")


@dataclass(frozen=True)
class Setting:
    """How the registries stand, and what kind of mirror one would say in lab.yml that they are."""

    stand: Callable[[Path, Sequence[str]], AbstractContextManager[str]]
    kind: MirrorKind = "registry-proxy"


SETTINGS = {
    "stock cache": Setting(partial(static, cached=True), "static"),
    "no cache": Setting(partial(static, cached=False), "static"),
    "cache warm": Setting(partial(behind, filled=True, away=False)),
    "cache warm and upstream away": Setting(partial(behind, filled=True, away=True)),
    "cache cold": Setting(partial(behind, filled=False, away=False)),
    "cache cold and upstream away": Setting(partial(behind, filled=False, away=True)),
}
