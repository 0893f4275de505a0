"""A better tag is found by a second selection, and comes with the commands that copy it."""

from collections.abc import Mapping

import pytest

from provisioner.domain.registry.better_tag import NextBest
from provisioner.domain.registry.copy_commands import RegistryEndpoint
from provisioner.domain.values.event import Event
from provisioner.domain.values.problem import ProblemError
from provisioner.domain.values.sync import SyncState
from provisioner.workflow.lock.better_tag import BetterTagSources
from provisioner.workflow.lock.lock import choose
from tests.builders import a_digest, a_lab, a_node
from tests.workflow.lock.test_lock import (
    ALL,
    DATA,
    MIDDLE,
    NEW,
    OLD,
    PREFIX,
    UPSTREAM_PREFIX,
    AMirror,
    AnUpstream,
    SilentMirror,
)

OWN = "registry.lab:5201/pytorch/pytorch:"
TOO_NEW = "2.14.1-cuda13.0-cudnn9-runtime"  # needs a newer driver than the node has
C, P = SyncState.COMPLETE, SyncState.PARTIAL


class OwnRegistry(AMirror):
    prefix = OWN


def find_better(
    here: Mapping[str, SyncState],
    there: AnUpstream | None,
    own: Mapping[str, SyncState] | None = None,
    registry: str = "registry.lab:5201",
) -> NextBest | None:
    """Choose for one node and return the better tag. `own`: the tags of the lab's registry, if it is not the mirror."""
    settings = {} if there is None else {"upstream": {"address": "docker.io"}}
    lab = a_lab(mirror={"address": "mirror.lab:5200"} | settings, registry={"address": registry})
    registries = BetterTagSources(
        there,
        None if own is None else OwnRegistry(own, own),
        None if there is None else RegistryEndpoint(address="docker.io"),
        RegistryEndpoint(address=registry, ca="/labs/demo/ca.pem"),
        "demo",
    )
    events: list[Event] = []
    _, catalog = choose(
        lab, {"n1": a_node()}, AMirror(here), DATA, events.append, upstream=there, registries=registries
    )
    return catalog.next_best


def test_no_better_tag_where_the_newest_that_fits_is_complete() -> None:
    assert find_better(ALL, AnUpstream(ALL)) is None
    assert find_better({NEW: C, TOO_NEW: P}, AnUpstream({TOO_NEW: C})) is None


@pytest.mark.parametrize("here", [{OLD: C, MIDDLE: C, NEW: P}, {OLD: C}], ids=["in part here", "not here at all"])
def test_a_newer_incomplete_tag_is_reported_with_its_complete_source_and_copy_commands(
    here: Mapping[str, SyncState],
) -> None:
    better = find_better(here, AnUpstream({NEW: C, TOO_NEW: C}))
    assert better is not None
    assert (better.reference, better.state) == (PREFIX + NEW, here.get(NEW, SyncState.ABSENT))
    pinned = f"{UPSTREAM_PREFIX.removesuffix(':')}@{a_digest(NEW)}"
    assert [(place.registry, place.reference) for place in better.elsewhere] == [("docker.io", pinned)]
    assert better.skopeo[-1].endswith(f" docker://{pinned} docker://{OWN}{NEW}")
    assert better.engine[0] == f"docker pull {pinned}"
    problem = better.to_problem()
    assert problem.code == "newer_tag_incomplete"
    assert "torch is 2.11.0 instead of " in problem.what
    assert f"docker.io has it complete, {pinned}" in problem.why
    assert all(line in problem.fix for line in (*better.skopeo, *better.engine))
    assert problem.fix.endswith("set mirror.address to registry.lab:5201 in lab.yml, and: provision lock demo")


def test_where_the_mirror_is_the_labs_registry_the_tag_is_copied_under_its_name() -> None:
    better = find_better({OLD: C, NEW: P}, AnUpstream({NEW: C}), registry="mirror.lab:5200")
    assert better is not None
    assert better.skopeo[-1].endswith(f" docker://{PREFIX}{NEW}")
    assert better.to_problem().fix.endswith("\nthen: provision lock demo")


def test_no_copy_commands_where_the_labs_registry_has_the_tag_complete() -> None:
    better = find_better({OLD: C, NEW: P}, AnUpstream({NEW: C}), own={NEW: C})
    assert better is not None
    assert (len(better.elsewhere), better.skopeo, better.engine) == (2, (), ())
    assert better.to_problem().fix.startswith("set mirror.address to registry.lab:5201 in lab.yml")


def test_no_copy_commands_where_no_registry_has_the_tag_complete() -> None:
    for there in (AnUpstream({NEW: P}), None):
        better = find_better({OLD: C, NEW: P}, there)
        assert better is not None
        assert (better.reference, better.skopeo, better.engine) == (PREFIX + NEW, (), ())
        assert better.to_problem().fix == "see when it can be expected: provision mirror status demo"
    better = find_better({OLD: C, NEW: P}, None)
    assert better is not None
    assert "lab.yml names no upstream" in better.to_problem().why


def test_one_image_is_inspected_upstream() -> None:
    upstream = AnUpstream(ALL)
    find_better({OLD: C}, upstream)
    assert upstream.inspected == [NEW]


def test_no_better_tag_where_upstream_does_not_answer() -> None:
    assert find_better({OLD: C}, AnUpstream(ALL, None)) is None


def test_an_error_for_no_complete_tag_includes_the_copy_commands() -> None:
    with pytest.raises(ProblemError) as ended:
        find_better({NEW: P}, AnUpstream({NEW: C}))
    assert [problem.code for problem in ended.value.problems] == ["not_synced", "newer_tag_incomplete"]
    assert "skopeo copy" in ended.value.problems[-1].fix


def test_no_better_tag_where_the_mirror_does_not_answer() -> None:
    registries = BetterTagSources(None, None, None, RegistryEndpoint(address="r"), "demo")
    with pytest.raises(ProblemError) as ended:
        choose(a_lab(), {"n1": a_node()}, SilentMirror({}), DATA, lambda _: None, registries=registries)
    assert [problem.code for problem in ended.value.problems] == ["unreachable"]
