"""The requests to one registry: the test that it is one, logins, and redirects."""

import json
import threading
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import urljoin, urlsplit

from provisioner.adapters.registry.auth import Auth, read_challenge
from provisioner.adapters.registry.http import (
    MAX_REDIRECTS,
    Receive,
    RedirectLoop,
    Reply,
    Request,
    RequestFailed,
    T,
    is_downgrade,
    origin_of,
    redirect_target,
    up_to,
)
from provisioner.adapters.registry.retry import Sender
from provisioner.domain.registry.image_problems import captive_portal, denied, no_such_service, unreachable

_HUB = "docker.io"
_HUB_API = "registry-1.docker.io"
_FIRST_BYTES = 4096


def api_host(address: str) -> str:
    """Return the host that serves the API of `address`: another one for Docker Hub alone."""
    return _HUB_API if address in {_HUB, f"index.{_HUB}"} else address


class Session:
    """Every method raises RequestFailed where there is no usable reply."""

    def __init__(self, address: str, *, plain_http: bool, sender: Sender, environment: Mapping[str, str]) -> None:
        """Send nothing yet. `environment`: the variables that locate login files."""
        self._address = address
        self.base = f"{'http' if plain_http else 'https'}://{api_host(address)}"
        self._sender = sender
        self._auth = Auth(sender, address, self.base, environment)
        self._lock = threading.Lock()
        self._is_registry: RequestFailed | bool | None = None

    def ask(self, path: str, receive: Receive[T], repository: str, request: Request | None = None) -> Reply[T]:
        """Return the reply to `path` (below /v2/, or a whole URL); its status is never 401 or 403.

        `request` gives method, headers and extra time. A login is sent to the registry's own host alone.
        """
        self.require_registry()
        template = request or Request("")
        url, answered = urljoin(f"{self.base}/v2/", path), False
        for _ in range(MAX_REDIRECTS):
            at_home = origin_of(url) == origin_of(self.base)
            credential = self._auth.header(repository) if at_home else None
            reply = self._sender.send(_addressed(template, url, credential), receive)
            if reply.status == HTTPStatus.UNAUTHORIZED and at_home:
                self._log_in(reply, repository, credential, answered=answered)
                answered = True
            elif (target := redirect_target(reply, self._address)) is not None:
                # What a tag means is known from this answer alone; a blob is verified by the digest it is asked for.
                if is_downgrade(url, target) and "/blobs/" not in path:
                    raise RequestFailed(unreachable(self._address, "it redirects from https to http"))
                url = target
            elif reply.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                raise RequestFailed(denied(reply.host, reply.status))
            else:
                return reply
        raise RedirectLoop(self._address)

    def require_registry(self) -> None:
        """Ask /v2/, once in a session. Raises RequestFailed if nothing there speaks the registry protocol."""
        with self._lock:
            if self._is_registry is None:
                try:
                    self._is_registry = self._ask_base()
                except RequestFailed as failed:
                    self._is_registry = failed
        if isinstance(self._is_registry, RequestFailed):
            raise self._is_registry

    def _ask_base(self) -> bool:
        """OCI requires only the 200; older registries are known by their header or their challenge."""
        try:
            reply = self._sender.follow(Request(f"{self.base}/v2/"), up_to(_FIRST_BYTES), self._address)
        except RedirectLoop:
            raise RequestFailed(no_such_service(self._address, "it redirects without end")) from None
        if reply.status == HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED or self._is_page_of_another_host(reply):
            raise RequestFailed(captive_portal(self._address, reply.host))
        if reply.status == HTTPStatus.FORBIDDEN:
            raise RequestFailed(denied(reply.host, reply.status))
        if not _is_registry(reply):
            reason = f"its /v2/ answers HTTP {reply.status}, but not as a registry does"
            raise RequestFailed(no_such_service(self._address, reason))
        return True

    def _is_page_of_another_host(self, reply: Reply[bytes]) -> bool:
        """No registry answers /v2/ by a page on another host; the login page of a network does."""
        is_page = reply.headers.get("Content-Type", "").lower().startswith("text/html")
        return is_page and urlsplit(reply.url).hostname != urlsplit(self.base).hostname

    def _log_in(self, reply: Reply[T], repository: str, rejected: str | None, *, answered: bool) -> None:
        challenge = read_challenge(reply.headers.get("WWW-Authenticate", ""))
        if answered or challenge is None:
            raise self._auth.refusal(challenge)
        self._auth.answer(repository, challenge, rejected)


def _is_registry(reply: Reply[bytes]) -> bool:
    if "Docker-Distribution-Api-Version" in reply.headers:
        return True
    if reply.status == HTTPStatus.UNAUTHORIZED:
        return read_challenge(reply.headers.get("WWW-Authenticate", "")) is not None
    return reply.status == HTTPStatus.OK and _is_json_object(reply.received)


def _is_json_object(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except ValueError:
        return False


def _addressed(template: Request, url: str, credential: str | None) -> Request:
    headers = dict(template.headers) | ({} if credential is None else {"Authorization": credential})
    return Request(url, template.method, headers, extra=template.extra)
