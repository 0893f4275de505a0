"""A file system whose server can be told to answer no more, as NFS while its server is down. It needs root.

It speaks the protocol of /dev/fuse (fuse(4)) itself, as far as a folder with one file needs it.
"""

import argparse
import ctypes
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

ROOT, FILE = 1, 2  # numbers of the two nodes
NAME = b"sample"
HEADER = struct.Struct("<IIQQIIII")  # fuse_in_header
ANSWER = struct.Struct("<IiQ")  # fuse_out_header
ENOENT, ENOSYS = 2, 38
LOOKUP, FORGET, GETATTR, STATFS, INIT, OPENDIR, READDIR = 1, 2, 3, 17, 26, 27, 28
RELEASEDIR, ACCESS, BATCH_FORGET = 29, 34, 42
DETACH = 2  # of umount2(2)


_PLAIN: dict[int, bytes] = {
    OPENDIR: bytes(16),
    STATFS: struct.pack("<QQQQQIIII24x", 1, 1, 1, 1, 1, 512, 255, 512, 0),
    RELEASEDIR: b"",
    ACCESS: b"",
}


def _attr(node: int) -> bytes:
    mode, size = (0o40755, 0) if node == ROOT else (0o100644, 6)
    return struct.pack("<QQQQQQIIIIIIIIII", node, size, 1, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 512, 0)


def _entry(number: int, offset: int, kind: int, name: bytes) -> bytes:
    text = struct.pack("<QQII", number, offset, len(name), kind) + name
    return text + b"\0" * (-len(text) % 8)


def _answer(opcode: int, node: int, body: bytes) -> bytes | int:
    """Return the body of an answer, or the number of an error."""
    if opcode == INIT:
        return struct.pack("<IIIIHHIIHHIIIIII", 7, 31, 0, 0, 12, 9, 4096, 1, 1, 0, 0, 0, 0, 0, 0, 0)
    if opcode == GETATTR:
        return struct.pack("<QII", 0, 0, 0) + _attr(node)
    if opcode == LOOKUP:
        is_file = body.rstrip(b"\0") == NAME
        return struct.pack("<QQQQII", FILE, 0, 0, 0, 0, 0) + _attr(FILE) if is_file else ENOENT
    if opcode == READDIR:
        is_first = struct.unpack_from("<QQ", body)[1] == 0
        return _entry(ROOT, 1, 4, b".") + _entry(FILE, 2, 8, NAME) if is_first else b""
    return _PLAIN.get(opcode, ENOSYS)


def serve(folder: Path, silence: Path, *, options: str = "") -> None:
    """Mount the file system on a folder and answer, until the file `silence` is there."""
    device = os.open("/dev/fuse", os.O_RDWR)
    data = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other{options}".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"fuse", str(folder).encode(), b"fuse", 0, data):
        raise OSError(ctypes.get_errno(), "mount")
    while not silence.exists():
        request = os.read(device, 1 << 20)
        if silence.exists():
            break
        _, opcode, unique, node, *_ = HEADER.unpack_from(request)
        if opcode in (FORGET, BATCH_FORGET):
            continue
        found = _answer(opcode, node, request[HEADER.size :])
        error, body = (-found, b"") if isinstance(found, int) else (0, found)
        os.write(device, ANSWER.pack(ANSWER.size + len(body), error, unique) + body)
    while True:
        time.sleep(3600)


class Served:
    """A mounted file system of this kind."""

    def __init__(self, folder: Path, silence: Path) -> None:
        self.folder, self._silence = folder, silence

    def hang(self) -> None:
        """Answer no more."""
        self._silence.touch()


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    """Serve the file system at a folder until the end. To be used in a mount namespace of its own."""
    silence = folder.parent / f"{folder.name}.silence"
    process = get_context("fork").Process(target=serve, args=(folder, silence), daemon=True)
    process.start()
    for _ in range(100):
        if os.path.ismount(folder):
            break
        time.sleep(0.05)
    try:
        yield Served(folder, silence)
    finally:
        process.kill()  # which ends the connection, and each process that waits for it
        ctypes.CDLL(None).umount2(str(folder).encode(), DETACH)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("silence", type=Path)
    words = parser.parse_args()
    serve(words.folder, words.silence)
