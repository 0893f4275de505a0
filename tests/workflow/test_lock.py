"""From a mirror to a lock, with a mirror that remembers what it was asked."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import pytest

from provisioner.adapters.compatdata import load
from provisioner.domain.catalog import Catalog, Listing
from provisioner.domain.event import Event
from provisioner.domain.image import TaggedImage
from provisioner.domain.lock import LockedImage, Lockfile
from provisioner.domain.node import NodeFacts
from provisioner.domain.problem import CannotGoOn, Problem
from provisioner.domain.reference import ImageReference
from provisioner.domain.sync import SyncReport, SyncState
from provisioner.workflow.lock import Locked, choose, make_lock
from tests.builders import a_digest, a_gpu, a_lab, a_locked_image, a_node

DATA = load()
PREFIX = "mirror.lab:5200/pytorch/pytorch:"
OLD, MIDDLE, NEW = (
    f"{tag}-runtime" for tag in ("2.8.0-cuda12.8-cudnn9", "2.10.0-cuda12.8-cudnn9", "2.11.0-cuda12.8-cudnn9")
)


def a_listing(tag: str, state: SyncState) -> Listing:
    reference = PREFIX + tag
    report = SyncReport(reference=reference, platform="linux/amd64", state=state, digest=a_digest(tag), bytes=1)
    return Listing(image=TaggedImage(reference=reference, sync=state, digest=a_digest(tag)), report=report)


class AMirror:
    """`tags` are as a listing shows them, `inside` as a closer look finds them."""

    def __init__(self, tags: Mapping[str, SyncState], inside: Mapping[str, SyncState] | None = None) -> None:
        self.tags, self.inside = tags, inside or {}
        self.inspected: list[str] = []

    def catalog(self, repositories: Sequence[str], platform: str, *, wanted: Callable[[str], bool]) -> Catalog:
        assert (tuple(repositories), platform) == (("pytorch/pytorch",), "linux/amd64")
        listings = tuple(a_listing(tag, state) for tag, state in self.tags.items() if wanted(tag))
        return Catalog(mirror="mirror.lab:5200", checked_at=datetime(2026, 11, 23, tzinfo=UTC), listings=listings)

    def inspect(self, reference: ImageReference, platform: str) -> Listing:
        assert platform == "linux/amd64"
        tag = str(reference.tag)
        self.inspected.append(tag)
        return a_listing(tag, self.inside[tag])


class ABuilder:
    def lab_image(self, base: Listing) -> LockedImage:
        return a_locked_image(base.image.reference)


def locked(
    mirror: AMirror, probed: Mapping[str, NodeFacts | Problem] | None = None, torch: str | None = None
) -> Locked:
    found = probed or {"n1": a_node()}
    news: list[Event] = []
    chosen = choose(a_lab(), found, mirror, DATA, news.append, torch=torch)
    return make_lock(a_lab(), found, chosen, ABuilder(), DATA, registry_ca=None)


def held(lock: Lockfile) -> list[str]:
    return [image.reference.removeprefix(PREFIX) for image in lock.images]


def test_the_newest_tag_that_is_complete() -> None:
    mirror = AMirror({OLD: SyncState.COMPLETE, NEW: SyncState.PARTIAL, MIDDLE: SyncState.COMPLETE})
    found = locked(mirror)
    assert held(found.lock) == [MIDDLE]
    refused = found.selection.nodes["n1"].verdicts[PREFIX + NEW]
    assert [problem.code for problem in refused.problems] == ["not_synced"]
    assert mirror.inspected == []


@pytest.mark.parametrize(
    ("inside", "chosen", "asked"),
    [
        ({NEW: SyncState.COMPLETE}, NEW, [NEW]),
        ({NEW: SyncState.PARTIAL, MIDDLE: SyncState.COMPLETE}, MIDDLE, [NEW, MIDDLE]),
        ({NEW: SyncState.COLD, MIDDLE: SyncState.DENIED, OLD: SyncState.COMPLETE}, OLD, [NEW, MIDDLE, OLD]),
    ],
)
def test_a_cache_is_asked_only_for_what_would_be_chosen(
    inside: Mapping[str, SyncState], chosen: str, asked: Sequence[str]
) -> None:
    mirror = AMirror(dict.fromkeys((OLD, MIDDLE, NEW), SyncState.COLD), inside)
    assert held(locked(mirror).lock) == [chosen]
    assert mirror.inspected == asked


def test_a_wish_for_a_version_leaves_the_others_out() -> None:
    assert held(locked(AMirror(dict.fromkeys((OLD, MIDDLE, NEW), SyncState.COMPLETE)), torch="2.8").lock) == [OLD]


def test_the_lock_holds_what_each_node_was_given_and_leaves_out_the_silent() -> None:
    silent = Problem(code="unreachable", what="n2", why="off", fix="switch it on")
    lock = locked(AMirror({OLD: SyncState.COMPLETE}), {"n2": silent, "n1": a_node()}).lock
    assert {name: (node.image, node.gpus) for name, node in lock.nodes.items()} == {
        "n1": (PREFIX + OLD, (a_gpu("n1").uuid,))
    }


def test_nobody_answered() -> None:
    silent = Problem(code="unreachable", what="n1", why="off", fix="switch it on")
    with pytest.raises(CannotGoOn) as ended:
        locked(AMirror({OLD: SyncState.COMPLETE}), {"n1": silent})
    assert ended.value.problems == (silent,)


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({}, "no_tag"),
        ({OLD: SyncState.PARTIAL}, "not_synced"),
        ({"2.8.0-cuda11.8-cudnn9-runtime": SyncState.COMPLETE}, "unknown_build"),
    ],
)
def test_nothing_to_choose_says_why(tags: Mapping[str, SyncState], code: str) -> None:
    with pytest.raises(CannotGoOn) as ended:
        locked(AMirror(tags))
    codes = {problem.code for problem in ended.value.problems}
    assert codes == {code}
    assert all(problem.what and problem.why and problem.fix for problem in ended.value.problems)
