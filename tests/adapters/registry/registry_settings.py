"""Real registries for the table of faults: a damaged image for each row, each in its own repository."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from provisioner.adapters.registry.client import Registry
from provisioner.adapters.registry.transport import RetryPolicy
from provisioner.domain.lab.lab import MirrorKind
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport
from tests.adapters.registry.damage import DAMAGES
from tests.adapters.registry.made_image import Made, a_layer, an_image, push
from tests.adapters.registry.real_registry import RealRegistry, real_registry

TAG = "2.8.0-cuda12.8-cudnn9-runtime"
AMD64 = "linux/amd64"
_SECONDS = 30
# Most damages make the registry answer 500: each check would wait 3.5 s before it gives up.
QUICK = RetryPolicy(first_wait=0.01)


def repository(fault: str) -> str:
    return "lab/" + "".join(letter if letter.isalnum() else "-" for letter in fault).lower()


def check(host: str, name: str, *, kind: MirrorKind = "static", deep: bool = False) -> SyncReport:
    with Registry(host, plain_http=True, kind=kind, policy=QUICK, environment={}) as mirror:
        return mirror.check([ImageReference(repository=name, tag=TAG)], AMD64, deep=deep)[0]


@contextmanager
def static_registry(place: Path, faults: Sequence[str], *, cached: bool) -> Iterator[str]:
    with real_registry(place / "registry", cached=cached) as registry:
        images = _push_all(registry, faults)
        for name in map(repository, faults):
            _await_complete(registry.host, name, "static")
        _damage(registry, images)
        yield registry.host


@contextmanager
def pull_through_cache(place: Path, faults: Sequence[str], *, filled: bool, away: bool) -> Iterator[str]:
    """Start a cache of an upstream. Its own copy is damaged if it is `filled`, else the upstream's."""
    with ExitStack() as upstream_up:
        upstream = upstream_up.enter_context(real_registry(place / "upstream"))
        images = _push_all(upstream, faults)
        with real_registry(place / "cache", proxy={"remoteurl": f"http://{upstream.host}"}) as cache:
            if filled:
                for fault, image in images.items():
                    warm(cache, repository(fault), image)
            _damage(cache if filled else upstream, images)
            if away:  # only now: the registry does not start without its upstream
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
    """Fill the cache. It may finish storing a blob after sending it."""
    check(cache.host, name, kind="registry-proxy", deep=True)
    until = time.monotonic() + _SECONDS
    while not all(cache.links(digest) for digest in image.blobs):
        if time.monotonic() > until:
            pytest.fail(f"the cache did not store {name}")
        time.sleep(0.02)
    _await_complete(cache.host, name, "registry-proxy")


def _await_complete(host: str, name: str, kind: MirrorKind) -> None:
    until = time.monotonic() + _SECONDS
    while (report := check(host, name, kind=kind)).state != "complete":
        if time.monotonic() > until:
            pytest.fail(f"{name} is {report}")


@dataclass(frozen=True)
class Setting:
    """How the registries are started, and the kind of mirror that lab.yml would name."""

    start: Callable[[Path, Sequence[str]], AbstractContextManager[str]]
    kind: MirrorKind = "registry-proxy"


SETTINGS = {
    "stock cache": Setting(partial(static_registry, cached=True), "static"),
    "no cache": Setting(partial(static_registry, cached=False), "static"),
    "cache warm": Setting(partial(pull_through_cache, filled=True, away=False)),
    "cache warm and upstream away": Setting(partial(pull_through_cache, filled=True, away=True)),
    "cache cold": Setting(partial(pull_through_cache, filled=False, away=False)),
    "cache cold and upstream away": Setting(partial(pull_through_cache, filled=False, away=True)),
}
