"""Logins as the distribution project describes them (docs/content/spec/auth/token.md): Basic, and Bearer tokens."""

import re
import threading
import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from pydantic import ValidationError

from provisioner.adapters.registry.docker_config import Login, UnusableLogin, find_login
from provisioner.adapters.registry.http import (
    MAX_REDIRECTS,
    RedirectLoop,
    Reply,
    Request,
    RequestFailed,
    is_success,
    join_url,
    origin_of,
    read_reason,
    redirect_target,
    up_to,
)
from provisioner.adapters.registry.retry import Sender
from provisioner.domain.registry.go_json import GoStruct, Time, WholeNumber, read_object
from provisioner.domain.registry.image_problems import auth_failed, unreachable

# One parameter, else one word, else one other character. No part can match in two ways, so reading a header takes time
# in proportion to its length, whatever a server sends.
# A value without quotes is a token of RFC 9110, as engines read it: it holds no colon, and so no URL.
_ITEM = re.compile(
    r'(?P<name>\w++)\s*+=\s*+(?:"(?P<quoted>(?:[^"\\]|\\.)*+)"|(?P<bare>[\w!#$%&\'*+.^`|~-]++))|(?P<word>\w++)|[^\w]'
)
_MAX_CHALLENGE = 1 << 14  # characters of the header that are read; a real one has a few hundred
_TOKEN = re.compile(r"[\x21-\x7e]{1,65536}")
_LONGEST_VALID = 86_400.0  # seconds
_DEFAULT_SECONDS = 60  # if the reply names no time; from the specification
_REFRESH_AT = 0.8
_TOKEN_REPLY = 1 << 20


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a 401 asks for. The parameters of a Basic challenge are not used."""

    bearer: bool
    realm: str = ""
    service: str = ""
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Token:
    """`header` is secret. It is not used after `until`, on the monotonic clock."""

    header: str = field(repr=False)
    until: float


def read_challenge(*lines: str) -> Challenge | None:
    """Return the Bearer challenge of WWW-Authenticate headers, else the Basic one; None without either.

    Engines read the first challenge of each line.
    """
    offers = [offer for line in lines for offer in _read_offers(line[:_MAX_CHALLENGE])[:1]]
    for scheme, values in offers:
        if scheme == "bearer" and "realm" in values:
            return Challenge(True, values["realm"], values.get("service", ""), values.get("scope", ""))
    return Challenge(False) if any(scheme == "basic" for scheme, _ in offers) else None


def _read_offers(text: str) -> list[tuple[str, dict[str, str]]]:
    """Return each word (a scheme, in lower case) with the parameters after it."""
    offers: list[tuple[str, dict[str, str]]] = []
    for item in _ITEM.finditer(text):
        if item["word"]:
            offers.append((item["word"].lower(), {}))
        elif item["name"] and offers:
            value = re.sub(r"\\(.)", r"\1", item["quoted"] or "") or item["bare"] or ""
            offers[-1][1].setdefault(item["name"].lower(), value)
    return offers


class Auth:
    """The login to one registry: looked up at the first challenge, kept in memory, sent to no other host."""

    def __init__(self, sender: Sender, address: str, home: str, environment: Mapping[str, str]) -> None:
        """Look nothing up yet. `home`: scheme and host of the registry's API."""
        self._sender = sender
        self._address = address
        self._home = urlsplit(home)
        self._environment = environment
        self._lock = threading.RLock()
        self._challenges: dict[str, Challenge] = {}
        self._tokens: dict[tuple[Challenge, Login | None], Token] = {}
        self._failed: dict[tuple[Challenge, Login | None], RequestFailed] = {}
        self._logins: dict[str, Login | None] = {}
        self._withheld = ""  # why the token service did not get the login

    def header(self, repository: str) -> str | None:
        """Return the Authorization header for `repository`; None before a challenge. Raises RequestFailed."""
        with self._lock:
            challenge = self._challenges.get(repository)
            return None if challenge is None else self._credential(challenge, repository, rejected=None)

    def answer(self, repository: str, challenge: Challenge, rejected: str | None) -> None:
        """Obtain what a 401 asks for, in place of the `rejected` header. Raises RequestFailed."""
        if challenge.bearer:
            challenge = self._checked(repository, challenge)
        with self._lock:
            self._challenges[repository] = challenge
            self._credential(challenge, repository, rejected)

    def has_login(self, repository: str) -> bool:
        """Return whether a login for the repository is configured. Raises RequestFailed where it cannot be used."""
        return self._look_up_login(repository) is not None

    def refusal(self, repository: str, challenge: Challenge | None, said: str) -> RequestFailed:
        """Return the failure of a repeated 401. A password is not tried again: accounts get locked."""
        failed = self._refusal(repository, said)
        if challenge is not None and not challenge.bearer:
            self._failed[challenge, self._look_up_login(repository)] = failed
        return failed

    def _checked(self, repository: str, challenge: Challenge) -> Challenge:
        """Return the challenge with a scope and a whole URL. Raises RequestFailed where its realm is no URL."""
        realm = join_url("", challenge.realm)
        if realm is None:
            raise RequestFailed(unreachable(self._address, "the address of its token service is not one of http"))
        return replace(challenge, realm=realm, scope=challenge.scope or f"repository:{repository}:pull")

    def _refusal(self, repository: str, said: str = "") -> RequestFailed:
        login = self._look_up_login(repository)
        reason = "no login is configured here" if login is None else f"the login from {login.source} was not accepted"
        return RequestFailed(auth_failed(self._address, self._withheld or reason, said))

    def _credential(self, challenge: Challenge, repository: str, rejected: str | None) -> str:
        login = self._look_up_login(repository)
        if (challenge, login) in self._failed:
            raise self._failed[challenge, login]
        token = self._tokens.get((challenge, login))
        if token is None or token.header == rejected or time.monotonic() >= token.until:
            token = self._tokens[challenge, login] = self._obtain(challenge, repository, login, rejected)
        return token.header

    def _obtain(self, challenge: Challenge, repository: str, login: Login | None, rejected: str | None) -> Token:
        if challenge.bearer:
            return self._fetch_token(challenge, repository, login)
        if login is None or login.token or rejected is not None:
            raise self._fail(challenge, repository, login)
        return Token(_basic(login), float("inf"))

    def _fail(self, challenge: Challenge, repository: str, login: Login | None, said: str = "") -> RequestFailed:
        failed = self._failed[challenge, login] = self._refusal(repository, said)
        return failed

    def _look_up_login(self, repository: str) -> Login | None:
        with self._lock:
            if repository not in self._logins:
                try:
                    self._logins[repository] = find_login(self._address, self._environment, repository)
                except UnusableLogin as unusable:
                    raise RequestFailed(auth_failed(self._address, str(unusable))) from None
            return self._logins[repository]

    def _fetch_token(self, challenge: Challenge, repository: str, login: Login | None) -> Token:
        asked_at = time.monotonic()
        reply = self._send_token_request(self._token_request(challenge, login), login)
        if reply.status == HTTPStatus.BAD_REQUEST:
            reason = f"its token service answers HTTP {reply.status:d}"
            raise RequestFailed(unreachable(reply.host, reason, read_reason(reply.received)))
        if reply.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise self._fail(challenge, repository, login, read_reason(reply.received))
        text, seconds = _read_token(reply)
        return Token(f"Bearer {text}", asked_at + _REFRESH_AT * seconds)

    def _send_token_request(self, request: Request, login: Login | None) -> Reply[bytes]:
        """Follow redirects, as engines do. A login is sent on to the same host alone, never from TLS to plain text.

        To another place goes the request without it: a token for everybody may be enough.
        """
        for _ in range(MAX_REDIRECTS):
            reply = self._sender.send(request, up_to(_TOKEN_REPLY))
            target = redirect_target(reply, self._address)
            if target is None:
                return reply
            if login is not None and not self._may_send_on(request.url, target):
                host = origin_of(target)[1]
                self._withheld = f"its token service redirects to {host}, so the login was not sent there"
                if request.body is not None:
                    raise RequestFailed(auth_failed(self._address, self._withheld))
                request = replace(request, headers={})
            request = replace(request, url=target)
        raise RedirectLoop(self._address)

    def _may_send_on(self, before: str, target: str) -> bool:
        return self._may_send_login(target) and origin_of(before)[1] == origin_of(target)[1]

    def _token_request(self, challenge: Challenge, login: Login | None) -> Request:
        realm = urlsplit(challenge.realm)
        if login is not None and not self._may_send_login(challenge.realm):
            reason = (
                f"its token service {realm.hostname} does not use TLS, so the login from {login.source} was not sent"
            )
            raise RequestFailed(auth_failed(self._address, reason))
        parameters = {name: value for name in ("service", "scope") if (value := getattr(challenge, name))}
        if login is not None and login.token:
            form = parameters | {
                "grant_type": "refresh_token",
                "client_id": "provisioner",
                "refresh_token": login.secret,
            }
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            return Request(challenge.realm, "POST", headers, urlencode(form).encode())
        query = urlencode([*parse_qsl(realm.query), *parameters.items()])
        headers = {} if login is None else {"Authorization": _basic(login)}
        return Request(urlunsplit(realm._replace(query=query, fragment="")), headers=headers)

    def _may_send_login(self, realm: str) -> bool:
        """Allow TLS; and plain text to the host for which the user chose plain text."""
        to = urlsplit(realm)
        return to.scheme == "https" or (self._home.scheme == "http" and to.hostname == self._home.hostname)


def _basic(login: Login) -> str:
    return f"Basic {b64encode(f'{login.user}:{login.secret}'.encode()).decode()}"


class _TokenReply(GoStruct):
    """`refresh_token` and `issued_at` are not used: an engine refuses a reply in which they have another type."""

    token: str = ""
    access_token: str = ""
    refresh_token: str = ""
    expires_in: WholeNumber = 0
    issued_at: Time | None = None


def _read_token(reply: Reply[bytes]) -> tuple[str, float]:
    """Return the token and the seconds for which it is valid."""
    reason = f"its token service returned no token (HTTP {reply.status})"
    if not is_success(reply.status):
        raise RequestFailed(unreachable(reply.host, reason, read_reason(reply.received)))
    try:
        read = _TokenReply.model_validate(read_object(reply.received))
    except ValidationError as error:
        field, message = ".".join(map(str, error.errors()[0]["loc"])), error.errors()[0]["msg"]
        raise RequestFailed(unreachable(reply.host, f"{reason[:-1]}, {field}: {message})")) from None
    except ValueError:
        raise RequestFailed(unreachable(reply.host, reason)) from None
    text = read.access_token or read.token
    if not _TOKEN.fullmatch(text):
        raise RequestFailed(unreachable(reply.host, reason))
    return text, min(read.expires_in if read.expires_in > 0 else _DEFAULT_SECONDS, _LONGEST_VALID)
