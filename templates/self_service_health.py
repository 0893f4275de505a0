# ruff: noqa: INP001  (a file of a seat)
"""As health.py, and what the kernels do: the broker reads it in what the engine keeps of a container's health.

`health.py jupyter|ssh` ends with 0, or with 1 and the reason.
"""

from __future__ import annotations

import json
import os
import socket
import sys

SECONDS = 8
# A list that comes late must not make a seat unhealthy: the engine waits for 10 s in all.
KERNEL_SECONDS = 1
SESSION_SECONDS = 0.5
MOST_BYTES = 256 << 10  # of the list of kernels, about 300 bytes each
MOST_SHOWN, MOST_NAME, MOST_OUTPUT = 20, 48, 3000  # kernels, characters, bytes: the engine keeps 4096


def ask(path: str, seconds: float) -> tuple[bytes, bytes]:
    """Return the status and the body of an answer of Jupyter."""
    with open(os.environ["JUPYTER_TOKEN_FILE"], encoding="ascii") as file:  # noqa: PTH123  (pathlib loads slowly)
        token = file.read().strip()
    request = f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1:8888\r\nAuthorization: token {token}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", 8888), timeout=seconds) as connection:
        connection.sendall(request.encode("ascii"))
        with connection.makefile("rb") as answer:
            head, _, body = answer.read(MOST_BYTES).partition(b"\r\n\r\n")
    return b"".join(head.split()[1:2]), body


def kernels() -> str:
    """Return how many kernels run code, or that it is not known; in a second line what each one does."""
    try:
        found = json.loads(ask("/api/kernels", KERNEL_SECONDS)[1])
        busy = sum(kernel["execution_state"] == "busy" for kernel in found)
    except Exception:  # noqa: BLE001  (whatever it is: the service answers, and that is what its health is)
        return "unknown"
    try:
        return f"{busy}\n{kernel_list(found, notebooks())}" if found else str(busy)
    except Exception:  # noqa: BLE001  (as above)
        return str(busy)


def kernel_list(found: list[dict[str, str]], names: dict[str, str]) -> str:
    """Return the number of kernels and, as [id, notebook, state, last activity], those that are idle longest; JSON."""
    found.sort(key=lambda kernel: (kernel["execution_state"] == "busy", kernel["last_activity"]))
    rows = [
        [kernel["id"], names.get(kernel["id"], "")[-MOST_NAME:], kernel["execution_state"], kernel["last_activity"]]
        for kernel in found[:MOST_SHOWN]
    ]
    while len(text := json.dumps([len(found), rows])) > MOST_OUTPUT:
        rows.pop()
    return text


def notebooks() -> dict[str, str]:
    """Return the notebook, or the name of a console, of each kernel that has one; nothing where they are not known."""
    try:
        sessions = json.loads(ask("/api/sessions", SESSION_SECONDS)[1])
        return {
            session["kernel"]["id"]: str(session["path"] if session["type"] == "notebook" else session["name"])
            for session in sessions
        }
    except Exception:  # noqa: BLE001  (kernels are shown without names)
        return {}


def jupyter() -> tuple[str, bool]:
    status = ask("/api/status", SECONDS)[0]
    healthy = status == b"200"
    said = f"HTTP {status.decode(errors='replace')}"
    return (f"{said}, busy kernels: {kernels()}" if healthy else said), healthy


def ssh() -> tuple[str, bool]:
    with socket.create_connection(("127.0.0.1", 2222), timeout=SECONDS) as connection:
        banner = connection.recv(64)
    return repr(banner), banner.startswith(b"SSH-")


def main(service: str) -> int:
    try:
        said, healthy = {"jupyter": jupyter, "ssh": ssh}[service]()
    except Exception as error:  # noqa: BLE001  (whatever it is, the service does not answer)
        said, healthy = f"{type(error).__name__}: {error}", False
    print(said)  # noqa: T201  (the engine keeps it with the container's health)
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
