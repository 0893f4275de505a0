"""The measurement of all seats of people on a node. It writes seats/NAME/disk.json.

measured_at    when, in UTC
home_bytes     what the home uses
layer_bytes    what the containers have written outside of it; null: the engine did not answer
complete       whether all was counted; false: at least so much
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Iterator

from ansible.module_utils.provisioner.base.command import run
from ansible.module_utils.provisioner.base.files import write_atomic
from ansible.module_utils.provisioner.base.host import now
from ansible.module_utils.provisioner.base.problem import ProblemError, printable
from ansible.module_utils.provisioner.disk.limit import renew_warning
from ansible.module_utils.provisioner.disk.usage import Usage, measure_home
from ansible.module_utils.provisioner.docker.containers import Listing, list_containers
from ansible.module_utils.provisioner.docker.engine import SEAT_LABEL
from ansible.module_utils.provisioner.seat.seat import DISK_USE, Seat, seats_of

HOME_SECONDS = 600  # for the home of one seat
NIGHT_SECONDS = 6 * 3600  # for all: what is left then comes first in the next night
IONICE_SECONDS = 10
LOWEST = 19  # nice(2)


def measure_node(state_root: str) -> int:
    """Measure all seats with the lowest priority, unless that is under way already. Return the exit status."""
    with _alone(state_root) as is_alone:
        if is_alone:
            _lower_priority()
            measure_seats(state_root)
    return 0


@contextlib.contextmanager
def _alone(state_root: str) -> Iterator[bool]:
    """Hold the lock of the measurement; False where another one holds it."""
    path = Path(state_root) / "node" / "disk.lock"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(str(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(lock)


def _lower_priority() -> None:
    os.nice(LOWEST)
    with contextlib.suppress(ProblemError):  # without the program, reading has the usual priority
        run(["ionice", "-c", "3", "-p", str(os.getpid())], IONICE_SECONDS)


def measure_seats(state_root: str) -> None:
    """Measure the seats of people, first those whose last measurement is the oldest."""
    seats, deadline = sorted(seats_of(state_root), key=_measured_at), time.monotonic() + NIGHT_SECONDS
    if not seats:
        return
    listing = list_containers(SEAT_LABEL)
    for seat in seats:
        if time.monotonic() > deadline:
            return
        try:
            measure_seat(seat, listing)
        except Exception as error:  # noqa: BLE001  (one seat must not stop the others)
            sys.stderr.write(printable(f"{seat.name}: {error!r}\n"))


def _measured_at(seat: Seat) -> str:
    return str((seat.disk_use() or {}).get("measured_at", ""))


def measure_seat(seat: Seat, listing: Listing) -> None:
    """Measure a seat, write the record and renew the warning. The seat of a node, which has no person, is left out."""
    number = seat.current()
    owner = seat.order(number)["seat"] if number else {}
    if not owner.get("person"):
        return
    home = measure_home(owner["home"], owner["uid"], owner["gid"], HOME_SECONDS)
    record = _record(home, listing.layer_bytes(listing.of_project(seat.name)))
    write_atomic(seat.folder / DISK_USE, json.dumps(record, sort_keys=True))
    renew_warning(seat)


def _record(home: Usage, layer: int | None) -> dict[str, Any]:
    complete = home.complete and layer is not None
    return {"measured_at": now(), "home_bytes": home.bytes, "layer_bytes": layer, "complete": complete}
