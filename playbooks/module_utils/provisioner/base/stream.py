"""Connections of Unix sockets to clients that may be hostile: what these send can stop neither reading nor closing.

With its bytes a client can send open files (SCM_RIGHTS). The program that has the last copy of one closes it, and to
close a TCP socket may take as long as the client has set (SO_LINGER). So no message with files is read here, and a
connection with such a message is closed by a process of its own: one that ends closes all its files at once.
"""

from __future__ import annotations

import contextlib
import os
import socket

from ansible.module_utils.provisioner.base.child import fork, leave
from ansible.module_utils.provisioner.base.command import CHUNK, close_inherited

_kept: list[socket.socket] = []  # connections with files that are still to be closed


class OpenFilesError(OSError):
    """A client has sent open files, which nothing here asks for."""


def prepare(link: socket.socket) -> None:
    """Make an accepted connection ready for `receive`: it never waits, and urgent bytes come with the others."""
    link.setblocking(False)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def receive(link: socket.socket, most: int) -> bytes:
    """Return up to `most` of the bytes that have come, none at the end. Raises OSError, and OpenFilesError for files.

    The bytes are looked at first, which leaves the files where they are.
    """
    data, _, flags, _ = link.recvmsg(most, 0, socket.MSG_PEEK)
    if flags & socket.MSG_CTRUNC:
        raise OpenFilesError("the message has open files")
    return link.recv(len(data)) if data else b""


def close(link: socket.socket) -> None:
    """Close a prepared connection, with what has come and was not read. This never takes long."""
    if _has_files(link):
        _kept.append(link)
        _close_kept()
    else:
        link.close()


def _has_files(link: socket.socket) -> bool:
    """Read all that has come; return whether there is a message with files, which stays."""
    try:
        link.shutdown(socket.SHUT_RD)  # so nothing comes any more
        while receive(link, CHUNK):
            pass
    except OpenFilesError:
        return True
    except OSError:  # the client has gone; this comes after all that was to be read
        return False
    return False


def _close_kept() -> None:
    with contextlib.suppress(OSError):  # no memory for a child; the next one closes them
        while _kept:
            _close_in_child(_kept[-1])
            _kept.pop()


def _close_in_child(link: socket.socket) -> None:
    """Close a connection in this process while a child process still has it open; then the child ends.

    Raises OSError when no child process could be started.
    """
    reader, writer = os.pipe()
    try:
        child = fork()
    except OSError:
        os.close(reader)
        os.close(writer)
        raise
    if not child:
        with contextlib.suppress(OSError):
            close_inherited(reader, link.fileno())
            os.read(reader, 1)  # until the connection is closed in the other process
        os._exit(0)
    os.close(reader)
    link.close()
    os.close(writer)
    leave(child)
