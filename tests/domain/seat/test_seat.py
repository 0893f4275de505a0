from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.lab.lab import Lab, Ports, lan_address
from provisioner.domain.seat.compose import ComposeProject
from provisioner.domain.seat.seat import Seat, free_ports, lab_owner, person_seat_name_on, seat_name_on, seat_of
from provisioner.domain.values.node import EngineFacts, NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem
from tests.builders import a_lab, a_node, a_uuid

UUIDS = (a_uuid("n1/0"),)


def held(name: str, ssh: int) -> RunningSeat:
    return RunningSeat(name=name, generation=3, image="r@x", ports={"ssh": ssh, "jupyter": ssh + 1})


def lab_seat(lab: Lab, node: NodeFacts) -> Seat | Problem:
    return seat_of(lab, node, lab_owner(lab, node, ()), UUIDS, host=None)


def seat(**over: Any) -> Seat:
    found = lab_seat(a_lab(), a_node(**over))
    assert isinstance(found, Seat)
    return found


def test_first_seat_gets_the_first_pair_of_ports() -> None:
    assert seat().ports == {"ssh": 22000, "jupyter": 22001}


def test_seat_keeps_its_ports_if_the_range_changes() -> None:
    assert seat(seats=(held("demo-student", 23456),)).ports == {"ssh": 23456, "jupyter": 23457}


def test_a_stopped_seat_keeps_its_ports_and_subnet_unless_another_one_has_them_now() -> None:
    down = {"services": {"ssh": "missing", "jupyter": "missing"}, "subnet": "10.213.0.16/28"}
    own = held("demo-student", 22010).model_copy(update=down)
    assert (seat(seats=(own,)).ports["ssh"], seat(seats=(own,)).subnet) == (22010, "10.213.0.16/28")
    other = held("other-student", 22011).model_copy(update={"subnet": "10.213.0.0/24"})
    found = seat(seats=(own, other))
    assert (found.ports, found.subnet) == ({"ssh": 22000, "jupyter": 22001}, "10.213.1.0/28")
    running = own.model_copy(update={"services": {"ssh": "healthy"}})
    found = seat(seats=(running, other))
    assert (found.ports["ssh"], found.subnet) == (22010, "10.213.0.16/28")


def test_new_seat_skips_the_ports_of_others() -> None:
    assert seat(seats=(held("other-student", 22000),)).ports == {"ssh": 22002, "jupyter": 22003}


def test_seat_gets_a_subnet_that_neither_a_route_nor_another_seat_has_and_keeps_it() -> None:
    stopped = held("other-student", 22000).model_copy(update={"subnet": "10.213.0.16/28"})
    others = {"routes": ("10.213.0.0/28", "172.17.0.0/16"), "seats": (stopped,)}
    assert seat(**others).subnet == "10.213.0.32/28"
    assert seat(routes=("10.0.0.0/8",)).subnet == "172.29.0.0/28"
    own = held("demo-student", 22002).model_copy(update={"subnet": "10.99.0.16/28"})
    assert seat(routes=("10.99.0.16/28",), seats=(own,)).subnet == "10.99.0.16/28"


def test_pool_without_a_free_subnet_is_a_problem_with_a_fix() -> None:
    lab = a_lab(seat={"subnets": "10.213.0.0/16"})
    found = lab_seat(lab, a_node(routes=("10.0.0.0/8",)))
    assert isinstance(found, Problem)
    assert (found.code, "seat.subnets" in found.fix) == ("no_free_subnet", True)


def test_exhausted_range_is_a_problem_with_a_fix() -> None:
    lab = a_lab(seat={"ports": {"first": 22000, "last": 22001}})
    found = lab_seat(lab, a_node(seats=(held("other-student", 22000),)))
    assert isinstance(found, Problem)
    assert (found.code, "lab.yml" in found.fix) == ("no_free_port", True)


@given(st.sets(st.integers(22000, 22020)), st.integers(22000, 22020), st.integers(1, 20))
def test_chosen_ports_are_free_distinct_and_in_range(taken: set[int], first: int, width: int) -> None:
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
def test_lan_address_is_the_one_that_ansible_uses(
    host: str | None, addresses: Sequence[str], expected: str | None
) -> None:
    assert lan_address(tuple(addresses), host) == expected


def test_jupyter_binds_to_loopback_and_ssh_to_the_lan() -> None:
    assert seat().binds == {"jupyter": "127.0.0.1", "ssh": "198.18.0.11"}


def test_node_without_an_address_can_only_bind_to_loopback() -> None:
    lab = a_lab(services={"ssh": {"bind": "loopback"}})
    found = lab_seat(lab, a_node(addresses=()))
    assert isinstance(found, Seat)
    assert set(found.binds.values()) == {"127.0.0.1"}
    refused = lab_seat(a_lab(), a_node(addresses=()))
    assert isinstance(refused, Problem)
    assert refused.code == "no_lan_address"


@pytest.mark.parametrize(
    ("devices", "driver"),
    [((f"nvidia.com/gpu={UUIDS[0]}",), "cdi"), (("nvidia.com/gpu=all",), "nvidia"), ((), "nvidia")],
)
def test_cdi_is_used_if_it_names_each_gpu(devices: tuple[str, ...], driver: str) -> None:
    assert seat(cdi_devices=devices).gpu_driver == driver


@pytest.mark.parametrize(
    ("version", "known"), [("20.10.24", False), ("25.0.0", True), ("29.3.1", True), ("dev", False)]
)
def test_start_interval_needs_docker_25(version: str, known: bool) -> None:
    assert seat(engine=EngineFacts(version=version)).start_interval is known


def test_a_seat_keeps_the_usual_name_unless_another_lab_has_it() -> None:
    node = a_node()
    assert seat_name_on(node, "ml", "lab-anna") == seat_name_on(node, "ml-lab", "anna") == "ml-lab-anna"
    node = a_node(seats=(RunningSeat(name="ml-lab-anna", lab="ml-lab", generation=1, image="x"),))
    assert seat_name_on(node, "ml-lab", "anna") == "ml-lab-anna"
    assert seat_name_on(node, "ml", "lab-anna") == "ml_lab-anna"
    unrecorded = a_node(seats=(RunningSeat(name="ml-lab-anna", generation=0, image="x"),))
    assert seat_name_on(unrecorded, "ml", "lab-anna") == "ml-lab-anna"


def test_a_seat_of_the_other_name_keeps_it_after_the_usual_one_is_free() -> None:
    node = a_node(seats=(RunningSeat(name="ml_lab-anna", lab="ml", generation=1, image="x"),))
    assert seat_name_on(node, "ml", "lab-anna") == "ml_lab-anna"


def a_running_seat(name: str, lab: str) -> RunningSeat:
    return RunningSeat(name=name, lab=lab, generation=1, image="x")


@pytest.mark.parametrize(
    ("person", "seats", "name"),
    [
        ("anna", (), "ml_anna"),
        ("2024012345", (), "ml_2024012345"),
        ("Li.Lei@campus.edu", (), "ml__li-lei-campus-ed-ed53f35065"),
        ("anna", (a_running_seat("ml-anna", "ml"),), "ml-anna"),
        ("lab-anna", (a_running_seat("ml-lab-anna", "ml-lab"),), "ml_lab-anna"),
        ("anna", (a_running_seat("ml-anna", ""),), "ml_anna"),
        ("anna", (a_running_seat("ml_anna", "ml"), a_running_seat("ml-anna", "ml")), "ml_anna"),
    ],
)
def test_the_seat_of_a_person_is_named_after_their_id_and_keeps_the_name_it_has(
    person: str, seats: tuple[RunningSeat, ...], name: str
) -> None:
    assert person_seat_name_on(a_node(seats=seats), "ml", person) == name
    assert ComposeProject.model_validate({"name": name, "services": {}, "networks": {}}).name == name


LABS = st.from_regex(r"\A[a-z][a-z0-9-]{0,4}\Z")
USERS = st.from_regex(r"\A[a-z_][a-z0-9_-]{0,4}\Z")


@given(st.lists(st.tuples(LABS, USERS), unique=True, max_size=6))
def test_seats_of_different_labs_and_users_never_share_a_name(pairs: list[tuple[str, str]]) -> None:
    seats: tuple[RunningSeat, ...] = ()
    for lab, user in pairs:
        name = seat_name_on(a_node(seats=seats), lab, user)
        assert name not in {found.name for found in seats if found.lab != lab}
        assert ComposeProject.model_validate({"name": name, "services": {}, "networks": {}}).name == name
        seats = (*seats, RunningSeat(name=name, lab=lab, generation=1, image="x"))
    assert all(seat_name_on(a_node(seats=seats), lab, user) in {found.name for found in seats} for lab, user in pairs)


@given(st.lists(st.tuples(LABS, st.text(max_size=20)), unique=True, max_size=6))
def test_seats_of_different_labs_and_people_never_share_a_name(pairs: list[tuple[str, str]]) -> None:
    names = {person_seat_name_on(a_node(), lab, person) for lab, person in pairs}
    assert len(names) == len(pairs)
    for name in names:
        assert ComposeProject.model_validate({"name": name, "services": {}, "networks": {}}).name == name
