"""A look at the mounts of a seat from inside, as its person: the last word on what they can read and write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Sequence

from ansible.module_utils.provisioner.base.command import run
from ansible.module_utils.provisioner.base.files import read
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.docker.engine import client_environment
from ansible.module_utils.provisioner.mount.look import Mount
from ansible.module_utils.provisioner.mount.table import devices

INSIDE_SECONDS = 20
SELINUX = Path("/sys/fs/selinux/enforce")
# Prints for each target why it cannot be read, whether a file could be made in it, and what below it is not read-only.
# An alarm ends it: a process of a container goes on when `docker exec` is killed.
SCRIPT = """
import json, os, signal, sys
signal.alarm(15)
def below(target):
    for line in open("/proc/self/mountinfo"):
        fields = line.split(" ")
        if fields[4].startswith(target + "/") and "ro" not in fields[5].split(","):
            yield fields[4]
def look(target, read_only):
    found = {"target": target, "fault": "", "written": False, "below": sorted(below(target)) if read_only else []}
    try:
        with os.scandir(target) as entries:
            next(entries, None)
    except OSError as error:
        found["fault"] = error.strerror
    name = target + "/.provisioner-write-test"
    try:
        if read_only:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            found["written"] = True
            os.unlink(name)
    except OSError:
        pass
    return found
print(json.dumps([look(*each) for each in json.loads(%r)]))
"""


def check_seen(pid: int, mounts: Sequence[Mount], seat: str) -> None:
    """Check that a container, whose first process is `pid`, has what is mounted on the node, as the kernel says it.

    What was mounted may have gone between the look at it and the start, or the engine has a namespace of its own. Where
    the kernel does not say it (to a user who is not root), nothing is checked. Raises ProblemError `mount_not_seen`.
    """
    on_node, inside = devices(), devices(pid)
    for source, target in ((mount["source"], mount["target"]) for mount in mounts if mount["mounted"]):
        if inside and inside.get(target) != on_node.get(source):
            raise ProblemError(
                "mount_not_seen",
                f"{seat}: at {target} the containers have another folder than what the node has at {source}",
                "people would find an empty folder in place of the data, and write to the disk of the node",
                "look at the mount on the node; if it is there, restart the engine, which may have begun before it; an"
                " engine from snap has mounts of its own",
            )


def look_inside(argv: Sequence[str], mounts: Sequence[Mount], seat: str) -> list[dict[str, str]]:
    """Return what is wrong with the mounts of a seat that runs. `argv`: runs a Python program from stdin inside of it.

    The node has looked at them before, and programs of the person can change what is answered inside. So nothing here
    is a fault of the node: the seat stays, with the problem `mount_unreadable`, `mount_writable` or
    `mount_writable_below`.
    """
    wanted = json.dumps([[mount["target"], mount["read_only"]] for mount in mounts])
    ran = run(argv, INSIDE_SECONDS, text=SCRIPT % wanted, env=client_environment())
    try:
        found = json.loads(ran.out)
        return [problem for number, _ in enumerate(mounts) for problem in _judge(seat, found[number])]
    except (ValueError, LookupError, TypeError, RecursionError):
        targets = ", ".join(mount["target"] for mount in mounts)
        return [_unreadable(seat, targets, f"no answer within {INSIDE_SECONDS} s: {ran.message}")]


def _judge(seat: str, found: dict[str, Any]) -> list[dict[str, str]]:
    target, fault, below = str(found["target"]), str(found["fault"]), ", ".join(found["below"])
    problems = [_unreadable(seat, target, fault)] if fault else []
    problems += [_writable(seat, target)] if found["written"] else []
    return problems + ([_writable_below(seat, target, below)] if below else [])


def _writable(seat: str, target: str) -> dict[str, str]:
    return ProblemError(
        "mount_writable",
        f"{seat}: a file could be written in {target}, which is read-only in lab.yml",
        "every seat could change the data of all",
        "look at it on the node: docker inspect, Mounts; mount the source read-only until it is mended",
    ).problem


def _unreadable(seat: str, target: str, reason: str) -> dict[str, str]:
    is_enforced = read(SELINUX).strip() == "1"
    likely = "SELinux is enforced on the node, and likely the cause" if is_enforced else "the node could read it"
    fix = (
        "label the folder on the node: chcon -Rt container_file_t SOURCE; for NFS: setsebool -P virt_use_nfs 1"
        if is_enforced
        else f"look from inside of the seat: ls -la {target}; and at the rights of the source on the node"
    )
    what = f"{seat}: {target} cannot be read from inside: {reason}"
    why = f"{likely}; other seats and the rest of this one work, so the node does not count as failed"
    return ProblemError("mount_unreadable", what, why, fix).problem


def _writable_below(seat: str, target: str, below: str) -> dict[str, str]:
    return ProblemError(
        "mount_writable_below",
        f"{seat}: {target} is read-only, but not what is mounted below it: {below}",
        "the kernel makes a mount read-only, and not those below it that come later",
        "mount these read-only on the node (ro in /etc/fstab or in the map of autofs)",
    ).problem
