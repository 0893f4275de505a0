"""The accounts of people on the node, looked up by their names: a whole directory is never listed."""

from __future__ import annotations

import contextlib
import functools
import grp
import os
import pwd
from typing import Any, Iterator, Sequence

from ansible.module_utils.provisioner.base.command import collect_in_child

SECONDS = 5  # for all names together: a directory service (LDAP, sssd) may hang
MOST_NAMES = 4096
MOST_GROUPS = 256  # reported of one account
MOST_BYTES = 2 << 20  # of all accounts as JSON
LONGEST_NAME = 255  # bytes; LOGIN_NAME_MAX without the NUL at its end
LONGEST_HOME = 4096  # characters
NO_ACCOUNT: dict[str, Any] = {"uid": None, "gid": None, "home": "", "groups": []}


def look_up_accounts(names: Sequence[str]) -> tuple[dict[str, dict[str, Any]], str]:
    """Return the accounts by name, and why there is no answer for some of the names, empty where there is one for all.

    An account has `uid`, `gid`, `home` and `groups`, the names of its unix groups; its `uid` is None where the node has
    no account of this name. `home` is empty where it is no absolute path of printable characters.
    """
    asked = [name for name in names[:MOST_NAMES] if is_account_name(name)]
    found, ended = collect_in_child(lambda: _look_up(asked), SECONDS, MOST_BYTES) if asked else ([], True)
    accounts: dict[str, dict[str, Any]] = dict(found)
    return accounts, _reason(len(set(names) - set(asked)), len(set(asked) - accounts.keys()), ended)


def account_by_uid(uid: int) -> dict[str, Any] | None:
    """Return the account with this number, None where there is none: `name`, and what `look_up_accounts` returns.

    A directory service may hang, so this is called in a child process. Raises OSError when the lookup fails.
    """
    try:
        found = pwd.getpwuid(uid)
    except KeyError:
        return None
    return {"name": found.pw_name, **_described(found)} if is_account_name(found.pw_name) else None


def is_account_name(name: str) -> bool:
    """Return whether an account or a group may have this name; others are not looked up."""
    return name.isprintable() and not {":", "/"} & set(name) and 0 < len(name.encode()) <= LONGEST_NAME


def _reason(skipped: int, unknown: int, ended: bool) -> str:
    reasons = []
    if skipped:
        reasons.append(f"names not looked up, invalid or beyond {MOST_NAMES}: {skipped}")
    if unknown:
        why = "the lookup failed" if ended else f"no answer within {SECONDS} s; a directory service may hang"
        reasons.append(f"accounts that are not known: {unknown} ({why})")
    return "; ".join(reasons)


def _look_up(names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            yield name, _account(name)


def _account(name: str) -> dict[str, Any]:
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return NO_ACCOUNT
    return _described(found)


def _described(found: pwd.struct_passwd) -> dict[str, Any]:
    return {"uid": found.pw_uid, "gid": found.pw_gid, "home": _home(found.pw_dir), "groups": _groups(found)}


def _home(path: str) -> str:
    return path if path.startswith("/") and path.isprintable() and len(path) <= LONGEST_HOME else ""


def _groups(account: pwd.struct_passwd) -> list[str]:
    names = map(_group_name, os.getgrouplist(account.pw_name, account.pw_gid))
    return [name for name in names if name][:MOST_GROUPS]


@functools.lru_cache(maxsize=None)
def _group_name(gid: int) -> str:
    """Return the name of a group, empty where it has none."""
    try:
        name = grp.getgrgid(gid).gr_name
    except KeyError:
        return ""
    return name if is_account_name(name) else ""
