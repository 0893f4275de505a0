from ipaddress import IPv4Network, collapse_addresses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.values.allocation import free_pair, free_subnet

POOL = ("10.213.0.0/16",)
SMALL = ("192.168.7.0/26",)  # four subnets


@pytest.mark.parametrize(
    ("held", "pools", "taken", "expected"),
    [
        ("", POOL, [], "10.213.0.0/28"),
        ("", POOL, ["10.213.0.0/28", "10.213.0.32/28"], "10.213.0.16/28"),
        ("", POOL, ["10.213.0.0/24"], "10.213.1.0/28"),
        ("", POOL, ["10.213.0.17/32"], "10.213.0.0/28"),
        ("", POOL, ["10.213.0.7/32", "172.17.0.0/16"], "10.213.0.16/28"),
        ("", POOL, ["10.0.0.0/8"], None),
        ("", POOL + SMALL, ["10.0.0.0/8", "192.168.7.0/28"], "192.168.7.16/28"),
        ("", SMALL, ["192.168.7.0/27", "192.168.7.32/28"], "192.168.7.48/28"),
        ("", SMALL, ["192.168.7.0/27", "192.168.7.32/27"], None),
        ("10.99.0.16/28", POOL, ["10.99.0.0/16"], "10.99.0.16/28"),
    ],
)
def test_subnet_of_a_seat(held: str, pools: tuple[str, ...], taken: list[str], expected: str | None) -> None:
    assert free_subnet(held, pools, taken) == expected


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(16, 32)), max_size=30))
def test_a_new_subnet_is_in_the_pool_and_overlaps_nothing(parts: list[tuple[int, int]]) -> None:
    taken = [str(IPv4Network((f"10.213.{number}.{number}", length), strict=False)) for number, length in parts]
    found = free_subnet("", POOL, taken)
    if found is None:
        networks = map(IPv4Network, taken)
        touched = (one if one.prefixlen <= 28 else one.supernet(new_prefix=28) for one in networks)
        assert list(collapse_addresses(touched)) == [IPv4Network(POOL[0])]
    else:
        assert IPv4Network(found).subnet_of(IPv4Network(POOL[0]))
        assert not any(IPv4Network(found).overlaps(IPv4Network(network)) for network in taken)


@pytest.mark.parametrize(
    ("last", "taken", "expected"),
    [(24003, set(), (24000, 24001)), (24003, {24001}, (24002, 24003)), (24002, {24000}, None), (24000, set(), None)],
)
def test_pair_of_ports(last: int, taken: set[int], expected: tuple[int, int] | None) -> None:
    assert free_pair(24000, last, taken) == expected
