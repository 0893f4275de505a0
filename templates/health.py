# ruff: noqa: INP001  (a file of a seat)
"""Is the service of this container answering? `health.py jupyter|ssh` ends with 0, or with 1 and the reason."""

from __future__ import annotations

import os
import socket
import sys
import urllib.request
from http import HTTPStatus
from pathlib import Path

SECONDS = 8


def jupyter() -> tuple[str, bool]:
    token = Path(os.environ["JUPYTER_TOKEN_FILE"]).read_text(encoding="ascii").strip()
    request = urllib.request.Request("http://127.0.0.1:8888/api/status", headers={"Authorization": f"token {token}"})
    # An `http_proxy` of the image would send the question elsewhere.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=SECONDS) as answer:
        return f"HTTP {answer.status}", answer.status == HTTPStatus.OK


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
