"""Looks at the source of a mount. It may hang for as long as a server is down: run it in a child.

The engine, which is root, walks along the path again when it starts a seat. So no other account may be able to
replace a part of it, and no part is a link.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
from pathlib import Path
from typing import Any, Dict, NamedTuple

from ansible.module_utils.provisioner.base.child import become
from ansible.module_utils.provisioner.mount.table import is_shared, mount_points

STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW  # O_DIRECTORY lets autofs mount what is not mounted yet
LOCKS = Path("/run/provisioner-mounts")
Mount = Dict[str, Any]


class Account(NamedTuple):
    """The account that a seat runs as. It has no other groups there."""

    uid: int
    gid: int


def look(mount: Mount, account: Account | None) -> list[str] | None:
    """Return the code of what is wrong with a mount and what it is, None if nothing is.

    `account`: also look whether it may read the folder; this process becomes the account for that.
    """
    source = mount["source"]
    with contextlib.suppress(OSError):  # a user has no such folder
        _wait_for_others(source)
    walk = _Walk(account)
    try:
        folder = walk.to(source)
        is_mount_point = source in mount_points()
        fault = _fault(mount, walk, is_mount_point=is_mount_point)
    except PermissionError:
        return ["mount_denied", _denied_to_root(walk.path, source, account)]
    except OSError as error:
        return ["mount_missing", f"{source}: {error.strerror}{'' if walk.path == source else f' ({walk.path})'}"]
    return fault or (None if account is None else _read_as(folder, source, account))


def _wait_for_others(source: str) -> None:
    """Hold the lock of a source until this process ends, so that at most one process hangs there.

    It does not end before the server is back, and one more for each probe would in the end be all that the node can
    have. A process that waits for the lock ends when it is killed. Raises OSError.
    """
    LOCKS.mkdir(mode=0o700, exist_ok=True)
    path = LOCKS / hashlib.sha256(source.encode()).hexdigest()
    fcntl.flock(os.open(str(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), fcntl.LOCK_EX)


class _Walk:
    """The way from the root folder to a source, for the seat of an account.

    `path`: the part that was looked at last; `link`: the first one that is a link; `unsafe`: the first one that another
    account than root can replace.
    """

    def __init__(self, account: Account | None) -> None:
        self.path = self.link = self.unsafe = ""
        self._account, self._mount_points = account, mount_points()

    def to(self, source: str) -> int:
        """Return a descriptor of the source. Raises OSError."""
        folder = os.open("/", STEP)
        for name in source.split("/")[1:]:
            self.path += f"/{name}"
            folder = self._enter(folder, name)
        return folder

    def _enter(self, folder: int, name: str) -> int:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        self._judge(os.fstat(folder), found)
        if stat.S_ISLNK(found.st_mode):
            self.link = self.link or self.path
        return os.open(name, STEP & ~os.O_NOFOLLOW, dir_fd=folder)

    def _judge(self, folder: os.stat_result, found: os.stat_result) -> None:
        """Note whether another account than root can put something in the place of this part.

        The kernel replaces no mount point (EBUSY, rename(2)), so that the owner of the folder it is in does not count,
        unless that is the person of the seat.
        """
        is_of_person = self._account is not None and folder.st_uid == self._account.uid
        is_owned = folder.st_uid != 0 and (is_of_person or self.path not in self._mount_points)
        others = folder.st_mode & stat.S_IWOTH or (folder.st_mode & stat.S_IWGRP and folder.st_gid)
        is_kept = folder.st_mode & stat.S_ISVTX and found.st_uid == 0
        if is_owned or (others and not is_kept):
            self.unsafe = self.unsafe or self.path


def _fault(mount: Mount, walk: _Walk, *, is_mount_point: bool) -> list[str] | None:
    """Return what is wrong with the way and the kind of the source. A user, who starts seats as itself, may own it."""
    if os.geteuid() == 0:
        if walk.link:
            return ["mount_path_unsafe", f"{walk.link} is a link: write the path that it leads to"]
        if walk.unsafe:
            return ["mount_path_unsafe", f"an account other than root can replace {walk.unsafe}"]
    if mount["mounted"] and not is_mount_point:
        return ["not_mounted", f"nothing is mounted at {walk.path}: it is an ordinary folder"]
    if mount["autofs"] and not is_shared(walk.path):
        return ["mount_not_shared", f"what is mounted below {walk.path} later would not be seen in a seat"]
    return None


def _denied_to_root(path: str, source: str, account: Account | None) -> str:
    """Return why root does not get to the source. On NFS with root_squash, root has the rights of no account."""
    text = f"root may not pass {Path(path).parent}, which is on the way to {source}"
    if account is not None and _may_pass(path, account):
        return f"{text}, although uid {account.uid} may: the file system has root_squash, and the engine is root"
    return text


def _may_pass(path: str, account: Account) -> bool:
    try:
        become(account.uid, account.gid)
        Path(path).stat()
    except OSError:
        return False
    return True


def _read_as(folder: int, source: str, account: Account) -> list[str] | None:
    """Return what keeps an account from reading the folder. What is above it does not count inside of a seat."""
    try:
        become(account.uid, account.gid)
        opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)
        with os.scandir(opened) as entries:
            next(entries, None)
    except PermissionError:
        owner = os.fstat(folder)
        mode = f"{owner.st_uid}:{owner.st_gid}, mode {stat.S_IMODE(owner.st_mode):o}"
        return ["mount_denied", f"{source} ({mode}) cannot be read by {account.uid}:{account.gid}, as the seat runs"]
    except OSError as error:
        return ["mount_missing", f"{source}: {error.strerror}"]
    return None
