"""Which proxy the environment names for an address, as Docker's own client reads it (golang.org/x/net/http/httpproxy).

The lower-case variable before the upper-case one; loopback is never asked through a proxy; NO_PROXY holds names (with
all names below them), addresses, networks, each perhaps with a port, or `*`.
"""

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem

_PORTS = {"http": 80, "https": 443}


class Proxied(Value):
    """`url` may hold a password: `public` does not. `variable`: the one that says so."""

    url: str
    variable: str
    no_proxy: str = ""

    @property
    def public(self) -> str:
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def proxy_for(url: str, environment: Mapping[str, str]) -> Proxied | None:
    """None where `url` is asked directly."""
    to = urlsplit(url)
    variable, given = _given(f"{to.scheme}_proxy", environment)
    _, excepted = _given("no_proxy", environment)
    if not given or _is_direct(to, excepted):
        return None
    return Proxied(url=given if "://" in given else f"http://{given}", variable=variable, no_proxy=excepted)


def _given(name: str, environment: Mapping[str, str]) -> tuple[str, str]:
    return next(((key, value) for key in (name, name.upper()) if (value := environment.get(key, "").strip())), ("", ""))


def _is_direct(to: SplitResult, excepted: str) -> bool:
    host = (to.hostname or "").rstrip(".")
    if host == "localhost" or (_is_address(host) and ip_address(host).is_loopback):
        return True
    port = to.port or _PORTS.get(to.scheme, 0)
    return any(_is_meant(entry.strip().lower(), host, port) for entry in excepted.split(",") if entry.strip())


def _is_meant(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    name, colon, number = entry.rpartition(":")
    if colon and number.isdecimal() and ("]" in name or ":" not in name):
        if int(number) != port:
            return False
        entry = name
    entry = entry.strip("[]")
    if _is_address(host):
        return _is_within(host, entry)
    entry = entry.removeprefix("*")
    return host == entry or host.endswith(entry if entry.startswith(".") else f".{entry}")


def _is_within(host: str, entry: str) -> bool:
    try:
        return ip_address(host) in ip_network(entry, strict=False)
    except ValueError:
        return False


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def asked_through(host: str, proxied: Proxied, who: str = "") -> Problem:
    """`who`: whose client it is, where it is not ours."""
    name = host.rpartition(":")[0] if ":" in host else host
    excepted = ",".join(part for part in (proxied.no_proxy, name) if part)
    return Problem(
        "proxy_in_between",
        f"{who or 'this command'} asks {host} through the proxy {proxied.public} (variable {proxied.variable})",
        (
            "what the proxy answers (a refusal, a login page, an old copy) looks like an answer of the mirror, and a "
            "mirror in your own network is seldom to be reached through it"
        ),
        f"where {name} is in your own network: NO_PROXY={excepted}",
    )


def proxy_failed(host: str, proxied: Proxied, reason: str) -> Problem:
    told = asked_through(host, proxied)
    return told.model_copy(
        update={"code": "proxy_failed", "what": f"{told.what}, which does not let it through: {reason}"}
    )
