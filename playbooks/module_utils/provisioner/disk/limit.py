"""The limit of what a seat uses on the disk: kept beside the seat, and warned of in its shells and in its Jupyter.

Nothing stops a person at this limit. A changed limit makes no generation and restarts nothing.
"""

from __future__ import annotations

import contextlib
from typing import Any, Iterable

from ansible.module_utils.provisioner.base.files import read, write_atomic
from ansible.module_utils.provisioner.jobs.batch import node_record, records_of
from ansible.module_utils.provisioner.seat.notice import DISK_FILE, make_notice_folder
from ansible.module_utils.provisioner.seat.seat import DISK_LIMIT, DISK_USE, Seat, seat_of

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
WARNING = """\
磁盘已用 {used}，限额 {limit}：家目录 {home}，容器内（家目录之外）{layer}；测量于 {day}。\
请删除或移走不需要的文件，看看哪些大：du -xh -d1 ~ | sort -h
Disk: {used} of {limit} used: home {home}, containers (outside the home) {layer}; measured on {day}. \
Delete or move what you do not need; to see what is large: du -xh -d1 ~ | sort -h
"""  # noqa: RUF001  (Chinese punctuation)


def limit_seats(orders: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Carry out the orders of seats and return the record of the node."""
    return node_record(records_of(orders, lambda order: limit_seat(seat_of(order), order["disk_limit"])))


def limit_seat(seat: Seat, limit: int | None) -> dict[str, Any]:
    """Keep the limit of a seat, in bytes, None for no limit, and renew its warning. Return the record.

    A seat that is not set up, or has this limit already, is unchanged.
    """
    number = seat.current()
    if not number or seat.disk_limit() == limit:
        return {"state": "unchanged", "generation": number}
    if limit is None:
        _remove(seat, DISK_LIMIT)
    else:
        write_atomic(seat.folder / DISK_LIMIT, str(limit))
    renew_warning(seat)
    return {"state": "committed", "generation": number}


def forget_disk(seat: Seat) -> None:
    """Remove limit, measurement and warning of a seat that is removed: one that is set up again begins without."""
    _remove(seat, DISK_LIMIT)
    _remove(seat, DISK_USE)
    renew_warning(seat)


def _remove(seat: Seat, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        (seat.folder / name).unlink()


def renew_warning(seat: Seat) -> None:
    """Show the warning at or above the limit, and remove it below. The notice of the admin is another file."""
    path, text = make_notice_folder(seat) / DISK_FILE, _warning(seat.disk_use(), seat.disk_limit())
    if read(path) != text:
        write_atomic(path, text, 0o644)


def _warning(use: dict[str, Any] | None, limit: int | None) -> str:
    if use is None or limit is None:
        return ""
    home, layer = use["home_bytes"], use["layer_bytes"] or 0
    if home + layer < limit:
        return ""
    at_least = "" if use["complete"] else "≥ "
    return WARNING.format(
        used=f"{at_least}{binary_size(home + layer)}",
        limit=binary_size(limit),
        home=binary_size(home),
        layer="?" if use["layer_bytes"] is None else binary_size(layer),
        day=use["measured_at"][:10],
    )


def binary_size(count: int) -> str:
    """Return bytes in powers of 1024, cut to tenths: 97.1 GiB. So what is below a limit never reads as more than it."""
    power = min(max(count.bit_length() - 1, 0) // 10, len(UNITS) - 1)
    return f"{(count * 10 >> 10 * power) / 10:g} {UNITS[power]}"
