"""Which name, ports and subnet a seat gets: the control machine and the nodes run this same file.

So it uses the standard library only, as of Python 3.8.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network

SEAT_PREFIX = 28  # two containers and the gateway, with room to spare; a pool of /16 has 4096 of them

_PLAIN_USER = re.compile(r"[a-z0-9][a-z0-9_-]{0,30}")


def unique_name(lab: str, user: str) -> str:
    """Return LAB_USER; for a user whose name cannot stand there LAB__ and a part and the hash of the name."""
    separator = "_" if _PLAIN_USER.fullmatch(user) else "__"
    return f"{lab}{separator}{folder_name(user)}"


def folder_name(user: str) -> str:
    """Return a name for a folder of this user that no other user has: the user's own one, where it is plain."""
    if _PLAIN_USER.fullmatch(user):
        return user
    folded = re.sub(r"[^a-z0-9]+", "-", user.lower())[:16]
    return f"{folded}-{hashlib.sha256(user.encode()).hexdigest()[:10]}"


def free_pair(first: int, last: int, taken: Collection[int]) -> tuple[int, int] | None:
    """Return the first two neighbouring ports from `first` to `last` that are both free, None if there are none."""
    pairs = ((port, port + 1) for port in range(first, last, 2))
    return next((pair for pair in pairs if not (pair[0] in taken or pair[1] in taken)), None)


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
