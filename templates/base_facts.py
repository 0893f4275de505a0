# ruff: noqa: INP001  (runs in a container of the base image)
"""Print what a base image already contains, as one line of JSON."""

from __future__ import annotations

import importlib.metadata
import json
import locale
import platform
import shutil
import sys
from pathlib import Path

# What people expect on a machine (image.tools): Debian's and Ubuntu's package -> its program.
TOOLS = {
    "git": "git",
    "tmux": "tmux",
    "vim": "vim",
    "nano": "nano",
    "less": "less",
    "htop": "htop",
    "curl": "curl",
    "wget": "wget",
    "rsync": "rsync",
    "unzip": "unzip",
    "procps": "ps",
    "openssh-client": "ssh",
}
# In every login shell, whatever else the base has on PATH.
PROGRAMS = "/usr/local/bin:/usr/bin:/bin"
FILES = {
    "tzdata": "/usr/share/zoneinfo/Asia/Shanghai",
    "fonts-wqy-microhei": "/usr/share/fonts/truetype/wqy/wqy-microhei.ttc",
}
CHINESE = "zh_CN.UTF-8"
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


def has_locale(name: str) -> bool:
    """Return whether the C library has the locale."""
    try:
        locale.setlocale(locale.LC_CTYPE, name)
    except locale.Error:
        return False
    return True


def missing_tools() -> list[str]:
    """Return the packages of the tools that the base does not have."""
    missing = [package for package, program in TOOLS.items() if shutil.which(program, path=PROGRAMS) is None]
    missing += [] if has_locale(CHINESE) else ["locales"]
    return missing + [package for package, path in FILES.items() if not Path(path).exists()]


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
        "missing_tools": missing_tools(),
    }
    print(json.dumps(facts))  # noqa: T201


if __name__ == "__main__":
    main()
