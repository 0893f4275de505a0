from collections.abc import Iterable, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.compatibility.gpu import build_cards, driver_problems
from provisioner.domain.compatibility.tags import read_facts
from provisioner.domain.selection.advice import Advice
from provisioner.domain.selection.selection import Selection, select
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.node import GpuProfile, NodeProfile
from tests.costly import costly
from tests.domain.group import CARDS, DATA, a_profile, a_tag, cases

_NEW = cases("labs")["all"][-14:]
_GROUPS = st.lists(
    st.tuples(
        st.lists(st.sampled_from(sorted(CARDS)), min_size=1, max_size=3),
        st.sampled_from(["470.256.02", "535.183.01", "565.57.01", "570.172.08", "580.95.05", "595.58.03", None]),
        st.sampled_from(["open", "proprietary", None]),
        st.booleans(),
    ),
    min_size=1,
    max_size=5,
)
_OFFERS = st.lists(
    st.builds(lambda text, state: text + state, st.sampled_from(_NEW), st.sampled_from(["", "", "=partial"])),
    unique_by=lambda text: text.partition("=")[0],
    min_size=1,
    max_size=6,
)
_CHANGE: dict[str, Any] = {
    "open_kernel_module": {"kernel_module": "open"},
    "proprietary_kernel_module": {"kernel_module": "proprietary"},
}


def _lab(group: Any, offer: Sequence[str]) -> tuple[list[NodeProfile], list[TaggedImage], Selection]:
    nodes = [
        a_profile(name=f"n{place}", driver=driver, kernel_module=module, gpus=_gpus(names, reported=reported))
        for place, (names, driver, module, reported) in enumerate(group)
    ]
    tags = [a_tag(text) for text in offer]
    return nodes, tags, select(nodes, tags, DATA)


def _gpus(names: Iterable[str], *, reported: bool) -> list[GpuProfile]:
    return [CARDS[name].model_copy(update={"reported": reported}) for name in names]


def _group_by_driver(advice: Iterable[Advice], code: str) -> list[list[Advice]]:
    """Advice that is one change: of one code, to one driver."""
    found: dict[str | None, list[Advice]] = {}
    for one in advice:
        if one.code == code:
            found.setdefault(one.to, []).append(one)
    return list(found.values())


def _after(node: NodeProfile, advice: Sequence[Advice]) -> NodeProfile:
    for one in advice:
        if one.node == node.name:
            planned = {"gpus": [gpu.model_copy(update={"reported": False}) for gpu in node.gpus]}
            return NodeProfile.model_validate(dict(node) | planned | _CHANGE.get(one.code, {"driver": one.to}))
    return node


def _torch(reference: str | None) -> str | None:
    return reference and read_facts(TaggedImage(reference=reference), DATA).torch


def _visible(node: NodeProfile) -> set[int]:
    found = enumerate(build_cards(node, DATA))
    return {place for place, card in found if card.module == "contested" or not driver_problems(card, DATA)}


@costly
@given(group=_GROUPS, offer=_OFFERS)
def test_following_a_driver_advice_gains_the_promised_torch(group: Any, offer: list[str]) -> None:
    nodes, tags, chosen = _lab(group, offer)

    for changes in _group_by_driver(chosen.advice, "upgrade_driver"):
        pending = any(f"{one.gains.removeprefix('pytorch/pytorch:')}=partial" in offer for one in changes)
        offered = [tag.model_copy(update={"sync": "complete"}) for tag in tags] if pending else tags
        again = select([_after(node, changes) for node in nodes], offered, DATA)
        for one in changes:
            assert _torch(again.nodes[str(one.node)].tag) == _torch(one.gains)


@costly
@given(group=_GROUPS, offer=_OFFERS)
def test_no_advice_makes_a_card_invisible(group: Any, offer: list[str]) -> None:
    nodes, _, chosen = _lab(group, offer)
    by_name = {node.name: node for node in nodes}

    for one in chosen.advice:
        if one.code in {"upgrade_driver", "downgrade_driver", *_CHANGE}:
            node = by_name[str(one.node)]
            assert _visible(_after(node, [one])) >= _visible(node)


@costly
@given(group=_GROUPS, offer=_OFFERS)
def test_an_advised_driver_is_a_known_release_of_a_supported_branch_or_the_last_for_a_card(
    group: Any, offer: list[str]
) -> None:
    _, _, chosen = _lab(group, offer)

    advised = {one.to for one in chosen.advice if one.code in {"upgrade_driver", "downgrade_driver"}}
    assert advised <= {*map(str, DATA.supported_releases), "470.256.02"}


@costly
@given(group=_GROUPS, offer=_OFFERS)
def test_excluding_the_advised_nodes_gains_the_promised_tag(group: Any, offer: list[str]) -> None:
    nodes, tags, chosen = _lab(group, offer)

    by_gain: dict[str, set[str | None]] = {}
    for one in chosen.advice:
        if one.code == "exclude_node":
            by_gain.setdefault(one.gains, set()).add(one.node)
    for gains, out in by_gain.items():
        rest = select([node for node in nodes if node.name not in out], tags, DATA)
        assert gains in {choice.tag for choice in rest.nodes.values()}


@costly
@given(group=_GROUPS, offer=_OFFERS)
def test_an_advised_sync_makes_that_tag_chosen(group: Any, offer: list[str]) -> None:
    nodes, tags, chosen = _lab(group, offer)

    for one in chosen.advice:
        if one.code in {"sync_tag", "wait_for_sync"}:
            synced = [
                tag.model_copy(update={"sync": "complete"}) if tag.reference == one.gains else tag for tag in tags
            ]
            again = select(nodes, synced, DATA)
            assert one.gains in {choice.tag for choice in again.nodes.values()}


def test_a_change_that_a_reported_card_may_not_survive_does_not_end_the_advice() -> None:
    """No kernel module drives both cards of `c`, but NVML reports both: after a change their module is unknown."""
    group = [
        (["a100"], "470.256.02", "open", False),
        (["b200"], "470.256.02", "open", False),
        (["gh200", "titanv"], "535.183.01", None, True),
    ]

    for offer in _NEW:
        _lab(group, ["2.10.0-cuda12.9-cudnn9-devel=partial", offer])


def test_a_left_out_card_is_advised_for_exclusion() -> None:
    node = a_profile("rtx3090", "gtx1080ti", kernel_module="proprietary")
    (advice,) = select([node], [a_tag("2.14.1-cuda13.0-cudnn9-runtime")], DATA).advice

    assert (advice.code, advice.node, advice.gpu) == ("exclude_gpu", "n", 1)
    assert "NVIDIA GeForce GTX 1080 Ti" in advice.why


def test_an_advice_for_an_incomplete_tag_mentions_the_mirror() -> None:
    tags = [a_tag("2.14.1-cuda13.0-cudnn9-runtime=partial")]
    (advice,) = select([a_profile("rtx5090", driver="570.172.08")], tags, DATA).advice

    assert advice.code == "upgrade_driver"
    assert "once it is complete on the mirror (now: partial)" in advice.why
