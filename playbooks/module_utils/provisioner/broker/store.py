"""What the broker keeps on disk, root only.

STATE_ROOT/self_service/leases.json      all leases, see lease/state.py
STATE_ROOT/self_service/orders/RUN.json  the order of a job that has not ended
STATE_ROOT/self_service/audit.jsonl      who asked for what, and what came of it; lines are only added
STATE_ROOT/self_service/audit.N.jsonl    earlier lines, the latest in the file of number 1
STATE_ROOT/self_service/reserve          room that is given up when the disk is full, so that ends can be recorded
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

from ansible.module_utils.provisioner.base.files import read, sync_folder, write_all, write_atomic
from ansible.module_utils.provisioner.base.host import now
from ansible.module_utils.provisioner.base.problem import io_problem
from ansible.module_utils.provisioner.broker.config import FOLDER
from ansible.module_utils.provisioner.lease.state import LeaseState, dump, load

RESERVE_BYTES = 8 << 20
AUDIT_BYTES = 16 << 20  # of a file of the audit
EARLIER_FILES = 9
LONGEST_TEXT = 128  # characters of a text in the audit: of a key, these are enough to know it


class Store:
    """The files of the broker of a node."""

    def __init__(self, state_root: str) -> None:
        """Make the folders that are missing. Raises OSError."""
        self.folder = Path(state_root) / FOLDER
        self.orders = self.folder / "orders"
        self.orders.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._reserve = self.folder / "reserve"
        self.renew_reserve()

    def read_leases(self) -> LeaseState | None:
        """Return the leases, None where there is no file that can be read: a damaged one is kept under another name."""
        path = self.folder / "leases.json"
        try:
            return load(json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            with contextlib.suppress(OSError):
                path.replace(path.with_name("leases.json.damaged"))
            return None

    def write_leases(self, state: LeaseState, *, is_end: bool = False) -> None:
        """Write the leases; to record an end, the reserve is given up if need be. Raises ProblemError `io_error`."""
        text = json.dumps(dump(state), sort_keys=True)
        path = self.folder / "leases.json"
        try:
            write_atomic(path, text)
        except OSError as error:
            if not (is_end and error.errno in (errno.ENOSPC, errno.EDQUOT) and self.give_up_reserve()):
                raise io_problem(error) from None
            try:
                write_atomic(path, text)
            except OSError as again:
                raise io_problem(again) from None

    def write_order(self, run: str, order: dict[str, Any]) -> None:
        """Write the order of a job, before anything of it begins. Raises ProblemError `io_error`."""
        try:
            write_atomic(self.order_path(run), json.dumps(order))
        except OSError as error:
            raise io_problem(error) from None

    def order_path(self, run: str) -> Path:
        """Return the path of the order of a job."""
        return self.orders / f"{run}.json"

    def read_orders(self) -> list[dict[str, Any]]:
        """Return the orders of all jobs that have not ended."""
        found = []
        for path in sorted(self.orders.glob("*.json")):
            with contextlib.suppress(ValueError):
                found.append(json.loads(read(path)))
        return [order for order in found if isinstance(order, dict) and "seat" in order]

    def fault(self, run: str) -> dict[str, Any] | None:
        """Return the record of a job that could not begin, None if there is none."""
        with contextlib.suppress(ValueError):
            return dict(json.loads(read(fault_path(self.order_path(run)))))
        return None

    def forget_order(self, run: str) -> None:
        """Remove what is kept of a job that has ended."""
        for path in (self.order_path(run), fault_path(self.order_path(run))):
            with contextlib.suppress(OSError):
                path.unlink()

    def forget_other_orders(self, runs: set[str]) -> None:
        """Remove the orders of all other jobs: of a broker that was killed before it recorded the lease."""
        for path in self.orders.glob("*"):
            if not any(path.name.startswith(f"{run}.") for run in runs):
                with contextlib.suppress(OSError):
                    path.unlink()

    def audit(self, **words: Any) -> None:
        """Add a line to the audit. A disk that is full stops nothing; the line is missing then."""
        line = json.dumps({"at": now(), **_shortened(words)}, ensure_ascii=False, sort_keys=True)
        with contextlib.suppress(OSError, UnicodeError):
            self._append(f"{line}\n".encode())

    def _append(self, data: bytes) -> None:
        self._rotate()
        descriptor = os.open(str(self._audit_path()), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            write_all(descriptor, data)
        finally:
            os.close(descriptor)

    def _audit_path(self, number: int = 0) -> Path:
        return self.folder / (f"audit.{number}.jsonl" if number else "audit.jsonl")

    def _rotate(self) -> None:
        """Give the file of the audit, if it is full, and the earlier ones the next number, up to one that is free.

        If none is free, the oldest file is replaced. One is, where a rotation was interrupted. Where the disk refuses
        it, lines are added to the full file.
        """
        with contextlib.suppress(OSError):
            if self._audit_path().stat().st_size < AUDIT_BYTES:
                return
            numbers = range(1, EARLIER_FILES + 1)
            free = next((number for number in numbers if not self._audit_path(number).exists()), EARLIER_FILES)
            for number in range(free, 0, -1):
                self._audit_path(number - 1).replace(self._audit_path(number))
            sync_folder(self.folder)

    def give_up_reserve(self) -> bool:
        """Remove the reserve; return whether there was one."""
        try:
            self._reserve.unlink()
        except OSError:
            return False
        return True

    def renew_reserve(self) -> None:
        """Take the reserve again, if there is room for it. A full disk may have room for an empty file, or for none."""
        if self._reserve.exists():
            return
        try:
            descriptor = os.open(str(self._reserve), os.O_WRONLY | os.O_CREAT, 0o600)
        except OSError:
            return
        try:
            os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
        except OSError:
            self.give_up_reserve()
        finally:
            os.close(descriptor)


def _shortened(value: Any) -> Any:
    """Return a value of JSON whose texts have at most LONGEST_TEXT characters."""
    if isinstance(value, dict):
        return {name: _shortened(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shortened(one) for one in value]
    return value[:LONGEST_TEXT] if isinstance(value, str) else value


def fault_path(order: Path) -> Path:
    """Return where a job writes why it could not begin. `order`: the path of its order."""
    return order.with_suffix(".fault")
