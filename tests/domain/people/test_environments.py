"""Which nodes may run an environment."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.people.environments import environment_nodes, environment_users
from provisioner.domain.people.person import Person
from tests.builders import a_lab

NODES = ("cpu1", "gpu1", "gpu2")
ALL: dict[str, Any] = {"environments": {"nlp": {}}}
SELF_SERVICE = {"nodes": "gpu*", "unix_group": "students"}
MAY = {"student": {"environments": ["default", "nlp"]}}
ROSTER = {"people": {"roster": "roster.csv"}}


def row(environment: str = "nlp", node: str = "", name: str = "anna") -> Person:
    return Person(id=name, node=node, environment=environment, row=2)


@pytest.mark.parametrize(
    ("settings", "people", "nodes"),
    [
        pytest.param({}, (), NODES, id="nothing names it"),
        pytest.param({"seat": {"environment": "nlp"}}, (), NODES, id="that of the seats of a lab without a roster"),
        pytest.param({"self_service": SELF_SERVICE, "groups": MAY}, (), ("gpu1", "gpu2"), id="self-service"),
        pytest.param({"self_service": SELF_SERVICE}, (), NODES, id="no group may have it"),
        pytest.param({**ROSTER}, (row(node="gpu2"),), ("gpu2",), id="a row for one node"),
        pytest.param({**ROSTER}, (row(node="gpu*"), row(node="cpu1")), NODES, id="a pattern and a node"),
        pytest.param({**ROSTER}, (row(),), NODES, id="a row for any node"),
        pytest.param({**ROSTER}, (row("default", "gpu2"),), NODES, id="a row with another environment"),
        pytest.param({**ROSTER}, (row(node="gone"),), (), id="a row for a node that is not among these"),
        pytest.param(
            {**ROSTER, "self_service": SELF_SERVICE | {"nodes": "gpu1"}, "groups": MAY},
            (row(node="cpu1"),),
            ("cpu1", "gpu1"),
            id="self-service and a row",
        ),
        pytest.param(
            {**ROSTER, "seat": {"environment": "nlp"}}, (row(node="gpu2"),), ("gpu2",), id="a roster ends the node seat"
        ),
    ],
)
def test_the_nodes_that_may_run_an_environment(
    settings: dict[str, Any], people: tuple[Person, ...], nodes: tuple[str, ...]
) -> None:
    assert environment_nodes(a_lab(**ALL, **settings), people, NODES) == {"default": NODES, "nlp": nodes}


@given(
    st.lists(st.sampled_from(["gpu1", "gpu2", "cpu1", "n9"]), unique=True),
    st.lists(st.tuples(st.sampled_from(["default", "nlp", "cv"]), st.sampled_from(["", "gpu*", "gpu1", "no"]))),
    st.sampled_from(["*", "gpu*", "no"]),
)
def test_nodes_are_some_of_the_given_ones_in_their_order(
    nodes: list[str], rows: list[tuple[str, str]], pattern: str
) -> None:
    settings = {"environments": {"nlp": {}, "cv": {}}, "self_service": SELF_SERVICE | {"nodes": pattern}}
    lab, people = a_lab(**settings, **ROSTER, groups=MAY), [row(*each) for each in rows]
    found = environment_nodes(lab, people, nodes)
    assert list(found) == ["default", "nlp", "cv"]
    assert found["default"] == tuple(nodes)
    for chosen in found.values():
        assert list(chosen) == [node for node in nodes if node in chosen]
    assert environment_nodes(lab, people[::-1], nodes) == found


def test_who_names_an_environment() -> None:
    lab = a_lab(**ALL, seat={"environment": "nlp"})
    people = (row(), row("default", name="ben"))
    assert list(environment_users(lab, people, "nlp")) == ["seat.environment in lab.yml", "anna (row 2)"]
    assert list(environment_users(lab, people, "cv")) == []
