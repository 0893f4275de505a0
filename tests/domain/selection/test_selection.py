import json
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.compatibility.tags import read_facts
from provisioner.domain.compatibility.verdict import judge
from provisioner.domain.selection import matrix
from provisioner.domain.selection.advice import Advice
from provisioner.domain.selection.selection import Selection, select
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.node import NodeProfile
from tests.domain.group import CARDS, DATA, a_profile, a_tag, cases

_FILE = cases("labs")
_NEW = _FILE["all"][-14:]


def _nodes(group: dict[str, list[Any]]) -> list[NodeProfile]:
    return [
        a_profile(*cards, name=name, driver=driver, kernel_module=module)
        for name, (driver, module, *cards) in group.items()
    ]


def _select(lab: dict[str, Any]) -> Selection:
    tags = [a_tag(text) for text in lab["tags"]]
    return select(_nodes(lab["group"]), tags, DATA, torch=lab.get("requested"), flavour=lab.get("flavour", "runtime"))


def _short(reference: str | None) -> str | None:
    return reference and reference.removeprefix("pytorch/pytorch:")


def _without_why(advice: Advice) -> dict[str, Any]:
    fields = advice.model_dump(exclude_none=True, exclude={"why"})
    return fields | {"gains": _short(advice.gains)}


_LABS = pytest.mark.parametrize("lab", _FILE["labs"], ids=lambda lab: lab["lab"])


@_LABS
def test_the_choice_for_a_lab(lab: dict[str, Any]) -> None:
    chosen = _select(lab)

    assert (chosen.decision, chosen.torch, _short(chosen.tag)) == (lab["decision"], lab.get("torch"), lab.get("tag"))
    for name, expected in lab.get("nodes", {}).items():
        tag, *gpus = expected or [None]
        assert (_short(chosen.nodes[name].tag), list(chosen.nodes[name].gpus)) == (tag, gpus)
    left_out = {
        name: {card.gpu: sorted(problem.code for problem in card.problems) for card in choice.left_out}
        for name, choice in chosen.nodes.items()
        if choice.left_out
    }
    assert left_out == {
        n: {gpu: sorted(codes) for gpu, codes in of.items()} for n, of in lab.get("left_out", {}).items()
    }


@_LABS
def test_the_advice_for_a_lab(lab: dict[str, Any]) -> None:
    found = [_without_why(advice) for advice in _select(lab).advice]

    assert sorted(found, key=repr) == sorted(lab["advice"], key=repr)


@_LABS
def test_every_node_has_a_verdict_on_every_tag_and_the_chosen_tag_runs(lab: dict[str, Any]) -> None:
    for choice in _select(lab).nodes.values():
        assert {_short(reference) for reference in choice.verdicts} == {text.partition("=")[0] for text in lab["tags"]}
        assert choice.tag is None or choice.verdicts[choice.tag].ok
        assert bool(choice.gpus) == (choice.tag is not None)


def test_the_json_document_of_a_selection() -> None:
    lab = next(lab for lab in _FILE["labs"] if lab["lab"] == "the contract's own example")
    document = json.loads(json.dumps(_select(lab).to_json()))
    tag = "pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime"
    node = document["nodes"].pop("n1")
    refused = node["verdicts"].pop("pytorch/pytorch:2.9.1-cuda13.0-cudnn9-runtime")
    (advice,) = document.pop("advice")

    assert document == {
        "schema": "provisioner/selection/1",
        "decision": "single_tag",
        "torch": "2.8.0",
        "tag": tag,
        "nodes": {},
    }
    assert node == {"tag": tag, "gpus": [0], "verdicts": {tag: {"ok": True, "problems": [], "cautions": []}}}
    assert refused["ok"] is False
    assert [problem["code"] for problem in refused["problems"]] == ["driver_too_old", "not_synced"]
    assert {key for problem in refused["problems"] for key in problem} == {"code", "what", "why", "fix"}
    assert advice.pop("why")
    assert advice == {
        "code": "upgrade_driver",
        "node": "n1",
        "to": "580.178.04",
        "gains": "pytorch/pytorch:2.9.1-cuda13.0-cudnn9-runtime",
    }


_GROUPS = st.lists(
    st.tuples(
        st.lists(st.sampled_from(sorted(CARDS)), max_size=3),
        st.sampled_from(["470.256.02", "535.183.01", "570.172.08", "580.95.05", "595.58.03", None]),
        st.sampled_from(["open", "proprietary", None]),
    ),
    max_size=4,
)
_NAMES = st.builds("{}{}".format, st.sampled_from(["", "b/pytorch:", "a/pytorch:"]), st.sampled_from(_NEW))
_OFFERS = st.lists(
    st.builds(lambda text, state: text + state, _NAMES, st.sampled_from(["", "", "=partial"])),
    unique_by=lambda text: text.partition("=")[0],
    max_size=6,
)


def _drawn(group: list[tuple[list[str], str | None, str | None]]) -> list[NodeProfile]:
    return [
        a_profile(*cards, name=f"n{place}", driver=driver, kernel_module=module)
        for place, (cards, driver, module) in enumerate(group)
    ]


@given(group=_GROUPS, offer=_OFFERS, chance=st.randoms(use_true_random=False))
def test_the_order_of_nodes_and_tags_does_not_matter(group: Any, offer: list[str], chance: Any) -> None:
    nodes, tags = _drawn(group), [a_tag(text) for text in offer]
    shuffled: list[NodeProfile] = chance.sample(nodes, len(nodes))
    turned: list[TaggedImage] = chance.sample(tags, len(tags))

    assert select(shuffled, turned, DATA).to_json() == select(nodes, tags, DATA).to_json()


@given(cards=st.lists(st.sampled_from(sorted(CARDS)), min_size=1, max_size=4), offer=_OFFERS, chance=st.randoms())
def test_the_order_of_cards_does_not_matter(cards: list[str], offer: list[str], chance: Any) -> None:
    turned = chance.sample(range(len(cards)), len(cards))
    tags = [a_tag(text) for text in offer]
    before = select([a_profile(*cards)], tags, DATA)
    after = select([a_profile(*(cards[place] for place in turned))], tags, DATA)
    served = sorted(turned[place] for place in after.nodes["n"].gpus)

    assert (before.tag, before.nodes["n"].gpus) == (after.tag, tuple(served))
    assert before.nodes["n"].verdicts == after.nodes["n"].verdicts


@given(group=_GROUPS, offer=_OFFERS)
def test_only_complete_tags_that_run_are_chosen(group: Any, offer: list[str]) -> None:
    chosen = select(_drawn(group), [a_tag(text) for text in offer], DATA)
    served = {choice.tag for choice in chosen.nodes.values() if choice.tag is not None}

    assert not {f"{_short(tag)}=partial" for tag in served} & set(offer)
    assert (chosen.decision == "none") == (not served)
    assert (len(served) == 1) == (chosen.decision == "single_tag")
    for choice in chosen.nodes.values():
        complete = [verdict for reference, verdict in choice.verdicts.items() if verdict.ok]
        assert choice.tag is not None or not complete


@given(group=_GROUPS, offer=_OFFERS)
def test_a_remembered_verdict_is_that_of_judging_anew(group: Any, offer: list[str]) -> None:
    nodes, tags = _drawn(group), [a_tag(text) for text in offer]
    choices = select(nodes, tags, DATA).nodes

    for node in nodes:
        for tag in tags if not choices[node.name].left_out else ():
            fresh, kept = judge(node, read_facts(tag, DATA), DATA), choices[node.name].verdicts[tag.reference]
            assert ({*kept.problems}, {*kept.cautions}) == ({*fresh.problems}, {*fresh.cautions})


def test_no_sentence_is_made_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    sentences = Mock(return_value=())
    monkeypatch.setattr(matrix, "card_image_problems", sentences)
    chosen = select([a_profile("rtx5090")], [a_tag("2.6.0-cuda12.4-cudnn9-runtime")], DATA)

    assert not sentences.called
    assert [*chosen.nodes["n"].verdicts.values()]
    assert sentences.call_count == 1


@given(group=_GROUPS, offer=_OFFERS, more=st.sampled_from(_NEW))
def test_an_additional_tag_never_removes_a_running_tag_unless_a_card_is_left_out(
    group: Any, offer: list[str], more: str
) -> None:
    nodes = _drawn(group)
    before = select(nodes, [a_tag(text) for text in offer], DATA)
    after = select(nodes, [a_tag(text) for text in {*offer, more}], DATA)

    for name, choice in before.nodes.items():
        if not choice.left_out:
            running = {reference for reference, verdict in choice.verdicts.items() if verdict.ok}
            assert running <= {reference for reference, verdict in after.nodes[name].verdicts.items() if verdict.ok}


@given(group=_GROUPS, offer=_OFFERS)
def test_selecting_among_the_chosen_tags_gives_the_same_choice(group: Any, offer: list[str]) -> None:
    nodes = _drawn(group)
    chosen = select(nodes, [a_tag(text) for text in offer], DATA)
    tags = [a_tag(choice.tag) for choice in chosen.nodes.values() if choice.tag]
    served = [node for node in nodes if chosen.nodes[node.name].tag]
    again = select(served, tags, DATA)

    assert {name: (choice.tag, choice.gpus) for name, choice in again.nodes.items()} == {
        node.name: (chosen.nodes[node.name].tag, chosen.nodes[node.name].gpus) for node in served
    }


def test_of_a_reference_listed_twice_the_less_complete_counts() -> None:
    tag = "2.14.1-cuda13.0-cudnn9-runtime"

    assert select([a_profile("rtx3090")], [a_tag(f"{tag}=partial"), a_tag(tag)], DATA).decision == "none"


def test_equal_nodes_share_their_verdicts() -> None:
    nodes = [a_profile("rtx3090", name=f"n{place}") for place in range(50)]
    chosen = select(nodes, [a_tag(text) for text in _NEW], DATA)
    document = chosen.to_json()["nodes"]

    assert len({id(choice.verdicts) for choice in chosen.nodes.values()}) == 1
    assert len({id(node["verdicts"]) for node in document.values()}) == 1
