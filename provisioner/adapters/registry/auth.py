"""Logging in as the distribution project describes it (docs/content/spec/auth/token.md): Basic, and Bearer tokens."""

import json
import re
import threading
import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from provisioner.adapters.registry.docker_config import Login, UnusableLogin, find_login
from provisioner.adapters.registry.http import Refused, Reply, Request, up_to
from provisioner.adapters.registry.retry import Sender
from provisioner.domain.registry.image_problems import auth_failed, unreachable

_CHALLENGE = re.compile(r'\b(Basic|Bearer)\b((?:\s*,?\s*\w+\s*=\s*(?:"[^"]*"|[^\s",]+))*)', re.IGNORECASE)
_PARAMETER = re.compile(r'(\w+)\s*=\s*(?:"([^"]*)"|([^\s",]+))')
_TOKEN = re.compile(r"[\x21-\x7e]+")
_DEFAULT_SECONDS = 60  # where the reply does not say; the specification's own
_REFRESH_AT = 0.8
_TOKEN_REPLY = 1 << 20


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a 401 asks for. A Basic one has no parameter that matters."""

    bearer: bool
    realm: str = ""
    service: str = ""
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Token:
    """`header` is secret. Not used after `until`, on the monotonic clock."""

    header: str = field(repr=False)
    until: float


def read_challenge(text: str) -> Challenge | None:
    """The best of what a WWW-Authenticate header offers; None where that is neither Bearer nor Basic."""
    offers = [(scheme.lower(), _parameters(rest)) for scheme, rest in _CHALLENGE.findall(text)]
    for scheme, given in offers:
        if scheme == "bearer" and "realm" in given:
            return Challenge(True, given["realm"], given.get("service", ""), given.get("scope", ""))
    return Challenge(False) if any(scheme == "basic" for scheme, _ in offers) else None


def _parameters(text: str) -> dict[str, str]:
    return {name.lower(): quoted or bare for name, quoted, bare in _PARAMETER.findall(text)}


class Auth:
    """The login to one registry: found when it is first asked for, kept in memory, told to nobody else."""

    def __init__(self, sender: Sender, address: str, home: str, environment: Mapping[str, str]) -> None:
        self._sender = sender
        self._address = address
        self._home = urlsplit(home)
        self._environment = environment
        self._lock = threading.RLock()
        self._challenges: dict[str, Challenge] = {}
        self._tokens: dict[Challenge, Token] = {}
        self._failed: dict[Challenge, Refused] = {}
        self._login: tuple[Login | None] | None = None

    def header(self, repository: str) -> str | None:
        """What to send with a request for `repository`; None until a challenge came. Raises Refused."""
        with self._lock:
            challenge = self._challenges.get(repository)
            return None if challenge is None else self._credential(challenge, rejected=None)

    def answer(self, repository: str, challenge: Challenge, rejected: str | None) -> None:
        """Gets what a 401 asked for, in place of the `rejected` header. Raises Refused."""
        if challenge.bearer and not challenge.scope:
            scope = f"repository:{repository}:pull"
            challenge = Challenge(True, challenge.realm, challenge.service, scope)
        with self._lock:
            self._challenges[repository] = challenge
            self._credential(challenge, rejected)

    def refusal(self, challenge: Challenge | None) -> Refused:
        """What a 401 means that stays. A password is then not tried again: accounts get locked."""
        refused = self._refusal()
        if challenge is not None and not challenge.bearer:
            self._failed[challenge] = refused
        return refused

    def _refusal(self) -> Refused:
        login = self._found_login()
        reason = "no login is known here" if login is None else f"the login from {login.source} was not accepted"
        return Refused(auth_failed(self._address, reason))

    def _credential(self, challenge: Challenge, rejected: str | None) -> str:
        if challenge in self._failed:
            raise self._failed[challenge]
        held = self._tokens.get(challenge)
        if held is None or held.header == rejected or time.monotonic() >= held.until:
            held = self._tokens[challenge] = self._obtain(challenge, rejected)
        return held.header

    def _obtain(self, challenge: Challenge, rejected: str | None) -> Token:
        if challenge.bearer:
            return self._fetch(challenge)
        login = self._found_login()
        if login is None or login.token or rejected is not None:
            raise self._final(challenge)
        return Token(_basic(login), float("inf"))

    def _final(self, challenge: Challenge) -> Refused:
        refused = self._failed[challenge] = self._refusal()
        return refused

    def _found_login(self) -> Login | None:
        with self._lock:
            if self._login is None:
                try:
                    self._login = (find_login(self._address, self._environment),)
                except UnusableLogin as unusable:
                    raise Refused(auth_failed(self._address, str(unusable))) from None
            return self._login[0]

    def _fetch(self, challenge: Challenge) -> Token:
        asked_at = time.monotonic()
        reply = self._sender.send(self._token_request(challenge), up_to(_TOKEN_REPLY))
        if reply.status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise self._final(challenge)
        text, seconds = _read_token(reply)
        return Token(f"Bearer {text}", asked_at + _REFRESH_AT * seconds)

    def _token_request(self, challenge: Challenge) -> Request:
        realm, login = urlsplit(challenge.realm), self._found_login()
        if login is not None and not self._may_have_login(challenge.realm):
            reason = f"its token service {realm.netloc} is not on TLS, so the login from {login.source} was not sent"
            raise Refused(auth_failed(self._address, reason))
        asked = {name: value for name in ("service", "scope") if (value := getattr(challenge, name))}
        if login is not None and login.token:
            form = asked | {"grant_type": "refresh_token", "client_id": "provisioner", "refresh_token": login.secret}
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            return Request(challenge.realm, "POST", headers, urlencode(form).encode())
        query = urlencode([*parse_qsl(realm.query), *asked.items()])
        headers = {} if login is None else {"Authorization": _basic(login)}
        return Request(urlunsplit(realm._replace(query=query, fragment="")), headers=headers)

    def _may_have_login(self, realm: str) -> bool:
        """Over TLS; or in plain text to the very host that the user said to reach in plain text."""
        to = urlsplit(realm)
        return to.scheme == "https" or (self._home.scheme == "http" and to.hostname == self._home.hostname)


def _basic(login: Login) -> str:
    return f"Basic {b64encode(f'{login.user}:{login.secret}'.encode()).decode()}"


def _read_token(reply: Reply[bytes]) -> tuple[str, float]:
    """The token, and for how many seconds it is good."""
    try:
        answer = json.loads(reply.received) if reply.status == HTTPStatus.OK else {}
        text = answer.get("token") or answer.get("access_token")
        seconds = float(answer.get("expires_in") or _DEFAULT_SECONDS)
    except (ValueError, TypeError, AttributeError):
        text, seconds = None, 0
    if not isinstance(text, str) or not _TOKEN.fullmatch(text):
        raise Refused(unreachable(reply.host, f"its token service gave no token (HTTP {reply.status})"))
    return text, seconds
