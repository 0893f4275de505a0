"""Is the broker there for those it is for, and for no others? Looked at on the node, through its socket."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import time
import uuid
from pathlib import Path
from typing import Any, Mapping

from ansible.module_utils.provisioner.base.command import run_in_child
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.broker.request import VERSION
from ansible.module_utils.provisioner.broker.server import MODE

SECONDS = 20  # until a broker that was just started answers
ANSWER_SECONDS = 10
PAUSE = 0.1
OTHERS = 65534  # a uid and a gid of no person
OTHER_GROUP = 65533  # where the group of the socket has that one
REFUSED = "refused"


def verify(path: str, gid: int, versions: Mapping[str, str]) -> str:
    """Return what was found, in words, as soon as the broker serves as it should. Raises ProblemError after SECONDS.

    `gid`: of the unix group that may connect. `versions`: of the published environments by their names.
    """
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return _check(path, gid, versions)
        except ProblemError:
            if time.monotonic() > deadline:
                raise
            time.sleep(PAUSE)


def _check(path: str, gid: int, versions: Mapping[str, str]) -> str:
    listed = {one["name"]: one["version"] for one in ask(path, "environments")["environments"]}
    if listed != dict(versions):
        raise _other_versions(listed, versions)
    _check_rights(Path(path), gid)
    member, other = (_connect_as(path, group) for group in (gid, _other_group(gid)))
    if member:
        raise _wrong_rights(f"an account of the unix group {gid} cannot connect: {member}", path)
    if other != REFUSED:
        raise _wrong_rights(other or "an account outside of the unix group can connect", path)
    return f"the broker answers root and the unix group {gid}; it refuses other accounts"


def ask(path: str, verb: str) -> dict[str, Any]:
    """Return the answer to a request of root. Raises ProblemError `broker_silent`, and as the broker answers."""
    request = json.dumps({"v": VERSION, "id": str(uuid.uuid4()), "verb": verb})
    try:
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as link:
            link.settimeout(ANSWER_SECONDS)
            link.connect(path)
            link.sendall(f"{request}\n".encode())
            with link.makefile("rb") as file:
                answer = json.loads(file.readline())
        if answer["ok"]:
            return dict(answer)
        problem = answer["problem"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _silent(path, error) from None
    raise ProblemError(problem["code"], problem["what"], problem["why"], problem["fix"])


def _check_rights(path: Path, gid: int) -> None:
    found = path.lstat()
    wanted = (True, 0, gid, MODE)
    rights = (stat.S_ISSOCK(found.st_mode), found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))
    if rights != wanted:
        raise _wrong_rights(f"it has owner {found.st_uid}, group {found.st_gid} and mode {rights[3]:o}", str(path))


def _other_group(gid: int) -> int:
    return OTHER_GROUP if gid == OTHERS else OTHERS


def _connect_as(path: str, gid: int) -> str:
    """Try to connect as an account with this group alone. Return why that fails, empty if it does not."""
    try:
        return str(run_in_child(lambda: _try_to_connect(path, gid), ANSWER_SECONDS))
    except (TimeoutError, ChildProcessError) as error:
        return f"no account could be tried: {error!r}"


def _try_to_connect(path: str, gid: int) -> str:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(OTHERS)
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as link:
        link.settimeout(ANSWER_SECONDS)
        try:
            link.connect(path)
        except PermissionError:
            return REFUSED
        except OSError as error:
            return str(error)
    return ""


def _silent(path: str, error: Exception) -> ProblemError:
    return ProblemError(
        "broker_silent",
        f"the broker does not answer at {path}: {error!r}",
        "without it people cannot start or prolong a seat, and no lease ends",
        "check on the node: journalctl -u provisioner-broker, or self_service/broker.log in the state folder",
    )


def _other_versions(listed: Mapping[str, str], versions: Mapping[str, str]) -> ProblemError:
    return ProblemError(
        "broker_outdated",
        f"the broker offers {_described(listed)}; published are {_described(versions)}",
        "seats would be started with other versions than those of the lab",
        "check on the node who else runs a broker: ps -ef | grep broker.py",
    )


def _described(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) or "no environment"


def _wrong_rights(what: str, path: str) -> ProblemError:
    return ProblemError(
        "broker_socket_rights",
        f"the socket of the broker has other rights than it should have: {what}",
        "the accounts of the unix group use self-service through it, and no other accounts",
        f"look at it on the node: ls -l {path}; a program that changes rights there has to be stopped",
    )
