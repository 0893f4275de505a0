"""A client of the Docker Engine API over its Unix socket; nodes have no client library."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import select
import shutil
import socket
import time
from typing import Any, Callable, Iterator
from urllib.parse import quote, urlencode

from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.docker.login import find_login

SEAT_LABEL = "provisioner.seat"  # of each container of a seat; its value is the name of the seat
SECONDS = 30
POLL_SECONDS = 0.5  # between two looks at containers where the engine sends no events
EVENT_BYTES = 1 << 16
EVENT_SECONDS = 5.0  # between two looks where it does: an event may be lost
# What may change the state of a container. Those of `docker exec` are left out: each health check is one.
EVENTS = ("start", "die", "destroy", "rename", "pause", "unpause", "health_status")
INSTALL = "run `provision prepare` on the lab, or install Docker Engine on the node"


class UnixConnection(http.client.HTTPConnection):
    """A connection to a Unix socket; `timeout` in seconds."""

    def __init__(self, path: str, timeout: float) -> None:
        """Connect at the first request."""
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def socket_path() -> str:
    """Return the path of the engine's socket.

    Raises ProblemError `engine_elsewhere` when DOCKER_HOST names another machine: a seat runs on the node itself.
    """
    host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if not host.startswith("unix://"):
        raise ProblemError(
            "engine_elsewhere",
            f"DOCKER_HOST is {host}",
            "a seat runs on the node itself, where its files are",
            "unset DOCKER_HOST, or run the command on that machine",
        )
    return host[len("unix://") :]


def client_environment() -> dict[str, str]:
    """Return the environment of the docker command: the same engine, without COMPOSE_* variables and contexts."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_CONFIG", "LANG") if name in os.environ}
    return {"PATH": os.defpath, **kept, "DOCKER_HOST": f"unix://{socket_path()}"}


@contextlib.contextmanager
def request(
    method: str, path: str, seconds: float = SECONDS, headers: dict[str, str] | None = None
) -> Iterator[http.client.HTTPResponse]:
    """Send a request and yield the response, which has to be read within the context.

    Raises ProblemError `no_engine` when the engine does not answer.
    """
    where = socket_path()
    with contextlib.closing(UnixConnection(where, seconds)) as connection:
        try:
            connection.request(method, path, headers=headers or {})
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise ProblemError("no_engine", *_no_answer(where, error)) from None
        with answer:  # the response holds the socket, too, and would keep it open after an error
            yield answer


def ask(method: str, path: str, seconds: float = SECONDS) -> tuple[int, Any]:
    """Send a request and return the status and the JSON document of the response."""
    with request(method, path, seconds) as answer:
        body = answer.read()
    return answer.status, json.loads(body) if body.strip() else None


def get(path: str, seconds: float = SECONDS, **query: Any) -> Any:
    """Return the document at `path`, None for 404. Values of `query` that are not strings are sent as JSON.

    Raises ProblemError `engine_refused` for any other status.
    """
    words = {name: value if isinstance(value, str) else json.dumps(value) for name, value in query.items()}
    status, document = ask("GET", f"{path}?{urlencode(words)}" if words else path, seconds)
    if status == http.client.NOT_FOUND:
        return None
    if status != http.client.OK:
        raise engine_refused(f"GET {path}", status, document)
    return document


def wait_for_engine(seconds: float) -> None:
    """Wait until the engine answers; it may be restarting. Raises ProblemError after `seconds`."""
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


@contextlib.contextmanager
def events(label: str) -> Iterator[Callable[[float], None]]:
    """Yield a function that waits for what happens to containers with a label (`name=value`) from now on.

    It takes the most seconds to wait, and returns after an event, or after EVENT_SECONDS: its caller looks at the
    containers then. Without events, from an engine that does not send them or has ended, it waits for POLL_SECONDS.
    """
    query = urlencode({"filters": json.dumps({"type": ["container"], "label": [label], "event": EVENTS})})
    with contextlib.closing(UnixConnection(socket_path(), SECONDS)) as connection:
        try:
            connection.request("GET", f"/events?{query}")
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException):
            yield _pause
            return
        with answer:
            if answer.status != http.client.OK:
                answer.read()
                yield _pause
            else:
                link = connection.sock
                yield lambda seconds: _wait_for_event(link, seconds)


def _wait_for_event(link: socket.socket, seconds: float) -> None:
    """Wait until bytes come, whatever they say, and read them. After the end of the stream there are none."""
    if select.select([link], [], [], min(seconds, EVENT_SECONDS))[0]:
        try:
            ended = not link.recv(EVENT_BYTES)
        except OSError:
            ended = True
        if ended:
            _pause(seconds)


def _pause(seconds: float) -> None:
    time.sleep(min(seconds, POLL_SECONDS))


def image(reference: str) -> dict[str, Any] | None:
    """Return the engine's description of an image, None when it has no such image.

    With containerd's image store an engine describes also an image of which it has nothing for its platform: without
    operating system and layers (moby: daemon/containerd/image_inspect.go).
    """
    found = _describe(reference)
    return None if found is None or _is_incomplete(found) else found


def is_incomplete(reference: str) -> bool:
    """Return whether the engine knows an image by this name and lacks its configuration."""
    found = _describe(reference)
    return found is not None and _is_incomplete(found)


def _describe(reference: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = get(f"/images/{quote(reference, safe='/:@')}/json")
    return found


def _is_incomplete(found: dict[str, Any]) -> bool:
    return found.get("Os") == "" and not (found.get("RootFS") or {}).get("Layers")


def tag(reference: str, repository: str, name: str) -> None:
    """Give an image another name, `repository`:`name`. Raises ProblemError `engine_refused`."""
    query = urlencode({"repo": repository, "tag": name})
    status, document = ask("POST", f"/images/{quote(reference, safe='/:@')}/tag?{query}")
    if status != http.client.CREATED:
        raise engine_refused(f"tagging {reference}", status, document)


def untag(reference: str) -> None:
    """Remove a name of an image; with the last name the layers go. 409 (in use) and 404 (gone) are ignored."""
    ask("DELETE", f"/images/{quote(reference, safe='/:@')}")


def pull(reference: str, platform: str, stall: float) -> Iterator[dict[str, Any]]:
    """Pull an image and yield the engine's progress messages. `stall`: seconds without a message before giving up.

    Raises ProblemError `pull_failed` with the message of the engine.
    """
    name, _, digest = reference.partition("@")
    query = urlencode({"fromImage": name, "tag": digest, "platform": platform})
    with request("POST", f"/images/create?{query}", stall, _login(name)) as answer:
        if answer.status != http.client.OK:
            raise pull_failed(reference, _message(json.loads(answer.read() or b"{}")))
        try:
            for line in answer:
                message = json.loads(line)
                if "error" in message:
                    raise pull_failed(reference, message["error"])
                yield message
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise pull_failed(reference, f"the connection was lost: {error!r}") from None


def _login(name: str) -> dict[str, str]:
    """Return the header with the login for this registry, empty when root has none."""
    address, _, rest = name.partition("/")
    login = find_login(address, rest.partition("@")[0].partition(":")[0])
    if login is None:
        return {}
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(login).encode()).decode()}


def _message(document: Any) -> str:
    return str(document.get("message", document)) if isinstance(document, dict) else str(document)


def engine_refused(what: str, status: int, document: Any) -> ProblemError:
    """Return the problem `engine_refused`; `what` names the request."""
    return ProblemError(
        "engine_refused",
        f"the engine refused {what}: {_message(document)} ({status})",
        "the seat cannot be set up without this request",
        "check `journalctl -u docker` on the node",
    )


def pull_failed(reference: str, message: str) -> ProblemError:
    """Return the problem `pull_failed`."""
    return ProblemError(
        "pull_failed",
        f"the node could not pull {reference}: {message}",
        "no container was stopped; layers that were downloaded are kept for the next attempt",
        f"try it on the node: docker pull {reference}",
    )


def image_incomplete(reference: str, message: str) -> ProblemError:
    """Return the problem `image_incomplete`; `message` says what is missing."""
    return ProblemError(
        "image_incomplete",
        f"the node has {reference} in part only, and a pull does not complete it: {message}",
        "containerd's image store has lost content of it, after a power cut for example, or has unpacked its layers"
        " from an image that was compressed in another way: an engine does not load those again (moby issue 49784,"
        " mended by moby 53615). No container was stopped",
        "push the image with the layers of the old one, or install a newer engine; or remove it on the node (docker rmi"
        f" -f {reference}), and where that does not help all containers and images with the same layers, then run the"
        " command again",
    )


def _no_answer(where: str, error: Exception) -> tuple[str, str, str]:
    why = "a seat runs in containers of the node's engine"
    if isinstance(error, FileNotFoundError) and not shutil.which("docker"):
        return "Docker is not installed on the node", why, INSTALL
    if isinstance(error, PermissionError):
        fix = "use an account with this permission, or let Ansible become root (ansible_become)"
        return f"permission denied for the engine at {where}", why, fix
    if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
        return f"Docker is installed, but no engine answers at {where}", why, "run `systemctl start docker` on the node"
    return f"the engine at {where} does not answer: {error!r}", why, "check `journalctl -u docker` on the node"
