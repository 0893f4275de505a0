"""What would have been better, computed by choosing again; and how to get it."""

from collections.abc import Mapping

import pytest

from provisioner.domain.registry.better_tag import NextBest
from provisioner.domain.registry.copy_commands import Place
from provisioner.domain.values.event import Event
from provisioner.domain.values.problem import ProblemError
from provisioner.domain.values.sync import SyncState
from provisioner.workflow.lock.better_tag import Around
from provisioner.workflow.lock.lock import choose
from tests.builders import a_digest, a_lab, a_node
from tests.workflow.lock.test_lock import ABOVE, ALL, DATA, MIDDLE, NEW, OLD, PREFIX, AMirror, AnUpstream, Deaf

OWN = "registry.lab:5201/pytorch/pytorch:"
TOO_NEW = "2.14.1-cuda13.0-cudnn9-runtime"  # needs a newer driver than the node has
C, P = SyncState.COMPLETE, SyncState.PARTIAL


class AShelf(AMirror):
    prefix = OWN


def look(
    here: Mapping[str, SyncState],
    there: AnUpstream | None,
    own: Mapping[str, SyncState] | None = None,
    registry: str = "registry.lab:5201",
) -> NextBest | None:
    """`own`: what the lab's registry has, where it is asked."""
    above = {} if there is None else {"upstream": {"address": "docker.io"}}
    lab = a_lab(mirror={"address": "mirror.lab:5200"} | above, registry={"address": registry})
    around = Around(
        there,
        None if own is None else AShelf(own, own),
        None if there is None else Place(address="docker.io"),
        Place(address=registry, ca="/labs/demo/ca.pem"),
        "demo",
    )
    news: list[Event] = []
    _, catalog = choose(lab, {"n1": a_node()}, AMirror(here), DATA, news.append, upstream=there, around=around)
    return catalog.next_best


def test_nothing_is_better_than_the_best() -> None:
    assert look(ALL, AnUpstream(ALL)) is None
    assert look({NEW: C, TOO_NEW: P}, AnUpstream({TOO_NEW: C})) is None


@pytest.mark.parametrize("here", [{OLD: C, MIDDLE: C, NEW: P}, {OLD: C}], ids=["in part here", "not here at all"])
def test_a_newer_tag_is_named_with_what_is_missing_where_it_is_and_the_command(here: Mapping[str, SyncState]) -> None:
    better = look(here, AnUpstream({NEW: C, TOO_NEW: C}))
    assert better is not None
    assert (better.reference, better.state) == (PREFIX + NEW, here.get(NEW, SyncState.ABSENT))
    pinned = f"{ABOVE.removesuffix(':')}@{a_digest(NEW)}"
    assert [(place.registry, place.reference) for place in better.elsewhere] == [("docker.io", pinned)]
    assert better.skopeo[-1].endswith(f" docker://{pinned} docker://{OWN}{NEW}")
    assert better.engine[0] == f"docker pull {pinned}"
    problem = better.told()
    assert problem.code == "newer_tag_incomplete"
    assert "torch is 2.11.0 instead of " in problem.what
    assert f"docker.io has it complete, {pinned}" in problem.why
    assert all(line in problem.fix for line in (*better.skopeo, *better.engine))
    assert problem.fix.endswith("set mirror.address to registry.lab:5201 in lab.yml, and: provision lock demo")


def test_into_a_mirror_of_ones_own_it_is_copied_under_its_name() -> None:
    better = look({OLD: C, NEW: P}, AnUpstream({NEW: C}), registry="mirror.lab:5200")
    assert better is not None
    assert better.skopeo[-1].endswith(f" docker://{PREFIX}{NEW}")
    assert better.told().fix.endswith("\nthen: provision lock demo")


def test_what_the_labs_registry_has_need_not_be_copied() -> None:
    better = look({OLD: C, NEW: P}, AnUpstream({NEW: C}), own={NEW: C})
    assert better is not None
    assert (len(better.elsewhere), better.skopeo, better.engine) == (2, (), ())
    assert better.told().fix.startswith("set mirror.address to registry.lab:5201 in lab.yml")


def test_a_command_is_given_only_for_what_was_seen_whole() -> None:
    for there in (AnUpstream({NEW: P}), None):
        better = look({OLD: C, NEW: P}, there)
        assert better is not None
        assert (better.reference, better.skopeo, better.engine) == (PREFIX + NEW, (), ())
        assert better.told().fix == "see when it can be expected: provision mirror status demo"
    nobody = look({OLD: C, NEW: P}, None)
    assert nobody is not None
    assert "lab.yml names no upstream" in nobody.told().why


def test_upstream_is_asked_for_one_image() -> None:
    upstream = AnUpstream(ALL)
    look({OLD: C}, upstream)
    assert upstream.inspected == [NEW]


def test_an_upstream_that_is_away_changes_nothing() -> None:
    assert look({OLD: C}, AnUpstream(ALL, None)) is None


def test_where_nothing_serves_the_way_out_is_named_beside_the_reasons() -> None:
    with pytest.raises(ProblemError) as ended:
        look({NEW: P}, AnUpstream({NEW: C}))
    assert [problem.code for problem in ended.value.problems] == ["not_synced", "newer_tag_incomplete"]
    assert "skopeo copy" in ended.value.problems[-1].fix


def test_a_mirror_that_does_not_answer_has_no_next_best() -> None:
    around = Around(None, None, None, Place(address="r"), "demo")
    with pytest.raises(ProblemError) as ended:
        choose(a_lab(), {"n1": a_node()}, Deaf({}), DATA, lambda _: None, around=around)
    assert [problem.code for problem in ended.value.problems] == ["unreachable"]
