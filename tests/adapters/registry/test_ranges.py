"""Replies with two ranges: as Go and nginx write them, and as none should be read."""

import pytest

from provisioner.adapters.registry.http import Reply
from provisioner.adapters.registry.ranges import asking_for, parts

KIND = {"Content-Type": "multipart/byteranges; boundary=x"}
GO = (
    b"--x\r\nContent-Range: bytes 0-3/900\r\nContent-Type: application/octet-stream\r\n\r\n\x1f\x8b\r\n"
    b"\r\n--x\r\nContent-Range: bytes 899-899/900\r\nContent-Type: application/octet-stream\r\n\r\n\n\r\n--x--\r\n"
)
NGINX = (
    b"\r\n--x\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 0-3/900\r\n\r\n\x1f\x8b\r\n"
    b"\r\n--x\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 899-899/900\r\n\r\n\n\r\n--x--\r\n"
)
BOTH = {(0, 3, 900): b"\x1f\x8b\r\n", (899, 899, 900): b"\n"}


def test_the_question() -> None:
    assert asking_for((0, 3), (899, 899)) == {"Range": "bytes=0-3,899-899"}


@pytest.mark.parametrize("body", [GO, NGINX], ids=["Go", "nginx"])
def test_parts_are_read_to_the_byte(body: bytes) -> None:
    assert parts(Reply(206, KIND, "http://mirror.lab", body)) == BOTH


def test_a_part_that_breaks_off_is_short() -> None:
    cut = GO[: GO.index(b"\x1f") + 1]
    assert parts(Reply(206, KIND, "http://mirror.lab", cut)) == {(0, 3, 900): b"\x1f"}


@pytest.mark.parametrize(
    ("status", "kind"), [(200, KIND["Content-Type"]), (206, "application/octet-stream"), (206, "")]
)
def test_what_has_no_parts(status: int, kind: str) -> None:
    assert parts(Reply(status, {"Content-Type": kind}, "http://mirror.lab", GO)) == {}
