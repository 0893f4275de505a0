"""The passwd and group files of a seat: those of the image, with the seat's user added."""

from __future__ import annotations

COLONS = 3  # of a line of group; passwd has more


def with_user(passwd: str, user: str, uid: int, gid: int, home: str) -> str:
    """Return `passwd` with the user in its first line; other lines with this name or UID are removed."""
    kept = [line for line in _lines(passwd) if line[0] != user and line[2:3] != [str(uid)]]
    return _text([[user, "x", str(uid), str(gid), user, home, "/bin/bash"], *kept])


def with_group(group: str, name: str, gid: int) -> str:
    """Return `group` with a group that has this GID; an existing one is kept under its name."""
    lines = _lines(group)
    if any(line[2:3] == [str(gid)] for line in lines):
        return _text(lines)
    return _text([[name, "x", str(gid), ""], *(line for line in lines if line[0] != name)])


def _lines(text: str) -> list[list[str]]:
    return [line.split(":") for line in text.split("\n") if line.count(":") >= COLONS]


def _text(lines: list[list[str]]) -> str:
    return "".join(":".join(line) + "\n" for line in lines)
