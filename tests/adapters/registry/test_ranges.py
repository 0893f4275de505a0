"""Replies with two ranges as Go and nginx send them, and replies without."""

import pytest

from provisioner.adapters.registry.http import Reply
from provisioner.adapters.registry.ranges import range_header, read_parts

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


def test_range_header_of_two_spans() -> None:
    assert range_header((0, 3), (899, 899)) == {"Range": "bytes=0-3,899-899"}


@pytest.mark.parametrize("body", [GO, NGINX], ids=["Go", "nginx"])
def test_read_parts_of_go_and_nginx(body: bytes) -> None:
    assert read_parts(Reply(206, KIND, "http://mirror.lab", body)) == BOTH


def test_part_that_is_cut_off_is_shorter() -> None:
    cut = GO[: GO.index(b"\x1f") + 1]
    assert read_parts(Reply(206, KIND, "http://mirror.lab", cut)) == {(0, 3, 900): b"\x1f"}


@pytest.mark.parametrize(
    ("status", "kind"), [(200, KIND["Content-Type"]), (206, "application/octet-stream"), (206, "")]
)
def test_reply_without_parts_is_empty(status: int, kind: str) -> None:
    assert read_parts(Reply(status, {"Content-Type": kind}, "http://mirror.lab", GO)) == {}
