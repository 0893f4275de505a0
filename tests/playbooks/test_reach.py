"""The program that asks from inside, run as a container runs it, against servers that answer as those of the field."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.node_code import module_util

reach = module_util("inside.reach")
check = module_util("inside.check")

SECONDS = 1.0  # of a request, for most tests
FILE = "/files/pip-25.0-py3-none-any.whl"
PROXIED = "http://index.invalid"
WHEEL = b"PK\x03\x04" + b"x" * 3000
LOGIN = b"<!DOCTYPE html><html><body>Campus network: please log in</body></html>"
LINKS = (b"../../files/pip-24.0.tar.gz#sha256=1", FILE.encode() + b"?a=1&amp;b=2#sha256=2", b"/files/README")
PAGE = b"<!DOCTYPE html><html>%s</html>" % b"".join(b'<a href="%s">pip</a>' % link for link in LINKS)

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """A server whose answers are set by path. `asked`: the request lines and programs."""

    answers: dict[str, Answer] = {}
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(f"{self.path} {self.headers['User-Agent']}")
        answer = self.answers.get(self.path.partition("?")[0], status(404))
        try:
            answer(self)
        except OSError:
            self.close_connection = True

    def do_CONNECT(self) -> None:
        self.asked.append(f"CONNECT {self.path}")
        self.answers.get("CONNECT", status(403))(self)

    def log_message(self, *_: object) -> None:
        """Keep the output of the tests clean."""

    def say(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


def status(code: int, body: bytes = b"", **headers: str) -> Answer:
    return lambda handler: handler.say(code, body, **headers)


def drip(handler: Handler) -> None:
    """Send a byte again and again: a time-out of the socket alone would never end it."""
    handler.say(200, Content_Length="100000")
    while True:
        handler.wfile.write(b"<")
        handler.wfile.flush()
        time.sleep(0.05)


def endless(handler: Handler) -> None:
    handler.say(200, Content_Length=str(1 << 40))
    while True:
        handler.wfile.write(b"<html>" + b" " * 60000)


def silent(handler: Handler) -> None:
    time.sleep(3 * SECONDS)
    handler.close_connection = True


def garbage(handler: Handler) -> None:
    handler.wfile.write(b"\x00\xff\r\n\r\n")


class Server:
    def __init__(self, port: int, handler: type[Handler]) -> None:
        self.url, self.host = f"http://127.0.0.1:{port}", f"127.0.0.1:{port}"
        self.answers, self.asked = handler.answers, handler.asked


@pytest.fixture
def server() -> Iterator[Server]:
    handler = type("Own", (Handler,), {"answers": {}, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        listening.daemon_threads, listening.block_on_close = True, False
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        yield Server(listening.server_address[1], handler)
        listening.shutdown()


def ask(questions: dict[str, Any], seconds: float = SECONDS, **variables: str) -> dict[str, dict[str, str]]:
    """Run the program with the time limits of a test, as `docker exec ... python3 -I -` does."""
    text = check.PROGRAM.replace("REQUEST_SECONDS = 5.0", f"REQUEST_SECONDS = {seconds}")
    text = text.replace("ALL_SECONDS = 12.0", f"ALL_SECONDS = {4 * seconds}")
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-I", "-", json.dumps(questions)],
        input=text,
        env={**clean, **variables},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    return dict(json.loads(done.stdout))


def index_of(server: Server) -> str:
    return f"{server.url}/simple"


ELSEWHERE: dict[str, Answer] = {FILE: status(200, WHEEL)}
REACHABLE = {"/simple/pip/": status(200, PAGE), **ELSEWHERE}


@pytest.mark.parametrize(
    ("answers", "outcome", "detail"),
    [
        (REACHABLE, "reachable", "pip-25.0"),
        (
            {"/simple/pip/": status(301, Location="/other/pip/"), "/other/pip/": status(200, PAGE), **ELSEWHERE},
            "reachable",
            "",
        ),
        ({"/simple/pip/": status(429)}, "limited", "HTTP 429"),
        ({**REACHABLE, FILE: status(429)}, "limited", "pip-25.0"),
        ({"/simple/pip/": status(200, LOGIN)}, "login_page", "/simple/pip/"),
        ({**REACHABLE, FILE: status(200, LOGIN)}, "login_page", "pip-25.0"),
        (
            {"/simple/pip/": status(302, Location="/login?to=x"), "/login": status(200, LOGIN)},
            "login_page",
            "/login?to=x",
        ),
        ({"/simple/pip/": status(511, LOGIN)}, "login_page", "HTTP 511"),
        ({"/simple/pip/": status(302, Location="/simple/pip/")}, "refused", "HTTP 302"),
        ({"/simple/pip/": status(302, Location="file:///etc/passwd")}, "refused", "HTTP 302"),
        ({"/simple/pip/": status(302, Location="ftp://127.0.0.1/x")}, "unreachable", "unknown url type"),
        ({"/simple/pip/": status(404)}, "refused", "HTTP 404"),
        ({"/simple/pip/": status(403, LOGIN)}, "refused", "HTTP 403"),
        ({"/simple/pip/": status(503)}, "refused", "HTTP 503"),
        ({"/simple/pip/": status(200, b'{"files": []}')}, "refused", "HTTP 200"),
        ({"/simple/pip/": status(200)}, "refused", "HTTP 200"),
        ({"/simple/pip/": status(200, PAGE.replace(b"/files/", b"http://[/"))}, "unknown", ""),
        ({"/simple/pip/": drip}, "unreachable", "no whole answer within 1 s"),
        ({**REACHABLE, FILE: drip}, "unreachable", "no whole answer"),
        ({"/simple/pip/": endless}, "login_page", ""),
        ({"/simple/pip/": silent}, "unreachable", ""),
        ({"/simple/pip/": garbage}, "unreachable", ""),
    ],
)
def test_an_index(server: Server, answers: dict[str, Answer], outcome: str, detail: str) -> None:
    server.answers.update(answers)
    started = time.monotonic()
    found = ask({"index": index_of(server)})["index"]
    assert (found["outcome"], detail in found["detail"]) == (outcome, True), found
    assert time.monotonic() - started < 4 * SECONDS + 5


@pytest.mark.parametrize("quote", [b"'", b""])
def test_links_may_be_quoted_otherwise(server: Server, quote: bytes) -> None:
    server.answers.update({**REACHABLE, "/simple/pip/": status(200, PAGE.replace(b'"', quote))})
    assert ask({"index": index_of(server)})["index"]["outcome"] == "reachable"


@pytest.mark.parametrize("part", [b'href="', b"href=", b'href="a', b"<a href='x ", b"&amp;", b'href="' + b"a" * 1999])
def test_no_page_takes_long_to_read(part: bytes) -> None:
    page = reach.Answer("http://m.example/", head=(part * reach.MOST_BYTES)[: reach.MOST_BYTES])
    started = time.monotonic()
    assert reach.files_of_pip(page) == []
    assert time.monotonic() - started < 1


def test_requests_are_those_of_pip(server: Server) -> None:
    server.answers.update(REACHABLE)
    ask({"index": f"{index_of(server)}/"})
    assert [line.partition(" pip/")[0] for line in server.asked] == [
        "/simple/pip/",
        "/files/pip-25.0-py3-none-any.whl?a=1&b=2",
    ]


MODEL = "/api/models/openai-community/gpt2"


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (status(200, b' {"id": "gpt2"}'), "reachable"),
        (status(404, b'{"error": "Repository not found"}'), "reachable"),
        (status(401, b'{"error": "Invalid username or password."}'), "reachable"),
        (status(404, LOGIN), "refused"),
        (status(200, LOGIN), "login_page"),
        (status(429, b'{"error": "rate"}'), "limited"),
        (status(500, b"{}"), "refused"),
        (drip, "unreachable"),
    ],
)
def test_a_hugging_face_endpoint(server: Server, answer: Answer, outcome: str) -> None:
    server.answers[MODEL] = answer
    assert ask({"hf": server.url})["hf"]["outcome"] == outcome


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def test_a_closed_port_and_an_unknown_name_are_unreachable() -> None:
    found = ask({"index": f"http://127.0.0.1:{closed_port()}/simple", "hf": "http://no.such.invalid"}, 2)
    assert [one["outcome"] for one in found.values()] == ["unreachable", "unreachable"]


@pytest.mark.parametrize(
    ("answers", "index", "outcome"),
    [
        (
            {PROXIED + "/simple/pip/": status(200, PAGE), PROXIED + FILE: status(200, WHEEL)},
            PROXIED + "/simple",
            "reachable",
        ),
        ({PROXIED + "/simple/pip/": status(407)}, PROXIED + "/simple", "proxy_failed"),
        ({PROXIED + "/simple/pip/": status(502)}, PROXIED + "/simple", "proxy_failed"),
        ({PROXIED + "/simple/pip/": status(429)}, PROXIED + "/simple", "limited"),
        ({PROXIED + "/simple/pip/": status(200, LOGIN)}, PROXIED + "/simple", "login_page"),
        ({"CONNECT": status(407)}, "https://index.invalid/simple", "proxy_failed"),
        ({"CONNECT": status(403)}, "https://index.invalid/simple", "proxy_failed"),
    ],
)
def test_behind_a_proxy(server: Server, answers: dict[str, Answer], index: str, outcome: str) -> None:
    server.answers.update(answers)
    found = ask({"index": index}, http_proxy=server.url, https_proxy=server.url)["index"]
    assert (found["outcome"], f"through the proxy {server.url}" in found["detail"]) == (outcome, True)


def test_a_proxy_that_does_not_listen_has_failed_and_is_not_used_for_its_exceptions(server: Server) -> None:
    server.answers.update(REACHABLE)
    proxy = f"http://127.0.0.1:{closed_port()}"
    assert ask({"index": index_of(server)}, http_proxy=proxy)["index"]["outcome"] == "proxy_failed"
    assert ask({"index": index_of(server)}, http_proxy=proxy, no_proxy="127.0.0.1")["index"]["outcome"] == "reachable"


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ("printf '    jupyter_server_proxy \\033[32menabled\\033[0m\\n' >&2", "reachable"),
        ("echo '    jupyter_server_proxy enabled'", "reachable"),
        ("echo '    jupyter_server_proxy disabled'", "missing"),
        ("echo 'jupyterlab enabled'", "missing"),
        ("exit 1", "unknown"),
        ("sleep 600", "unknown"),
        (None, "unknown"),
    ],
)
def test_whether_jupyter_has_the_proxy(tmp_path: Path, script: str | None, outcome: str) -> None:
    if script:
        (tmp_path / "jupyter").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "jupyter").chmod(0o755)
    assert (
        ask({"extra": True}, PATH=f"{tmp_path}:/usr/bin:/bin" if script else str(tmp_path))["extra"]["outcome"]
        == outcome
    )


def test_a_question_that_hangs_spoils_no_other_one(server: Server) -> None:
    server.answers.update({**REACHABLE, MODEL: drip})
    found = ask({"index": index_of(server), "hf": server.url, "extra": False})
    assert {name: one["outcome"] for name, one in found.items()} == {"index": "reachable", "hf": "unreachable"}


def test_the_node_waits_longer_than_the_program_takes() -> None:
    assert 2 * reach.REQUEST_SECONDS < reach.ALL_SECONDS < check.SECONDS <= 15
