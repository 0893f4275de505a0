#!/usr/bin/env python3
"""Stands for ssh in a play: connects as Ansible would, but only to learn host keys, and never logs in.

Ansible calls this file with the arguments of ssh, so what it learns is what ssh would meet: with the options of the
inventory and of ansible.cfg, a ProxyJump, and the user's own configuration of ssh. ssh itself decides whether a key is
known, has changed or is new; a new one is written to a temporary file. The result is printed as JSON: see `main`.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_SECONDS = 60  # for one connection, with its jump hosts
_MOST_JUMPS = 8
# Before the options of the lab, because the first value counts. Without an authentication method ssh ends after the
# check of the host key; no connection of Ansible is used or left.
_OURS = (
    "BatchMode=yes",
    "StrictHostKeyChecking=accept-new",
    "PreferredAuthentications=none",
    "ControlMaster=no",
    "ControlPath=none",
    "UpdateHostKeys=no",
    "ClearAllForwardings=yes",
    "RemoteCommand=none",
    "RequestTTY=no",
    "LogLevel=INFO",
)


class Hop(NamedTuple):
    """A host on the way to a node, or the node: arguments of ssh, its name, and its effective configuration."""

    arguments: list[str]
    host: str
    config: dict[str, str]

    @property
    def label(self) -> str:
        """Return the name under which known_hosts has the host."""
        name, port = self.config.get("hostname", self.host), self.config.get("port", "22")
        return self.config.get("hostkeyalias") or (name if port == "22" else f"[{name}]:{port}")


def main(argv: list[str]) -> None:
    """Print the first host on the way whose key is not known: `label`, `jump`, `file`, `keys`, `said`.

    `keys` have a line for known_hosts, a fingerprint and a type; it is empty where ssh got no key or refused it, and
    `said` gives the reason. `file` is the user's known_hosts. Where all keys are known, an object with `known` is
    printed: the ed25519 key of the node, empty where known_hosts has none or several.
    """
    arguments, host = argv[:-2], argv[-2]  # the last is a command for the node
    if arguments[-1:] == ["-tt"]:
        arguments.pop()
    hops = list(_hops(arguments, host))
    for hop in hops:
        files = hop.config.get("userknownhostsfile", "").split()
        keys, said = _learn(hop, files)
        if keys or "ost key" in said or "HOST KEY" in said or "HOST IDENTIFICATION" in said:
            found = {"label": hop.label, "jump": hop is not hops[-1], "file": (files or ["none"])[0]}
            print(json.dumps({**found, "keys": keys, "said": said}))  # noqa: T201  (it is the result of the task)
            return
    print(json.dumps({"known": _known_key(hops[-1])}))  # noqa: T201


def _hops(arguments: list[str], host: str, depth: int = 0) -> Iterator[Hop]:
    """Yield the jump hosts before a host, and the host. A ProxyJump gets of the options only -F, as ssh does it."""
    config = _effective(arguments, host)
    jumps = [jump for jump in config.get("proxyjump", "none").split(",") if jump != "none"]
    if jumps and depth < _MOST_JUMPS:
        place = arguments.index("-F") if "-F" in arguments else len(arguments)
        before = ["-J", ",".join(jumps[:-1])] if jumps[:-1] else []
        yield from _hops([*arguments[place : place + 2], *before], _destination(jumps[-1]), depth + 1)
    yield Hop(arguments, host, config)


def _destination(jump: str) -> str:
    """Return a jump host (user@host:port) in the form that is an argument of ssh."""
    return jump if jump.startswith("ssh://") else f"ssh://{jump}"


def _effective(arguments: list[str], host: str) -> dict[str, str]:
    done = _run([*arguments, "-G", host])
    return {name: value for name, _, value in (line.partition(" ") for line in done.stdout.splitlines())}


def _learn(hop: Hop, files: list[str]) -> tuple[list[dict[str, str]], str]:
    """Connect to a host. Return the keys that are new to ssh, and what ssh said."""
    with tempfile.TemporaryDirectory() as folder:
        new = Path(folder, "known_hosts")
        options = [*_OURS, f"UserKnownHostsFile={' '.join([str(new), *files])}"]
        done = _run([*(word for option in options for word in ("-o", option)), *hop.arguments, hop.host, "true"])
        lines = new.read_text().splitlines() if new.exists() else []
        return [{"line": line, **_fingerprint(line, folder)} for line in lines], done.stderr.strip()


def _known_key(hop: Hop) -> str:
    """Return the ed25519 key that known_hosts has for a host, as `type base64`; empty where it has none or several."""
    files = [file for kind in ("user", "global") for file in hop.config.get(f"{kind}knownhostsfile", "").split()]
    lines = [line.split() for file in files for line in _lines_for(hop.label, file)]
    keys = {" ".join(words[1:3]) for words in lines if words[1:2] == ["ssh-ed25519"]}
    return keys.pop() if len(keys) == 1 else ""


def _lines_for(label: str, file: str) -> list[str]:
    argv = ["ssh-keygen", "-F", label, "-f", file]
    return subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False).stdout.splitlines()


def _fingerprint(line: str, folder: str) -> dict[str, str]:
    one = Path(folder, "one")
    one.write_text(f"{line}\n")
    done = subprocess.run(["ssh-keygen", "-l", "-f", one], capture_output=True, text=True, check=False)  # noqa: S607
    words = done.stdout.split() or ["", "unknown", ""]
    return {"fingerprint": words[1], "type": words[-1].strip("()")}


def _run(arguments: list[str]) -> "subprocess.CompletedProcess[str]":
    argv = [os.environ.get("ANSIBLE_SSH_EXECUTABLE", "ssh"), *arguments]
    try:
        return subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_SECONDS,
            start_new_session=True,  # a jump host has no terminal to ask on
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(argv, 255, "", str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
