"""Pages and files over http(s) that are no registry's: a feed, an index of wheels, the ends of a wheel."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self
from urllib.parse import urljoin, urlsplit

from provisioner.adapters.registry.http import Refused, Reply, Request, up_to
from provisioner.adapters.registry.retry import Sender
from provisioner.adapters.registry.transport import Patience, Wire
from provisioner.domain.registry.image_problems import unreachable

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HOPS = 6
_PATIENCE = Patience(attempts=2, whole=60, budget=90)


class Fetcher:
    """One connection, no login, no cookies. A context manager."""

    def __init__(self, *, ca: Path | None = None, patience: Patience | None = None) -> None:
        patience = patience or _PATIENCE
        self._wire = Wire(ca=ca, connections=1, patience=patience)
        self._sender = Sender(self._wire, patience, home="")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sender.stopped.set()
        self._wire.close()

    def get(self, url: str, limit: int, headers: Mapping[str, str] | None = None) -> Reply[bytes]:
        """At most `limit` bytes of the body. `url` of the reply is where it came from. Raises Refused."""
        at = url
        for _ in range(_HOPS):
            reply = self._sender.send(Request(at, headers=headers or {}), up_to(limit))
            if reply.status not in _REDIRECTS or "Location" not in reply.headers:
                return reply
            at = _next(at, reply.headers["Location"])
        raise Refused(unreachable(urlsplit(url).netloc, "it sends us from one address to the next, without end"))


def _next(url: str, location: str) -> str:
    try:
        target = urljoin(url, location)
        usable = urlsplit(target).scheme in {"http", "https"} and bool(urlsplit(target).netloc)
    except ValueError:
        usable, target = False, ""
    if not usable:
        raise Refused(unreachable(urlsplit(url).netloc, "it redirects to something that is not http"))
    return target
