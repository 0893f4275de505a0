"""The job that removes self-service from a node: its seats, then the broker and everything that was published.

Homes, tokens and host keys of the seats stay, and so do the audit and the GPU hours.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from pathlib import Path
from typing import Any, Iterator

from ansible.module_utils.provisioner.base.problem import ProblemError, as_fault
from ansible.module_utils.provisioner.jobs.claims import check_claim
from ansible.module_utils.provisioner.jobs.jobfile import Job
from ansible.module_utils.provisioner.lease.state import RUNS
from ansible.module_utils.provisioner.seat.busy import require_consent
from ansible.module_utils.provisioner.seat.compose import Compose
from ansible.module_utils.provisioner.seat.journal import Journal
from ansible.module_utils.provisioner.seat.notice import FOLDER as NOTICES
from ansible.module_utils.provisioner.seat.notice import LEASE_FILE
from ansible.module_utils.provisioner.seat.seat import INTENT, SELF_SERVICE, Seat, seats_of
from ansible.module_utils.provisioner.self_service import client, daemon, units
from ansible.module_utils.provisioner.self_service.environments import remove_all
from ansible.module_utils.provisioner.self_service.installed import STARTED, installed_lab
from ansible.module_utils.provisioner.self_service.layout import Layout
from ansible.module_utils.provisioner.transaction import remove as removals

LOCK_SECONDS = 120  # for the job of a seat that the broker has begun
PAUSE = 0.2
KEPT = ("audit", "usage", "jobs", "lock")  # the audit with its older parts, and what this job itself uses


def remove(order: dict[str, Any], job: Job) -> dict[str, Any]:
    """Remove self-service and return the record. `when_busy` of the order says what becomes of work in its seats.

    Raises ProblemError when nothing was changed: BusyError while a seat is in use, and `self_service_elsewhere`.
    """
    layout, lab = Layout(order["state_root"]), _lab(order)
    seats = own_seats(layout, lab)
    if not (seats or is_installed(layout)):
        return {"state": "unchanged", "problems": [], "checks": {}}
    check_claim(order["state_root"], order.get("claim"))
    deadline = time.monotonic() + (order.get("when_busy") or {}).get("seconds", 0)
    for seat in seats:
        journal = Journal(seat.folder, order["run"])
        require_consent(Compose(seat, ()), journal, _with_time_left(order, deadline), job.report, removes=True)
    job.report("stopping the broker", phase="switch")
    daemon.stop(layout)  # else it would start the seats again
    try:
        for seat in seats:
            _remove_seat(seat, _with_time_left(order, deadline), job)
    except (ProblemError, OSError) as error:
        return _with_broker_again(layout, order, as_fault(error))
    job.report("removing what was published")
    remove_all(layout)
    withdraw(layout, order["socket"])
    _remove_files(layout)
    return {"state": "committed", "problems": [], "checks": {seat.name: "removed; its home stays" for seat in seats}}


def _with_time_left(order: dict[str, Any], deadline: float) -> dict[str, Any]:
    """Return the order with what is left of its time to wait for work: the seats have one deadline together."""
    left = {"seconds": max(0, int(deadline - time.monotonic()))}
    return {**order, "when_busy": {"policy": "defer", "reason": "", **(order.get("when_busy") or {}), **left}}


def _lab(order: dict[str, Any]) -> str:
    """Return the lab whose self-service is removed. Raises ProblemError where the node has that of another one."""
    installed = installed_lab(Layout(order["state_root"]))
    lab = str((order.get("claim") or {}).get("lab") or installed)
    if installed not in ("", lab):
        raise ProblemError(
            "self_service_elsewhere",
            f"the self-service of this node is that of the lab {installed}",
            "a lab removes its own seats and its own broker only",
            f"run the command for the lab {installed}",
        )
    return lab


def own_seats(layout: Layout, lab: str) -> list[Seat]:
    """Return the seats of people that the broker of a lab has set up, in whatever state they are."""
    return [seat for seat in seats_of(layout.state_root) if _is_own(seat, lab)]


def _is_own(seat: Seat, lab: str) -> bool:
    """Return whether the newest order of a seat is that of the broker.

    Of a seat whose order cannot be read, the name says whose lab it is of, and the journal who has set it up.
    """
    try:
        numbers = seat.numbers()
        wanted = seat.order(seat.current() or numbers[-1])["seat"] if numbers else {}
    except ProblemError:
        return seat.name.startswith(f"{lab}_") and bool(seat.intent()["wanted"]) and _is_set_up_by_broker(seat)
    return wanted.get("kind") == SELF_SERVICE and wanted.get("lab") == lab


def _is_set_up_by_broker(seat: Seat) -> bool:
    """Return whether the last run that set the seat up was one of the broker; False if that cannot be read either."""
    with contextlib.suppress(ProblemError):
        lines = [line for line in Journal(seat.folder, "").lines() if line["state"] in ("switching", "committed")]
        runs = [line["run"] for line in lines if not line["detail"].get("recovered")]
        return bool(runs) and runs[-1].startswith(RUNS)
    return False


def is_installed(layout: Layout) -> bool:
    """Return whether anything is there that a removal removes, seats aside."""
    return units.is_installed(layout) or bool(_removable(layout))


def _remove_seat(seat: Seat, order: dict[str, Any], job: Job) -> None:
    with _locked(seat) as lock:
        removals.remove({**order, "seat": {"name": seat.name}}, job, lock)
        for number in seat.numbers():  # those whose order cannot be read
            seat.delete_generation(number)
    for path in (seat.folder / INTENT, seat.folder / NOTICES / LEASE_FILE):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


@contextlib.contextmanager
def _locked(seat: Seat) -> Iterator[int]:
    """Hold the lock of a seat; a job that the broker has begun is waited for. Raises ProblemError `seat_locked`."""
    lock = os.open(str(seat.folder / "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + LOCK_SECONDS
    try:
        while not _takes(lock):
            if time.monotonic() > deadline:
                raise _seat_locked(seat)
            time.sleep(PAUSE)
        yield lock
    finally:
        os.close(lock)


def _takes(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _with_broker_again(layout: Layout, order: dict[str, Any], fault: ProblemError) -> dict[str, Any]:
    """Start the broker again, as its seats still run, and return the record."""
    problems = [fault.problem]
    try:
        if layout.main.exists():
            daemon.start(layout, order["socket"], str(layout.read_json(STARTED).get("program", "")))
    except (ProblemError, OSError) as error:
        problems.append(as_fault(error).problem)
    return {"state": fault.state, "problems": problems, "checks": {}}


def withdraw(layout: Layout, socket: str) -> None:
    """Stop the broker, and remove what starts it, its socket, its client and its program.

    Raises ProblemError, OSError.
    """
    daemon.stop(layout)
    units.remove(layout)
    client.remove()
    for path in (Path(socket), Path(f"{socket}.new")):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    shutil.rmtree(str(layout.program), ignore_errors=True)


def _remove_files(layout: Layout) -> None:
    """Remove all files but those in KEPT; the configuration goes last, as it says whose they are."""
    for path in sorted(_removable(layout), key=lambda path: path == layout.config):
        if path.is_dir():
            shutil.rmtree(str(path), ignore_errors=True)
        else:
            path.unlink()


def _removable(layout: Layout) -> list[Path]:
    return [path for path in layout.folder.glob("*") if not path.name.startswith(KEPT)]


def _seat_locked(seat: Seat) -> ProblemError:
    return ProblemError(
        "seat_locked",
        f"{seat.name} is still being changed by a job of the broker",
        "only one job may change a seat at a time",
        "wait until it has ended, then run the command again",
    )
