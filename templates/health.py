# ruff: noqa: INP001  (a file of a seat)
"""Is the service of this container answering? `health.py jupyter|ssh` ends with 0, or with 1 and the reason."""

from __future__ import annotations

import os
import socket
import sys

SECONDS = 8


# Every seat asks twice a minute for each service. An HTTP library would take three times the processor time.
def jupyter() -> tuple[str, bool]:
    with open(os.environ["JUPYTER_TOKEN_FILE"], encoding="ascii") as file:  # noqa: PTH123  (pathlib loads slowly)
        token = file.read().strip()
    request = f"GET /api/status HTTP/1.0\r\nHost: 127.0.0.1:8888\r\nAuthorization: token {token}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", 8888), timeout=SECONDS) as connection:
        connection.sendall(request.encode("ascii"))
        with connection.makefile("rb") as answer:
            status = answer.readline(200).split()[1:2]
    return f"HTTP {b''.join(status).decode(errors='replace')}", status == [b"200"]


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
