"""Who asks: the kernel says the uid of a connection, and the node's accounts say who that is. Nothing else counts."""

from __future__ import annotations

import socket
import struct
from typing import Any, NamedTuple

from ansible.module_utils.provisioner.base.child import Child
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.seat.account_lookup import SECONDS, account_by_uid

CREDENTIALS = struct.Struct("3i")  # unix(7): struct ucred
LEAST_UID = 1000  # login.defs(5), UID_MIN: below are accounts of the system
KEEP_S = 300.0  # an account is looked up again after that
KEEP_UNKNOWN_S = 30.0


class Caller(NamedTuple):
    """An account of the node. `groups`: the names of its unix groups."""

    uid: int
    gid: int
    name: str
    groups: tuple[str, ...]


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Return pid and uid of the process that opened a connection; both are those at that moment."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    pid, uid, _ = CREDENTIALS.unpack(data)
    return pid, uid


class Accounts:
    """The accounts of those who ask, each looked up in a child process and kept for KEEP_S."""

    def __init__(self) -> None:
        """None is known yet."""
        self._known: dict[int, tuple[float, dict[str, Any] | None]] = {}

    def known(self, uid: int, now: float) -> bool:
        """Return whether the account was looked up a short time ago."""
        self._known = {one: found for one, found in self._known.items() if now < found[0]}
        return uid in self._known

    def has_found(self, uid: int) -> bool:
        """Return whether an account with this number was found a short time ago."""
        return self._known.get(uid, (0.0, None))[1] is not None

    def look_up(self, uid: int) -> Child:
        """Begin to look an account up; `found` takes the result."""
        return Child(lambda: account_by_uid(uid), SECONDS)

    def found(self, uid: int, child: Child, now: float) -> None:
        """Keep what a child has found, also that it has found nothing."""
        try:
            account = child.result()
        except (TimeoutError, ChildProcessError):
            account = None
        self._known[uid] = (now + (KEEP_S if account else KEEP_UNKNOWN_S), account)

    def caller(self, uid: int) -> Caller:
        """Return the account of somebody who was looked up. Raises ProblemError `account_unknown`."""
        account = self._known.get(uid, (0.0, None))[1]
        if uid == 0:
            return Caller(0, 0, "root", ())
        if account is None or account["uid"] != uid:
            raise _unknown(uid)
        return Caller(uid, account["gid"], account["name"], tuple(account["groups"]))


def check_member(caller: Caller, unix_group: str) -> None:
    """Raise ProblemError `not_allowed` for who may not use self-service, and for root, which has no seat."""
    if caller.uid < LEAST_UID or caller.gid == 0:
        raise _not_allowed(f"{caller.name} is an account of the system", "use an account of your own")
    if unix_group not in caller.groups:
        raise _not_allowed(
            f"{caller.name} is not in the unix group {unix_group}", "ask the admin of the lab to add your account"
        )


def _unknown(uid: int) -> ProblemError:
    return ProblemError(
        "account_unknown",
        f"the node does not know the account with uid {uid}, or its directory service does not answer",
        "a seat belongs to an account; nothing was changed",
        "try again in a minute; if it stays so, ask the admin of the lab",
    )


def _not_allowed(what: str, fix: str) -> ProblemError:
    return ProblemError("not_allowed", what, "self-service is for the people of the lab", fix)
