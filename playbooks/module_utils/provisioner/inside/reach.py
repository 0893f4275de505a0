"""Asks the package index and the Hugging Face endpoint, in a container and as its student, and prints the answers.

It is given to the container's Python by stdin, so it is one file, which uses the standard library only. Each request
goes through the proxy that the variables of the container name, as those of pip do. An answer is never read whole, and
each question is put in a process of its own, which is killed at its time limit: a look-up of a name cannot be ended
otherwise.
"""

from __future__ import annotations

import contextlib
import html
import http.client
import importlib
import json
import os
import re
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from typing import Any, Callable, NamedTuple
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import urldefrag, urljoin, urlsplit

REQUEST_SECONDS = 5.0
ALL_SECONDS = 12.0  # of the 15 that the node waits; the rest is for the start of the container's Python
MOST_BYTES = 1 << 16  # of an answer; the links to the first files of pip are at its beginning
MOST_OUTPUT = 1 << 16  # of a question
MOST_DETAIL = 300
AGENT = "pip/25.0 provisioner"  # an index has to answer to pip, and may refuse other programs
LINK = re.compile(rb"""href=["']?([^"'<>\s]{1,2000})""", re.IGNORECASE)
ENABLED = re.compile(r"jupyter_server_proxy \S*enabled")  # between the two, a colour may begin
OF_PIP = re.compile(r"pip-[0-9][^/]*")
ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"BZh")  # a wheel is a zip file
HTML = re.compile(rb"<!doctype html|<html", re.IGNORECASE)
OK, DENIED, NOT_FOUND = 200, 401, 404
PROXY_LOGIN, LIMITED, PORTAL = 407, 429, 511  # RFC 9110; RFC 6585
PROXY_STATUS = (PROXY_LOGIN, 502, 503, 504)

Result = Any  # of a question: {"outcome": ..., "detail": ...}


class Answer(NamedTuple):
    """The beginning of an answer. `url`: where it came from in the end; `proxy`: what it came through, if any.

    `outcome` is empty where a server has answered, else `unreachable` or `proxy_failed`, with the reason in `detail`.
    """

    url: str
    proxy: str = ""
    status: int = 0
    head: bytes = b""
    outcome: str = ""
    detail: str = ""


def fetch(url: str, kind: str) -> Answer:
    """Ask for a URL, of which `kind` is expected (Accept), for at most REQUEST_SECONDS in all."""
    proxy = proxy_of(url)
    asked = request.Request(url, headers={"User-Agent": AGENT, "Accept": kind})  # noqa: S310  (see _opener)
    signal.signal(signal.SIGALRM, _too_late)
    signal.setitimer(signal.ITIMER_REAL, REQUEST_SECONDS)
    try:
        with _opener().open(asked, timeout=REQUEST_SECONDS) as found:
            return Answer(found.geturl(), proxy, found.status, found.read(MOST_BYTES))
    except HTTPError as error:  # it is an answer, too
        with error:
            return Answer(error.geturl() or url, proxy, error.code, _head(error))
    except (OSError, ValueError, http.client.HTTPException) as error:
        return _failed(url, proxy, error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _too_late(*_: object) -> None:
    raise TimeoutError(f"no whole answer within {REQUEST_SECONDS:g} s")


def _head(error: HTTPError) -> bytes:
    with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
        return error.read(MOST_BYTES)
    return b""


def proxy_of(url: str) -> str:
    """Return the proxy that the variables name for a URL, empty if there is none."""
    place = urlsplit(url)
    if request.proxy_bypass(place.netloc):
        return ""
    return str(request.getproxies().get(place.scheme, ""))


def _opener() -> request.OpenerDirector:
    """Return what follows redirects to http and https only."""
    opener = request.OpenerDirector()
    handlers = (
        request.ProxyHandler(request.getproxies()),
        request.UnknownHandler(),
        request.HTTPHandler(),
        request.HTTPSHandler(context=_trust()),
        request.HTTPRedirectHandler(),
        request.HTTPDefaultErrorHandler(),
        request.HTTPErrorProcessor(),
    )
    for handler in handlers:
        opener.add_handler(handler)
    return opener


def _trust() -> ssl.SSLContext:
    """Return what the image trusts, and what pip brings with itself: an image may have no other certificates."""
    context = ssl.create_default_context()
    with contextlib.suppress(ImportError, OSError):
        context.load_verify_locations(importlib.import_module("pip._vendor.certifi").where())
    return context


def _failed(url: str, proxy: str, error: Exception) -> Answer:
    """Return who has failed: a proxy that does not connect or opens no tunnel, or what is behind it."""
    reason = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
    is_behind_it = isinstance(reason, (ssl.SSLError, TimeoutError, socket.timeout, http.client.HTTPException))
    is_of_proxy = bool(proxy) and isinstance(reason, OSError) and not is_behind_it
    detail = str(reason) or type(reason).__name__
    return Answer(url, proxy, outcome="proxy_failed" if is_of_proxy else "unreachable", detail=detail)


def judge(answer: Answer, is_wanted: Callable[[Answer], bool]) -> Result:
    """Return the outcome of an answer. `is_wanted`: whether it is what was asked for."""
    through = f" (through the proxy {answer.proxy})" if answer.proxy else ""
    said = answer.detail or f"HTTP {answer.status}"
    return _result(answer.outcome or _outcome(answer, is_wanted), f"{answer.url}: {said}{through}")


def _outcome(answer: Answer, is_wanted: Callable[[Answer], bool]) -> str:
    if answer.status == LIMITED:
        return "limited"
    if answer.proxy and urlsplit(answer.url).scheme == "http" and answer.status in PROXY_STATUS:
        return "proxy_failed"
    if is_wanted(answer):
        return "reachable"
    is_page = answer.status == OK and HTML.search(answer.head[:2000])
    return "login_page" if is_page or answer.status == PORTAL else "refused"


def _result(outcome: str, detail: str) -> Result:
    return {"outcome": outcome, "detail": detail[:MOST_DETAIL]}


def ask_index(index: str) -> Result:
    """Ask a package index for the page of pip, and for the beginning of a file that it links."""
    page = fetch(f"{index.rstrip('/')}/pip/", "application/vnd.pypi.simple.v1+html, text/html;q=0.5")
    files = files_of_pip(page)
    found = judge(page, lambda answer: answer.status == OK and bool(files))
    if found["outcome"] != "reachable":
        return found
    return judge(fetch(files[-1], "*/*"), lambda answer: answer.status == OK and answer.head.startswith(ARCHIVES))


def files_of_pip(page: Answer) -> list[str]:
    """Return the URLs of the files that the page of pip links, as far as it was read. Raises ValueError."""
    links = [html.unescape(link.decode("utf-8", "replace")) for link in LINK.findall(page.head)]
    urls = [urldefrag(urljoin(page.url, link))[0] for link in links]
    return [url for url in urls if OF_PIP.fullmatch(url.rpartition("/")[2])]


def ask_hf(endpoint: str) -> Result:
    """Ask a Hugging Face endpoint for a model. One that does not have it says so in JSON, and has answered."""
    answer = fetch(f"{endpoint.rstrip('/')}/api/models/openai-community/gpt2", "application/json")
    is_json = answer.head.lstrip()[:1] in (b"{", b"[")
    return judge(answer, lambda found: found.status in (OK, DENIED, NOT_FOUND) and is_json)


def ask_jupyter(_: object) -> Result:
    """Return whether the image's Jupyter has the proxy that shows further ports."""
    variables = {**os.environ, "PYTHONNOUSERSITE": "1"}
    argv = ["jupyter", "server", "extension", "list"]
    try:
        ran = subprocess.run(argv, capture_output=True, text=True, env=variables, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return _result("unknown", str(error))
    has_proxy = ENABLED.search(ran.stdout + ran.stderr)
    return _result("reachable" if has_proxy else "missing", "")


ASK: dict[str, Callable[[Any], Result]] = {"index": ask_index, "hf": ask_hf, "extra": ask_jupyter}


def ask_all(questions: dict[str, Any], seconds: float = ALL_SECONDS) -> dict[str, Result]:
    """Put all questions at once, and return the results after at most `seconds`. A question without a value is none."""
    deadline = time.monotonic() + seconds
    started = {name: _start(ask, questions[name]) for name, ask in ASK.items() if questions.get(name)}
    return {name: _result_of(*one, deadline) for name, one in started.items()}


def _start(ask: Callable[[Any], Result], value: Any) -> tuple[int, int]:
    """Return the number of a new process that puts one question, and where its result can be read."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, reader
    with contextlib.suppress(BaseException):
        os.setsid()
        os.write(writer, json.dumps(ask(value)).encode())
    os._exit(0)


def _result_of(child: int, reader: int, deadline: float) -> Result:
    """Return the result of a process, and end what it has started."""
    output = b""
    while select.select([reader], [], [], max(deadline - time.monotonic(), 0))[0]:
        chunk = os.read(reader, MOST_OUTPUT)
        output += chunk
        if not chunk or len(output) > MOST_OUTPUT:
            break
    os.close(reader)
    for kill in (os.killpg, os.kill):  # the latter for one that has not begun yet
        with contextlib.suppress(OSError):
            kill(child, signal.SIGKILL)
    with contextlib.suppress(ValueError):
        return json.loads(output.decode())
    return _result("unknown", "there was no result in time: a name is not found, or the node is slow")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(ask_all(json.loads(sys.argv[1]))) + "\n")
