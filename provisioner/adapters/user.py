"""The user of this machine: account, public keys, and the directories of the user's own seat."""

import getpass
import os
import pwd
import socket
from pathlib import Path

from provisioner.adapters.lab.keyfiles import public_keys
from provisioner.adapters.state import files
from provisioner.domain.values.problem import Problem, ProblemError


def account() -> pwd.struct_passwd | None:
    """Return the account that owns the seat: under sudo the calling user. None for root itself.

    Raises ProblemError (usage) where the user has a number but no account.
    """
    uid = int(os.environ.get("SUDO_UID", "0")) if os.getuid() == 0 else os.getuid()
    try:
        return pwd.getpwuid(uid) if uid else None
    except KeyError:
        raise ProblemError(_no_account(uid), "usage") from None


def holder() -> str:
    """Return the user of this run as shown to others: person@machine."""
    try:
        person = getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in a container that runs under a number alone
        person = str(os.getuid())
    return f"{person}@{socket.gethostname().split('.')[0]}"


def home() -> Path:
    """Return the home directory of the account, also under sudo."""
    user = account()
    return Path(user.pw_dir) if user and os.getuid() == 0 else files.home()


def _no_account(uid: int) -> Problem:
    return Problem(
        "no_account",
        f"this machine has no account with the number {uid}",
        "a seat belongs to an account: its files and its login have a name",
        "run the command as a user of this machine",
    )


def read_user_keys() -> tuple[str, ...]:
    """Return every public key in ~/.ssh/*.pub without duplicates. Files that hold something else are skipped."""
    found = [public_keys(path, str(path)) for path in sorted((home() / ".ssh").glob("*.pub"))]
    return tuple(dict.fromkeys(line for lines in found if isinstance(lines, tuple) for line in lines))


def seat_root() -> Path:
    """Return the state directory of the user's own seat: `$XDG_DATA_HOME/provisioner`."""
    path = Path(os.environ.get("XDG_DATA_HOME", ""))
    return (path if path.is_absolute() else home() / ".local" / "share") / "provisioner"


def seat_home() -> Path:
    """Return the home directory inside the user's own seat: `~/provisioner`, for root a folder of the seat's state."""
    return seat_root() / "home" if account() is None else home() / "provisioner"
