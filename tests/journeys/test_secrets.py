"""A search for every secret during and after runs: arguments, environments, files, logs, artifacts and the home."""

import base64
import json
import os
import re
import secrets
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pexpect
import pytest

from tests.lab.bed import Lab, make_key, running_lab
from tests.lab.demo import write_lab
from tests.lab.engine import Engine
from tests.lab.node import Node
from tests.playbooks.on_nodes import push_base

pytestmark = [pytest.mark.lab, pytest.mark.long("attack")]

USER = "lab"
# Where a secret may be: (secret, place) -> reason. A place is a process, a file of this machine or of the node.
ALLOWED = {
    (
        "token",
        r"node:/var/lib/provisioner/seats/[^/]+/identity/token",
    ): "the file that Jupyter reads, of its user alone",
    ("token", r"node:/var/lib/docker/containers/.*"): "the stand-in for Jupyter prints it; only root reads these logs",
    ("token", r"control:output of status --urls"): "it was asked for",
    ("token", r"play:[^/]+\.token"): "fetched for `status --urls` into the folder of the play",
    ("registry login", r"node:/root/\.docker/config\.json"): "`docker login` of the node's admin",
    ("registry login", r"control:docker/config\.json"): "`docker login` of the lab's admin",
    (
        "registry login",
        r"control:(mirror|registry)/(credentials|config\.json)",
    ): "the registries' own files, of the bed",
    ("signing key", r"control:signing_key"): "the key itself",
}
FOLDERS = "/var/lib/provisioner /var/lib/docker/containers /etc /tmp /var/tmp /var/log /root /home /srv /opt /run"


class Secrets(NamedTuple):
    """The values to search for, by name; a secret may have several forms."""

    forms: Mapping[str, Sequence[bytes]]

    def names_in(self, content: bytes) -> set[str]:
        return {name for name, forms in self.forms.items() if any(form in content for form in forms)}

    def in_file(self, path: Path) -> set[str]:
        with suppress(OSError):  # it has ended, or has been removed
            return self.names_in(path.read_bytes())
        return set()


@pytest.fixture(scope="module")
def lab(testbed: Engine) -> Iterator[Lab]:
    """A node with a password for sudo and a login for the registry; its first seat has a token."""
    password = f"registry-{secrets.token_hex(8)}"
    with running_lab(testbed, ["rtx4090-570"], auth=(USER, password)) as lab:
        for torch in ("2.9.1", "2.10.0"):
            push_base(lab, torch)
        write_lab(
            lab, lab.folder / "lab", image={"complete": True, "torch": "2.9.1"}, rollout={"min_healthy_seconds": 1}
        )
        yield lab


def log_in(lab: Lab) -> None:
    """Write logins as `docker login` does, on this machine and on the node."""
    assert lab.registry.auth is not None
    login = base64.b64encode(":".join(lab.registry.auth).encode()).decode()
    auths = {registry.address: {"auth": login} for registry in (lab.mirror, lab.registry)}
    (lab.folder / "docker").mkdir()
    (lab.folder / "docker/config.json").write_text(json.dumps({"auths": auths}))
    script = "mkdir -p /root/.docker && cat >/root/.docker/config.json && chmod 600 /root/.docker/config.json"
    lab.node("node1").exec("sh", "-c", script, stdin=json.dumps({"auths": auths}))


def want_sudo_password(node: Node, password: str) -> None:
    node.exec("chpasswd", stdin=f"lab:{password}\n")
    node.exec("sed", "-i", "s/NOPASSWD: ALL/ALL/", "/etc/sudoers.d/lab")


def provision(lab: Lab, become: str, *words: str) -> str:
    """Run a command on a terminal, with the password for sudo; return what it printed."""
    environment = os.environ | lab.engine.client_env() | {"DOCKER_CONFIG": str(lab.folder / "docker")}
    environment |= {name: str(lab.folder / name.lower()) for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME")}
    argv = ["-m", "provisioner", words[0], str(lab.folder / "lab"), *words[1:], "-K"]
    child = pexpect.spawn(sys.executable, argv, env=environment, encoding="utf-8", timeout=300, dimensions=(50, 400))
    child.expect("BECOME password: ")
    child.sendline(become)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0, child.before
    return str(child.before)


@contextmanager
def watched_processes(known: Secrets) -> Iterator[set[tuple[str, str]]]:
    """Yield a set of (secret, place), which processes and the folders of running plays fill every 50 ms.

    Nodes are containers on this machine, so that their processes are seen, too.
    """
    found, over, rounds = set[tuple[str, str]](), threading.Event(), [0]

    def watch() -> None:
        while not over.wait(0.05):
            rounds[0] += 1
            for process in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    if names := known.in_file(process / name):
                        with suppress(OSError):
                            comm = (process / "comm").read_text().strip()
                            found.update((secret, f"{name} of {comm}") for secret in names)
            with suppress(OSError):  # a folder is removed at the end of its play
                for file in Path("/tmp").glob("prov-*/**/*"):
                    found.update((secret, f"play:{file.name}") for secret in known.in_file(file))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
    assert rounds[0] > 20


def search_control(lab: Lab, known: Secrets, since: float) -> set[tuple[str, str]]:
    """Search the folder of the lab, which has all records, and what was written to /tmp and ~/.ansible meanwhile."""
    found = set()
    for path in (file for file in lab.folder.rglob("*") if file.is_file()):
        if lab.node("node1").folder not in path.parents:  # of the bed
            found |= {(name, f"control:{path.relative_to(lab.folder)}") for name in known.in_file(path)}
    for folder in (Path("/tmp"), Path.home() / ".ansible"):
        for path in folder.rglob("*"):
            with suppress(OSError):
                if path.is_file() and path.stat().st_mtime > since and path.stat().st_size < 1 << 20:
                    found |= {(name, f"control:{path}") for name in known.in_file(path)}
    return found


def search_node(node: Node, known: Secrets) -> set[tuple[str, str]]:
    """Search the files of the node, and what its engine says of containers and images."""
    found = set()
    for name, forms in known.forms.items():
        patterns = "\n".join(form.decode() for form in forms)
        files = node.exec("sh", "-c", f"grep -rlFf - --devices=skip {FOLDERS} 2>/dev/null || true", stdin=patterns)
        found |= {(name, f"node:{file}") for file in files.splitlines()}
    inspected = node.exec("sh", "-c", "docker inspect $(docker ps -aq) $(docker image ls -q)")
    return found | {(name, "node:docker inspect") for name in known.names_in(inspected.encode())}


def not_allowed(found: set[tuple[str, str]]) -> set[tuple[str, str]]:
    return {
        (secret, place)
        for secret, place in found
        if not any(secret == name and re.fullmatch(pattern, place) for name, pattern in ALLOWED)
    }


def test_no_secret_is_anywhere_but_where_it_belongs(lab: Lab) -> None:
    node, since = lab.node("node1"), time.time()
    become, key = f"sudo-{secrets.token_hex(8)}", lab.folder / "signing_key"
    want_sudo_password(node, become)
    log_in(lab)
    make_key(key)
    provision(lab, become, "rollout", "--yes")
    assert lab.registry.auth is not None
    login = ":".join(lab.registry.auth).encode()
    token = node.exec("sh", "-c", "cat /var/lib/provisioner/seats/*/identity/token").encode()
    # The first line of every key of OpenSSH is the same.
    forms = {
        "token": [token, base64.b64encode(token)],
        "registry login": [lab.registry.auth[1].encode(), base64.b64encode(login)],
        "become password": [become.encode()],
        "signing key": [line for line in key.read_bytes().splitlines()[2:] if b"-----" not in line and len(line) > 40],
    }
    known = Secrets(forms)
    with watched_processes(known) as found:
        printed = provision(lab, become, "lock", "--torch", "2.10.0", "--sign", str(key))
        printed += provision(lab, become, "upgrade", "--torch", "2.10.0", "--yes", "-v")
        shown = provision(lab, become, "status", "--urls")
        printed += provision(lab, become, "rollback", "--yes", "-vv")
    assert token.decode() in shown
    found |= {(name, "control:output") for name in known.names_in(printed.encode())}
    found |= {(name, "control:output of status --urls") for name in known.names_in(shown.encode())}
    found |= search_control(lab, known, since) | search_node(node, known)
    assert not_allowed(found) == set()
    # The search finds secrets where they are known to be.
    assert {name for name, _ in found} == {"token", "registry login", "signing key"}
