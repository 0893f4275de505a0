"""IPv4 networks: the pool of a lab, the subnet of each seat, and the routes of a node."""

from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Network, NetmaskValueError
from itertools import islice
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

SEAT_PREFIX = 28  # two containers and the gateway, with room to spare; a pool of /16 has 4096 of them
_MOST_TRIES = 4096


def _check_network(text: str) -> str:
    try:
        return str(IPv4Network(text))
    except (AddressValueError, NetmaskValueError, ValueError):
        raise ValueError(f"{text!r} is no IPv4 network such as 10.213.0.0/16, with zeros after its prefix") from None


def _check_pool(text: str) -> str:
    network = IPv4Network(text)
    if network.prefixlen > SEAT_PREFIX or not network.is_private or network.is_loopback or network.is_link_local:
        raise ValueError(f"{text!r} is no private network with room for a /{SEAT_PREFIX}")
    return text


Network = Annotated[str, StringConstraints(pattern=r"^[0-9.]{7,15}/[0-9]{1,2}$"), AfterValidator(_check_network)]
NetworkPool = Annotated[Network, AfterValidator(_check_pool)]


def free_subnet(held: str, pools: Iterable[str], taken: Iterable[str]) -> str | None:
    """Return the subnet that the seat holds already, else the first of the pools that overlaps no network in `taken`.

    None where there is none. All are IPv4 networks in CIDR notation; `held` is empty for a seat without one.
    """
    if held:
        return held
    used = [IPv4Network(network) for network in taken]
    candidates = (one for pool in pools for one in _subnets(IPv4Network(pool), used))
    return next((str(one) for one in candidates if not any(one.overlaps(other) for other in used)), None)


def _subnets(pool: IPv4Network, used: Iterable[IPv4Network]) -> Iterable[IPv4Network]:
    """Return the subnets of a pool, none where one network in `used` has all of it: such routes are common."""
    if any(pool.subnet_of(other) for other in used):
        return ()
    return islice(pool.subnets(new_prefix=SEAT_PREFIX), _MOST_TRIES)
