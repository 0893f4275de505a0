"""The CA that the engine trusts for a registry: it reads HOST:PORT/*.crt at each pull, without a restart.

The folder may hold certificates of others for the same registry, so ours has a name of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import AbstractSet, Any

from ansible.module_utils.provisioner.base.files import read, write_atomic

CERTIFICATES = Path("/etc/docker/certs.d")
FILE = "provisioner.crt"
BEFORE = "ca.crt"  # the name that releases up to 0.1 wrote


def is_trusted(registry: dict[str, Any]) -> bool:
    """Return whether the engine has the CA of the registry, under any name; True when there is none to have."""
    return not registry["ca"] or any(read(path) == registry["ca"] for path in _folder(registry).glob("*.crt"))


def install_ca(registry: dict[str, Any], older: AbstractSet[str]) -> None:
    """Install the CA of the registry, in place of an older one of ours. Files of others stay.

    `older`: CAs that orders have brought for this registry, as an earlier release wrote them under another name.
    """
    ours, before = _folder(registry) / FILE, _folder(registry) / BEFORE
    if not is_trusted(registry) or (ours.exists() and read(ours) != registry["ca"]):
        ours.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_atomic(ours, registry["ca"], 0o644)
    if read(before) in older - {registry["ca"]}:
        before.unlink()


def _folder(registry: dict[str, Any]) -> Path:
    return CERTIFICATES / str(registry["address"])
