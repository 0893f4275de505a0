"""The node's Docker Engine, spoken to over its own socket: no client library is on a node."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any, Iterator
from urllib.parse import quote, urlencode

from ansible.module_utils.provisioner.base.problem import ProblemError

SECONDS = 30
INSTALL = "run `provision prepare` on the lab, or install Docker Engine on the node"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def socket_path() -> str:
    """Raises ProblemError where DOCKER_HOST leads to another machine: a seat is on the node that is asked for it."""
    host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if not host.startswith("unix://"):
        raise ProblemError(
            "engine_elsewhere",
            f"DOCKER_HOST is {host}",
            "a seat runs on the machine that is asked for it, and its files lie there",
            "unset DOCKER_HOST, or run the command on that machine",
        )
    return host[len("unix://") :]


def client_environment() -> dict[str, str]:
    """For the docker command: the same engine, and nothing else that could steer it (COMPOSE_*, a context)."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_CONFIG", "LANG") if name in os.environ}
    return {"PATH": os.defpath, **kept, "DOCKER_HOST": f"unix://{socket_path()}"}


@contextlib.contextmanager
def request(
    method: str, path: str, seconds: float = SECONDS, headers: dict[str, str] | None = None
) -> Iterator[http.client.HTTPResponse]:
    """The answer, to be read while the connection lasts. Raises ProblemError where the engine gives none."""
    where = socket_path()
    with contextlib.closing(_UnixConnection(where, seconds)) as connection:
        try:
            connection.request(method, path, headers=headers or {})
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise ProblemError("no_engine", *_silence(where, error)) from None
        with answer:  # it holds the socket, too: one that is broken off is never closed otherwise
            yield answer


def ask(method: str, path: str, seconds: float = SECONDS) -> tuple[int, Any]:
    """Status and document."""
    with request(method, path, seconds) as answer:
        body = answer.read()
    return answer.status, json.loads(body) if body.strip() else None


def get(path: str, **query: Any) -> Any:
    """The document at `path`, None where there is none (404). Values of `query` that are not text go as JSON."""
    words = {name: value if isinstance(value, str) else json.dumps(value) for name, value in query.items()}
    status, document = ask("GET", f"{path}?{urlencode(words)}" if words else path)
    if status == http.client.NOT_FOUND:
        return None
    if status != http.client.OK:
        raise engine_refused(f"GET {path}", status, document)
    return document


def wait_for_engine(seconds: float) -> None:
    """Raises ProblemError where it does not answer in that time; an engine may just be starting anew."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            get("/version")
        except ProblemError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
        else:
            return


def image(reference: str) -> dict[str, Any] | None:
    """What the engine has under this name."""
    found: dict[str, Any] | None = get(f"/images/{quote(reference, safe='/:@')}/json")
    return found


def tag(reference: str, repository: str, name: str) -> None:
    query = urlencode({"repo": repository, "tag": name})
    status, document = ask("POST", f"/images/{quote(reference, safe='/:@')}/tag?{query}")
    if status != http.client.CREATED:
        raise engine_refused(f"tagging {reference}", status, document)


def untag(reference: str) -> None:
    """Its layers go with its last name. An image in use stays (409), and so may be gone already (404)."""
    ask("DELETE", f"/images/{quote(reference, safe='/:@')}")


def pull(reference: str, platform: str, stall: float) -> Iterator[dict[str, Any]]:
    """What the engine tells while it pulls, line by line. `stall`: seconds of silence after which it is given up.

    Raises ProblemError `pull_failed` with the engine's own words.
    """
    name, _, digest = reference.partition("@")
    query = urlencode({"fromImage": name, "tag": digest, "platform": platform})
    with request("POST", f"/images/create?{query}", stall, _login(name)) as answer:
        if answer.status != http.client.OK:
            raise pull_failed(reference, _message(json.loads(answer.read() or b"{}")))
        try:
            for line in answer:
                news = json.loads(line)
                if "error" in news:
                    raise pull_failed(reference, news["error"])
                yield news
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise pull_failed(reference, f"the stream broke: {error!r}") from None


def _login(name: str) -> dict[str, str]:
    """What `docker login` left on the node for this registry; it goes into the header and nowhere else."""
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    try:
        known = json.loads((folder / "config.json").read_text())["auths"]
        user, _, password = base64.b64decode(known[name.split("/", 1)[0]]["auth"]).decode().partition(":")
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    login = json.dumps({"username": user, "password": password}).encode()
    return {"X-Registry-Auth": base64.urlsafe_b64encode(login).decode()}


def _message(document: Any) -> str:
    return str(document.get("message", document)) if isinstance(document, dict) else str(document)


def engine_refused(what: str, status: int, document: Any) -> ProblemError:
    return ProblemError(
        "engine_refused",
        f"the engine refuses {what}: {_message(document)} ({status})",
        "the seat cannot be made without it",
        "see `journalctl -u docker` on the node",
    )


def pull_failed(reference: str, said: str) -> ProblemError:
    return ProblemError(
        "pull_failed",
        f"the node could not pull {reference}: {said}",
        "nothing old was stopped; layers that did arrive are kept for the next try",
        f"try it on the node: docker pull {reference}",
    )


def _silence(where: str, error: Exception) -> tuple[str, str, str]:
    why = "a seat runs in containers of the node's engine"
    if isinstance(error, FileNotFoundError) and not shutil.which("docker"):
        return "Docker is not installed on the node", why, INSTALL
    if isinstance(error, PermissionError):
        fix = "use an account that may, or let Ansible become root (ansible_become)"
        return f"no permission to talk to the engine at {where}", why, fix
    if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
        return f"Docker is installed, but no engine answers at {where}", why, "run `systemctl start docker` on the node"
    return f"the engine at {where} does not answer: {error!r}", why, "see `journalctl -u docker` on the node"
