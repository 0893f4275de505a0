import json
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3 import Retry

from provisioner.adapters.lab.documents import read_document
from provisioner.adapters.lab.lockfile import fetch_lock, lock_text, read_lock, write_lock
from provisioner.adapters.state.files import MAX_BYTES
from provisioner.domain.lab.lock import LockedNode, Lockfile
from provisioner.domain.values.problem import ProblemError
from provisioner.domain.values.version import ComputeCapability
from tests.adapters.registry.small_proxy import SmallProxy, proxying
from tests.builders import TAG, a_lock, a_uuid


def a_locked_node(name: str) -> LockedNode:
    return LockedNode(image=TAG, gpus=(a_uuid(name),), capabilities=(ComputeCapability("12.0"),))


LOGIN = f"Basic {b64encode(b'ann:p@ss').decode()}"
LOCK = a_lock(nodes={name: a_locked_node(name) for name in ("n2", "n10", "n1")})


def test_a_written_lock_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "lab.lock"
    assert read_lock(path) is None
    write_lock(path, LOCK)
    assert read_lock(path) == LOCK
    assert path.read_text() == lock_text(LOCK)


def test_equal_locks_give_equal_bytes() -> None:
    again = Lockfile.model_validate({**LOCK.model_dump(), "nodes": dict(reversed(LOCK.nodes.items()))})
    assert lock_text(again) == lock_text(LOCK)
    assert lock_text(LOCK).endswith("}\n")
    assert list(json.loads(lock_text(LOCK)))[:2] == ["schema", "lab"]
    assert list(json.loads(lock_text(LOCK))["nodes"]) == ["n1", "n10", "n2"]


def test_fields_of_a_newer_release_are_ignored() -> None:
    added = json.loads(lock_text(LOCK)) | {"added_later": 1}
    assert read_document("f", json.dumps(added), Lockfile) == LOCK


@pytest.mark.parametrize(
    ("text", "code", "what"),
    [
        ('{"schema": "provisioner/lock/2"}', "later_schema", "f: written as provisioner/lock/2"),
        ('{"schema": "provisioner/plan/1"}', "wrong_schema", "its schema is provisioner/plan/1"),
        ("{}", "wrong_schema", "its schema is not given"),
        ("[]", "wrong_schema", "its schema is not given"),
        ("<html>", "not_json", "f:1:1: not JSON"),
        (
            lock_text(LOCK).replace(": 4260000000", ': "big"'),
            "bad_value",
            'images[0].bytes: "big" is not a whole number',
        ),
        ('{"schema": "provisioner/lock/1",\n "lab": "demo"}', "missing_key", 'f:1:1: the key "mirror" is missing'),
    ],
)
def test_other_documents_are_refused_as_a_lock(text: str, code: str, what: str) -> None:
    with pytest.raises(ProblemError) as refusal:
        read_document("f", text, Lockfile)
    assert refusal.value.ending == "usage"
    assert {problem.code for problem in refusal.value.problems} >= {code}
    assert any(what in problem.what for problem in refusal.value.problems)


class Published(BaseHTTPRequestHandler):
    """Responses that an admin's web server may give."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/moved":
            self._answer(302, b"", location="/lab.lock")
        elif path == "/lab.lock" or (
            path == "/private/lab.lock" and self.headers.get("Authorization") == "Basic YW5uOnBAc3M="
        ):
            self._answer(200, lock_text(LOCK).encode())
        elif path == "/huge":
            self._answer(200, b" " * (MAX_BYTES + 1))
        elif path == "/cut":
            self._answer(200, b"{", length="1000")
        else:
            self._answer(404, b"<html>not here")

    def _answer(self, status: int, body: bytes, *, location: str = "", length: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", length or str(len(body)))
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Published)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("path", ["/lab.lock", "/moved", "/lab.lock?token=hunter2"])
def test_a_published_lock_is_fetched_by_http(web: str, path: str) -> None:
    assert fetch_lock(f"http://{web}{path}") == LOCK


def test_the_login_of_a_url_is_used(web: str) -> None:
    assert fetch_lock(f"http://ann:p%40ss@{web}/private/lab.lock") == LOCK


def test_a_published_lock_is_fetched_through_a_proxy(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy variables are those that registries are reached through."""
    with proxying(SmallProxy({"locks.campus": web})) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
        assert fetch_lock("http://locks.campus/lab.lock") == LOCK
    assert proxy.asked == ["GET locks.campus"]


def test_a_lock_is_read_by_path_and_by_file_url(tmp_path: Path) -> None:
    path = tmp_path / "the lab.lock"
    write_lock(path, LOCK)
    assert fetch_lock(str(path)) == LOCK
    assert fetch_lock(path.as_uri()) == LOCK


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://ann:hunter2@{web}/none?token=hunter2", "no_lock_there"),
        ("http://ann:hunter2@{web}/huge", "no_lock_there"),
        ("http://ann:hunter2@{web}/cut", "unreachable"),
        ("https://ann:hunter2@{web}/lab.lock", "tls_untrusted"),
        ("http://ann:hunter2@127.0.0.1:1/lab.lock", "unreachable"),
        ("ftp://ann:hunter2@{web}/lab.lock", "unknown_scheme"),
        ("/nowhere/lab.lock", "no_such_file"),
    ],
)
def test_a_lock_that_cannot_be_fetched_is_reported_without_its_password(
    web: str, monkeypatch: pytest.MonkeyPatch, url: str, code: str
) -> None:
    monkeypatch.setattr(Retry, "get_backoff_time", lambda _: 0)
    with pytest.raises(ProblemError) as refusal:
        fetch_lock(url.format(web=web))
    (problem,) = refusal.value.problems
    assert problem.code == code
    assert "hunter2" not in str(refusal.value) + repr(problem), "a password in a URL must not be shown"


@pytest.mark.parametrize(
    "fields",
    [
        f'"images": [{",".join(["1"] * 20_000)}]',
        ",".join(['"a": 1'] * 20_000),
        f'"images": [{"1," * 4_000_000}1]',
        f'"a": {"[" * 100_000}{"]" * 100_000}',
        f'"a": {"[" * 900}{"]" * 900}',
        f'"lab": {"9" * 5000}',
        f'"{"x" * 1_000_000}": 1',
        f'"lab": {{"{"x" * 1_000_000}": 1}}',
    ],
    ids=range(8),
)
def test_a_lock_that_is_a_bomb_is_refused_at_once_with_few_mistakes(fields: str) -> None:
    began = time.monotonic()
    with pytest.raises(ProblemError) as refused:
        read_document("f", f'{{"schema": "provisioner/lock/1", {fields}}}', Lockfile)
    assert time.monotonic() - began < 3
    assert refused.value.ending == "usage"
    assert len(refused.value.problems) <= 51
    assert max(len(problem.what) for problem in refused.value.problems) < 1000


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=9), below, max_size=3),
    max_leaves=9,
)


@given(st.dictionaries(st.sampled_from([*Lockfile.model_fields, "schema"]), VALUES), st.text(max_size=30))
def test_every_text_is_a_lock_or_is_refused(fields: dict[str, Any], text: str) -> None:
    for document in (json.dumps(fields | {"schema": "provisioner/lock/1"}), text):
        with suppress(ProblemError):
            read_document("f", document, Lockfile)
