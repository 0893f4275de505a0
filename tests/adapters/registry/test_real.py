"""Against a real registry whose files are damaged under it, with and without its cache of descriptors."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from provisioner.adapters.registry.client import Registry
from provisioner.domain.lab import MirrorKind
from provisioner.domain.reference import ImageReference
from provisioner.domain.sync import SyncReport
from tests.adapters.registry.made_image import Made, a_layer, an_image, an_index, push
from tests.adapters.registry.real_registry import RealRegistry, real_registry

pytestmark = pytest.mark.lab

REPOSITORY = "pytorch/pytorch"
TAG = "2.8.0-cuda12.8-cudnn9-runtime"
REFERENCE = ImageReference(repository=REPOSITORY, tag=TAG)
AMD64 = "linux/amd64"

Damage = Callable[[RealRegistry, Made], None]


def lose_layer(registry: RealRegistry, image: Made) -> None:
    registry.blob(image.layers[0]).unlink()


def lose_small_layer(registry: RealRegistry, image: Made) -> None:
    registry.blob(image.layers[2]).unlink()


def halve_layer(registry: RealRegistry, image: Made) -> None:
    blob = registry.blob(image.layers[0])
    blob.write_bytes(blob.read_bytes()[: blob.stat().st_size // 2])


def cut_last_byte(registry: RealRegistry, image: Made) -> None:
    blob = registry.blob(image.layers[1])
    blob.write_bytes(blob.read_bytes()[:-1])


def empty_layer(registry: RealRegistry, image: Made) -> None:
    registry.blob(image.layers[0]).write_bytes(b"")


def lose_config(registry: RealRegistry, image: Made) -> None:
    registry.blob(image.config).unlink()


def empty_config(registry: RealRegistry, image: Made) -> None:
    registry.blob(image.config).write_bytes(b"")


def flip_byte(registry: RealRegistry, image: Made) -> None:
    blob = registry.blob(image.layers[0])
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)


def page_for_layer(registry: RealRegistry, image: Made) -> None:
    blob = registry.blob(image.layers[0])
    blob.write_bytes(b"<!DOCTYPE html>".ljust(blob.stat().st_size, b" "))


FAULTS = {
    "layer deleted": (lose_layer, "partial", "layer_missing"),
    "small layer deleted": (lose_small_layer, "partial", "layer_missing"),
    "layer halved": (halve_layer, "partial", "layer_truncated"),
    "last byte lost": (cut_last_byte, "partial", "layer_truncated"),
    "layer emptied": (empty_layer, "partial", "layer_missing"),
    "config deleted": (lose_config, "partial", "config_missing"),
    "config emptied": (empty_config, "partial", "config_missing"),
    "web page stored as layer": (page_for_layer, "partial", "not_a_layer"),
}


@pytest.fixture(params=[True, False], ids=["stock cache", "no cache"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RealRegistry]:
    with real_registry(tmp_path / "registry", cached=request.param) as running:
        yield running


def check(registry: RealRegistry, *, deep: bool = False, kind: MirrorKind = "static") -> SyncReport:
    with Registry(registry.host, plain_http=True, kind=kind, environment={}) as looked_at:
        return looked_at.check([REFERENCE], AMD64, deep=deep)[0]


@pytest.mark.parametrize("fault", FAULTS)
def test_finds_what_breaks_a_pull(registry: RealRegistry, fault: str) -> None:
    damage, state, code = FAULTS[fault]
    image = an_image()
    push(registry.host, REPOSITORY, TAG, image)
    before = check(registry)
    damage(registry, image)
    after = check(registry)
    assert (before.state, before.problems, before.bytes) == ("complete", (), sum(map(len, image.blobs.values())))
    assert (after.state, [problem.code for problem in after.problems]) == (state, [code])
    assert after.missing == tuple(d for d in image.blobs if not _whole(registry, image, d))
    assert after.bytes_missing == sum(len(image.blobs[digest]) for digest in after.missing)


def _whole(registry: RealRegistry, image: Made, digest: str) -> bool:
    blob = registry.blob(digest)
    return blob.exists() and blob.read_bytes() == image.blobs[digest]


def test_only_a_deep_look_finds_a_flipped_byte(registry: RealRegistry) -> None:
    image = an_image()
    push(registry.host, REPOSITORY, TAG, image)
    flip_byte(registry, image)
    deep = check(registry, deep=True)
    assert check(registry).state == "complete"
    assert (deep.state, [problem.code for problem in deep.problems]) == ("partial", ["digest_mismatch"])
    assert deep.missing == image.layers[:1]


def test_a_layer_without_its_link_is_missing(tmp_path: Path) -> None:
    """With its cache the stock registry goes on serving it, and a pull works; without, it does not."""
    image = an_image()
    with real_registry(tmp_path / "registry", cached=False) as registry:
        push(registry.host, REPOSITORY, TAG, image)
        registry.link(REPOSITORY, image.layers[1]).unlink()
        report = check(registry)
    assert (report.state, report.missing) == ("partial", (image.layers[1],))


@pytest.mark.parametrize("deep", [False, True])
def test_no_false_alarm(registry: RealRegistry, *, deep: bool) -> None:
    shared = a_layer(seed=9)
    push(registry.host, REPOSITORY, TAG, an_index((AMD64, an_image([shared, a_layer(seed=4)]))))
    for number in range(3):
        push(registry.host, REPOSITORY, f"2.{number}.0", an_image([shared, a_layer(10 + number, seed=number)]))
    with Registry(registry.host, plain_http=True, environment={}) as mirror:
        catalog = mirror.catalog([REPOSITORY], AMD64)
        reports = mirror.check([REFERENCE], AMD64, deep=deep)
    assert [entry.report.state for entry in catalog.listings] == ["complete"] * 4
    assert (reports[0].state, reports[0].problems) == ("complete", ())


def test_a_cache_is_not_filled_by_a_catalog(tmp_path: Path) -> None:
    image = an_image([a_layer(2_000_000, seed=7)])
    with real_registry(tmp_path / "upstream") as upstream:
        push(upstream.host, REPOSITORY, TAG, image)
        proxy = {"remoteurl": f"http://{upstream.host}"}
        with real_registry(tmp_path / "cache", proxy=proxy) as cache:
            with Registry(cache.host, plain_http=True, kind="registry-proxy", environment={}) as mirror:
                swept = mirror.catalog([REPOSITORY], AMD64).listings[0].report
            after_sweep = cache.size()
            asked_for = check(cache, kind="registry-proxy", deep=True)
            warm = check(cache, kind="registry-proxy")
    assert (swept.state, [problem.code for problem in swept.problems]) == ("cold", ["cold"])
    assert after_sweep < 100_000
    assert (asked_for.state, warm.state) == ("complete", "complete")


def test_a_cold_layer_is_neither_there_nor_missing(tmp_path: Path) -> None:
    image = an_image([a_layer(2_000_000, seed=7)])
    with real_registry(tmp_path / "upstream") as upstream:
        push(upstream.host, REPOSITORY, TAG, image)
        proxy = {"remoteurl": f"http://{upstream.host}"}
        with real_registry(tmp_path / "cache", proxy=proxy) as cache:
            report = check(cache, kind="registry-proxy")
    assert (report.state, report.missing, [problem.code for problem in report.problems]) == ("cold", (), ["cold"])


def test_a_damaged_layer_is_told_for_every_image_that_has_it(registry: RealRegistry) -> None:
    shared = a_layer(seed=5)
    for tag in ("a", "b"):
        push(registry.host, REPOSITORY, tag, an_image([shared], env=[f"TAG={tag}"]))
    push(registry.host, REPOSITORY, "c", an_image([a_layer(seed=6)]))
    registry.blob(an_image([shared]).layers[0]).unlink()
    with Registry(registry.host, plain_http=True, environment={}) as mirror:
        catalog = mirror.catalog([REPOSITORY], AMD64, wanted=lambda tag: tag != "b")
    assert {str(entry.image.reference).rsplit(":", 1)[1]: entry.image.sync for entry in catalog.listings} == {
        "a": "partial",
        "c": "complete",
    }
