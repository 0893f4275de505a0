# ruff: noqa: INP001  (runs in a container of the base image)
"""Print what a base image already contains, as one line of JSON."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import sys

SINCE = 2  # the first major version of jupyter_server that reads its token from our configuration


def has_jupyter() -> bool:
    """Return whether JupyterLab, a new enough server and a kernel are installed and `jupyter` is on PATH."""
    try:
        server = importlib.metadata.version("jupyter_server")
        importlib.metadata.version("jupyterlab")
        importlib.metadata.version("ipykernel")
    except importlib.metadata.PackageNotFoundError:
        return False
    return shutil.which("jupyter") is not None and int(server.split(".")[0]) >= SINCE


def main() -> None:
    """Print the facts. Their names are the fields of BaseFacts."""
    facts = {
        "python": sys.executable,
        "version": platform.python_version(),
        "machine": platform.machine(),
        "glibc": platform.libc_ver()[1],
        "jupyter": has_jupyter(),
        "sshd": shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin") is not None,
        "apt": shutil.which("apt-get") is not None,
    }
    print(json.dumps(facts))  # noqa: T201


if __name__ == "__main__":
    main()
