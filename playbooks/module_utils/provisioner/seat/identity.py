"""The identity of a seat: its Jupyter token and its SSH host key. Generated once; only its person changes the token."""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from pathlib import Path

from ansible.module_utils.provisioner.base.command import run
from ansible.module_utils.provisioner.base.files import read, sync_folder, write_in_place
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.seat.seat import Seat

TOKEN = "token"  # noqa: S105  (the name of a file)
HOST_KEY = "ssh_host_ed25519_key"


def make_identity(seat: Seat, uid: int, gid: int) -> None:
    """Generate token and host key where they are missing."""
    _make_token(seat.identity / TOKEN, uid, gid)
    _make_host_key(seat.identity / HOST_KEY, gid)


def rotate_token(seat: Seat, uid: int, gid: int) -> None:
    """Replace the token in its file, which keeps its inode: it is mounted into both containers.

    Jupyter reads the new one when it starts again, `provision-url` in the SSH service each time.
    """
    path = seat.identity / TOKEN
    _make_token(path, uid, gid)
    path.chmod(0o600)  # for other owners than root
    write_in_place(path, secrets.token_hex(32))
    path.chmod(0o400)


def host_key(seat: Seat) -> str:
    """Return type and key of the public host key, empty when there is none."""
    return " ".join(read(seat.identity / f"{HOST_KEY}.pub").split()[:2])


def made_on(seat: Seat) -> str | None:
    """Return the day (UTC, YYYY-MM-DD) on which the identity was generated, None when there is none."""
    try:
        made = (seat.identity / f"{HOST_KEY}.pub").stat().st_mtime
    except OSError:
        return None
    return time.strftime("%Y-%m-%d", time.gmtime(made))


def make_key(path: Path, comment: str) -> None:
    """Generate an ed25519 key pair at `path` and `path`.pub. Raises ProblemError `no_host_key`."""
    ran = run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)], 30)
    if ran.code != 0:
        raise ProblemError(
            "no_host_key",
            f"ssh-keygen failed: {ran.message}",
            "each seat has its own SSH host key",
            "run `ssh-keygen -t ed25519 -f /tmp/key` on the node to see why",
        )


def _make_token(path: Path, uid: int, gid: int) -> None:
    if not path.exists():
        _write_token(path, uid, gid)


def _write_token(path: Path, uid: int, gid: int) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=str(path.parent))
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))  # no newline: Jupyter would read it as part of the token
        _set_owner(Path(temporary), uid, gid, 0o400)
        file.flush()
        os.fsync(descriptor)
    Path(temporary).replace(path)
    sync_folder(path.parent)


def _make_host_key(path: Path, gid: int) -> None:
    """Generate a key that the seat's user can read but not replace.

    sshd refuses a group-readable key only when its own user is the owner.
    """
    if path.exists():
        return
    with tempfile.TemporaryDirectory(dir=str(path.parent)) as folder:
        temporary = Path(folder) / HOST_KEY
        make_key(temporary, path.parent.parent.name)
        _set_owner(temporary, 0, gid, 0o440 if os.getuid() == 0 else 0o600)
        # The public key first: when the private key exists, both do.
        temporary.with_suffix(".pub").replace(path.with_suffix(".pub"))
        temporary.replace(path)
        sync_folder(path.parent)


def _set_owner(path: Path, uid: int, gid: int, mode: int) -> None:
    """Set mode and, as root, owner; other users make seats only for themselves."""
    if os.getuid() == 0:
        os.chown(str(path), uid, gid)
    path.chmod(mode)
