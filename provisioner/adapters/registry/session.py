"""The requests to one registry: the test that it is one, logins, and redirects."""

import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from urllib.parse import urlsplit

from urllib3 import HTTPHeaderDict

from provisioner.adapters.registry.auth import Auth, Challenge, read_challenge
from provisioner.adapters.registry.http import (
    MAX_REDIRECTS,
    Downgrade,
    OutOfOrder,
    Receive,
    RedirectLoop,
    Reply,
    Request,
    RequestFailed,
    T,
    is_downgrade,
    join_url,
    origin_of,
    read_reason,
    redirect_target,
    up_to,
)
from provisioner.adapters.registry.retry import Sender
from provisioner.domain.registry.image_problems import captive_portal, denied, no_such_service, unreachable

_HUB = "docker.io"
_HUB_API = "registry-1.docker.io"
_FIRST_BYTES = 4096
_MAX_CHALLENGES = 10
# What a repository answers that hides from clients without a login.
_HIDING = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)

# 412: Harbor, for an image that a policy of its project blocks. 451: the law of a country.
_REFUSED = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.PRECONDITION_FAILED,
    HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS,
)


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
        self._doubt = ""
        self._is_out_of_order = False
        self._base_challenge: Challenge | None = None

    def ask(self, path: str, receive: Receive[T], repository: str, request: Request | None = None) -> Reply[T]:
        """Return the reply to `path` (below /v2/, or a whole URL); its status is not that of a refusal.

        `request` gives method, headers and extra time. A login is sent to the registry's own host alone, and after a
        redirect to a place beside the API only where it asks for one: a presigned address admits no second login.
        """
        self.require_registry()
        template = request or Request("")
        url, answered = join_url(f"{self.base}/v2/", path), set[str]()
        if url is None:
            raise RequestFailed(unreachable(self._address, "an address that it names is not one of http"))
        for _ in range(MAX_REDIRECTS):
            at_home = origin_of(url) == origin_of(self.base)
            credential = self._auth.header(repository) if at_home and (url in answered or _is_api(url)) else None
            reply = self._send(_addressed(template, url, credential), receive)
            if at_home and url not in answered and credential is None and self._is_hidden(reply, repository):
                self._auth.answer(repository, self._base_challenge or Challenge(False), None)
                answered.add(url)
            elif reply.status == HTTPStatus.UNAUTHORIZED and at_home:
                self._log_in(reply, repository, credential, answered=url in answered)
                answered.add(url)
            elif (target := redirect_target(reply, self._address)) is not None:
                # What a tag means is known from this answer alone; a blob is verified by the digest it is asked for.
                if is_downgrade(url, target) and "/blobs/" not in path:
                    raise Downgrade(self._address, url, target)
                url = target
            elif reply.status in _REFUSED:
                raise RequestFailed(denied(reply.host, reply.status, read_reason(reply.received)))
            else:
                return self._without_doubt(reply)
        raise RedirectLoop(self._address)

    def _send(self, request: Request, receive: Receive[T]) -> Reply[T]:
        """Send nothing more in this session after /v2/ and a request for a repository ended in OutOfOrder."""
        try:
            return self._sender.send(request, receive)
        except OutOfOrder as failed:
            if self._is_out_of_order:
                self._is_registry = failed
            raise

    def _is_hidden(self, reply: Reply[T], repository: str) -> bool:
        """Return whether to log in as /v2/ asked: the repository hides itself and does not ask."""
        return (
            self._base_challenge is not None
            and reply.status in _HIDING
            and _challenge_of(reply) is None
            and self._auth.has_login(repository)
        )

    def _without_doubt(self, reply: Reply[T]) -> Reply[T]:
        """Return the reply. Raises RequestFailed where neither it nor /v2/ shows that this is a registry."""
        is_other = reply.status == HTTPStatus.NOT_FOUND or _is_page(reply)
        if self._doubt and is_other and not _has_api_version(reply):
            raise RequestFailed(no_such_service(self._address, self._doubt))
        return reply

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
        """OCI requires only the 200; older registries are known by their header or their challenge.

        Engines use nothing of this reply but its challenge, and some proxies pass on the repositories alone or answer
        here with a word. So after any other reply the first one about a repository decides.
        """
        try:
            reply = self._sender.follow(Request(f"{self.base}/v2/"), up_to(_FIRST_BYTES), self._address)
        except RedirectLoop:
            raise RequestFailed(no_such_service(self._address, "it redirects without end")) from None
        except OutOfOrder:
            self._is_out_of_order = True
            return True
        if reply.status == HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED or self._is_page_of_another_host(reply):
            raise RequestFailed(captive_portal(self._address, reply.host))
        if reply.status == HTTPStatus.UNAUTHORIZED:
            self._base_challenge = _challenge_of(reply)
        if not _is_registry(reply):
            self._doubt = f"its /v2/ answers HTTP {reply.status}, but not as a registry does"
        return True

    def _is_page_of_another_host(self, reply: Reply[bytes]) -> bool:
        """No registry answers /v2/ by a page on another host; the login page of a network does."""
        return _is_page(reply) and urlsplit(reply.url).hostname != urlsplit(self.base).hostname

    def _log_in(self, reply: Reply[T], repository: str, rejected: str | None, *, answered: bool) -> None:
        challenge = _challenge_of(reply)
        if answered or challenge is None:
            raise self._auth.refusal(repository, challenge, read_reason(reply.received))
        self._auth.answer(repository, challenge, rejected)


def _has_api_version(reply: Reply[T]) -> bool:
    return "Docker-Distribution-Api-Version" in reply.headers


def _challenge_of(reply: Reply[T]) -> Challenge | None:
    lines = reply.headers.getlist("WWW-Authenticate") if isinstance(reply.headers, HTTPHeaderDict) else ()
    return read_challenge(*lines[:_MAX_CHALLENGES])


def _is_page(reply: Reply[T]) -> bool:
    return reply.headers.get("Content-Type", "").lower().startswith("text/html")


def _is_api(url: str) -> bool:
    return urlsplit(url).path.startswith("/v2/")


def _is_registry(reply: Reply[bytes]) -> bool:
    if _has_api_version(reply):
        return True
    if reply.status == HTTPStatus.UNAUTHORIZED:
        return _challenge_of(reply) is not None
    return reply.status == HTTPStatus.OK and _is_json_object(reply.received)


def _is_json_object(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False


def _addressed(template: Request, url: str, credential: str | None) -> Request:
    headers = dict(template.headers) | ({} if credential is None else {"Authorization": credential})
    return replace(template, url=url, headers=headers)
