"""Learn host keys that ssh does not know yet, the way Ansible reaches the nodes, and write them to known_hosts."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from provisioner.adapters.ansible import host_key_ssh
from provisioner.adapters.ansible.play import HostEvent, play_folder, run_playbook
from provisioner.adapters.ansible.settings import Settings
from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem, ProblemError

# Extra variables win over those of the inventory; nothing is run on a node, so nothing is run as root.
_VARIABLES = {"ansible_ssh_executable": host_key_ssh.__file__, "ansible_become": False}
_NO_FILES = {"none", "/dev/null"}


class HostKey(Value):
    """A key as a line for known_hosts, its fingerprint as `ssh-keygen -l` shows it, and its type."""

    line: str
    fingerprint: str
    type: str


class NewHost(Value):
    """A host whose keys ssh does not know. `label`: its name in known_hosts; `jump`: it is on the way to a node.

    `file`: the known_hosts file that ssh would write to. `said`: what ssh printed.
    """

    label: str
    jump: bool
    file: str
    keys: Annotated[tuple[HostKey, ...], Field(max_length=16)]
    said: str

    @property
    def fingerprints(self) -> str:
        """Return type and fingerprint of each key, for a person to compare."""
        return ", ".join(f"{key.type} {key.fingerprint}" for key in self.keys)


def new_hosts(settings: Settings, nodes: Sequence[str]) -> Mapping[str, NewHost]:
    """Return, by node, the first host on the way to it whose key is not known. A changed key is not among them.

    Nodes that are not reached by ssh or do not answer are left out, and those for which ssh keeps no keys. Raises
    ProblemError where Ansible did not run.
    """
    hosts = {node: _parse(text) for node, text in _ask_ssh(settings, nodes).items()}
    return {node: host for node, host in hosts.items() if host is not None}


def known_host_keys(settings: Settings, nodes: Sequence[str]) -> Mapping[str, str]:
    """Return, by node, the ed25519 key by which ssh knows it, as `type base64`.

    Nodes whose key ssh does not know or refuses are left out, and those of another type. Raises ProblemError where
    Ansible did not run.
    """
    keys = {node: _parse_known(text) for node, text in _ask_ssh(settings, nodes).items()}
    return {node: key for node, key in keys.items() if key}


def _ask_ssh(settings: Settings, nodes: Sequence[str]) -> dict[str, str]:
    """Return what `host_key_ssh` prints, by node."""
    found: dict[str, str] = {}

    def on_host_event(event: HostEvent) -> None:
        if event.status == "ok":
            found[event.node] = str(event.result.get("stdout", ""))

    if nodes:
        with play_folder(dict.fromkeys(nodes, "{}")) as folder:
            run_playbook(settings, folder, "host_keys", on_host_event, _VARIABLES)
    return {node: found[node] for node in nodes if node in found}


def _parse(text: str) -> NewHost | None:
    try:
        host = NewHost.model_validate(json.loads(text or "{}"))
    except (ValueError, ValidationError):
        return None
    return host if host.keys and host.file not in _NO_FILES else None


def _parse_known(text: str) -> str:
    """Return the known key in what `host_key_ssh` printed; a node that is not reached by ssh prints something else."""
    try:
        found = json.loads(text)
    except ValueError:
        return ""
    return str(found.get("known", "")) if isinstance(found, dict) else ""


def write_host_keys(hosts: Iterable[NewHost]) -> None:
    """Add the keys to the known_hosts file of each host. Raises ProblemError (usage) where a file cannot be written."""
    for host in hosts:
        path = Path(host.file)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b") as file:
                old = file.read()
                separator = b"\n" if old and not old.endswith(b"\n") else b""
                file.write(separator + "".join(f"{key.line}\n" for key in host.keys).encode())
        except OSError as error:
            raise ProblemError(_unwritable(path, error), "usage") from None


def _unwritable(path: Path, error: OSError) -> Problem:
    return Problem(
        "known_hosts_unwritable",
        f"{path}: {error.strerror}",
        "the accepted host keys are kept there, because ssh reads them there",
        "make it writable, or name another file with UserKnownHostsFile in the ssh options of the inventory",
    )
