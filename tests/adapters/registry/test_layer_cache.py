"""The cache of complete layers: which layers a check does not ask for again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.adapters.registry.client import Registry
from provisioner.adapters.registry.layer_cache import LayerCache
from provisioner.adapters.state.files import cache_home
from provisioner.domain.registry.image_problems import layer_missing
from provisioner.domain.registry.manifest import Blob
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport
from tests.adapters.registry.made_image import an_image
from tests.adapters.registry.scripted_registry import ScriptedRegistry, served
from tests.builders import a_digest

IMAGE = an_image()
REFERENCE = ImageReference(repository="a/b", tag="t")
LAYER = IMAGE.layers[0]
BLOBS = [Blob(mediaType="layer", digest=a_digest(str(number)), size=number) for number in range(3)]


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    made = ScriptedRegistry()
    for repository in ("a/b", "c/d"):
        made.put(repository, "t", IMAGE)
    with served(made):
        yield made


def check(
    registry: ScriptedRegistry, cache_seconds: float = 600, *, deep: bool = False, repository: str = "a/b"
) -> tuple[SyncReport, bool]:
    """Return the report, and whether the layer was requested."""
    registry.asked.clear()
    reference = ImageReference(repository=repository, tag="t")
    with Registry(registry.host, plain_http=True, environment={}, cache_seconds=cache_seconds) as checked:
        (report,) = checked.check([reference], "linux/amd64", deep=deep)
    return report, any(asked.path.endswith(LAYER) for asked in registry.asked)


def test_cached_layer_is_not_requested_again_but_its_manifest_is(registry: ScriptedRegistry) -> None:
    first, asked = check(registry)
    assert asked
    again, asked = check(registry)
    assert (again, asked) == (first, False)
    assert [asked for asked in registry.asked if "/manifests/" in asked.path]


def test_cached_layer_is_requested_in_another_repository(registry: ScriptedRegistry) -> None:
    """A registry may refuse in one repository a layer that it has in another."""
    check(registry)
    assert check(registry, repository="c/d")[1]


@pytest.mark.parametrize(("cache_seconds", "deep"), [(0, False), (600, True)])
def test_fresh_and_deep_checks_do_not_use_the_cache(
    registry: ScriptedRegistry, cache_seconds: float, deep: bool
) -> None:
    check(registry)
    assert check(registry, cache_seconds, deep=deep)[1]
    registry.lose(LAYER)
    assert check(registry, cache_seconds, deep=deep)[0].state == "partial"


def test_lost_layer_is_removed_from_the_cache(registry: ScriptedRegistry) -> None:
    """Also if a check without the cache found the loss, such as `mirror check`."""
    check(registry)
    registry.lose(LAYER)
    assert check(registry, 0)[0].state == "partial"
    assert check(registry)[0].state == "partial"
    registry.put("a/b", "t", IMAGE)
    report, asked = check(registry)
    assert (report.state, asked) == ("complete", True)


def test_nothing_is_written_without_a_cache_time(registry: ScriptedRegistry) -> None:
    check(registry, 0)
    assert not (cache_home() / "verdicts").exists()


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def cached(clock: Clock, seconds: float = 60) -> list[bool]:
    cache = LayerCache("https://r", seconds, clock)
    return [cache.has("a/b", blob) for blob in BLOBS]


def write(clock: Clock, *blobs: Blob, base: str = "https://r") -> None:
    cache = LayerCache(base, 60, clock)
    cache.add({("a/b", blob): None for blob in blobs})
    cache.save()


def test_entry_is_valid_only_within_its_time() -> None:
    clock = Clock()
    write(clock, BLOBS[0])
    assert cached(clock) == [True, False, False]
    clock.now += 60
    assert cached(clock) == [False, False, False]
    clock.now -= 61  # the clock of this machine was set back
    assert cached(clock) == [False, False, False]


def test_two_concurrent_runs_merge_their_entries() -> None:
    clock = Clock()
    one, other = LayerCache("https://r", 60, clock), LayerCache("https://r", 60, clock)
    one.add({("a/b", BLOBS[0]): None})
    other.add({("a/b", BLOBS[1]): None, ("a/b", BLOBS[2]): layer_missing(BLOBS[2].digest, 2)})
    one.save()
    other.save()
    assert cached(clock) == [True, True, False]


def test_each_registry_has_its_own_entries() -> None:
    clock = Clock()
    write(clock, BLOBS[0], base="http://r")
    assert cached(clock) == [False, False, False]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": "b"}', b"\xff\xfe", b'{"a": 1}' * 2])
def test_damaged_cache_file_is_ignored(content: bytes) -> None:
    clock = Clock()
    write(clock, BLOBS[0])
    (file,) = (cache_home() / "verdicts").iterdir()
    file.write_bytes(content)
    assert cached(clock) == [False, False, False]
    write(clock, BLOBS[1])
    assert cached(clock) == [False, True, False]


def test_unwritable_cache_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    write(Clock(), BLOBS[0])
    assert cached(Clock()) == [False, False, False]


def test_cache_file_is_bounded_and_drops_old_entries() -> None:
    clock = Clock()
    write(clock, BLOBS[0])
    clock.now += 86_400
    many = [Blob(mediaType="layer", digest=a_digest(f"many {number}"), size=1) for number in range(20_001)]
    write(clock, *many)
    (file,) = (cache_home() / "verdicts").iterdir()
    text = file.read_text()
    assert text.count("@sha256:") == 20_000
    assert BLOBS[0].digest not in text
    assert [path.name for path in file.parent.iterdir()] == [file.name]  # no temporary file is left
