"""Checks of a real registry whose files are damaged, with and without its cache of descriptors."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from provisioner.adapters.registry.client import Registry
from provisioner.domain.values.reference import ImageReference
from tests.adapters.registry import pull, registry_settings
from tests.adapters.registry.damage import DAMAGES
from tests.adapters.registry.fault_table import Outcome, Row, finding_of, groups
from tests.adapters.registry.made_image import a_layer, an_image, an_index, push
from tests.adapters.registry.real_registry import RealRegistry, real_registry
from tests.adapters.registry.registry_settings import AMD64, QUICK, SETTINGS, TAG, check

pytestmark = pytest.mark.lab

REPOSITORY = "pytorch/pytorch"
REFERENCE = ImageReference(repository=REPOSITORY, tag=TAG)
ROWS = {
    setting: [row for row in group.rows if setting in row.where]
    for group in groups()
    if group.name not in {"servers", "shapes"}
    for setting in group.where
}
CASES = [(setting, row.fault) for setting, rows in ROWS.items() for row in rows]

Outcomes = dict[tuple[str, str], Outcome]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """The result of every row of the table in each of its settings. Settings share nothing, and mostly wait."""

    def outcomes_in(setting: str, place: Path) -> Outcomes:
        rows = ROWS[setting]
        with SETTINGS[setting].start(place, [row.fault for row in rows]) as host:
            return {(setting, row.fault): _outcome(host, setting, row) for row in rows}

    places = [tmp_path_factory.mktemp("registries") for _ in ROWS]
    with ThreadPoolExecutor(len(ROWS)) as threads:
        return {case: its for found in threads.map(outcomes_in, ROWS, places) for case, its in found.items()}


def _outcome(host: str, setting: str, row: Row) -> Outcome:
    name, kind = registry_settings.repository(row.fault), SETTINGS[setting].kind
    report = check(host, name, kind=kind)
    deep = check(host, name, kind=kind, deep=True) if row.deep else None
    return Outcome(row, report, deep, pull.works(host, name, TAG))


@pytest.mark.parametrize(("setting", "fault"), CASES)
def test_check_reports_each_fault(outcomes: Outcomes, setting: str, fault: str) -> None:
    its = outcomes[setting, fault]
    assert (finding_of(its.report), finding_of(its.deep), its.pulled) == (its.row.expected, its.row.deep, its.row.pull)


def test_no_false_complete_and_no_false_alarm(outcomes: Outcomes) -> None:
    assert not [case for case, its in outcomes.items() if its.is_false_complete]
    assert not [case for case, its in outcomes.items() if its.is_false_alarm]


@pytest.fixture(params=[True, False], ids=["stock cache", "no cache"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RealRegistry]:
    with real_registry(tmp_path / "registry", cached=request.param) as running:
        yield running


@pytest.mark.parametrize("fault", ["layer deleted", "layer halved", "layer emptied", "config deleted"])
def test_missing_parts_are_named_and_summed(registry: RealRegistry, fault: str) -> None:
    image = an_image()
    push(registry.host, REPOSITORY, TAG, image)
    before = check(registry.host, REPOSITORY)
    DAMAGES[fault](registry, image)
    after = check(registry.host, REPOSITORY)
    lost = tuple(digest for digest, blob in image.blobs.items() if not _holds(registry, digest, blob))
    assert (before.missing, before.bytes) == ((), sum(map(len, image.blobs.values())))
    assert (after.missing, after.bytes_missing) == (lost, sum(len(image.blobs[digest]) for digest in lost))
    assert len(lost) == 1


def _holds(registry: RealRegistry, digest: str, blob: bytes) -> bool:
    file = registry.blob(digest)
    return file.exists() and file.read_bytes() == blob


@pytest.mark.parametrize("deep", [False, True])
def test_complete_images_are_complete(registry: RealRegistry, *, deep: bool) -> None:
    shared = a_layer(seed=9)
    push(registry.host, REPOSITORY, TAG, an_index((AMD64, an_image([shared, a_layer(seed=4)]))))
    for number in range(3):
        push(registry.host, REPOSITORY, f"2.{number}.0", an_image([shared, a_layer(10 + number, seed=number)]))
    with Registry(registry.host, plain_http=True, environment={}) as mirror:
        catalog = mirror.catalog([REPOSITORY], AMD64)
        reports = mirror.check([REFERENCE], AMD64, deep=deep)
    assert [entry.report.state for entry in catalog.listings] == ["complete"] * 4
    assert (reports[0].state, reports[0].problems) == ("complete", ())


def test_catalog_does_not_fill_a_cache_and_a_check_adds_one_image(tmp_path: Path) -> None:
    images = {tag: an_image([a_layer(2_000_000, seed=n)]) for n, tag in enumerate((TAG, "2.1.0", "2.2.0"))}
    with real_registry(tmp_path / "upstream") as upstream:
        for tag, image in images.items():
            push(upstream.host, REPOSITORY, tag, image)
        with real_registry(tmp_path / "cache", proxy={"remoteurl": f"http://{upstream.host}"}) as cache:
            with Registry(cache.host, plain_http=True, kind="registry-proxy", environment={}) as mirror:
                catalog = mirror.catalog([REPOSITORY], AMD64)
                size_after_catalog = cache.size()
            registry_settings.warm(cache, REPOSITORY, images[TAG])
            kept = [tag for tag, image in images.items() if any(cache.links(digest) for digest in image.blobs)]
    assert {entry.report.state for entry in catalog.listings} == {"cold"}
    assert size_after_catalog < 100_000
    assert kept == [TAG]


def test_cache_without_descriptors_fetches_a_lost_layer_again(tmp_path: Path) -> None:
    """Without the stock cache of descriptors it repairs itself: cold at the first check, complete at the next."""
    image = an_image()
    with real_registry(tmp_path / "upstream") as upstream:
        push(upstream.host, REPOSITORY, TAG, image)
        proxy = {"remoteurl": f"http://{upstream.host}"}
        with real_registry(tmp_path / "cache", cached=False, proxy=proxy) as cache:
            registry_settings.warm(cache, REPOSITORY, image)
            DAMAGES["layer deleted"](cache, image)
            report = check(cache.host, REPOSITORY, kind="registry-proxy")
            registry_settings.warm(cache, REPOSITORY, image)
            again = check(cache.host, REPOSITORY, kind="registry-proxy")
    assert (report.state, again.state) == ("cold", "complete")


def test_lost_shared_layer_is_reported_for_its_images_alone(registry: RealRegistry) -> None:
    shared = a_layer(seed=5)
    for tag in ("a", "b"):
        push(registry.host, REPOSITORY, tag, an_image([shared], env=[f"TAG={tag}"]))
    push(registry.host, REPOSITORY, "c", an_image([a_layer(seed=6)]))
    registry.blob(an_image([shared]).layers[0]).unlink()
    with Registry(registry.host, plain_http=True, policy=QUICK, environment={}) as mirror:
        catalog = mirror.catalog([REPOSITORY], AMD64, wanted=lambda tag: tag != "b")
    assert {str(entry.image.reference).rsplit(":", 1)[1]: entry.image.sync for entry in catalog.listings} == {
        "a": "partial",
        "c": "complete",
    }
