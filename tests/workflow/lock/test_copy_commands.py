"""The printed copy commands, run with real registries and the real skopeo."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from provisioner.adapters.registry.client import Registry
from provisioner.domain.registry.better_tag import NextBest
from provisioner.domain.registry.copy_commands import RegistryEndpoint
from provisioner.domain.values.event import Event
from provisioner.workflow.lock.better_tag import BetterTagSources
from provisioner.workflow.lock.lock import choose
from tests.adapters.registry.made_image import Made, a_layer, an_image, an_index, push
from tests.adapters.registry.real_registry import RealRegistry, real_registry
from tests.builders import a_lab, a_node
from tests.lab.host import program
from tests.workflow.lock.test_lock import DATA, NEW, OLD

pytestmark = pytest.mark.lab

REPOSITORY = "pytorch/pytorch"


def an_image_of(torch: str, seed: int) -> Made:
    return an_image([a_layer(seed=seed), a_layer(seed=seed + 1)], env=[f"PYTORCH_VERSION={torch}"])


@pytest.fixture
def registries(tmp_path: Path) -> Iterator[tuple[RealRegistry, RealRegistry]]:
    """Return a mirror and its upstream, which has a newer tag for two platforms."""
    with ExitStack() as stack:
        mirror, upstream = (stack.enter_context(real_registry(tmp_path / name)) for name in ("mirror", "upstream"))
        newer = an_index(("linux/amd64", an_image_of("2.11.0", 30)), ("linux/arm64", an_image(platform="linux/arm64")))
        for registry in (mirror, upstream):
            push(registry.host, REPOSITORY, OLD, an_image_of("2.8.0", 10))
        push(upstream.host, REPOSITORY, NEW, newer)
        yield mirror, upstream


def choose_and_find_better(mirror: RealRegistry, upstream: RealRegistry) -> tuple[str | None, NextBest | None]:
    there = RegistryEndpoint(address=upstream.host, plain_http=True)
    here = RegistryEndpoint(address=mirror.host, plain_http=True)
    lab = a_lab(
        mirror={"address": mirror.host, "upstream": {"address": upstream.host}}, registry={"address": mirror.host}
    )
    events: list[Event] = []
    with (
        Registry(mirror.host, plain_http=True, environment={}) as offered,
        Registry(upstream.host, plain_http=True, environment={}) as above,
    ):
        registries = BetterTagSources(above, None, there, here, "demo")
        selection, catalog = choose(
            lab, {"n1": a_node()}, offered, DATA, events.append, upstream=above, registries=registries
        )
    return selection.tag, catalog.next_best


def test_the_printed_skopeo_commands_copy_the_tag(
    registries: tuple[RealRegistry, RealRegistry], tmp_path: Path
) -> None:
    mirror, upstream = registries
    assert program("skopeo", "skopeo")
    tag, better = choose_and_find_better(mirror, upstream)
    assert tag == f"{mirror.host}/{REPOSITORY}:{OLD}"
    assert better is not None
    script = "\n".join(["set -eu", *better.skopeo])
    copied = {**os.environ, "HOME": str(tmp_path)}
    subprocess.run(["sh", "-c", script], env=copied, check=True, capture_output=True)
    assert choose_and_find_better(mirror, upstream) == (f"{mirror.host}/{REPOSITORY}:{NEW}", None)
