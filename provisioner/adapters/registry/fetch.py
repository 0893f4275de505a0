"""Pages and files over http(s) from servers that are not registries: a feed, an index or part of wheels, a lock."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from provisioner.adapters.registry.http import Reply, Request, RequestFailed, host_of, split_login, up_to
from provisioner.adapters.registry.retry import Sender
from provisioner.adapters.registry.transport import RetryPolicy, Transport
from provisioner.domain.registry.image_problems import unreachable

_POLICY = RetryPolicy(attempts=2, whole=60, budget=90)


class Fetcher:
    """One connection without cookies. A context manager.

    A login is that of a URL. It is sent to the origin of this URL alone, and there also for later URLs without a login,
    because the links of an index have none.
    """

    def __init__(self, *, ca: Path | None = None, policy: RetryPolicy | None = None) -> None:
        """Open no connection yet. Raises ProblemError if the file `ca` cannot be read."""
        policy = policy or _POLICY
        self._transport = Transport(ca=ca, connections=1, policy=policy)
        self._sender = Sender(self._transport, policy, home="")
        self._logins: dict[tuple[str, str], dict[str, str]] = {}  # origin -> header

    def __enter__(self) -> Self:
        """Return the fetcher itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._sender.stopped.set()
        self._transport.close()

    def get(
        self,
        url: str,
        limit: int,
        headers: Mapping[str, str] | None = None,
        *,
        check: Callable[[str], object] | None = None,
    ) -> Reply[bytes]:
        """Return at most `limit` bytes of the body, after redirects. Raises RequestFailed; `check` as in `follow`."""
        try:
            public, login = split_login(url)
        except ValueError:  # brackets that are no IPv6 address
            raise RequestFailed(unreachable(host_of(url), "it is not an address")) from None
        origin = urlsplit(public)[:2]
        if login:
            self._logins[origin] = login
        request = Request(public, headers={**(headers or {}), **self._logins.get(origin, {})})
        return self._sender.follow(request, up_to(limit), request.host, check)
