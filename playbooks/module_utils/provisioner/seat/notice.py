"""Notices: a line of text in a folder that is mounted into a seat's containers and that only root can write."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Sequence

from ansible.module_utils.provisioner.base.command import run
from ansible.module_utils.provisioner.base.files import read, write_atomic
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.jobs.batch import node_record, records_of
from ansible.module_utils.provisioner.seat.seat import Seat, seat_of

FOLDER = "notice"  # mounted as a folder: a mounted file would keep its first content in the container
FILE = "notice.txt"
DISK_FILE = "disk.txt"  # the warning of a full disk, which comes and goes by itself
LEASE_FILE = "lease.txt"  # the end of a lease, which the broker announces
MAX_CHARACTERS = 300
WALL_SECONDS = 10


def make_notice_folder(seat: Seat) -> Path:
    """Make the folder that is mounted, with empty files when there are none. Needed before the containers start."""
    folder = seat.folder / FOLDER
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)  # readable for the seat's user, whatever the umask
    for name in (FILE, DISK_FILE, LEASE_FILE):
        if not (folder / name).exists():
            write_atomic(folder / name, "", 0o644)
    return folder


def notify_seats(orders: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Carry out the orders of seats and return the record of the node. Terminals show a new text once."""
    texts = {order["seat"]["name"]: order["text"] for order in orders}
    records = records_of(orders, lambda order: notify(seat_of(order), order["text"]))
    new = {text for seat, text in texts.items() if text and records[seat]["state"] == "committed"}
    for text in sorted(new):
        _write_to_terminals(text)
    return node_record(records)


def notify(seat: Seat, text: str | None) -> dict[str, Any]:
    """Write `text` for the users of a seat, or remove the notice (None); return the record.

    Raises ProblemError `no_seat` and `bad_notice`.
    """
    number = seat.current()
    if not number:
        raise _no_seat(seat)
    if text is not None and (len(text) > MAX_CHARACTERS or not text.strip() or not text.isprintable()):
        raise _bad_notice(text)
    path, line = make_notice_folder(seat) / FILE, f"{text}\n" if text else ""
    if read(path) == line:
        return {"state": "unchanged", "generation": number}
    write_atomic(path, line, 0o644)
    return {"state": "committed", "generation": number}


def _write_to_terminals(text: str) -> None:
    """Show the text in the terminals of the node itself, where the program `wall` is installed."""
    with contextlib.suppress(ProblemError):
        run(["wall"], WALL_SECONDS, text=f"{text}\n")


def _no_seat(seat: Seat) -> ProblemError:
    return ProblemError(
        "no_seat",
        f"there is no seat {seat.name} on the node",
        "a notice is shown to the users of a seat",
        "`provision status` lists the seats",
    )


def _bad_notice(text: str) -> ProblemError:
    return ProblemError(
        "bad_notice",
        f"a notice has to be one line of at most {MAX_CHARACTERS} printable characters: {text[:40]!r}",
        "it is shown in the terminals of other users",
        "this is a bug in the program that sent the order: report it",
    )
