"""The client of a node for `provision me`, which this program runs, too: on a node, and to check a command line."""

import importlib.util
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from provisioner.adapters import resources
from provisioner.domain.values.problem import Problem, ProblemError

SOCKET = Path("/run/provisioner/broker.sock")
_FILE = "module_utils/provisioner/client/me.py"


class KeyPair(NamedTuple):
    """A key of the user: the name of the private file in ~/.ssh, and `type base64` of the public one."""

    name: str
    public: str


def has_broker() -> bool:
    """Return whether this machine is a node whose broker may answer this account: root has no seat of its own."""
    return os.getuid() != 0 and SOCKET.exists()


def may_ask_broker() -> bool:
    """Return whether this account is one that the broker of this machine answers."""
    return has_broker() and os.access(SOCKET, os.W_OK)


def run(words: Sequence[str]) -> int:
    """Ask the broker of this machine for what follows `provision me`; print the result and return the exit code."""
    code: int = _client().main(["me", *words], str(SOCKET))
    return code


def check(words: Sequence[str]) -> str:
    """Return what is wrong with the words after `provision me`, empty for nothing."""
    client: Any = _client()
    try:
        client.parse(words)
    except client.FaultError as error:
        return str(error.problem["what"])
    return ""


def key_pairs(folder: Path) -> tuple[KeyPair, ...]:
    """Return the keys id_* of a folder whose public file can be read, as many as a node takes."""
    client: Any = _client()
    try:
        files = sorted(path for path in folder.iterdir() if re.fullmatch(r"id_[A-Za-z0-9_.-]+\.pub", path.name))
    except OSError:
        return ()
    found = ((path.stem, key) for path in files for key in client.public_keys(client.read_small(path))[:1])
    return tuple(KeyPair(name, key) for name, key in found)[: client.MOST_KEYS]


def make_key(folder: Path) -> Path:
    """Make a key pair for a user without one, and return the path of the private key. Raises ProblemError."""
    client: Any = _client()
    try:
        path = client.make_key(folder)
    except client.FaultError as error:
        raise ProblemError(Problem(**error.problem)) from None
    return Path(path)


@cache
def _client() -> ModuleType:
    spec: Any = importlib.util.spec_from_file_location("provisioner_node_client", resources.playbooks() / _FILE)
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)
    return client
