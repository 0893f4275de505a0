"""The proxy that the environment sets for a URL, by the rules of Docker's client (golang.org/x/net/http/httpproxy).

A lower-case variable takes precedence over the upper-case one; loopback is always contacted directly; NO_PROXY lists
names (which include all names below them), addresses and networks, each optionally with a port, or `*`.
"""

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem

_PORTS = {"http": 80, "https": 443}


class ProxySettings(Value):
    """A proxy and the `variable` that sets it. `url` may contain a password, `public` does not."""

    url: str
    variable: str
    no_proxy: str = ""

    @property
    def public(self) -> str:
        """The URL without user name and password."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def proxy_for(url: str, environment: Mapping[str, str]) -> ProxySettings | None:
    """Return the proxy for `url`, None if it is contacted directly."""
    target = urlsplit(url)
    variable, proxy = _read_variable(f"{target.scheme}_proxy", environment)
    _, no_proxy = _read_variable("no_proxy", environment)
    if not proxy or _is_direct(target, no_proxy):
        return None
    return ProxySettings(url=proxy if "://" in proxy else f"http://{proxy}", variable=variable, no_proxy=no_proxy)


def _read_variable(name: str, environment: Mapping[str, str]) -> tuple[str, str]:
    return next(((key, value) for key in (name, name.upper()) if (value := environment.get(key, "").strip())), ("", ""))


def _is_direct(target: SplitResult, no_proxy: str) -> bool:
    host = (target.hostname or "").rstrip(".")
    if is_loopback(host):
        return True
    port = target.port or _PORTS.get(target.scheme, 0)
    return any(_matches(entry.strip().lower(), host, port) for entry in no_proxy.split(",") if entry.strip())


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine's loopback, which is never contacted through a proxy."""
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)


def _matches(entry: str, host: str, port: int) -> bool:
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


def proxy_problem(host: str, proxied: ProxySettings, who: str = "") -> Problem:
    """Return the problem of a registry that is contacted through a proxy. `who` names the client if it is not ours."""
    name = host.rpartition(":")[0] if ":" in host else host
    no_proxy = ",".join(part for part in (proxied.no_proxy, name) if part)
    return Problem(
        "proxy_in_between",
        f"{who or 'this command'} asks {host} through the proxy {proxied.public} (variable {proxied.variable})",
        (
            "an answer of the proxy (a refusal, a login page, an old copy) looks like one of the mirror, and a mirror "
            "in your own network is usually not reachable through it"
        ),
        f"if {name} is in your own network, set NO_PROXY={no_proxy}",
    )


def proxy_failed(host: str, proxied: ProxySettings, reason: str) -> Problem:
    """Return the problem of a proxy that refuses the connection to a registry."""
    found = proxy_problem(host, proxied)
    return found.model_copy(update={"code": "proxy_failed", "what": f"{found.what}, which refuses it: {reason}"})
