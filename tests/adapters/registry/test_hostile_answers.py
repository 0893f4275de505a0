"""Whatever a registry sends: a report in time that grows with its length, and never an exception of ours."""

import json
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.adapters.registry.auth import read_challenge
from provisioner.adapters.registry.client import Registry
from provisioner.adapters.registry.http import Reply, join_url, read_reason, read_size
from provisioner.adapters.registry.reader import _next_link
from provisioner.adapters.registry.retry import _retry_after
from provisioner.adapters.registry.transport import RetryPolicy
from provisioner.domain.registry.manifest import read_config, read_manifest, read_tags
from provisioner.domain.values.problem import ProblemError
from provisioner.domain.values.reference import ImageReference
from tests.adapters.registry.made_image import an_image
from tests.adapters.registry.scripted_registry import (
    API,
    Answer,
    ReceivedRequest,
    ScriptedRegistry,
    ranged,
    served,
)

AMD64 = "linux/amd64"
REPOSITORY = "pytorch/pytorch"
REFERENCE = ImageReference(repository=REPOSITORY, tag="1")
IMAGE = an_image()
FAIL_FAST = RetryPolicy(connect=2, read=5, whole=10, attempts=2, first_wait=0.001, longest_wait=0.01)
DEEP = b"[" * 100_000
LINEAR_SECONDS = 0.5  # for 64 kB: the quadratic patterns took 70 s

HOSTILE_HEADERS = [
    'Bearer realm="' * 4500,
    "Bearer " + "a " * 32_000,
    "Basic" + " ," * 32_000,
    "Bearer " + "a=" * 32_000,
    "<" * 64_000,
    "<a>;" + " " * 64_000,
    "<a>" + "; rel" * 12_000,
    "<a>" + ";rel=" * 12_000,
]


@pytest.mark.parametrize("text", HOSTILE_HEADERS)
def test_headers_are_read_in_linear_time(text: str) -> None:
    began = time.monotonic()
    read_challenge(text)
    _next_link(Reply(200, {"Link": text}, "http://h/v2/r/tags/list", b""))
    assert time.monotonic() - began < LINEAR_SECONDS


@given(st.text() | st.sampled_from(HOSTILE_HEADERS), st.text())
def test_headers_are_read_without_an_exception(text: str, given_url: str) -> None:
    read_challenge(text)
    assert read_size(text) is None or text.isascii()
    seconds = _retry_after(text)
    assert seconds is None or seconds >= 0
    target = join_url("http://h/v2/", given_url)
    assert target is None or target.startswith("http")


@pytest.mark.parametrize(
    "text", ["9" * 5000, "Mon, 01 Jan 2026 00:00:00 +99999999999999", "Mon, 32 Jan 2026", "٣", "-1", "", "9" * 30]
)
def test_a_retry_time_that_is_none_is_ignored(text: str) -> None:
    assert _retry_after(text) is None


@given(st.binary() | st.sampled_from([DEEP, b'{"errors": 1}', b'{"errors": [[]]}', b'{"errors":[{"message":{}}]}']))
def test_the_reason_of_a_server_is_one_printable_line(body: bytes) -> None:
    reason = read_reason(body)
    assert len(reason) <= 200
    assert all(character.isprintable() for character in reason)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"errors":[{"code":"DENIED","message":"not on the list,\\nask ops@lab"}]}', "not on the list, ask ops@lab"),
        (b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}', ""),
        (b'{"errors":[{"code":"NAME_UNKNOWN"}]}', ""),
        (b"<Error><Code>RequestTimeTooSkewed</Code></Error>", "RequestTimeTooSkewed"),
        (b"<title>400 Bad Request</title>", "400 Bad Request"),
        (b'{"details":"incorrect username or password"}', "incorrect username or password"),
        (b'{"error":"invalid_grant","error_description":"expired"}', "expired"),
        (b'{"errors":"blocked"}', "blocked"),
        (b'{"error":{"a":1}}', ""),
        (b"blocked by the firewall\n", "blocked by the firewall"),
        (b"\x1b[2J\nx", ""),
        (b"[", ""),
    ],
)
def test_the_reason_of_a_server_is_shown(body: bytes, reason: str) -> None:
    assert read_reason(body) == reason


REFUSALS = {
    "policy": (Answer(412, API, b'{"errors":[{"code":"PROJECTPOLICYVIOLATION","message":"blocked"}]}'), "denied"),
    "law": (Answer(451, API, b"blocked"), "denied"),
    "clock": (Answer(403, {}, b"<Error><Code>RequestTimeTooSkewed</Code></Error>"), "denied"),
    "limit": (
        Answer(429, {"Retry-After": "9"}, b'{"errors":[{"code":"TOOMANYREQUESTS","message":"blocked"}]}'),
        "limited",
    ),
    "login": (Answer(401, API, b'{"errors":[{"code":"UNAUTHORIZED","message":"blocked"}]}'), "denied"),
    "outage": (Answer(503, {}, b"<title>blocked</title>"), "unknown"),
    "gone": (Answer(404, API, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"blocked"}]}'), "absent"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_the_reason_of_a_refusal_is_in_the_problem(name: str) -> None:
    answer, state = REFUSALS[name]
    report = check(lambda asked: answer if "/manifests/" in asked.path else None)
    said = "RequestTimeTooSkewed" if name == "clock" else "blocked"
    assert (report.state, said in report.problems[0].what) == (state, True)
    assert ("clock" in report.problems[0].fix) == (name == "clock")


def test_the_reason_of_a_missing_layer_is_in_the_problem() -> None:
    answer = Answer(404, API, b'{"errors":[{"code":"BLOB_UNKNOWN","message":"upstream limit reached"}]}')
    report = check(lambda asked: answer if asked.path.endswith(IMAGE.layers[0]) else None)
    assert (report.state, "upstream limit reached" in report.problems[0].what) == ("partial", True)


def test_the_reason_of_a_token_service_is_in_the_problem() -> None:
    def script(asked: ReceivedRequest) -> Answer | None:
        if asked.path.startswith("/token"):
            return Answer(401, {}, b'{"details":"account is locked"}')
        return Answer(401, API | {"WWW-Authenticate": f'Bearer realm="http://{asked.headers["Host"]}/token"'})

    assert "account is locked" in check(script).problems[0].what


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda below: (
        st.lists(below, max_size=4)
        | st.dictionaries(
            st.sampled_from(["manifests", "layers", "config", "tags", "digest", "size", "platform", "Env", "history"]),
            below,
            max_size=4,
        )
    ),
)
BODIES = st.binary(max_size=50) | JSON.map(lambda value: json.dumps(value).encode()) | st.just(DEEP)


@given(BODIES)
def test_a_document_is_read_or_refused_with_a_reason(body: bytes) -> None:
    for read in (read_tags, read_manifest, read_config):
        with suppress(ValueError):
            read(body)


def test_an_image_of_very_many_layers_is_refused() -> None:
    layer = {"digest": f"sha256:{'a' * 64}", "size": 1}
    manifest = {"config": layer | {"mediaType": "application/octet-stream"}, "layers": [layer] * 1001}
    with pytest.raises(ValueError, match="layers"):
        read_manifest(json.dumps(manifest).encode())


class Scripted:
    """A registry that answers a request whose path contains `at` by `answer`, and is healthy otherwise."""

    def __init__(self) -> None:
        self.at, self.answer = "", Answer()

    def script(self, asked: ReceivedRequest) -> Answer | None:
        return self.answer if self.at in asked.path else None


@pytest.fixture(scope="module")
def hostile() -> Iterator[tuple[ScriptedRegistry, Scripted]]:
    scripted = Scripted()
    registry = ScriptedRegistry(scripted.script)
    registry.put(REPOSITORY, "1", IMAGE)
    with served(registry):
        yield registry, scripted


HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "Link",
            "Location",
            "WWW-Authenticate",
            "Content-Range",
            "Docker-Content-Digest",
            "Retry-After",
            "Content-Type",
        ]
    ),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40)
    | st.sampled_from(
        [
            "http://[::1/token",
            "http://h:99999/",
            "ftp://h/",
            "//",
            f"bytes 0-{'9' * 5000}/9",
            'Bearer realm="http://[::1/token"',
            'Bearer realm="//"',
            'Basic realm="x"',
            "<http://h:99999/>; rel=next",
            "9" * 5000,
        ]
    ),
    max_size=2,
)


@given(
    at=st.sampled_from(["/v2/", "/manifests/", "/blobs/", "/tags/"]),
    status=st.sampled_from([200, 206, 301, 307, 400, 401, 403, 404, 416, 418]),
    headers=HEADERS,
    body=BODIES,
)
def test_every_answer_ends_in_a_report_or_a_problem(
    hostile: tuple[ScriptedRegistry, Scripted], at: str, status: int, headers: dict[str, str], body: bytes
) -> None:
    registry, scripted = hostile
    scripted.at, scripted.answer = at, Answer(status, API | headers, body)
    with Registry(registry.host, plain_http=True, policy=FAIL_FAST, environment={}, connections=2) as mirror:
        report = mirror.check([REFERENCE], AMD64)[0]
        assert report.problems or report.state == "complete"
        for ask in (lambda: mirror.tags(REPOSITORY), lambda: mirror.digest(REFERENCE)):
            with suppress(ProblemError):
                ask()


def check(script: Callable[[ReceivedRequest], Answer | None], **environment: str) -> Any:
    registry = ScriptedRegistry(script)
    registry.put(REPOSITORY, "1", IMAGE)
    with (
        served(registry),
        Registry(registry.host, plain_http=True, policy=FAIL_FAST, environment=environment) as mirror,
    ):
        return mirror.check([REFERENCE], AMD64)[0]


@pytest.mark.parametrize(
    "token", [DEEP, b'{"token":"x","expires_in":1e999}', b'{"token":"x","expires_in":' + b"9" * 400 + b"}"]
)
def test_a_token_service_that_sends_anything_is_no_fault_of_ours(token: bytes) -> None:
    def script(asked: ReceivedRequest) -> Answer | None:
        if asked.path.startswith("/token"):
            return Answer(200, {}, token)
        if asked.headers.get("Authorization") == "Bearer x":
            return None
        return Answer(401, API | {"WWW-Authenticate": f'Bearer realm="http://{asked.headers["Host"]}/token"'})

    assert check(script).state in {"unknown", "complete"}


def test_lists_of_tags_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provisioner.adapters.registry.reader._MAX_TAGS", 1000)

    def script(asked: ReceivedRequest) -> Answer | None:
        if "/tags/list" not in asked.path:
            return None
        page = int(asked.path.partition("?n=")[2] or 0)
        body = json.dumps({"tags": [f"{page}.{number}" for number in range(100)]}).encode()
        return Answer(200, API | {"Link": f'</v2/{REPOSITORY}/tags/list?n={page + 1}>; rel="next"'}, body)

    registry = ScriptedRegistry(script)
    with (
        served(registry),
        Registry(registry.host, plain_http=True, policy=FAIL_FAST, environment={}) as mirror,
        pytest.raises(ProblemError, match="no end"),
    ):
        mirror.tags(REPOSITORY)
    assert len(registry.asked) < 20


def log_in(home: Path, entry: str = "") -> Callable[[str], dict[str, str]]:
    def at(host: str) -> dict[str, str]:
        auth = b64encode(b"alice:secret").decode()
        (home / "config.json").write_text(json.dumps({"auths": {f"{host}{entry}": {"auth": auth}}}))
        return {"DOCKER_CONFIG": str(home)}

    return at


def check_with_login(home: Path, script: Callable[[ReceivedRequest], Answer | None]) -> tuple[str, ScriptedRegistry]:
    registry = ScriptedRegistry(script)
    registry.put(REPOSITORY, "1", IMAGE)
    with (
        served(registry),
        Registry(registry.host, plain_http=True, policy=FAIL_FAST, environment=log_in(home)(registry.host)) as mirror,
    ):
        return mirror.check([REFERENCE], AMD64)[0].state, registry


@pytest.mark.parametrize("hidden", [404, 401])
def test_a_repository_that_hides_is_asked_with_the_login_that_the_registry_wants(tmp_path: Path, hidden: int) -> None:
    def script(asked: ReceivedRequest) -> Answer | None:
        if asked.headers.get("Authorization"):
            return None
        if asked.path == "/v2/":
            return Answer(401, API | {"WWW-Authenticate": 'Basic realm="x"'})
        return Answer(hidden, API)

    assert check_with_login(tmp_path, script)[0] == "complete"


def test_a_presigned_address_of_the_same_host_gets_no_second_login(tmp_path: Path) -> None:
    def script(asked: ReceivedRequest) -> Answer | None:
        if asked.path.startswith("/bucket/"):
            if asked.headers.get("Authorization"):
                return Answer(400, {}, b"only one way to log in")
            return ranged(IMAGE.blobs[asked.path.split("/")[2].partition("?")[0]], asked)
        if not asked.headers.get("Authorization"):
            return Answer(401, API | {"WWW-Authenticate": 'Basic realm="x"'})
        if "/blobs/" in asked.path:
            return Answer(307, {"Location": f"/bucket/{asked.path.rpartition('/')[2]}?X-Amz-Signature=1"})
        return None

    assert check_with_login(tmp_path, script)[0] == "complete"


@pytest.mark.parametrize("to", ["same", "other"])
def test_a_token_service_that_redirects_gets_the_login_on_its_own_host_alone(tmp_path: Path, to: str) -> None:
    def script(asked: ReceivedRequest) -> Answer | None:
        host = asked.headers["Host"]
        if asked.path.startswith("/token"):
            new = host if to == "same" else host.replace("127.0.0.1", "localhost")
            return Answer(301, {"Location": f"http://{new}/real{asked.path[6:]}"})
        if asked.path.startswith("/real"):
            return Answer(200, {}, b'{"token":"abc"}')
        if asked.headers.get("Authorization") == "Bearer abc":
            return None
        return Answer(401, API | {"WWW-Authenticate": f'Bearer realm="http://{host}/token",service="x"'})

    state, registry = check_with_login(tmp_path, script)
    assert state == "complete"  # engines, too, take a token that needs no login
    sent = {"Authorization" in asked.headers for asked in registry.asked if asked.path.startswith("/real")}
    assert sent == {to == "same"}
