"""What was seen whole a moment ago is not asked for again; nothing else is ever taken from memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.adapters.registry.client import Registry
from provisioner.adapters.registry.layer_cache import Verdicts
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


def look(
    registry: ScriptedRegistry, remembered: float = 600, *, deep: bool = False, repository: str = "a/b"
) -> tuple[SyncReport, bool]:
    """The report, and whether the layer was asked for."""
    registry.asked.clear()
    reference = ImageReference(repository=repository, tag="t")
    with Registry(registry.host, plain_http=True, environment={}, remembered=remembered) as looked_at:
        (report,) = looked_at.check([reference], "linux/amd64", deep=deep)
    return report, any(asked.path.endswith(LAYER) for asked in registry.asked)


def test_a_layer_is_not_asked_for_twice_but_its_manifest_is(registry: ScriptedRegistry) -> None:
    first, asked = look(registry)
    assert asked
    again, asked = look(registry)
    assert (again, asked) == (first, False)
    assert [asked for asked in registry.asked if "/manifests/" in asked.path]


def test_another_repository_of_the_same_registry_is_asked(registry: ScriptedRegistry) -> None:
    """Which repository a registry hands a layer out from is for it to say."""
    look(registry)
    assert look(registry, repository="c/d")[1]


@pytest.mark.parametrize(("remembered", "deep"), [(0, False), (600, True)])
def test_who_wants_to_know_now_is_not_told_of_yesterday(
    registry: ScriptedRegistry, remembered: float, deep: bool
) -> None:
    look(registry)
    assert look(registry, remembered, deep=deep)[1]
    registry.lose(LAYER)
    assert look(registry, remembered, deep=deep)[0].state == "partial"


def test_a_loss_is_never_remembered_and_ends_what_was(registry: ScriptedRegistry) -> None:
    """Also where the loss was found by a look that believes nothing, such as `mirror check`."""
    look(registry)
    registry.lose(LAYER)
    assert look(registry, 0)[0].state == "partial"
    assert look(registry)[0].state == "partial"
    registry.put("a/b", "t", IMAGE)
    report, asked = look(registry)
    assert (report.state, asked) == ("complete", True)


def test_nothing_is_written_where_nothing_may_be_remembered(registry: ScriptedRegistry) -> None:
    look(registry, 0)
    assert not (cache_home() / "verdicts").exists()


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def remembered(clock: Clock, seconds: float = 60) -> list[bool]:
    verdicts = Verdicts("https://r", seconds, clock)
    return [verdicts.knows("a/b", blob) for blob in BLOBS]


def write(clock: Clock, *blobs: Blob, base: str = "https://r") -> None:
    verdicts = Verdicts(base, 60, clock)
    verdicts.add({("a/b", blob): None for blob in blobs})
    verdicts.keep()


def test_a_verdict_ends_after_its_time_and_says_nothing_before_it() -> None:
    clock = Clock()
    write(clock, BLOBS[0])
    assert remembered(clock) == [True, False, False]
    clock.now += 60
    assert remembered(clock) == [False, False, False]
    clock.now -= 61  # the clock of this machine was set back
    assert remembered(clock) == [False, False, False]


def test_two_runs_at_once_keep_what_both_have_seen() -> None:
    clock = Clock()
    one, other = Verdicts("https://r", 60, clock), Verdicts("https://r", 60, clock)
    one.add({("a/b", BLOBS[0]): None})
    other.add({("a/b", BLOBS[1]): None, ("a/b", BLOBS[2]): layer_missing(BLOBS[2].digest, 2)})
    one.keep()
    other.keep()
    assert remembered(clock) == [True, True, False]


def test_another_registry_has_verdicts_of_its_own() -> None:
    clock = Clock()
    write(clock, BLOBS[0], base="http://r")
    assert remembered(clock) == [False, False, False]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": "b"}', b"\xff\xfe", b'{"a": 1}' * 2])
def test_a_broken_file_is_as_if_it_were_not_there(content: bytes) -> None:
    clock = Clock()
    write(clock, BLOBS[0])
    (file,) = (cache_home() / "verdicts").iterdir()
    file.write_bytes(content)
    assert remembered(clock) == [False, False, False]
    write(clock, BLOBS[1])
    assert remembered(clock) == [False, True, False]


def test_a_place_that_cannot_be_written_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    write(Clock(), BLOBS[0])
    assert remembered(Clock()) == [False, False, False]


def test_the_file_is_bounded_and_drops_what_is_old() -> None:
    clock = Clock()
    write(clock, BLOBS[0])
    clock.now += 86_400
    many = [Blob(mediaType="layer", digest=a_digest(f"many {number}"), size=1) for number in range(20_001)]
    write(clock, *many)
    (file,) = (cache_home() / "verdicts").iterdir()
    text = file.read_text()
    assert text.count("@sha256:") == 20_000
    assert BLOBS[0].digest not in text
    assert [path.name for path in file.parent.iterdir()] == [file.name]  # nothing half-written beside it
