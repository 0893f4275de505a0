"""What a seat's people are told: a line of text in a folder that their containers see, and only root writes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from ansible.module_utils.provisioner.base.command import run
from ansible.module_utils.provisioner.base.files import read, write_atomic
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.seat.seat import Seat

FOLDER = "notice"  # mounted whole: of a single file a container would see the first one for ever
FILE = "notice.txt"
MAX_CHARACTERS = 300
WALL_SECONDS = 10


def make_notice_folder(seat: Seat) -> Path:
    """Before the first container that is to see it. What is in it stays; where nothing is told, the file is empty."""
    folder = seat.folder / FOLDER
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)  # whatever the umask: the seat's user reads it
    if not (folder / FILE).exists():
        write_atomic(folder / FILE, "", 0o644)
    return folder


def notify(seat: Seat, text: str | None) -> dict[str, Any]:
    """The record. None takes the notice back. Raises ProblemError where there is no seat, or the text is none for showing."""
    number = seat.current()
    if not number:
        raise _no_seat(seat)
    if text is not None and (len(text) > MAX_CHARACTERS or not text.strip() or not text.isprintable()):
        raise _bad_notice(text)
    path, told = make_notice_folder(seat) / FILE, f"{text}\n" if text else ""
    if read(path) == told:
        return {"state": "unchanged", "generation": number}
    write_atomic(path, told, 0o644)
    if text:
        _write_to_terminals(text)
    return {"state": "committed", "generation": number}


def _write_to_terminals(text: str) -> None:
    """Those of the node itself. Not every node has the program, and nobody may be there."""
    with contextlib.suppress(ProblemError):
        run(["wall"], WALL_SECONDS, text=f"{text}\n")


def _no_seat(seat: Seat) -> ProblemError:
    return ProblemError(
        "no_seat",
        f"there is no seat {seat.name} on the node",
        "a notice is for the people of a seat",
        "see `provision status` for the seats that there are",
    )


def _bad_notice(text: str) -> ProblemError:
    return ProblemError(
        "bad_notice",
        f"not a line of at most {MAX_CHARACTERS} printable characters: {text[:40]!r}",
        "it is shown in other people's terminals",
        "this is a mistake in the program that sent the order: report it",
    )
