"""Install the command `provision` of a node. It never replaces a program of that name that is not ours."""

from __future__ import annotations

import contextlib
import stat
from pathlib import Path

from ansible.module_utils.provisioner.base.files import sync_folder, write_atomic
from ansible.module_utils.provisioner.client import me

MODE = 0o755
MARK = "# The client of lab-provisioner for the people of a node. It is replaced by each rollout."
SOURCE = "provisioner/client/me.py"
TEXT = """\
#!{interpreter} -I
{mark}
{source}

if __name__ == "__main__":
    sys.exit({name}(sys.argv[1:], {socket!r}))
"""


def client_text(code: dict[str, str], socket: str, interpreter: str) -> str:
    """Return the program. `code`: see `own_code` of transaction/boot.py. `socket`: the path of the broker's socket.

    `interpreter`: a Python that everybody on the node can run.
    """
    return TEXT.format(interpreter=interpreter, mark=MARK, source=code[SOURCE], name=me.main.__name__, socket=socket)


def is_ours(path: Path) -> bool:
    """Return whether a path is a plain file with the mark of our client. Raises OSError where it cannot be read."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
    except FileNotFoundError:
        return False
    with path.open("rb") as file:
        return MARK.encode() in file.read(4096).splitlines()[:2]


def install_client(path: Path, text: str) -> bool:
    """Install the program, for everybody to run. Return False where another program has the name: it is left.

    Raises OSError.
    """
    if path.is_symlink() or path.exists():
        if not is_ours(path):
            return False
        if path.read_text() == text and stat.S_IMODE(path.stat().st_mode) == MODE:
            return True
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text, MODE)
    return True


def remove_client(path: Path) -> None:
    """Remove the program if it is ours. Raises OSError."""
    if is_ours(path):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            sync_folder(path.parent)
