"""IPv4 networks: the pool of a lab, the subnet of each seat, and the routes of a node."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

SEAT_PREFIX = 28  # two containers and the gateway, with room to spare; a pool of /16 has 4096 of them


def _check_network(text: str) -> str:
    try:
        return str(IPv4Network(text))
    except ValueError:
        raise ValueError(f"{text!r} is not an IPv4 network, with 0 after its prefix, such as 10.213.0.0/16") from None


def _check_pool(text: str) -> str:
    network = IPv4Network(text)
    if network.prefixlen > SEAT_PREFIX or not network.is_private or network.is_loopback or network.is_link_local:
        raise ValueError(f"{text!r} must be a private network, with a prefix of at most /{SEAT_PREFIX}")
    return text


Network = Annotated[str, StringConstraints(pattern=r"^[0-9.]{7,15}/[0-9]{1,2}$"), AfterValidator(_check_network)]
NetworkPool = Annotated[Network, AfterValidator(_check_pool)]


def free_subnet(held: str, pools: Iterable[str], taken: Iterable[str]) -> str | None:
    """Return the subnet that the seat holds already, else the first of the pools that overlaps no network in `taken`.

    Return None if there is no such subnet. All are IPv4 networks in CIDR notation. `held` is empty for a seat that has
    none; a held subnet is not checked again.
    """
    if held:
        return held
    used = sorted((int(one.network_address), int(one.broadcast_address)) for one in map(IPv4Network, taken))
    found = (_first_free(IPv4Network(pool), used) for pool in pools)
    return next((f"{IPv4Address(number)}/{SEAT_PREFIX}" for number in found if number is not None), None)


def _first_free(pool: IPv4Network, used: Iterable[tuple[int, int]]) -> int | None:
    """Return the first address of the first free subnet of a pool. `used`: first and last addresses, sorted."""
    size = 1 << (pool.max_prefixlen - SEAT_PREFIX)
    start = int(pool.network_address)
    for first, last in used:
        if first >= start + size:
            break
        if last >= start:
            start = (last // size + 1) * size
    return start if start + size - 1 <= int(pool.broadcast_address) else None
