"""Choosing and locking, with registries that record the requests."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime

import pytest

from provisioner.adapters.lab.compatibility_data import load
from provisioner.domain.lab.lock import LockedImage, Lockfile, Placement
from provisioner.domain.registry.catalog import Catalog, Listing
from provisioner.domain.values.event import Event
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.image_identity import ImageIdentity
from provisioner.domain.values.measured import Measured
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport, SyncState
from provisioner.domain.values.version import CudaVersion
from provisioner.workflow.lock.lock import LockResult, choose, choose_all, make_lock, rank_platforms
from tests.builders import a_digest, a_gpu, a_lab, a_lock, a_locked_image, a_node

DATA = load()
SILENT = Problem("unreachable", "no answer", "it is away", "try again")
PREFIX, UPSTREAM_PREFIX = "mirror.lab:5200/pytorch/pytorch:", "docker.io/pytorch/pytorch:"
OLD, MIDDLE, NEW = (
    f"{tag}-runtime" for tag in ("2.8.0-cuda12.8-cudnn9", "2.10.0-cuda12.8-cudnn9", "2.11.0-cuda12.8-cudnn9")
)


def a_listing(tag: str, state: SyncState, prefix: str = PREFIX) -> Listing:
    reference = prefix + tag
    report = SyncReport(reference=reference, platform="linux/amd64", state=state, digest=a_digest(tag), bytes=1)
    return Listing(image=TaggedImage(reference=reference, sync=state, digest=a_digest(tag)), report=report)


def an_identity(text: str) -> ImageIdentity:
    return ImageIdentity(tag=a_digest(f"{text} tag"), manifest=a_digest(text), config=a_digest(f"{text} config"))


class AMirror:
    """A mirror whose listing shows `tags`; an inspection finds the states of `inside`."""

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

    def identity(self, reference: ImageReference, platform: str) -> ImageIdentity:
        return an_identity(f"{reference.tag} {platform}")

    def inspect(self, reference: ImageReference, platform: str) -> Listing:
        assert platform == "linux/amd64"
        tag = str(reference.tag)
        self.inspected.append(tag)
        return a_listing(tag, self.inside[tag], self.prefix)


class AnUpstream(AMirror):
    """An upstream with other images under the tags in `moved`, or that does not answer (None)."""

    prefix = UPSTREAM_PREFIX

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

    def identity(self, reference: ImageReference, platform: str) -> ImageIdentity:
        return an_identity(f"{reference.tag} moved {platform}")


class ABuilder:
    """Measures nothing, unless `measured` is what it finds in every base."""

    def __init__(self, measured: Measured | None = None) -> None:
        self.measured = measured

    def resolve_course(self, base: Listing, environment: str) -> None:
        pass

    def lab_image(self, base: Listing, environment: str, verify: Callable[[Measured], None]) -> LockedImage:  # noqa: ARG002
        if self.measured is not None:
            verify(self.measured)
        return a_locked_image(base.image.reference, measured=self.measured)


def make_a_lock(  # noqa: PLR0913  (everything in one call)
    mirror: AMirror,
    probed: Mapping[str, NodeFacts | Problem] | None = None,
    torch: str | None = None,
    upstream: AnUpstream | None = None,
    events: list[Event] | None = None,
    *,
    fallback: bool = False,
    before: Lockfile | None = None,
    measured: Measured | None = None,
) -> LockResult:
    found = probed or {"n1": a_node()}
    settings = {} if upstream is None else {"upstream": {"address": "docker.io", "fallback": fallback}}
    image = {} if torch is None else {"torch": torch}
    lab = a_lab(mirror={"address": "mirror.lab:5200"} | settings, image=image)
    seen = list[Event]() if events is None else events
    chosen = choose_all(lab, (), found, mirror, DATA, seen.append, upstream=upstream)
    return make_lock(lab, found, chosen, ABuilder(measured), DATA, registry_ca=None, before=before)


def locked_tags(lock: Lockfile) -> list[str]:
    return [image.reference.removeprefix(PREFIX).removeprefix(UPSTREAM_PREFIX) for image in lock.images]


def measured(torch: str, cuda: str, targets: str) -> Measured:
    return Measured(torch=torch, cuda=CudaVersion(cuda), targets=tuple(targets.split()))


def test_what_was_measured_in_a_base_is_locked_where_it_agrees() -> None:
    found = measured("2.8.0+cu128", "12.8", "sm_80 sm_86 sm_90a compute_90")
    lock = make_a_lock(AMirror({OLD: SyncState.COMPLETE}), measured=found).lock
    assert lock.images[0].measured == found
    assert '"measured"' in lock.model_dump_json()
    assert '"measured"' not in make_a_lock(AMirror({OLD: SyncState.COMPLETE})).lock.model_dump_json()


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (measured("2.7.1+cu128", "12.8", "sm_80 sm_86"), "torch 2.8.0 is expected, torch 2.7.1+cu128 is in it"),
        (measured("2.8.0+cu126", "12.6", "sm_80 sm_86"), "CUDA 12.8 is expected, CUDA 12.6 is in it"),
        (Measured(torch="2.8.0+cpu"), "CUDA 12.8 is expected, CUDA none is in it"),
        # The node's card is 8.9.
        (measured("2.8.0", "12.8", "sm_75 sm_90 compute_80"), "no machine code for compute capability 8.9, only sm_75"),
    ],
)
def test_a_base_that_is_not_what_it_was_chosen_for_stops_the_lock(found: Measured, said: str) -> None:
    with pytest.raises(ProblemError) as stopped:
        make_a_lock(AMirror({OLD: SyncState.COMPLETE}), measured=found)
    (problem,) = stopped.value.problems
    assert problem.code == "measured_differs"
    assert said in problem.what
    assert f"provision facts measure {PREFIX}{OLD} --lab LAB" in problem.fix


def test_the_newest_complete_tag_is_chosen() -> None:
    mirror = AMirror({OLD: SyncState.COMPLETE, NEW: SyncState.PARTIAL, MIDDLE: SyncState.COMPLETE})
    found = make_a_lock(mirror)
    assert locked_tags(found.lock) == [MIDDLE]
    refused = found.default.selection.nodes["n1"].verdicts[PREFIX + NEW]
    assert [problem.code for problem in refused.problems] == ["not_synced"]
    assert mirror.inspected == []


def test_people_keep_their_places_in_a_new_lock() -> None:
    people = {"anna": Placement(node="n1", gpus=(a_gpu().uuid or "",)), "ben": Placement(node="gone", uid=70001)}
    mirror = AMirror({NEW: SyncState.COMPLETE})
    before = a_lock().model_copy(update={"people": people})
    assert make_a_lock(mirror, before=before).lock.people == people
    assert make_a_lock(mirror).lock.people == {}


class AnAmd64Mirror(AMirror):
    """A mirror whose images are for linux/amd64 alone."""

    def catalog(self, repositories: Sequence[str], platform: str, *, wanted: Callable[[str], bool]) -> Catalog:
        if platform == "linux/amd64":
            return super().catalog(repositories, platform, wanted=wanted)
        absent = AMirror(dict.fromkeys(self.tagged, SyncState.ABSENT))
        return absent.catalog(repositories, "linux/amd64", wanted=wanted)


def test_the_lock_does_not_depend_on_the_order_of_nodes_of_two_platforms() -> None:
    nodes = {
        "a": a_node("a", platform="linux/arm64"),
        "b": a_node("b"),
        "c": a_node("c", platform="linux/arm64"),
    }
    locks = [
        make_a_lock(AnAmd64Mirror({NEW: SyncState.COMPLETE}), {name: nodes[name] for name in order}).lock
        for order in ("abc", "bca", "cab")
    ]
    assert locks[0] == locks[1] == locks[2]
    assert (list(locks[0].nodes), locks[0].unserved) == (["b"], ("a", "c"))


def test_the_most_frequent_platform_is_first_and_amd64_before_others() -> None:
    assert rank_platforms(["linux/arm64", "linux/amd64"]) == ["linux/amd64", "linux/arm64"]
    assert rank_platforms(["linux/arm64", "linux/amd64", "linux/arm64"])[0] == "linux/arm64"
    assert len(rank_platforms(f"linux/p{number}" for number in range(50))) == 3


@pytest.mark.parametrize(
    ("inside", "chosen", "asked"),
    [
        ({NEW: SyncState.COMPLETE}, NEW, [NEW]),
        ({NEW: SyncState.PARTIAL, MIDDLE: SyncState.COMPLETE}, MIDDLE, [NEW, MIDDLE]),
        ({NEW: SyncState.COLD, MIDDLE: SyncState.DENIED, OLD: SyncState.COMPLETE}, OLD, [NEW, MIDDLE, OLD]),
    ],
)
def test_a_cache_is_inspected_only_for_tags_that_would_be_chosen(
    inside: Mapping[str, SyncState], chosen: str, asked: Sequence[str]
) -> None:
    mirror = AMirror(dict.fromkeys((OLD, MIDDLE, NEW), SyncState.COLD), inside)
    assert locked_tags(make_a_lock(mirror).lock) == [chosen]
    assert mirror.inspected == asked


ALL = dict.fromkeys((OLD, MIDDLE, NEW), SyncState.COMPLETE)


@pytest.mark.parametrize(
    ("moved", "chosen", "asked"), [([], NEW, [NEW]), ([NEW], MIDDLE, [NEW, MIDDLE]), ([OLD], NEW, [NEW])]
)
def test_a_tag_of_another_image_than_upstreams_is_not_chosen(
    moved: Collection[str], chosen: str, asked: Sequence[str]
) -> None:
    upstream = AnUpstream(ALL, moved)
    found = make_a_lock(AMirror(ALL), upstream=upstream)
    assert (locked_tags(found.lock), upstream.asked) == ([chosen], asked)
    states = {entry.report.reference.removeprefix(PREFIX): entry.report for entry in found.default.catalog.listings}
    assert {tag for tag, report in states.items() if report.state is SyncState.STALE} == {*moved} & {*asked}
    for tag in {*moved} & {*asked}:
        (problem,) = states[tag].problems
        assert problem.code == "stale"
        assert a_digest(f"{tag} linux/amd64") in problem.what
        assert a_digest(f"{tag} moved linux/amd64") in problem.what


def test_a_silent_upstream_is_asked_once_and_the_choice_stands() -> None:
    upstream, events = AnUpstream(ALL, None), list[Event]()
    assert locked_tags(make_a_lock(AMirror(ALL), upstream=upstream, events=events).lock) == [NEW]
    assert upstream.asked == [NEW]
    assert [event.text for event in events if event.kind == "note"] == [
        f"the mirror's tags are not compared with upstream: {SILENT.what}"
    ]


def test_an_image_that_upstream_does_not_have_is_not_stale() -> None:
    assert locked_tags(make_a_lock(AMirror(ALL), upstream=AnUpstream({})).lock) == [NEW]


def test_a_stale_image_of_a_cache_is_found_after_it_was_fetched() -> None:
    mirror = AMirror(dict.fromkeys(ALL, SyncState.COLD), ALL)
    assert locked_tags(make_a_lock(mirror, upstream=AnUpstream(ALL, [NEW])).lock) == [MIDDLE]
    assert mirror.inspected == [NEW, MIDDLE]


class SilentMirror(AMirror):
    def catalog(self, repositories: Sequence[str], platform: str, *, wanted: Callable[[str], bool]) -> Catalog:
        assert all(map(wanted, self.tagged)), (repositories, platform)
        raise ProblemError(SILENT)


BROKEN = dict.fromkeys((OLD, MIDDLE, NEW), SyncState.PARTIAL)
POOR: Mapping[str, AMirror] = {
    "nothing complete": AMirror(BROKEN),
    "no such tag": AMirror({}),
    "no answer": SilentMirror(ALL),
}


@pytest.mark.parametrize("mirror", POOR)
def test_fallback_takes_all_images_from_upstream_where_the_mirror_serves_no_node(mirror: str) -> None:
    upstream = AnUpstream(ALL)
    found = make_a_lock(POOR[mirror], upstream=upstream, fallback=True)
    assert [image.reference for image in found.lock.images] == [UPSTREAM_PREFIX + NEW]
    assert (found.lock.mirror, upstream.inspected) == ("docker.io", [NEW])
    (problem,) = found.default.catalog.problems
    assert problem.code == "taken_from_upstream"
    assert "come from docker.io, none from mirror.lab:5200" in problem.what
    assert "mirror.lab:5200 serves 0 of 1 nodes, docker.io serves 1" in problem.why


@pytest.mark.parametrize("mirror", POOR)
def test_no_fallback_to_upstream_unless_lab_yml_allows_it(mirror: str) -> None:
    upstream = AnUpstream(ALL)
    with pytest.raises(ProblemError):
        make_a_lock(POOR[mirror], upstream=upstream)
    assert upstream.asked == []


def test_no_fallback_where_the_mirror_serves_every_node() -> None:
    upstream = AnUpstream(ALL)
    found = make_a_lock(AMirror({OLD: SyncState.COMPLETE, NEW: SyncState.PARTIAL}), upstream=upstream, fallback=True)
    assert (found.lock.mirror, locked_tags(found.lock), found.default.catalog.problems) == (
        "mirror.lab:5200",
        [OLD],
        (),
    )
    assert "list" not in upstream.asked


PAIR = {"n1": a_node(), "n2": a_node("n2", gpus=(a_gpu("n2", capability="12.0", name="NVIDIA GeForce RTX 5090"),))}
ADA = "2.6.0-cuda12.4-cudnn9-runtime"  # no code for Blackwell


def test_images_of_mirror_and_upstream_are_never_mixed() -> None:
    mirror = AMirror({ADA: SyncState.COMPLETE, NEW: SyncState.PARTIAL})
    alone = make_a_lock(mirror, PAIR, upstream=AnUpstream({ADA: SyncState.COMPLETE}), fallback=True)
    assert (alone.lock.mirror, set(alone.lock.nodes), alone.lock.unserved) == ("mirror.lab:5200", {"n1"}, ("n2",))
    both = make_a_lock(mirror, PAIR, upstream=AnUpstream(ALL), fallback=True)
    assert (both.lock.mirror, set(both.lock.nodes), both.lock.unserved) == ("docker.io", {"n1", "n2"}, ())
    assert {image.reference.partition("/")[0] for image in both.lock.images} == {"docker.io"}


def test_upstream_is_not_inspected_where_its_tag_names_serve_no_more_nodes() -> None:
    upstream = AnUpstream({ADA: SyncState.COMPLETE})
    make_a_lock(AMirror({ADA: SyncState.COMPLETE}), PAIR, upstream=upstream, fallback=True)
    assert (upstream.inspected, upstream.asked) == ([], [ADA, "list"])


def test_where_upstream_is_silent_too_the_problems_of_the_mirror_are_raised() -> None:
    events = list[Event]()
    with pytest.raises(ProblemError) as ended:
        make_a_lock(AMirror(BROKEN), upstream=AnUpstream(ALL, None), events=events, fallback=True)
    assert {problem.code for problem in ended.value.problems} == {"not_synced"}
    assert "docker.io cannot be used instead: no answer" in [event.text for event in events]


def test_a_metered_mirror_is_listed_and_inspected_only_for_chosen_tags() -> None:
    mirror, events = AMirror(ALL, {NEW: SyncState.PARTIAL, MIDDLE: SyncState.COMPLETE}), list[Event]()
    selection, catalog = choose(a_lab(), {"n1": a_node()}, mirror, DATA, events.append, metered=True)
    assert (selection.tag, mirror.inspected) == (PREFIX + MIDDLE, [NEW, MIDDLE])
    assert {entry.report.reference: entry.report.state.value for entry in catalog.listings} == {
        PREFIX + OLD: "cold",
        PREFIX + MIDDLE: "complete",
        PREFIX + NEW: "partial",
    }


def test_a_requested_torch_version_excludes_the_others() -> None:
    assert locked_tags(
        make_a_lock(AMirror(dict.fromkeys((OLD, MIDDLE, NEW), SyncState.COMPLETE)), torch="2.8").lock
    ) == [OLD]


def test_the_lock_holds_image_and_gpus_of_each_node_that_answered() -> None:
    silent = Problem("unreachable", "n2", "off", "switch it on")
    lock = make_a_lock(AMirror({OLD: SyncState.COMPLETE}), {"n2": silent, "n1": a_node()}).lock
    assert {name: (node.image, node.gpus) for name, node in lock.nodes.items()} == {
        "n1": (PREFIX + OLD, (a_gpu("n1").uuid,))
    }


def test_no_lock_where_no_node_answered() -> None:
    silent = Problem("unreachable", "n1", "off", "switch it on")
    with pytest.raises(ProblemError) as ended:
        make_a_lock(AMirror({OLD: SyncState.COMPLETE}), {"n1": silent})
    assert ended.value.problems == (silent,)


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({}, "no_tag"),
        ({OLD: SyncState.PARTIAL}, "not_synced"),
        ({"2.8.0-cuda11.8-cudnn9-runtime": SyncState.COMPLETE}, "unknown_build"),
    ],
)
def test_the_error_for_no_usable_tag_names_the_reason(tags: Mapping[str, SyncState], code: str) -> None:
    with pytest.raises(ProblemError) as ended:
        make_a_lock(AMirror(tags))
    codes = {problem.code for problem in ended.value.problems}
    assert codes == {code}
    assert all(problem.what and problem.why and problem.fix for problem in ended.value.problems)
