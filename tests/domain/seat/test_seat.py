from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.lab.lab import Ports, lan_address
from provisioner.domain.seat.seat import Seat, free_ports, seat_of
from provisioner.domain.values.node import EngineFacts, RunningSeat
from provisioner.domain.values.problem import Problem
from tests.builders import a_lab, a_node, a_uuid

UUIDS = (a_uuid("n1/0"),)


def held(name: str, ssh: int) -> RunningSeat:
    return RunningSeat(name=name, generation=3, image="r@x", ports={"ssh": ssh, "jupyter": ssh + 1})


def seat(**over: Any) -> Seat:
    found = seat_of(a_lab(), a_node(**over), UUIDS, (), host=None)
    assert isinstance(found, Seat)
    return found


def test_the_first_seat_takes_the_first_pair() -> None:
    assert seat().ports == {"ssh": 22000, "jupyter": 22001}


def test_a_seat_keeps_the_ports_it_has_whatever_the_range_says_now() -> None:
    assert seat(seats=(held("demo-student", 23456),)).ports == {"ssh": 23456, "jupyter": 23457}


def test_a_new_seat_goes_round_the_ports_of_the_others() -> None:
    assert seat(seats=(held("other-student", 22000),)).ports == {"ssh": 22002, "jupyter": 22003}


def test_a_range_that_is_used_up_is_a_problem_with_a_way_out() -> None:
    lab = a_lab(seat={"ports": {"first": 22000, "last": 22001}})
    found = seat_of(lab, a_node(seats=(held("other-student", 22000),)), UUIDS, (), host=None)
    assert isinstance(found, Problem)
    assert (found.code, "lab.yml" in found.fix) == ("no_free_port", True)


@given(st.sets(st.integers(22000, 22020)), st.integers(22000, 22020), st.integers(1, 20))
def test_ports_given_are_free_distinct_and_in_range(taken: set[int], first: int, width: int) -> None:
    ports = free_ports({}, Ports(first=first, last=first + width), taken)
    if ports is not None:
        assert len(set(ports.values())) == 2
        assert taken.isdisjoint(ports.values())
        assert all(first <= port <= first + width for port in ports.values())


@pytest.mark.parametrize(
    ("host", "addresses", "expected"),
    [
        ("10.0.0.7", ("10.0.0.8",), "10.0.0.7"),
        ("gpu07.lab", ("10.0.0.8",), "10.0.0.8"),
        (None, ("10.0.0.8", "172.17.0.1"), "10.0.0.8"),
        ("gpu07.lab", (), None),
    ],
)
def test_the_lan_address_is_how_ansible_reaches_the_node(
    host: str | None, addresses: Sequence[str], expected: str | None
) -> None:
    assert lan_address(tuple(addresses), host) == expected


def test_jupyter_stays_on_loopback_and_ssh_goes_to_the_lab() -> None:
    assert seat().binds == {"jupyter": "127.0.0.1", "ssh": "198.18.0.11"}


def test_a_node_without_an_address_can_still_serve_on_loopback_only() -> None:
    lab = a_lab(services={"ssh": {"bind": "loopback"}})
    found = seat_of(lab, a_node(addresses=()), UUIDS, (), host=None)
    assert isinstance(found, Seat)
    assert set(found.binds.values()) == {"127.0.0.1"}
    refused = seat_of(a_lab(), a_node(addresses=()), UUIDS, (), host=None)
    assert isinstance(refused, Problem)
    assert refused.code == "no_lan_address"


@pytest.mark.parametrize(
    ("devices", "driver"),
    [((f"nvidia.com/gpu={UUIDS[0]}",), "cdi"), (("nvidia.com/gpu=all",), "nvidia"), ((), "nvidia")],
)
def test_cdi_is_taken_where_it_names_the_very_card(devices: tuple[str, ...], driver: str) -> None:
    assert seat(cdi_devices=devices).gpu_driver == driver


@pytest.mark.parametrize(
    ("version", "known"), [("20.10.24", False), ("25.0.0", True), ("29.3.1", True), ("dev", False)]
)
def test_a_start_interval_needs_an_engine_that_knows_it(version: str, known: bool) -> None:
    assert seat(engine=EngineFacts(version=version)).start_interval is known
