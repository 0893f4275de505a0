"""A conversation with one registry: where it lives, that it is one, and requests that log in and follow redirects."""

import json
import threading
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import urljoin, urlsplit

from provisioner.adapters.registry.auth import Auth, read_challenge
from provisioner.adapters.registry.http import Receive, Refused, Reply, Request, T, up_to
from provisioner.adapters.registry.retry import Sender
from provisioner.domain.registry.image_problems import captive_portal, denied, no_such_service, unreachable

_HUB = "docker.io"
_HUB_API = "registry-1.docker.io"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HOPS = 8
_PORTS = {"http": 80, "https": 443}
_FIRST_BYTES = 4096


def api_host(address: str) -> str:
    return _HUB_API if address in {_HUB, f"index.{_HUB}"} else address


class Session:
    """Every method raises Refused where no usable reply came."""

    def __init__(self, address: str, *, plain_http: bool, sender: Sender, environment: Mapping[str, str]) -> None:
        self._address = address
        self.base = f"{'http' if plain_http else 'https'}://{api_host(address)}"
        self._sender = sender
        self._auth = Auth(sender, address, self.base, environment)
        self._lock = threading.Lock()
        self._service: Refused | bool | None = None

    def ask(self, path: str, receive: Receive[T], repository: str, request: Request | None = None) -> Reply[T]:
        """The reply to `path` (below /v2/, or a whole URL), its status never 401 or 403. `request` adds to it."""
        self.must_be_registry()
        template = request or Request("")
        url, answered = urljoin(f"{self.base}/v2/", path), False
        for _ in range(_HOPS):
            at_home = _origin(url) == _origin(self.base)
            credential = self._auth.header(repository) if at_home else None
            reply = self._sender.send(_addressed(template, url, credential), receive)
            if reply.status == HTTPStatus.UNAUTHORIZED and at_home:
                self._log_in(reply, repository, credential, answered=answered)
                answered = True
            elif reply.status in _REDIRECTS and "Location" in reply.headers:
                url = self._next(url, reply.headers["Location"])
            elif reply.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                raise Refused(denied(reply.host, reply.status))
            else:
                return reply
        raise Refused(unreachable(self._address, "it sends us from one address to the next, without end"))

    def must_be_registry(self) -> None:
        """Asked once: L0 of every look. Raises Refused where nothing there speaks the registry protocol."""
        with self._lock:
            if self._service is None:
                try:
                    self._service = self._greet()
                except Refused as refused:
                    self._service = refused
        if isinstance(self._service, Refused):
            raise self._service

    def _greet(self) -> bool:
        """OCI asks only for the 200; every older registry tells itself by its header or by its challenge."""
        url = f"{self.base}/v2/"
        for _ in range(_HOPS):
            reply = self._sender.send(Request(url), up_to(_FIRST_BYTES))
            if reply.status not in _REDIRECTS or "Location" not in reply.headers:
                break
            url = self._next(url, reply.headers["Location"])
        else:
            raise Refused(no_such_service(self._address, "it redirects without end"))
        if reply.status == HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED or self._is_elsewhere_a_page(reply):
            raise Refused(captive_portal(self._address, reply.host))
        if reply.status == HTTPStatus.FORBIDDEN:
            raise Refused(denied(reply.host, reply.status))
        if not _is_registry(reply):
            raise Refused(no_such_service(self._address, f"its /v2/ answers HTTP {reply.status} and not as one"))
        return True

    def _is_elsewhere_a_page(self, reply: Reply[bytes]) -> bool:
        """No registry answers /v2/ by a page on another host; a login of a campus or of an airport does."""
        is_page = reply.headers.get("Content-Type", "").lower().startswith("text/html")
        return is_page and urlsplit(reply.url).hostname != urlsplit(self.base).hostname

    def _log_in(self, reply: Reply[T], repository: str, rejected: str | None, *, answered: bool) -> None:
        challenge = read_challenge(reply.headers.get("WWW-Authenticate", ""))
        if answered or challenge is None:
            raise self._auth.refusal(challenge)
        self._auth.answer(repository, challenge, rejected)

    def _next(self, url: str, location: str) -> str:
        try:
            target = urljoin(url, location)
            usable = _origin(target)[0] in _PORTS
        except ValueError:  # a port that is no number
            usable, target = False, ""
        if not usable:
            raise Refused(unreachable(self._address, "it redirects to something that is not http"))
        return target


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


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def _addressed(template: Request, url: str, credential: str | None) -> Request:
    headers = dict(template.headers) | ({} if credential is None else {"Authorization": credential})
    return Request(url, template.method, headers, extra=template.extra)
