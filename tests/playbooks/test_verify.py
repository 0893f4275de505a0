import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import an_order

verify, seats, compose_code, command = (
    module_util(name) for name in ("transaction.verify", "seat.seat", "seat.compose", "base.command")
)


class Jupyter(HTTPServer):
    """Answers with the status `known` to requests with the token, and `unknown` to others."""

    known, unknown = 200, 403


class Handler(BaseHTTPRequestHandler):
    server: Jupyter

    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == "token t0ken"
        self.send_response(self.server.known if known and self.path == "/api/status" else self.server.unknown)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep the output of the tests clean."""


@pytest.fixture
def jupyter() -> Iterator[Jupyter]:
    with Jupyter(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def seat(tmp_path: Path) -> Any:
    made = seats.seat_of(an_order(tmp_path))
    made.make_folders()
    (made.identity / "token").write_text("t0ken")
    return made


def at(server: HTTPServer) -> dict[str, Any]:
    return {"ports": {"jupyter": server.server_port}, "binds": {"jupyter": "127.0.0.1"}}


def test_jupyter_passes_if_it_accepts_the_token_and_refuses_requests_without_it(seat: Any, jupyter: Jupyter) -> None:
    assert verify.check_jupyter(seat, at(jupyter)) == "answers 200 with the token, 403 without"


@pytest.mark.parametrize(("known", "unknown"), [(403, 403), (200, 200), (500, 403), (200, 302)])
def test_other_answers_of_jupyter_are_refused(seat: Any, jupyter: Jupyter, known: int, unknown: int) -> None:
    jupyter.known, jupyter.unknown = known, unknown
    with pytest.raises(ProblemError, match=f"answers {known} with the token and {unknown} without"):
        verify.check_jupyter(seat, at(jupyter))


def test_a_jupyter_that_does_not_listen_is_reported_with_the_reason(seat: Any) -> None:
    with pytest.raises(verify.NoAnswerError, match="refused"):
        verify.check_jupyter(seat, {"ports": {"jupyter": 1}, "binds": {"jupyter": "127.0.0.1"}})


class Dripping(Handler):
    """Sends a header byte by byte, without an end."""

    def do_GET(self) -> None:
        with contextlib.suppress(OSError):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            while True:
                self.wfile.write(b"x")
                time.sleep(0.02)


def test_a_jupyter_that_answers_byte_by_byte_is_given_up(
    seat: Any, jupyter: Jupyter, monkeypatch: pytest.MonkeyPatch
) -> None:
    jupyter.RequestHandlerClass = Dripping
    monkeypatch.setattr(verify, "HTTP_SECONDS", 0.3)
    begun = time.monotonic()
    with pytest.raises(verify.NoAnswerError, match=r"takes longer than 0\.3 s"):
        verify.check_jupyter(seat, at(jupyter))
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        ((0, 0), "login by key works, with the seat's host key"),
        ((0, 7), "login by key works, with the seat's host key; start files in the home end a shell: exit code 7"),
        (
            (0, None),
            "login by key works, with the seat's host key; start files in the home end a shell: it does not answer",
        ),
        ((255, 0), None),
    ],
)
def test_files_of_the_home_do_not_decide_about_the_login(
    seat: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: tuple[int, int | None], text: str | None
) -> None:
    """`answers`: what ends a session of sftp, and a command in the user's shell."""
    sftp, shell = answers
    seat.write(1, an_order(tmp_path), {})

    def run(argv: list[str], *_: Any, **__: Any) -> Any:
        return command.CommandResult(sftp if argv[-1] == "sftp" and "-s" in argv else shell, "", "")

    monkeypatch.setattr(verify, "run", run)
    if text is None:
        with pytest.raises(verify.NoAnswerError):
            verify.check_ssh(seat, 1, an_order(tmp_path)["seat"])
    else:
        assert verify.check_ssh(seat, 1, an_order(tmp_path)["seat"]) == text


@pytest.fixture
def server() -> Iterator[Callable[[bytes], dict[str, Any]]]:
    """A server that answers each connection with a text, as the values of the seat that has its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(text: bytes) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(text)

    threads: list[threading.Thread] = []

    def start(text: bytes) -> dict[str, Any]:
        threads.append(threading.Thread(target=serve, args=(text,)))
        threads[-1].start()
        return {"ports": {"ssh": listener.getsockname()[1]}, "binds": {"ssh": "127.0.0.1"}}

    yield start
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for thread in threads:
        thread.join()


def test_sshd_of_a_self_service_seat_answers(server: Callable[[bytes], dict[str, Any]]) -> None:
    assert verify.check_banner(server(b"SSH-2.0-OpenSSH_9.2p1\r\n")) == "sshd answers"


@pytest.mark.parametrize("text", [b"", b"220 mail\r\n", b"\x1b[2J" + b"x" * 10_000, b"\xff\xfe"])
def test_another_program_on_the_port_of_ssh_is_no_sshd(server: Callable[[bytes], dict[str, Any]], text: bytes) -> None:
    with pytest.raises(verify.NoAnswerError, match="is not sshd") as caught:
        verify.check_banner(server(text))
    assert vars(caught.value)["problem"]["what"].isprintable()
    assert len(vars(caught.value)["problem"]["what"]) < 400


def test_an_sshd_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "SSH_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        wanted = {"ports": {"ssh": silent.getsockname()[1]}, "binds": {"ssh": "127.0.0.1"}}
        with pytest.raises(verify.NoAnswerError, match="no answer"):
            verify.check_banner(wanted)
    with pytest.raises(verify.NoAnswerError, match="no answer"):
        verify.check_banner(wanted)


class Started:
    """A started seat: the checks that are made of it, in their order. All of them pass."""

    seat = None

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.checks: list[str] = []
        gpus = {"detail": "x", "gpu": {}, "problems": []}
        for name, found in {"check_layers": "x", "check_jupyter": "x", "check_ssh": "x", "check_banner": "x"}.items():
            monkeypatch.setattr(verify, name, self._noted(name, found))
        monkeypatch.setattr(verify, "verify_gpus", self._noted("verify_gpus", gpus))

    def _noted(self, name: str, found: Any) -> Callable[..., Any]:
        def check(*_: Any) -> Any:
            self.checks.append(name)
            return found

        return check

    def wait_healthy(self, *_: Any) -> None:
        self.checks.append("wait_healthy")

    def stay_healthy(self, seconds: float) -> None:
        self.checks.append(f"stay_healthy {seconds}")


@pytest.mark.parametrize(
    ("kind", "ssh", "end"),
    [
        (None, "check_ssh", ["stay_healthy 60"]),
        ("", "check_ssh", ["stay_healthy 60"]),
        ("self_service", "check_banner", []),
    ],
)
def test_a_self_service_seat_is_checked_briefly_and_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str | None, ssh: str, end: list[str]
) -> None:
    order, started = an_order(tmp_path), Started(monkeypatch)
    order["seat"] |= {} if kind is None else {"kind": kind}
    order["deadlines"] |= {"min_healthy": 60}
    found = verify.verify(started, 1, order, lambda *_, **__: None)
    assert started.checks == ["wait_healthy", "check_layers", "check_jupyter", ssh, "verify_gpus", *end]
    assert ("healthy" in found["checks"]) is bool(end)


def test_a_check_without_an_answer_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "PAUSE", 0)
    left = [1, 2, 3]

    def check() -> str:
        if left.pop() > 1:
            raise verify.NoAnswerError("c", "w", "y", "f")
        return "healthy"

    assert verify._retry_until_answer(check) == "healthy"


def test_a_wrong_answer_is_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "PAUSE", 0)
    calls = []

    def check() -> str:
        calls.append(1)
        raise ProblemError("c", "w", "y", "f")

    with pytest.raises(ProblemError, match="w"):
        verify._retry_until_answer(check)
    assert len(calls) == 1


GOOD = {"method": "torch", "uuids": ["GPU-2", "GPU-1"], "ok": True, "detail": "torch computes on 2 GPUs"}


class Container:
    """Stands for compose; its container exists."""

    def container(self, _service: str) -> dict[str, str]:
        return {"Id": "c1"}


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The output of the GPU check in the container: the first text of the list."""
    texts: list[str] = []
    monkeypatch.setattr(verify, "client_environment", dict)
    monkeypatch.setattr(verify, "run", lambda *_, **__: command.CommandResult(0, texts[0], ""))
    return texts


def gpus(tmp_path: Path, wanted: list[str]) -> dict[str, Any]:
    order = an_order(tmp_path)
    order["seat"]["gpus"] = wanted
    found: dict[str, Any] = verify.check_gpus(Container(), "ssh", order)
    return found


@pytest.mark.parametrize("before", ["", "a banner\nof the image\n"])
def test_check_gpus_accepts_exactly_the_reserved_gpus(tmp_path: Path, printed: list[str], before: str) -> None:
    printed.append(before + json.dumps(GOOD) + "\n")
    assert gpus(tmp_path, ["GPU-1", "GPU-2"]) == GOOD | {"skipped": []}


def test_a_seat_without_gpus_passes_if_no_gpu_is_visible(tmp_path: Path, printed: list[str]) -> None:
    printed.append(json.dumps(GOOD | {"uuids": [], "ok": False, "detail": "no library"}))
    assert gpus(tmp_path, [])["uuids"] == []


@pytest.mark.parametrize(
    ("text", "wanted", "match"),
    [
        (json.dumps(GOOD), ["GPU-1"], "sees GPU-2, GPU-1; reserved: GPU-1"),
        (json.dumps(GOOD), ["GPU-1", "GPU-2", "GPU-3"], "reserved: GPU-1, GPU-2, GPU-3"),
        (json.dumps(GOOD), [], "reserved: none"),
        (json.dumps(GOOD | {"uuids": []}), ["GPU-1"], "sees no GPU"),
        (json.dumps(GOOD | {"uuids": ["GPU-1"], "ok": False, "detail": "too old"}), ["GPU-1"], "too old"),
        (json.dumps(GOOD | {"uuids": ["GPU-1"], "ok": "yes"}), ["GPU-1"], "computes"),
        ("Segmentation fault", ["GPU-1"], "printed no result"),
        ("", ["GPU-1"], "printed no result"),
        ("null", ["GPU-1"], "printed no result"),
        ("[" * 60000, ["GPU-1"], "printed no result"),
        ('{"uuids": 3}', ["GPU-1"], "printed no result"),
    ],
)
def test_any_other_result_of_the_gpu_check_is_refused(
    tmp_path: Path, printed: list[str], text: str, wanted: list[str], match: str
) -> None:
    printed.append(text)
    with pytest.raises(ProblemError, match=match):
        gpus(tmp_path, wanted)


@pytest.mark.parametrize(
    ("locked", "has", "expected"),
    [
        (["a", "b"], ["a", "b"], "2 layers, as locked"),
        ([], ["a", "b"], "lists no layers"),
        (["a", "b"], ["a", "c"], None),
        (["a", "b"], ["b", "a"], None),
        (["a"], None, None),
    ],
)
def test_check_layers_compares_the_containers_with_the_lock(
    tmp_path: Path, engine: FakeEngine, locked: list[str], has: list[str] | None, expected: str | None
) -> None:
    class Made:
        def container(self, _: str) -> dict[str, Any]:
            return {"Image": "sha256:1"}

    if has is not None:
        engine.images["sha256:1"] = {"RootFS": {"Layers": has}}
    order = an_order(tmp_path)
    order["image"]["rootfs"] = locked
    if expected:
        assert expected in verify.check_layers(Made(), order)
    else:
        with pytest.raises(ProblemError, match=r"layers of \w+ differ from the"):
            verify.check_layers(Made(), order)


def test_the_login_check_empties_verify_keys_in_place(seat: Any, tmp_path: Path) -> None:
    order = an_order(tmp_path)
    seat.write(1, order, {})
    key_file = seat.generation(1) / "verify_keys"
    inode = key_file.stat().st_ino
    wanted = order["seat"] | {"ports": {"ssh": 1}}
    with pytest.raises(ProblemError, match=r"no login by key at 127\.0\.0\.22:1"):
        verify.check_ssh(seat, 1, wanted)
    assert (key_file.read_text(), key_file.stat().st_ino) == ("", inode)
    assert not list(seat.folder.glob("verify-*"))


def test_rewriting_a_longer_file_leaves_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "verify_keys"
    path.write_text("a long line that was there before\n")
    verify._rewrite(path, "short\n")
    assert path.read_text() == "short\n"
