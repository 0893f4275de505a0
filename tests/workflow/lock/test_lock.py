"""From a mirror to a lock, with a mirror that remembers what it was asked."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime

import pytest

from provisioner.adapters.lab.compatibility_data import load
from provisioner.domain.lab.lock import LockedImage, Lockfile
from provisioner.domain.registry.catalog import Catalog, Listing
from provisioner.domain.values.event import Event
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.image_identity import Identity
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport, SyncState
from provisioner.workflow.lock.lock import Locked, choose, make_lock
from tests.builders import a_digest, a_gpu, a_lab, a_locked_image, a_node

DATA = load()
SILENT = Problem("unreachable", "no answer", "it is away", "try again")
PREFIX, ABOVE = "mirror.lab:5200/pytorch/pytorch:", "docker.io/pytorch/pytorch:"
OLD, MIDDLE, NEW = (
    f"{tag}-runtime" for tag in ("2.8.0-cuda12.8-cudnn9", "2.10.0-cuda12.8-cudnn9", "2.11.0-cuda12.8-cudnn9")
)


def a_listing(tag: str, state: SyncState, prefix: str = PREFIX) -> Listing:
    reference = prefix + tag
    report = SyncReport(reference=reference, platform="linux/amd64", state=state, digest=a_digest(tag), bytes=1)
    return Listing(image=TaggedImage(reference=reference, sync=state, digest=a_digest(tag)), report=report)


def an_identity(text: str) -> Identity:
    return Identity(tag=a_digest(f"{text} tag"), manifest=a_digest(text), config=a_digest(f"{text} config"))


class AMirror:
    """`tags` are as a listing shows them, `inside` as a closer look finds them."""

    prefix = PREFIX

    def __init__(self, tags: Mapping[str, SyncState], inside: Mapping[str, SyncState] | None = None) -> None:
        self.tagged, self.inside = tags, inside or {}
        self.inspected: list[str] = []

    def catalog(self, repositories: Sequence[str], platform: str, *, wanted: Callable[[str], bool]) -> Catalog:
        assert (tuple(repositories), platform) == (("pytorch/pytorch",), "linux/amd64")
        listings = tuple(a_listing(tag, state, self.prefix) for tag, state in self.tagged.items() if wanted(tag))
        return Catalog(
            mirror=self.prefix.partition("/")[0], checked_at=datetime(2026, 11, 23, tzinfo=UTC), listings=listings
        )

    def listed(self, repositories: Sequence[str], platform: str, *, wanted: Callable[[str], bool]) -> Catalog:
        names = type(self)(dict.fromkeys(self.tagged, SyncState.COLD))
        return names.catalog(repositories, platform, wanted=wanted)

    def identity(self, reference: ImageReference, platform: str) -> Identity:
        return an_identity(f"{reference.tag} {platform}")

    def inspect(self, reference: ImageReference, platform: str) -> Listing:
        assert platform == "linux/amd64"
        tag = str(reference.tag)
        self.inspected.append(tag)
        return a_listing(tag, self.inside[tag], self.prefix)


class AnUpstream(AMirror):
    """Has other images under the tags that `moved`; None: it does not answer."""

    prefix = ABOVE

    def __init__(self, tags: Mapping[str, SyncState], moved: Collection[str] | None = ()) -> None:
        super().__init__(tags, tags)
        self.moved, self.asked = moved, list[str]()

    def listed(self, repositories: Sequence[str], platform: str, *, wanted: Callable[[str], bool]) -> Catalog:
        self.asked.append("list")
        if self.moved is None:
            raise ProblemError(SILENT)
        return super().listed(repositories, platform, wanted=wanted)

    def tags(self, repository: str) -> tuple[str, ...]:
        assert repository == "pytorch/pytorch"
        return tuple(self.tagged)

    def digest(self, reference: ImageReference) -> str | None:
        tag = str(reference.tag)
        assert str(reference) == f"docker.io/pytorch/pytorch:{tag}"
        self.asked.append(tag)
        if self.moved is None:
            raise ProblemError(SILENT)
        return a_digest(f"{tag} moved" if tag in self.moved else tag) if tag in self.tagged else None

    def identity(self, reference: ImageReference, platform: str) -> Identity:
        return an_identity(f"{reference.tag} moved {platform}")


class ABuilder:
    def lab_image(self, base: Listing) -> LockedImage:
        return a_locked_image(base.image.reference)


def locked(  # noqa: PLR0913  (a world in one call)
    mirror: AMirror,
    probed: Mapping[str, NodeFacts | Problem] | None = None,
    torch: str | None = None,
    upstream: AnUpstream | None = None,
    news: list[Event] | None = None,
    *,
    fallback: bool = False,
) -> Locked:
    found = probed or {"n1": a_node()}
    above = {} if upstream is None else {"upstream": {"address": "docker.io", "fallback": fallback}}
    lab = a_lab(mirror={"address": "mirror.lab:5200"} | above)
    heard = list[Event]() if news is None else news
    chosen = choose(lab, found, mirror, DATA, heard.append, torch=torch, upstream=upstream)
    return make_lock(lab, found, chosen, ABuilder(), DATA, registry_ca=None)


def held(lock: Lockfile) -> list[str]:
    return [image.reference.removeprefix(PREFIX).removeprefix(ABOVE) for image in lock.images]


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


ALL = dict.fromkeys((OLD, MIDDLE, NEW), SyncState.COMPLETE)


@pytest.mark.parametrize(
    ("moved", "chosen", "asked"), [([], NEW, [NEW]), ([NEW], MIDDLE, [NEW, MIDDLE]), ([OLD], NEW, [NEW])]
)
def test_a_tag_that_means_another_image_upstream_is_not_chosen(
    moved: Collection[str], chosen: str, asked: Sequence[str]
) -> None:
    upstream = AnUpstream(ALL, moved)
    found = locked(AMirror(ALL), upstream=upstream)
    assert (held(found.lock), upstream.asked) == ([chosen], asked)
    states = {entry.report.reference.removeprefix(PREFIX): entry.report for entry in found.catalog.listings}
    assert {tag for tag, report in states.items() if report.state is SyncState.STALE} == {*moved} & {*asked}
    for tag in {*moved} & {*asked}:
        (problem,) = states[tag].problems
        assert problem.code == "stale"
        assert a_digest(f"{tag} linux/amd64") in problem.what
        assert a_digest(f"{tag} moved linux/amd64") in problem.what


def test_an_upstream_that_does_not_answer_is_asked_once_and_spoils_nothing() -> None:
    upstream, news = AnUpstream(ALL, None), list[Event]()
    assert held(locked(AMirror(ALL), upstream=upstream, news=news).lock) == [NEW]
    assert upstream.asked == [NEW]
    assert [event.text for event in news if event.kind == "note"] == [
        f"whether the mirror's tags are still upstream's is not known: {SILENT.what}"
    ]


def test_an_image_of_ones_own_that_upstream_does_not_know_is_not_stale() -> None:
    assert held(locked(AMirror(ALL), upstream=AnUpstream({})).lock) == [NEW]


def test_a_cache_that_is_stale_is_found_out_after_it_was_warmed() -> None:
    mirror = AMirror(dict.fromkeys(ALL, SyncState.COLD), ALL)
    assert held(locked(mirror, upstream=AnUpstream(ALL, [NEW])).lock) == [MIDDLE]
    assert mirror.inspected == [NEW, MIDDLE]


class Deaf(AMirror):
    def catalog(self, repositories: Sequence[str], platform: str, *, wanted: Callable[[str], bool]) -> Catalog:
        assert all(map(wanted, self.tagged)), (repositories, platform)
        raise ProblemError(SILENT)


BROKEN = dict.fromkeys((OLD, MIDDLE, NEW), SyncState.PARTIAL)
POOR: Mapping[str, AMirror] = {"nothing whole": AMirror(BROKEN), "no such tag": AMirror({}), "no answer": Deaf(ALL)}


@pytest.mark.parametrize("mirror", POOR)
def test_where_the_mirror_serves_nobody_the_whole_lab_may_be_taken_from_upstream(mirror: str) -> None:
    upstream = AnUpstream(ALL)
    found = locked(POOR[mirror], upstream=upstream, fallback=True)
    assert [image.reference for image in found.lock.images] == [ABOVE + NEW]
    assert (found.lock.mirror, upstream.inspected) == ("docker.io", [NEW])
    (problem,) = found.catalog.problems
    assert problem.code == "taken_from_upstream"
    assert "docker.io and nothing of it from mirror.lab:5200" in problem.what
    assert "serves 0 of 1 nodes where docker.io serves 1" in problem.why


@pytest.mark.parametrize("mirror", POOR)
def test_upstream_stands_in_only_where_lab_yml_says_so(mirror: str) -> None:
    upstream = AnUpstream(ALL)
    with pytest.raises(ProblemError):
        locked(POOR[mirror], upstream=upstream)
    assert upstream.asked == []


def test_a_mirror_that_serves_all_is_enough_whatever_upstream_has() -> None:
    upstream = AnUpstream(ALL)
    found = locked(AMirror({OLD: SyncState.COMPLETE, NEW: SyncState.PARTIAL}), upstream=upstream, fallback=True)
    assert (found.lock.mirror, held(found.lock), found.catalog.problems) == ("mirror.lab:5200", [OLD], ())
    assert "list" not in upstream.asked


PAIR = {"n1": a_node(), "n2": a_node("n2", gpus=(a_gpu("n2", capability="12.0", name="NVIDIA GeForce RTX 5090"),))}
ADA = "2.6.0-cuda12.4-cudnn9-runtime"  # no code for Blackwell


def test_never_half_from_each() -> None:
    mirror = AMirror({ADA: SyncState.COMPLETE, NEW: SyncState.PARTIAL})
    alone = locked(mirror, PAIR, upstream=AnUpstream({ADA: SyncState.COMPLETE}), fallback=True)
    assert (alone.lock.mirror, set(alone.lock.nodes), alone.lock.unserved) == ("mirror.lab:5200", {"n1"}, ("n2",))
    both = locked(mirror, PAIR, upstream=AnUpstream(ALL), fallback=True)
    assert (both.lock.mirror, set(both.lock.nodes), both.lock.unserved) == ("docker.io", {"n1", "n2"}, ())
    assert {image.reference.partition("/")[0] for image in both.lock.images} == {"docker.io"}


def test_names_alone_tell_that_upstream_serves_nobody_more() -> None:
    upstream = AnUpstream({ADA: SyncState.COMPLETE})
    locked(AMirror({ADA: SyncState.COMPLETE}), PAIR, upstream=upstream, fallback=True)
    assert (upstream.inspected, upstream.asked) == ([], [ADA, "list"])


def test_an_upstream_that_is_away_too_leaves_the_mirrors_own_reasons() -> None:
    news = list[Event]()
    with pytest.raises(ProblemError) as ended:
        locked(AMirror(BROKEN), upstream=AnUpstream(ALL, None), news=news, fallback=True)
    assert {problem.code for problem in ended.value.problems} == {"not_synced"}
    assert "docker.io does not stand in: no answer" in [event.text for event in news]


def test_a_mirror_that_counts_is_listed_and_asked_for_the_chosen_alone() -> None:
    mirror, news = AMirror(ALL, {NEW: SyncState.PARTIAL, MIDDLE: SyncState.COMPLETE}), list[Event]()
    selection, catalog = choose(a_lab(), {"n1": a_node()}, mirror, DATA, news.append, sparing=True)
    assert (selection.tag, mirror.inspected) == (PREFIX + MIDDLE, [NEW, MIDDLE])
    assert {entry.report.reference: entry.report.state.value for entry in catalog.listings} == {
        PREFIX + OLD: "cold",
        PREFIX + MIDDLE: "complete",
        PREFIX + NEW: "partial",
    }


def test_a_wish_for_a_version_leaves_the_others_out() -> None:
    assert held(locked(AMirror(dict.fromkeys((OLD, MIDDLE, NEW), SyncState.COMPLETE)), torch="2.8").lock) == [OLD]


def test_the_lock_holds_what_each_node_was_given_and_leaves_out_the_silent() -> None:
    silent = Problem("unreachable", "n2", "off", "switch it on")
    lock = locked(AMirror({OLD: SyncState.COMPLETE}), {"n2": silent, "n1": a_node()}).lock
    assert {name: (node.image, node.gpus) for name, node in lock.nodes.items()} == {
        "n1": (PREFIX + OLD, (a_gpu("n1").uuid,))
    }


def test_nobody_answered() -> None:
    silent = Problem("unreachable", "n1", "off", "switch it on")
    with pytest.raises(ProblemError) as ended:
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
    with pytest.raises(ProblemError) as ended:
        locked(AMirror(tags))
    codes = {problem.code for problem in ended.value.problems}
    assert codes == {code}
    assert all(problem.what and problem.why and problem.fix for problem in ended.value.problems)
