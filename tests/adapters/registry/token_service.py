"""A token service for a scripted registry, and the registry's check of its tokens."""

import json
import threading
from urllib.parse import parse_qs, urlsplit

from tests.adapters.registry.scripted_registry import API, Answer, ReceivedRequest


class TokenService:
    """Issues a token for each scope, valid for `uses` requests; requires `login` if it is set."""

    def __init__(self, *, uses: int = 1000, login: str | None = None, seconds: int | None = 300) -> None:
        self.uses, self.login, self.seconds = uses, login, seconds
        self.realm = ""
        self.issued: list[dict[str, str]] = []
        self._left: dict[str, int] = {}
        self._scopes: dict[str, str] = {}
        self._lock = threading.Lock()

    def tokens(self, asked: ReceivedRequest) -> Answer | None:
        """The script of the host that issues tokens."""
        url = urlsplit(asked.path)
        if url.path != "/token":
            return None
        query = {name: values[0] for name, values in parse_qs(url.query or asked.body.decode()).items()}
        with self._lock:
            self.issued.append(query)
            token = f"token-{len(self.issued)}"
            self._left[token], self._scopes[token] = self.uses, query.get("scope", "")
        if self.login is not None and asked.headers.get("Authorization") != self.login:
            return Answer(401)
        body = {"access_token" if len(self.issued) % 2 else "token": token}
        return Answer(200, {}, json.dumps(body | ({"expires_in": self.seconds} if self.seconds else {})).encode())

    def guard(self, asked: ReceivedRequest) -> Answer | None:
        """The script of the registry."""
        repository = "/".join(asked.path.split("/")[2:4])
        token = asked.headers.get("Authorization", "").removeprefix("Bearer ")
        scope = f"repository:{repository}:pull"
        with self._lock:
            if self._left.get(token, 0) > 0 and self._scopes[token] == scope:
                self._left[token] -= 1
                return None
        return Answer(401, API | {"WWW-Authenticate": f'Bearer realm="{self.realm}",service="lab",scope="{scope}"'})
