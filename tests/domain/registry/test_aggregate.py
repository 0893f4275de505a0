"""The state of an image from its parts: complete is said only of what was seen to be complete."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.registry.aggregate import fold
from provisioner.domain.registry.image_problems import (
    Fault,
    cold,
    config_missing,
    denied,
    layer_missing,
    layer_truncated,
    manifest_missing,
    rate_limited,
    unreachable,
    wrong_platform,
)
from provisioner.domain.registry.manifest import Blob, ImageManifest, digest_of
from provisioner.domain.values.size import human_size

LAYERS = tuple(Blob(mediaType="layer", digest=digest_of(bytes([n])), size=100 + n) for n in range(4))
CONFIG = Blob(mediaType="config", digest=digest_of(b"config"), size=7)
MANIFEST = ImageManifest(digest=digest_of(b"manifest"), config=CONFIG, layers=LAYERS)
GOOD: dict[Blob, Fault | None] = dict.fromkeys(MANIFEST.parts)


def state(faults: dict[Blob, Fault | None], *others: Fault) -> str:
    return fold("r", "linux/amd64", MANIFEST, faults, others).state.value


def test_complete_is_every_part_seen_and_good() -> None:
    report = fold("r", "linux/amd64", MANIFEST, GOOD)
    assert (report.state, report.bytes, report.bytes_missing, report.missing) == ("complete", 413, 0, ())
    assert (report.digest, report.problems) == (MANIFEST.digest, ())


@given(st.sets(st.sampled_from(MANIFEST.parts), min_size=1))
def test_a_part_that_nobody_looked_at_is_never_taken_for_good(unseen: set[Blob]) -> None:
    assert state({blob: None for blob in MANIFEST.parts if blob not in unseen}) == "unknown"


FAULTS = [
    cold(),
    denied("h", 403),
    rate_limited("h", None),
    unreachable("h", "x"),
    layer_missing(LAYERS[0].digest, 100),
]


@given(st.dictionaries(st.sampled_from(MANIFEST.parts), st.sampled_from(FAULTS), min_size=1))
def test_no_fault_is_ever_lost(faults: dict[Blob, Fault]) -> None:
    report = fold("r", "linux/amd64", MANIFEST, GOOD | faults)
    assert report.state in {fault.state for fault in faults.values()}
    assert set(report.problems) == {fault.problem for fault in faults.values()}
    assert len(report.problems) == len(set(report.problems))


MIXED: list[tuple[list[Fault], str]] = [
    ([cold(), unreachable("h", "x")], "unknown"),
    ([unreachable("h", "x"), rate_limited("h", 3)], "limited"),
    ([rate_limited("h", 3), denied("h", 403)], "denied"),
    ([denied("h", 403), layer_missing(LAYERS[0].digest, 100)], "partial"),
]


@pytest.mark.parametrize(("faults", "expected"), MIXED)
def test_a_certain_no_comes_before_what_nobody_knows(faults: list[Fault], expected: str) -> None:
    assert state(GOOD | dict(zip(LAYERS, faults, strict=False))) == expected


def test_what_is_missing_is_counted_once() -> None:
    faults: dict[Blob, Fault | None] = {
        LAYERS[0]: layer_missing(LAYERS[0].digest, LAYERS[0].size),
        LAYERS[1]: layer_truncated(LAYERS[1].digest, LAYERS[1].size, 5),
        LAYERS[2]: denied("h", 403),
        CONFIG: config_missing(CONFIG.digest, CONFIG.size),
    }
    report = fold("r", "linux/amd64", MANIFEST, GOOD | faults, [config_missing(CONFIG.digest, CONFIG.size)])
    assert set(report.missing) == {LAYERS[0].digest, LAYERS[1].digest, CONFIG.digest}
    assert report.bytes_missing == 100 + 101 + 7
    assert len(report.problems) == 4


@pytest.mark.parametrize("fault", [manifest_missing("r"), wrong_platform("linux/amd64", ["linux/arm64"])])
def test_an_image_that_is_not_there(fault: Fault) -> None:
    report = fold("r", "linux/amd64", None, {}, [fault])
    assert (report.state, report.digest, report.bytes, report.problems) == ("absent", None, 0, (fault.problem,))


def test_nothing_known_is_unknown() -> None:
    assert fold("r", "linux/amd64", None, {}).state == "unknown"


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (4_260_000_000, "4.26 GB"), (5 * 10**12, "5 TB")]
)
def test_sizes_as_docker_prints_them(size: int, text: str) -> None:
    assert human_size(size) == text
