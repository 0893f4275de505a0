"""Reading files, and replacing them atomically."""

from __future__ import annotations

import os
from pathlib import Path

from ansible.module_utils.provisioner.base.problem import io_problem


def read(path: Path) -> str:
    """Return the text of a file, or an empty string when it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def read_existing(path: Path) -> str:
    """Return the text of a file, or an empty string when it does not exist.

    Raises OSError when a file that exists cannot be read: for a record that is not the same as an empty one.
    """
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def read_record(path: Path) -> str:
    """Return the text of a file as `read_existing` does. Raises ProblemError `io_error` when it cannot be read."""
    try:
        return read_existing(path)
    except OSError as error:
        raise io_problem(error) from None


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`: write(2) may take a part of it, on a disk that is almost full for one. Raises OSError."""
    while data:
        data = data[os.write(descriptor, data) :]


def write_atomic(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file: readers see the old or the new content, and so they do after a power cut."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(str(temporary), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.fchmod(descriptor, mode)
        write_all(descriptor, text.encode())
        os.fsync(descriptor)
    except OSError:
        temporary.unlink()  # on a full disk, what was written of it is the only room left
        raise
    finally:
        os.close(descriptor)
    temporary.replace(path)
    sync_folder(path.parent)


def write_in_place(path: Path, text: str) -> None:
    """Write over a file, which keeps its inode: a container sees the new text of a file that is mounted into it."""
    data = text.encode()
    descriptor = os.open(str(path), os.O_WRONLY)
    try:
        write_all(descriptor, data)
        os.ftruncate(descriptor, len(data))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Write a folder's entries to disk (fsync), so that a rename in it survives a power cut."""
    descriptor = os.open(str(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
