"""The command `provision` of a node, with which its people ask the broker."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.client.install import client_text, install_client, remove_client
from ansible.module_utils.provisioner.transaction.boot import python_path

CLIENT = Path("/usr/local/bin/provision")
FOR_OTHERS = 0o005  # to enter a folder, or to run a file, as an account that is neither owner nor in the group


def install(code: dict[str, str], socket: str) -> list[dict[str, str]]:
    """Install the command for everybody on the node; return why it could not be installed.

    `code`: see `own_code` of transaction/boot.py. `socket`: the path of the broker's socket.
    """
    python = python_path()
    if not _is_for_all(Path(python)):
        return [_not_installed(f"{python} cannot be run by other accounts than root")]
    try:
        is_installed = install_client(CLIENT, client_text(code, socket, python))
    except OSError as error:
        return [_not_installed(str(error))]
    return [] if is_installed else [_not_installed(f"another program has the name {CLIENT}, and is left as it is")]


def remove() -> None:
    """Remove the command if it is ours. Raises OSError."""
    remove_client(CLIENT)


def _is_for_all(path: Path) -> bool:
    """Return whether every account can run a program."""
    found = path.resolve()
    return all(one.stat().st_mode & FOR_OTHERS == FOR_OTHERS for one in (found, *found.parents))


def _not_installed(what: str) -> dict[str, str]:
    return ProblemError(
        "client_not_installed",
        f"the command provision was not installed on the node: {what}",
        "people ask the broker with it; from another computer they use it, too",
        "move what is in the way, or install python3 of the distribution; then run `provision rollout`",
    ).problem
