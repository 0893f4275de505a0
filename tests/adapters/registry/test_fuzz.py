"""Answers of a healthy registry, each changed at random: a report or a problem, never an exception of ours.

No socket is used. `make test-long PART=fuzz` tries 20,000 answers: a thousand seeds with twenty each.
"""

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from random import Random
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3 import BaseHTTPResponse, HTTPHeaderDict, HTTPResponse

from provisioner.adapters.registry.client import Registry
from provisioner.adapters.registry.transport import RetryPolicy, Transport
from provisioner.domain.values.problem import ProblemError
from provisioner.domain.values.reference import ImageReference
from tests.adapters.registry.made_image import an_image, an_index
from tests.adapters.registry.scripted_registry import API, Answer, ReceivedRequest, ScriptedRegistry
from tests.costly import costly

AMD64, HOST, REPOSITORY = "linux/amd64", "mirror.lab", "pytorch/pytorch"
REFERENCE = ImageReference(repository=REPOSITORY, tag="1")
POLICY = RetryPolicy(attempts=2, first_wait=0, longest_wait=0.001)
IMAGE = an_image()
IMAGES = (IMAGE, an_index((AMD64, IMAGE)))
ANSWERS = 20  # of one seed
PLACES = ("/v2/", "/token", "/manifests/1", "/manifests/sha256:", "/blobs/", "/tags/")
STATUSES = (200, 200, 200, 201, 204, 206, 301, 302, 307, 400, 401, 403, 404, 412, 416, 429, 451, 500, 503)
TEXTS = ("", "x", "\ud800", "\x1b[2J", "é" * 300, "sha256:" + "0" * 64, "linux", "\u202e", "9" * 30, "a\nb", "null")
NAMES = (
    "layers",
    "Layers",
    "config",
    "manifests",
    "digest",
    "size",
    "platform",
    "token",
    "tags",
    "rootfs",
    "mediaType",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1 << 70,
    1.5,
    float("nan"),
    float("inf"),
    [],
    {},
    [None],
    {"a": None},
    [[]],
)
HEADERS = {
    "Content-Type": ("text/html", ";;", "application/json", "multipart/byteranges; boundary=x", "\xff"),
    "Docker-Content-Digest": ("zzz", "sha256:" + "A" * 64, ", ,", "sha512:" + "0" * 128),
    "Link": ("<>; rel=next", "<http://[::1>; rel=next", "</v2/x>; rel=next", "<ftp://h>; rel=next"),
    "Location": ("", "//", "http://[::1", "http://h:99999/", "/v2/", "file:///x", "http://other/x", "https://é/"),
    "WWW-Authenticate": ("Bearer", 'Bearer realm="//"', 'Bearer realm="http://[x"', "Basic", 'Bearer realm="\\'),
    "Content-Range": ("bytes 0-0/*", "bytes 9-1/5", f"bytes 0-0/{'9' * 40}", "x"),
    "Content-Length": ("x", "-1", "5, 5", "9" * 30),
    "Content-Encoding": ("gzip", "br", "x"),
    "Retry-After": ("-1", "x", "9" * 99, "Mon, 99 Jan 2026 99:99:99 GMT"),
}


class Mirror:
    """Answers in memory. The next answer for a path with `place` in it is changed by `random`."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.place = random.choice(PLACES)
        self.wants_token = self.place == "/token" or random.random() < 0.2
        self.healthy = ScriptedRegistry(self._tokens)
        self.healthy.put(REPOSITORY, "1", random.choice(IMAGES))

    def _tokens(self, asked: ReceivedRequest) -> Answer | None:
        if asked.path.startswith("/token"):
            return Answer(200, {}, b'{"token":"abc","expires_in":300,"issued_at":"2026-01-01T00:00:00Z"}')
        if not self.wants_token or "Authorization" in asked.headers:
            return None
        return Answer(401, API | {"WWW-Authenticate": f'Bearer realm="http://{HOST}/token",service="x"'})

    def exchange(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, _: float) -> Any:
        parts = urlsplit(url)
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        answer = self.healthy.answer(ReceivedRequest(method, path, dict(headers), body or b""))
        if self.place in path:
            answer = changed(answer, self.random)
        return response(method, answer)


def response(method: str, answer: Answer) -> BaseHTTPResponse:
    named = HTTPHeaderDict({"Content-Length": str(len(answer.body))} | dict(answer.headers))
    return HTTPResponse(
        io.BytesIO(b"" if method == "HEAD" else answer.body),
        named,
        answer.status,
        preload_content=False,
        decode_content=False,
        enforce_content_length=True,
        request_method=method,
    )


def changed(answer: Answer, random: Random) -> Answer:
    status = random.choice(STATUSES) if random.random() < 0.4 else answer.status
    headers = dict(answer.headers)
    for _ in range(random.randrange(3)):
        name = random.choice(list(HEADERS))
        headers[name] = random.choice(HEADERS[name])
    return Answer(status, headers, changed_body(answer.body, random))


def changed_body(body: bytes, random: Random) -> bytes:
    how = random.randrange(5)
    if how == 0:
        return body[: random.randrange(len(body) + 1)]
    if how == 1:
        return random.choice([b"", b"[" * 3000, b'{"a":' * 3000, b"\xef\xbb\xbf{}", b"<html>", random.randbytes(50)])
    with suppress(ValueError, UnicodeDecodeError):
        document = json.loads(body)
        for _ in range(random.randrange(1, 4)):
            change_document(document, random)
        return json.dumps(document).encode()
    return body


def change_document(node: Any, random: Random) -> None:
    """Replace, add, rename or remove something somewhere in a document."""
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
        if not keys:
            return
        key = random.choice(keys)
        if isinstance(node[key], dict | list) and random.random() < 0.7:
            node = node[key]
            continue
        if isinstance(node, dict) and random.random() < 0.3:
            node[random.choice([*NAMES, *TEXTS, str(key).upper()])] = node.pop(key)
        else:
            node[key] = random.choice([*VALUES, *TEXTS])
        return


@contextmanager
def through(mirror: Mirror) -> Iterator[Registry]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transport, "exchange", lambda _, *given: mirror.exchange(*given))
        with Registry(HOST, plain_http=True, policy=POLICY, environment={}, connections=2) as registry:
            yield registry


@costly
@given(st.integers(0, 1 << 32))
def test_no_answer_ends_in_an_exception_of_ours(seed: int) -> None:
    random = Random(seed)
    for _ in range(ANSWERS):
        with through(Mirror(random)) as registry:
            report = registry.check([REFERENCE], AMD64)[0]
            assert report.problems or report.state == "complete"
            assert all(problem.what.isprintable() for problem in report.problems)
            report.model_dump_json().encode()
            for ask in (registry.tags, registry.held):
                with suppress(ProblemError):
                    ask(REPOSITORY)
            with suppress(ProblemError):
                registry.digest(REFERENCE)
            with suppress(ProblemError):
                registry.identity(REFERENCE, AMD64)
