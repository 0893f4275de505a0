"""Which nodes are in the letter to everybody, what it asks people to type, and what is refused."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.lab.lab import SelfService
from provisioner.domain.rollout.common_letter import EVERYBODY, BuiltLetter, Way, build_common_letter
from provisioner.domain.rollout.letter import letter_name
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem
from tests.builders import a_lab, a_node, self_service_facts
from tests.domain.letters import HOST_KEY, a_common_letter, a_letter_node, some_ceilings

SETTINGS = SelfService(unix_group="lab-students")
LAB = a_lab(
    name="ml",
    self_service={"unix_group": "lab-students"},
    groups={"student": {"gpus": 1, "hours": 24, "idle_hours": 4}},
)
PLAIN = Way()
OFF = Problem("unreachable", "gpu1: no answer", "why", "fix", "gpu1")


def build(facts: NodeFacts | Problem, way: Way = PLAIN) -> BuiltLetter:
    return build_common_letter(LAB, SETTINGS, {"gpu1": facts}, {"gpu1": way}, "Li Lei")


def a_host(**over: Any) -> NodeFacts:
    return a_node("gpu1", **({"self_service": self_service_facts()} | over))


def test_letter_has_the_nodes_the_group_and_the_ceilings() -> None:
    assert build(a_host()) == BuiltLetter(a_common_letter(contact="Li Lei"), {})


def test_letter_names_the_ceilings_of_the_default_group_where_lab_yml_has_no_group() -> None:
    groups = {"phd": {"unix": "phd", "gpus": 4}}
    lab = a_lab(name="ml", self_service={"unix_group": "lab-students"}, groups=groups)
    letter = build_common_letter(lab, SETTINGS, {"gpu1": a_host()}, {}).letter
    assert letter
    assert letter.ceilings == some_ceilings(gpus=None, idle_hours=None)


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        (Way(), ("198.18.0.11", "198.18.0.11", "198.18.0.11", "")),
        (Way("198.18.0.99"), ("198.18.0.99", "198.18.0.99", "198.18.0.99", "")),
        (Way("gpu1.lab"), ("198.18.0.11", "198.18.0.11", "198.18.0.11", "")),
        (Way(jump="admin@jump.lab:2222"), ("198.18.0.11", "gpu1", "198.18.0.11", "jump.lab:2222")),
        (Way(port=2222), ("198.18.0.11", "gpu1", "[198.18.0.11]:2222", "")),
    ],
)
def test_a_node_is_reached_as_the_inventory_says(way: Way, expected: tuple[str, str, str, str]) -> None:
    letter = build(a_host(), way).letter
    assert letter
    (node,) = letter.nodes
    assert (node.address, node.target, node.label, node.jump) == expected
    assert letter.entries == ((node,) if node.target == "gpu1" else ())


@pytest.mark.parametrize(
    ("facts", "code", "said"),
    [
        (OFF, "unreachable", "no answer"),
        (a_node("gpu1"), "no_self_service", "not set up yet"),
        (a_host(self_service=self_service_facts(lab="")), "no_self_service", "not set up yet"),
        (a_host(self_service=self_service_facts(lab="vision")), "self_service_elsewhere", "the lab vision"),
        (a_host(self_service=self_service_facts(runs=False)), "broker_down", "does not run"),
        (a_host(addresses=()), "unsafe_letter", "address"),
    ],
)
def test_a_node_where_nothing_can_be_started_is_left_out_with_the_reason(
    facts: NodeFacts | Problem, code: str, said: str
) -> None:
    built = build(facts)
    assert (built.letter, [problem.code for problem in built.missing.values()]) == (None, [code])
    assert said in built.missing["gpu1"].what


def test_others_are_named_where_one_is_left_out() -> None:
    probed: dict[str, NodeFacts | Problem] = {"gpu1": OFF, "gpu2": a_node("gpu2", self_service=self_service_facts())}
    built = build_common_letter(LAB, SETTINGS, probed, {})
    assert built.letter
    assert ([node.name for node in built.letter.nodes], list(built.missing)) == (["gpu2"], ["gpu1"])


HOSTILE: list[tuple[Way, str]] = [
    (Way("127.0.0.1"), "address"),
    (Way(port=0), "port"),
    (Way(port=65536), "port"),
    (Way(jump="jump.lab -oProxyCommand=id"), "jump"),
    (Way(jump="a\nProxyCommand id"), "jump"),
    (Way(jump="$(id)"), "jump"),
    (Way(host_key=f"{HOST_KEY}\n* {HOST_KEY}"), "host_key"),
    (Way(host_key=f"@cert-authority {HOST_KEY}"), "host_key"),
    (Way(host_key=HOST_KEY.replace("ed25519", "rsa")), "host_key"),
]


@pytest.mark.parametrize(("way", "field"), HOSTILE, ids=str)
def test_a_node_that_is_not_what_it_is_said_to_be_is_left_out(way: Way, field: str) -> None:
    built = build(a_host(), way)
    assert (built.letter, built.missing["gpu1"].code) == (None, "unsafe_letter")
    assert built.missing["gpu1"].what == f"gpu1: not what they should be: {field}"


@pytest.mark.parametrize("name", ["gpu1\n# heading", "-F", "*", "gpu1 gpu2", "", "$(id)", "gpu1\u202e"])
def test_a_node_with_a_hostile_name_is_left_out(name: str) -> None:
    probed = {name: a_node(name, self_service=self_service_facts())}
    built = build_common_letter(LAB, SETTINGS, probed, {})
    assert (built.letter, built.missing[name].code) == (None, "unsafe_letter")


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "evil.example", "198.18.0.11\n    id", ""])
def test_an_address_that_a_node_reports_is_checked(address: str) -> None:
    built = build(a_host(addresses=(address,)))
    assert (built.letter, built.missing["gpu1"].code) == (None, "unsafe_letter")


@given(st.sampled_from(("address", "jump", "host_key")), st.integers(0, 90), st.text(min_size=1))
def test_nothing_in_a_value_for_ssh_ends_it_or_begins_another(field: str, at: int, text: str) -> None:
    """Whatever is put into a good value: the node is left out, or the value is one word, the key two."""
    good = Way("198.18.0.11", "jump.lab", 22, HOST_KEY)
    value = getattr(good, field)
    letter = build(a_host(), good._replace(**{field: value[:at] + text + value[at:]})).letter
    for node in letter.nodes if letter else ():
        assert re.fullmatch(r"[0-9.]+", node.address, re.ASCII)
        assert re.fullmatch(r"[A-Za-z0-9.:,\[\]-]*", node.jump, re.ASCII)
        assert node.host_key == HOST_KEY


@pytest.mark.parametrize(
    ("ceilings", "gpus", "request_text"),
    [
        ({}, 2, "provision me --gpus 1 --hours 8"),
        ({"gpus": None}, 2, "provision me --gpus 1 --hours 8"),
        ({"gpus": 4, "hours": 4.5}, 2, "provision me --gpus 1 --hours 4"),
        ({"gpus": 0}, 2, "provision me --gpus 0 --hours 8"),
        ({"hours": 0.5}, 2, "provision me --gpus 1"),
        ({}, 0, "provision me --gpus 0 --hours 8"),
    ],
)
def test_the_request_is_within_the_ceilings_and_the_pool(
    ceilings: dict[str, Any], gpus: int, request_text: str
) -> None:
    letter = a_common_letter(a_letter_node(gpus=gpus), ceilings=some_ceilings(**ceilings))
    assert letter.request == request_text


def test_commands_are_for_the_first_node_that_has_gpus_to_lease() -> None:
    assert a_common_letter(a_letter_node(gpus=0), a_letter_node("gpu2")).example.name == "gpu2"
    assert a_common_letter(a_letter_node(gpus=0), a_letter_node("gpu2", gpus=0)).example.name == "gpu1"


@given(st.text())
def test_no_id_of_a_person_has_the_file_name_of_the_letter_to_everybody(person: str) -> None:
    assert letter_name(person) != EVERYBODY
    assert letter_name(EVERYBODY) != EVERYBODY
