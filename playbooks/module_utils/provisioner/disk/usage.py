"""What a home uses on the disk, counted by a child that has become its person: a home may be hostile.

The child has no more rights than the person, opens folders only, follows no link, stays on the file system of the home,
and is killed at the time limit. So what lies in a home can spoil the count of this home alone.
"""

from __future__ import annotations

import os
import stat
import time
from typing import Any, Iterator, NamedTuple

from ansible.module_utils.provisioner.base.child import become
from ansible.module_utils.provisioner.base.command import collect_in_child
from ansible.module_utils.provisioner.mount.table import mount_points

MOST_DEPTH = 200  # folders in one another: each has two open descriptors
MOST_LINKS = 500_000  # files with several links that are remembered, to count each of them once
REPORT_SECONDS = 1.0
MOST_BYTES = 1 << 20  # of the reports of a child: a line each second
BLOCK = 512  # bytes, of st_blocks (stat(2))
FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Usage(NamedTuple):
    """Bytes on the disk. `complete` False: at least so many, as not all was counted."""

    bytes: int
    complete: bool


def measure_home(home: str, uid: int, gid: int, seconds: float) -> Usage:
    """Return what a home uses, counted with the rights of its person in so many seconds.

    Blocks are counted and not lengths, and a file with several links once. What lies below a mount point is not
    counted. A folder that the person cannot read, or one below MOST_DEPTH others, makes the result incomplete.
    """
    reports, ended = collect_in_child(lambda: _count_as_person(home, uid, gid), seconds, MOST_BYTES)
    found, complete = reports[-1] if reports else (0, False)
    return Usage(found, complete and ended)


def _count_as_person(home: str, uid: int, gid: int) -> Iterator[tuple[int, bool]]:
    become(uid, gid)
    yield from _reports(_Walk(os.path.realpath(home)))


def _reports(walk: _Walk) -> Iterator[tuple[int, bool]]:
    """Yield what was counted so far, about once a second, and at the end all."""
    due = time.monotonic() + REPORT_SECONDS
    for _ in walk.steps():
        if time.monotonic() >= due:
            due = time.monotonic() + REPORT_SECONDS
            yield walk.bytes, False
    yield walk.bytes, walk.complete


class _Folder(NamedTuple):
    """An open folder. `entries`: what is still to be counted; they are read as they are needed."""

    descriptor: int
    entries: Any  # os.scandir
    path: str


class _Walk:
    """A walk through a home. Its memory does not grow with the number of files or folders."""

    def __init__(self, home: str) -> None:
        self.bytes = 0
        self.complete = True
        self._home = home
        self._mounts = mounts_below(home)
        self._device = -1
        self._links: set[tuple[int, int]] = set()
        self._open: list[_Folder] = []

    def steps(self) -> Iterator[None]:
        """Count one file or folder in each step."""
        self._enter(self._home, self._home, None)
        while self._open:
            entry = self._next()
            if entry is None:
                self._leave()
            else:
                self._add(entry, self._open[-1])
            yield

    def _next(self) -> Any:
        """Return the next entry of the innermost folder, None after the last one."""
        try:
            return next(self._open[-1].entries, None)
        except OSError:
            self.complete = False
            return None

    def _add(self, entry: Any, folder: _Folder) -> None:
        path = f"{folder.path}/{entry.name}"
        if path in self._mounts:  # even a look at it may hang: FUSE, a server that is down
            return
        try:
            found = entry.stat(follow_symlinks=False)
        except FileNotFoundError:  # removed meanwhile
            return
        except OSError:
            self.complete = False
            return
        is_folder = stat.S_ISDIR(found.st_mode)
        if is_folder or found.st_nlink == 1 or self._is_new(found):
            self.bytes += found.st_blocks * BLOCK
        if is_folder:
            self._enter(entry.name, path, folder.descriptor)

    def _is_new(self, found: os.stat_result) -> bool:
        """Return whether a file with several links has not been counted yet."""
        link = (found.st_dev, found.st_ino)
        if link in self._links:
            return False
        if len(self._links) >= MOST_LINKS:
            self.complete = False
            return False
        self._links.add(link)
        return True

    def _enter(self, name: str, path: str, parent: int | None) -> None:
        """Count a folder, and go on with what it holds."""
        try:
            descriptor = -1 if len(self._open) >= MOST_DEPTH else os.open(name, FLAGS, dir_fd=parent)
        except FileNotFoundError:
            self.complete = self.complete and parent is not None
        except OSError:
            self.complete = False
        else:
            self._push(descriptor, path)

    def _push(self, descriptor: int, path: str) -> None:
        if descriptor < 0:
            self.complete = False
            return
        found = os.fstat(descriptor)
        if self._open and found.st_dev != self._device:  # another file system
            os.close(descriptor)
            return
        if not self._open:
            self._device, self.bytes = found.st_dev, found.st_blocks * BLOCK
        self._open.append(_Folder(descriptor, os.scandir(descriptor), path))

    def _leave(self) -> None:
        folder = self._open.pop()
        folder.entries.close()
        os.close(folder.descriptor)


def mounts_below(home: str) -> set[str]:
    """Return the paths below a home at which something is mounted."""
    return {path for path in mount_points() if path.startswith(f"{home}/")}
