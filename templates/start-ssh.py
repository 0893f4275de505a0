# ruff: noqa: INP001  (a file of a seat)
"""Starts the seat's sshd, with the image's environment for its sessions.

An SSH session begins with an empty environment: without this, `ssh node python` would find another Python than Jupyter.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

CONFIG = "/etc/provisioner/sshd_config"
# What sshd sets for a session itself, and what is the container's own.
NOT_FOR_SESSIONS = {"HOME", "HOSTNAME", "LOGNAME", "OLDPWD", "PWD", "SHELL", "SHLVL", "TERM", "USER", "_"}
SECRET = re.compile("token|secret|passw|credential|api_?key", re.IGNORECASE)


def for_sessions(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name not in NOT_FOR_SESSIONS and not SECRET.search(name) and (name + value).isprintable()
    }


def quoted(word: str) -> str:
    """As sshd_config(5) reads an argument: in double quotes, a backslash before a quote or a backslash."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def with_own_programs(environment: Mapping[str, str]) -> dict[str, str]:
    """Programs that a student installs come last, so that none of them hides one of the image's."""
    return {**environment, "PATH": f"{environment['PATH']}:{environment['PYTHONUSERBASE']}/bin"}


def config_text(environment: Mapping[str, str]) -> str:
    # sshd heeds the first SetEnv only.
    pairs = [quoted(f"{name}={value}") for name, value in sorted(for_sessions(environment).items())]
    return f"SetEnv {' '.join(pairs)}\nInclude {CONFIG}\n"


def main() -> None:
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if sshd is None:
        sys.exit("this image has no sshd")
    path = Path(tempfile.mkdtemp(prefix="sshd-")) / "sshd_config"  # in a folder of mode 0700
    path.write_text(config_text(with_own_programs(os.environ)), encoding="utf-8")
    os.execv(sshd, [sshd, "-D", "-e", "-f", str(path)])  # noqa: S606  (sshd wants its absolute path as its name)


if __name__ == "__main__":
    main()
