"""The requests of the admin to the broker of a node, as root through its socket."""

from __future__ import annotations

import json
import socket
import uuid
from pathlib import Path
from typing import Any, Iterable

from ansible.module_utils.provisioner.base.problem import ProblemError

SECONDS = 30.0  # for one answer; the broker takes 20 to add the use of all months up
MOST_BYTES = 600_000  # what a module may print is 700 kB, see playbooks/action_plugins/normal.py
CHUNK = 65536
FOLDER, CONFIG = "self_service", "config.json"


def answer_requests(order: dict[str, Any]) -> dict[str, Any]:
    """Return the record of an order {state_root, socket, requests}: `answers`, one for each request in its order.

    Each is {"ok": true, …} or {"ok": false, "problem": {code, what, why, fix}}.
    """
    config = Path(order["state_root"]) / FOLDER / CONFIG
    if not config.exists() and not Path(order["socket"]).exists():
        problem = _no_self_service().problem
        return {"answers": [{"ok": False, "problem": problem} for _ in order["requests"]]}
    return {"answers": _answers(order["socket"], order["requests"])}


def _answers(path: str, requests: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the answers. All of them together are not longer than a module may print."""
    found: list[dict[str, Any]] = []
    left = MOST_BYTES
    for request in requests:
        try:
            data = ask(path, request, left)
            left -= len(data)
            answer: dict[str, Any] = json.loads(data)
            found.append({name: value for name, value in answer.items() if name not in ("v", "id")})
        except (OSError, ValueError) as error:
            found.append({"ok": False, "problem": _broker_down(path, error).problem})
    return found


def ask(path: str, request: dict[str, Any], most: int = MOST_BYTES) -> bytes:
    """Send one request, and return the answer as it came. Raises OSError, and ValueError for more than `most` bytes."""
    text = json.dumps({"v": 1, "id": str(uuid.uuid4()), **request})
    data = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(SECONDS)
        link.connect(path)
        link.sendall(f"{text}\n".encode())
        while chunk := link.recv(CHUNK):
            data += chunk
            if len(data) > most:
                raise ValueError(f"its answer has more than {most} bytes")
    return bytes(data)


def _no_self_service() -> ProblemError:
    return ProblemError(
        "no_self_service",
        "this node has no self-service",
        "only a node with a broker has seats with a lease",
        "name nodes that have it with --limit; `provision status` shows which ones do",
    )


def _broker_down(path: str, error: Exception) -> ProblemError:
    return ProblemError(
        "broker_down",
        f"the broker of this node does not answer at {path}: {error}",
        "seats that run go on; none can be started or prolonged, and no lease ends until it runs again",
        "on the node: systemctl status provisioner-broker; `provision rollout` starts it again",
    )
