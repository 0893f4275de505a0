"""Who sits at this machine, their public keys, and where their own seat is kept."""

import getpass
import os
import pwd
import socket
from pathlib import Path

from provisioner.adapters.lab.keyfiles import public_keys


def account() -> pwd.struct_passwd | None:
    """Whose seat it is: under sudo, of whoever called it. None for root itself, who has none."""
    uid = int(os.environ.get("SUDO_UID", "0")) if os.getuid() == 0 else os.getuid()
    return pwd.getpwuid(uid) if uid else None


def holder() -> str:
    """Who acts, as other people know them: person@machine."""
    return f"{getpass.getuser()}@{socket.gethostname().split('.')[0]}"


def home() -> Path:
    person = account()
    return Path(person.pw_dir) if person and os.getuid() == 0 else Path.home()


def own_keys() -> tuple[str, ...]:
    """Every public key below ~/.ssh, each once; what is none is passed over."""
    found = [public_keys(path, str(path)) for path in sorted((home() / ".ssh").glob("*.pub"))]
    return tuple(dict.fromkeys(line for lines in found if isinstance(lines, tuple) for line in lines))


def seat_root() -> Path:
    """Where one's own machine keeps one's own seat: `$XDG_DATA_HOME/provisioner`."""
    named = Path(os.environ.get("XDG_DATA_HOME", ""))
    return (named if named.is_absolute() else home() / ".local" / "share") / "provisioner"


def seat_home() -> Path:
    """What a seat shows as its home: a folder of one's own home; where root made the seat, one beside it."""
    return seat_root() / "home" if account() is None else home() / "provisioner"
