# ruff: noqa: INP001  (a file of a seat)
"""As health.py, and how many kernels run code: the broker reads it in what the engine keeps of a container's health.

`health.py jupyter|ssh` ends with 0, or with 1 and the reason.
"""

from __future__ import annotations

import json
import os
import socket
import sys

SECONDS = 8
KERNEL_SECONDS = 1  # a list of kernels that comes late must not make a seat unhealthy: the engine waits for 10 s in all
MOST_BYTES = 256 << 10  # of the list of kernels, about 300 bytes each


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
    """Return how many kernels run code, or that it is not known."""
    try:
        busy = sum(kernel["execution_state"] == "busy" for kernel in json.loads(ask("/api/kernels", KERNEL_SECONDS)[1]))
    except Exception:  # noqa: BLE001  (whatever it is: the service answers, and that is what its health is)
        return "unknown"
    return str(busy)


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
