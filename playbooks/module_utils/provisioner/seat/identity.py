"""What makes a seat the same seat for years: its token and its SSH host key. Made once, never changed."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

from ansible.module_utils.provisioner.base.command import run
from ansible.module_utils.provisioner.base.files import read, sync_folder
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.seat.seat import Seat

TOKEN = "token"  # noqa: S105  (the name of a file)
HOST_KEY = "ssh_host_ed25519_key"


def make_identity(seat: Seat, uid: int, gid: int) -> None:
    """What is there already stays as it is."""
    _make_token(seat.identity / TOKEN, uid, gid)
    _make_host_key(seat.identity / HOST_KEY, gid)


def host_key(seat: Seat) -> str:
    """The public half: type and key. Empty where there is none yet."""
    return " ".join(read(seat.identity / f"{HOST_KEY}.pub").split()[:2])


def make_key(path: Path, comment: str) -> None:
    """An ed25519 key pair at `path` and `path`.pub."""
    ran = run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)], 30)
    if ran.code != 0:
        raise ProblemError(
            "no_host_key",
            f"ssh-keygen failed: {ran.message}",
            "a seat shows itself by an SSH host key of its own",
            "run `ssh-keygen -t ed25519 -f /tmp/key` on the node to see why",
        )


def _make_token(path: Path, uid: int, gid: int) -> None:
    if path.exists():
        return
    descriptor, beside = tempfile.mkstemp(dir=str(path.parent))
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))  # no newline: Jupyter would take it for a part of the token
        _set_owner(Path(beside), uid, gid, 0o400)
        file.flush()
        os.fsync(descriptor)
    Path(beside).replace(path)
    sync_folder(path.parent)


def _make_host_key(path: Path, gid: int) -> None:
    """A key that sshd's own user may read, but not replace: sshd refuses a group-readable one only if it owns it."""
    if path.exists():
        return
    with tempfile.TemporaryDirectory(dir=str(path.parent)) as folder:
        beside = Path(folder) / HOST_KEY
        make_key(beside, path.parent.parent.name)
        _set_owner(beside, 0, gid, 0o440 if os.getuid() == 0 else 0o600)
        # The public half first: where the private one is, both are.
        beside.with_suffix(".pub").replace(path.with_suffix(".pub"))
        beside.replace(path)
        sync_folder(path.parent)


def _set_owner(path: Path, uid: int, gid: int, mode: int) -> None:
    """Only root can give a file away; whoever is not root makes seats for themselves alone."""
    if os.getuid() == 0:
        os.chown(str(path), uid, gid)
    path.chmod(mode)
