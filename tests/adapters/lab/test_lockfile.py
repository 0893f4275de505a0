import hashlib
import json
import ssl
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.adapters.lab.documents import read_document
from provisioner.adapters.lab.lockfile import PublishedLock, fetch_lock, lock_text, read_lock, write_lock
from provisioner.adapters.lab.signature import sign
from provisioner.adapters.registry.http import MAX_REDIRECTS
from provisioner.adapters.state.files import MAX_BYTES
from provisioner.domain.lab.lock import LockedEnvironment, LockedNode, Lockfile, Placement
from provisioner.domain.values.problem import ProblemError
from provisioner.domain.values.version import ComputeCapability
from tests.adapters.lab.test_signature import allow, make_key
from tests.adapters.registry.small_proxy import SmallProxy, proxying
from tests.builders import TAG, a_lock, a_uuid
from tests.lab import pki


def a_locked_node(name: str) -> LockedNode:
    return LockedNode(image=TAG, gpus=(a_uuid(name),), capabilities=(ComputeCapability("12.0"),))


LOGIN = f"Basic {b64encode(b'ann:p@ss').decode()}"
LOCK = a_lock(nodes={name: a_locked_node(name) for name in ("n2", "n10", "n1")})
PLACED = LOCK.model_copy(
    update={
        "people": {
            "anna": Placement(node="n1", uid=70001),
            "2024012345": Placement(node="n2", gpus=(a_uuid("n2"),)),
        }
    }
)
SHA256 = hashlib.sha256(lock_text(LOCK).encode()).hexdigest()


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


def test_a_lock_without_people_has_the_bytes_that_it_had_before_there_were_any() -> None:
    assert list(json.loads(lock_text(LOCK))) == [
        *("schema", "lab", "mirror", "registry_ca", "data_version", "torch", "images", "nodes", "unserved")
    ]
    assert lock_text(PLACED.without_people()) == lock_text(LOCK)
    assert "people" not in LOCK.model_dump(mode="json")


def test_a_place_has_a_stop_in_the_lock_only_while_there_is_one(tmp_path: Path) -> None:
    anna = PLACED.people["anna"]
    stopped = PLACED.model_copy(
        update={"people": PLACED.people | {"anna": anna.model_copy(update={"stopped": "exam"})}}
    )
    assert json.loads(lock_text(stopped))["people"]["anna"]["stopped"] == "exam"
    assert "stopped" not in lock_text(PLACED)
    write_lock(tmp_path / "lab.lock", stopped)
    assert read_lock(tmp_path / "lab.lock") == stopped


def test_people_of_a_lock_are_written_by_id_and_read_back(tmp_path: Path) -> None:
    text = lock_text(PLACED)
    assert list(json.loads(text)["people"].items()) == [
        ("2024012345", {"node": "n2", "uid": None, "gpus": [a_uuid("n2")]}),
        ("anna", {"node": "n1", "uid": 70001, "gpus": []}),
    ]
    reordered = PLACED.model_copy(update={"people": dict(reversed(PLACED.people.items()))})
    assert lock_text(reordered) == text
    write_lock(tmp_path / "lab.lock", reordered)
    assert read_lock(tmp_path / "lab.lock") == PLACED


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
    """Responses that an admin's web server may give. `/to?URL` redirects to URL."""

    lock = lock_text(LOCK).encode()
    signature = ""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/moved":
            self._answer(302, b"", location="/lab.lock")
        elif path == "/to":
            self._answer(302, b"", location=query)
        elif path == "/lab.lock.sig" and self.signature:
            self._answer(200, self.signature.encode())
        elif path == "/lab.lock" or (path == "/private/lab.lock" and self.headers.get("Authorization") == LOGIN):
            self._answer(200, self.lock)
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


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Published)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    with serving() as address:
        yield address


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the web server's CA and certificate."""
    folder = tmp_path_factory.mktemp("pki")
    pki.make_ca(folder)
    pki.issue(folder, folder / "server", ["IP:127.0.0.1"])
    return folder


@pytest.fixture(scope="module")
def secure_web(ca: Path) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca / "server/server.crt", ca / "server/server.key")
    with serving(context) as address:
        yield address


@pytest.mark.parametrize("path", ["/lab.lock", "/moved", "/lab.lock?token=hunter2"])
def test_a_published_lock_is_fetched_by_http(web: str, path: str) -> None:
    assert fetch_lock(f"http://{web}{path}") == PublishedLock(LOCK, f"http://{web}{path.partition('?')[0]}")


def test_the_login_of_a_url_is_used(web: str) -> None:
    assert fetch_lock(f"http://ann:p%40ss@{web}/private/lab.lock").lock == LOCK


def test_a_published_lock_is_fetched_through_a_proxy(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy variables are those that registries are reached through."""
    with proxying(SmallProxy({"locks.campus": web})) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
        assert fetch_lock("http://locks.campus/lab.lock", sha256=SHA256).lock == LOCK
    assert proxy.asked == ["GET locks.campus"]


def test_a_lock_is_read_by_path_and_by_file_url(tmp_path: Path) -> None:
    path = tmp_path / "the lab.lock"
    write_lock(path, LOCK)
    assert fetch_lock(str(path)) == PublishedLock(LOCK, str(path), "file")
    assert fetch_lock(path.as_uri()) == PublishedLock(LOCK, path.as_uri(), "file")


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://ann:hunter2@{web}/none?token=hunter2", "no_lock_there"),
        ("http://ann:hunter2@{web}/huge", "no_lock_there"),
        ("http://ann:hunter2@{web}/cut", "unreachable"),
        ("https://ann:hunter2@{web}/lab.lock", "unreachable"),
        ("https://ann:hunter2@{secure}/lab.lock", "tls_untrusted"),
        ("http://ann:hunter2@127.0.0.1:1/lab.lock", "unreachable"),
        ("ftp://ann:hunter2@{web}/lab.lock", "unknown_scheme"),
        ("/nowhere/lab.lock", "no_such_file"),
    ],
)
def test_a_lock_that_cannot_be_fetched_is_reported_without_its_password(
    web: str, secure_web: str, url: str, code: str
) -> None:
    with pytest.raises(ProblemError) as refusal:
        fetch_lock(url.format(web=web, secure=secure_web))
    (problem,) = refusal.value.problems
    assert problem.code == code
    assert "hunter2" not in str(refusal.value) + repr(problem), "a password in a URL must not be shown"


def refused(source: str, ca: Path | None = None, **given: Any) -> str:
    with pytest.raises(ProblemError) as ended:
        fetch_lock(source, ca, **given)
    assert ended.value.ending == "usage"
    (problem,) = ended.value.problems
    return problem.code


@pytest.mark.parametrize(
    "url", ["http://locks.campus/lab.lock", "http://198.51.100.7/lab.lock", "http://localhost.evil.example/lab.lock"]
)
def test_plain_http_without_a_hash_is_refused_before_anything_is_asked(
    web: str, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    with proxying(SmallProxy({"locks.campus": web})) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
        assert refused(url) == "lock_unprotected"
        assert refused(f"http://{web}/to?{url}") == "lock_unprotected"
    assert proxy.asked == []


def test_a_redirect_from_https_to_http_is_refused(web: str, secure_web: str, ca: Path) -> None:
    file = pki.ca_certificate(ca)
    assert fetch_lock(f"https://{secure_web}/lab.lock", file).lock == LOCK
    assert fetch_lock(f"https://{secure_web}/to?https://{secure_web}/moved", file).lock == LOCK
    for options in ({}, {"sha256": SHA256}):
        assert refused(f"https://{secure_web}/to?http://{web}/lab.lock", file, **options) == "redirect_downgrade"
    assert fetch_lock(f"http://{web}/to?https://{secure_web}/lab.lock", file).lock == LOCK


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://x/lab.lock", "http://["])
def test_a_redirect_to_something_else_is_refused(web: str, target: str) -> None:
    with pytest.raises(ProblemError):
        fetch_lock(f"http://{web}/to?{target}", sha256=SHA256)


def test_a_redirect_without_end_ends(web: str) -> None:
    with pytest.raises(ProblemError, match="redirects without end"):
        fetch_lock(f"http://{web}{'/to?' * MAX_REDIRECTS}/lab.lock")


def test_a_hash_is_that_of_the_bytes(web: str, tmp_path: Path) -> None:
    assert fetch_lock(f"http://{web}/lab.lock", sha256=SHA256.upper()).verified_by == "sha256"
    assert refused(f"http://{web}/lab.lock", sha256="0" * 64) == "sha256_differs"
    path = tmp_path / "lab.lock"
    path.write_bytes(b"\xef\xbb\xbf" + lock_text(LOCK).encode())
    assert fetch_lock(str(path)).lock == LOCK
    assert refused(str(path), sha256=SHA256) == "sha256_differs"


def test_a_lock_with_known_signers_needs_the_signature_of_one_of_them(
    web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, path = make_key(tmp_path / "ann"), tmp_path / "lab.lock"
    signers, content = allow(tmp_path / "signers", key), lock_text(LOCK).encode()
    path.write_bytes(content)
    sources = (f"http://{web}/lab.lock?token=x", str(path), path.as_uri())
    assert [refused(source, signers=signers) for source in sources] == ["signature_missing"] * 3
    signature = sign(content, key, may_ask=False)
    monkeypatch.setattr(Published, "signature", signature)
    Path(f"{path}.sig").write_text(signature)
    for source in sources:
        found = fetch_lock(source, signers=signers)
        assert (found.lock, found.verified_by, found.signer) == (LOCK, "signature", "ann@lab.example")
    other = sign(content, make_key(tmp_path / "eve"), may_ask=False)
    monkeypatch.setattr(Published, "signature", other)
    path.write_bytes(content.replace(b"demo", b"evil"))
    assert [refused(source, signers=signers) for source in sources] == ["signature_wrong"] * 3


def test_a_source_that_is_no_url_is_reported() -> None:
    assert refused("http://[") == "bad_url"


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


def test_a_lock_of_an_earlier_release_keeps_its_bytes(tmp_path: Path) -> None:
    """Written by the release before there were named environments: people and stops, two images, a node without one."""
    before = Path(__file__).with_name("before_environments.lock")
    found = read_lock(before)
    assert found is not None
    assert (found.environments, list(found.all_environments)) == ({}, ["default"])
    write_lock(tmp_path / "lab.lock", found)
    assert (tmp_path / "lab.lock").read_bytes() == before.read_bytes()


def test_named_environments_are_read_back_and_their_order_gives_no_other_bytes() -> None:
    named = {
        name: LockedEnvironment(torch="2.8.0", images=LOCK.images, nodes=nodes, kept_from=origin)
        for name, nodes, origin in (("nlp", LOCK.nodes, ""), ("2026s", {}, "default"))
    }
    lock = LOCK.model_copy(update={"environments": named})
    document = json.loads(lock_text(lock))
    assert list(document["environments"]) == ["2026s", "nlp"]
    assert list(document["environments"]["nlp"]["nodes"]) == ["n1", "n10", "n2"]
    assert "kept_from" not in document["environments"]["nlp"]
    assert read_document("lab.lock", lock_text(lock), Lockfile) == lock
    turned = LOCK.model_copy(update={"environments": dict(reversed(named.items()))})
    assert lock_text(turned) == lock_text(lock)


@pytest.mark.parametrize("name", ["../../etc", "a/b", "default", "", "NLP", "a\nb", "\x1b[31m", "x" * 32])
def test_a_lock_whose_environment_has_a_name_of_a_path_is_refused(name: str) -> None:
    """The name becomes a folder on nodes, and is printed."""
    document = json.loads(lock_text(LOCK)) | {"environments": {name: {"torch": "2.8.0"}}}
    with pytest.raises(ProblemError) as refusal:
        read_document("lab.lock", json.dumps(document), Lockfile)
    assert refusal.value.ending == "usage"
