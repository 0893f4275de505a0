"""Checks of the mounts of a seat on the node, each in a child with a time limit: a hung server stops nothing."""

from __future__ import annotations

import contextlib
import json
import select
import time
from typing import Any, Callable, Iterable, Mapping

from ansible.module_utils.provisioner.base.child import Child
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.mount.look import Account, Mount, look

FILE = "mounts.json"  # of a generation
KEYS = {"source", "target", "read_only", "mounted", "autofs"}  # of each mount
LOOK_SECONDS = 10
PAUSE = 5.0
CODES = ("mount_missing", "not_mounted", "mount_hangs", "mount_denied", "mount_path_unsafe", "mount_not_shared")
FIXES = {
    "mount_missing": "put it there on the node, or correct `mounts` in lab.yml",
    "not_mounted": "mount it on the node (mount {source}; see /etc/fstab), or name the mount point itself in lab.yml",
    "mount_hangs": "start its server again, or unmount it on the node: umount -l {source}",
    "mount_denied": "give the seats the right to read it (a group of its own counts for nothing inside); with"
    " root_squash, let root pass the folders above it: chmod o+x",
    "mount_not_shared": "let the node pass new mounts on: mount --make-rshared / (systemd does it)",
    "mount_path_unsafe": "give each folder above it to root and take the right to write from others; or mount it on the"
    " node, below a folder of root: mount --bind {source} /data",
}
WHY = "each seat gets this folder when it starts, and a seat without it would show an empty one; what runs goes on"


def mounts_of(order: Mapping[str, Any]) -> list[Mount]:
    """Return the mounts that the files of an order, or of the facts of a seat, name; none where they are damaged."""
    with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
        found = json.loads((order.get("files") or {}).get(FILE, "[]"))
        return [mount for mount in found if mount.keys() >= KEYS and isinstance(mount["source"], str)]
    return []


def has_to_be_mounted(order: Mapping[str, Any]) -> bool:
    """Return whether the engine must not start the seat by itself: something has to be mounted first."""
    return any(mount["mounted"] for mount in mounts_of(order))


def check_mounts(order: Mapping[str, Any]) -> None:
    """Check the mounts of an order in LOOK_SECONDS. Raises ProblemError with one of CODES at the first fault."""
    for fault in faults_of(order):
        if order["seat"].get("kind"):  # its person reads it, who cannot do this
            fault.problem["fix"] = f"ask the admin of the lab: {fault.problem['fix']}"
        raise fault


def faults_of(order: Mapping[str, Any]) -> list[ProblemError]:
    """Return all that is wrong with the mounts of an order now."""
    seat, mounts = order["seat"], mounts_of(order)
    inside = (mount["source"] for mount in mounts if _overlap(mount["source"], seat["home"]))
    faults = [_problem("mount_path_unsafe", source, f"{source} and {seat['home']} overlap") for source in inside]
    return faults + [fault for fault in find_faults(mounts, Account(seat["uid"], seat["gid"]), LOOK_SECONDS) if fault]


def _overlap(one: str, other: str) -> bool:
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def wait_for_mounts(order: Mapping[str, Any], deadline: float, report: Callable[[str], None]) -> None:
    """Wait until the mounts of a seat that ran before are there, to the deadline (monotonic clock) at most.

    It may have run without the right to read one of them, and starts so again. Raises ProblemError as `check_mounts`
    does; an unsafe path is not waited for.
    """
    while faults := [fault for fault in faults_of(order) if fault.problem["code"] != "mount_denied"]:
        if faults[0].problem["code"] == "mount_path_unsafe" or time.monotonic() + PAUSE > deadline:
            raise faults[0]
        report(f"waiting for a mount: {faults[0]}")
        time.sleep(PAUSE)


def find_faults(mounts: Iterable[Mount], account: Account | None, seconds: float) -> list[ProblemError | None]:
    """Return what is wrong with each mount, None if nothing is: all are looked at side by side in so many seconds.

    `account`: also look whether it may read them.
    """
    children = [(mount["source"], Child(_look_at(mount, account), seconds)) for mount in mounts]
    _read_all([child for _, child in children], time.monotonic() + seconds)
    return [_result(source, child, seconds) for source, child in children]


def _look_at(mount: Mount, account: Account | None) -> Callable[[], Any]:
    return lambda: look(mount, account)


def _read_all(children: Iterable[Child], deadline: float) -> None:
    waiting = set(children)
    while waiting:
        ready = select.select(list(waiting), [], [], max(deadline - time.monotonic(), 0))[0]
        if not ready:
            return
        waiting -= {child for child in ready if child.read()}


def _result(source: str, child: Child, seconds: float) -> ProblemError | None:
    try:
        found = child.result()
    except TimeoutError:
        return _problem("mount_hangs", source, f"{source} does not answer within {seconds:g} s")
    except ChildProcessError as error:
        return _problem("mount_missing", source, f"{source}: {error}")
    return _problem(found[0], source, found[1]) if found else None


def _problem(code: str, source: str, what: str) -> ProblemError:
    return ProblemError(code, what, WHY, FIXES[code].format(source=source))
