"""IPv4 networks: the pool of a lab, and the routes of a node."""

from ipaddress import IPv4Network
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

from provisioner.domain.values.allocation import SEAT_PREFIX


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
