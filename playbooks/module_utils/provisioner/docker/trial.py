"""The trial of an image: does it unpack and start, and which accounts has it? Once for all seats of a run.

All orders of the broker count as one run, until the node starts anew: each person would wait for a trial of their own.

STATE_ROOT/node/trial.json    the accounts of the image that was tried last
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from ansible.module_utils.provisioner.base.command import run
from ansible.module_utils.provisioner.base.files import read, write_atomic
from ansible.module_utils.provisioner.base.host import boot_id
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.docker import engine

TRIAL_SECONDS = 120
FILES = ("passwd", "group")
# Between the two files: no line of either can have a NUL.
MARK = "\n\0 end of /etc/passwd \0\n"


def image_accounts(order: dict[str, Any]) -> dict[str, str]:
    """Return `passwd` and `group` of the order's image, which are read in one temporary container.

    Another seat of the run may have tried the image since the boot: a power cut can leave an incomplete one. Raises
    ProblemError `image_does_not_start`.
    """
    key = {"image": order["image"]["reference"], "run": order.get("by") or order["run"], "boot": boot_id()}
    path = Path(order["state_root"]) / "node" / "trial.json"
    if known := _known(path, key):
        return known
    found = dict(zip(FILES, _cat(order)))
    with contextlib.suppress(OSError):  # the next seat tries the image again
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, json.dumps({**key, **found}))
    return found


def _known(path: Path, key: dict[str, str]) -> dict[str, str] | None:
    """Return what the file says about an image, None where it says nothing or is damaged."""
    try:
        record = json.loads(read(path))
        fits = all(record[name] == wanted != "" for name, wanted in key.items())
        return {name: str(record[name]) for name in FILES} if fits else None
    except (ValueError, KeyError, TypeError):
        return None


def _cat(order: dict[str, Any]) -> tuple[str, str]:
    """Read both files of the image in a temporary container, which also shows that the image unpacks and starts.

    To start a container costs more than all else here. `cat` takes the mark between the files from stdin, so the image
    needs no shell.
    """
    seat, environment = order["seat"], engine.client_environment()
    name = f"provisioner-trial-{seat['name']}"
    _remove(name)  # left by a killed job
    limits = ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", f"{seat['uid']}:{seat['gid']}"]
    # `void`: an image may ask for all GPUs, which are not needed here.
    isolation = ["--network", "none", "--log-driver", "none", "--env", "NVIDIA_VISIBLE_DEVICES=void"]
    image = ["--pull", "never", "--entrypoint", "cat", order["image"]["reference"]]
    start = ["docker", "run", "--rm", "-i", "--name", name, *limits, *isolation, *image]
    ran = run([*start, "/etc/passwd", "-", "/etc/group"], TRIAL_SECONDS, text=MARK, env=environment)
    passwd, mark, group = ran.out.partition(MARK)
    if ran.code != 0 or not mark:
        _remove(name)
        raise _does_not_start(order["image"]["reference"], ran.message)
    return passwd, group


def _remove(name: str) -> None:
    engine.ask("DELETE", f"/containers/{name}?force=1", TRIAL_SECONDS)


def _does_not_start(reference: str, message: str) -> ProblemError:
    return ProblemError(
        "image_does_not_start",
        f"{reference} is on the node but does not start: {message}",
        "after a power cut or a full disk during a pull, the image store can hold an incomplete image",
        f"remove it on the node (docker rmi {reference}) and try again",
    )
