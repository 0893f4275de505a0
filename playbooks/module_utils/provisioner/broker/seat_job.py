"""The program of a job: `python3 -I broker_job.py STATE_ROOT KIND RUN SEAT`. It outlives the broker that starts it.

The order of a job is in the file of its run, except for `stop` and `resume`, which need no more than the seat: a full
disk must not keep a seat running.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path
from typing import Any, Sequence

from ansible.module_utils.provisioner.base.files import write_atomic
from ansible.module_utils.provisioner.base.problem import ProblemError, as_fault
from ansible.module_utils.provisioner.broker.orders import order_head, with_driver
from ansible.module_utils.provisioner.broker.store import fault_path
from ansible.module_utils.provisioner.disk.limit import limit_seat
from ansible.module_utils.provisioner.docker import engine
from ansible.module_utils.provisioner.jobs.claims import check_claim
from ansible.module_utils.provisioner.jobs.job import start
from ansible.module_utils.provisioner.jobs.jobfile import Job
from ansible.module_utils.provisioner.mount.check import CODES, check_mounts
from ansible.module_utils.provisioner.seat.busy import BusyError, check_gpus_free, gpu_users, is_running, seat_gpus
from ansible.module_utils.provisioner.seat.compose import Compose
from ansible.module_utils.provisioner.seat.identity import host_key, rotate_token
from ansible.module_utils.provisioner.seat.journal import Journal
from ansible.module_utils.provisioner.seat.precheck import check_ports, check_subnet
from ansible.module_utils.provisioner.seat.seat import KEYS, Seat, seat_of, with_assigned
from ansible.module_utils.provisioner.transaction.expected import begin, committed_record
from ansible.module_utils.provisioner.transaction.stage import stage
from ansible.module_utils.provisioner.transaction.switch import switch
from ansible.module_utils.provisioner.transaction.undo import append_if_possible, home_detail
from ansible.module_utils.provisioner.transaction.verify import verify_despite_home

STARTED, STOPPED, REFUSED = 0, 3, 4  # exit codes; 3: stopped without a job, of which there is no record


# Problems of a seat that is to be started again, which end without it: others have what it needs, or a server is down.
OF_OTHERS = ("gpu_in_use", "gpu_held", "port_taken", "subnet_taken", *CODES)

_WAIT_OR_CHANGE = (
    "the seat is started again as soon as that has ended; or start it anew, with others: provision me down, then"
    " provision me"
)


class HeldError(ProblemError):
    """Others are in the way: a run of the control machine, or those who have what the seat needs."""

    state = "unchanged"


def run_job(argv: Sequence[str]) -> int:
    """Start the job and return an exit code. Why it could not begin is written beside its order."""
    state_root, kind, run, name, order_file = argv
    try:
        order = _order(state_root, kind, run, name, Path(order_file))
        start(seat_of(order), run, kind, lambda job, lock: carry_out(order, job, lock))
    except (ProblemError, OSError) as error:
        if kind == "stop" and _stop_at_once(Seat(state_root, name)):
            return STOPPED
        _write_fault(Path(order_file), as_fault(error))
        return REFUSED
    return STARTED


def _order(state_root: str, kind: str, run: str, name: str, path: Path) -> dict[str, Any]:
    if kind in ("stop", "resume"):
        return order_head(run, state_root, {"name": name})
    order: dict[str, Any] = json.loads(path.read_text())
    return order


def _write_fault(order_file: Path, fault: ProblemError) -> None:
    record = {"state": fault.state, "problems": [fault.problem]}
    with contextlib.suppress(OSError):
        write_atomic(fault_path(order_file), json.dumps(record))


def carry_out(order: dict[str, Any], job: Job, lock: int) -> dict[str, Any]:
    """Carry out the order of a job of this kind and return its record. Raises ProblemError."""
    return ACTS[job.kind](order, job, lock)


def bring_up(order: dict[str, Any], job: Job, lock: int) -> dict[str, Any]:
    """Start a seat as its order says. One that ran like this before is started as it is: its containers stay.

    A seat that was stopped gets a new token: any account of the node could listen on its ports meanwhile, and read the
    token that its person sends there. Raises ProblemError when nothing was changed; a seat that was stopped is stopped
    again when it does not start.
    """
    order = with_driver(order)
    seat = seat_of(order)
    if _is_as_before(seat, order):
        record = _start_again(order, job, lock)
    else:
        stage(order, job, lock, {})
        _check_use(Compose(seat, (lock,)), order["seat"]["gpus"])
        record = switch(order, job, lock)
    with contextlib.suppress(OSError):  # the next start sets it
        limit_seat(seat, order.get("disk_limit", seat.disk_limit()))
    return record


def _is_as_before(seat: Seat, order: dict[str, Any]) -> bool:
    """Return whether the current generation has what an order says. Other keys need no other containers."""
    number = seat.current()
    return bool(number) and seat.is_made_from(number, with_assigned(order, {KEYS: _keys(seat.order(number))}))


def _keys(order: dict[str, Any]) -> list[str]:
    return list(order["seat"].get(KEYS, ()))


def resume(order: dict[str, Any], job: Job, lock: int) -> dict[str, Any]:
    """Start the current generation of a seat that is to run and does not.

    Raises ProblemError as `bring_up` does, and HeldError while a run of the control machine holds the seat, or others
    have its GPUs, ports or subnet, or a mount is not there: its
    person keeps the lease, and need not lose it because of what others do.
    """
    seat = seat_of(order)
    current = seat.order(seat.current())
    try:
        check_claim(order["state_root"], order["claim"])
    except ProblemError as fault:
        raise HeldError(**fault.problem) from None
    try:
        return _start_again({**current, **order, "seat": current["seat"]}, job, lock)
    except ProblemError as fault:
        if fault.problem["code"] in OF_OTHERS:
            raise HeldError(**{**fault.problem, "fix": _WAIT_OR_CHANGE}) from None
        raise


def _start_again(order: dict[str, Any], job: Job, lock: int) -> dict[str, Any]:
    compose, journal, _ = begin(order, job, lock)
    seat, was_running = compose.seat, is_running(compose)
    number = seat.current()
    _check_use(compose, order["seat"]["gpus"])
    check_claim(order["state_root"], order["claim"])
    check_ports(order["seat"])
    check_subnet(order["seat"])
    check_mounts(order)
    check_gpus_free(seat, order)
    if engine.image(order["image"]["reference"]) is None:
        raise _image_gone(order)
    if _keys(order) != _keys(seat.order(number)):
        seat.assign(_keys(order), shared=False)
    if job.kind == "up" and not was_running:
        rotate_token(seat, order["seat"]["uid"], order["seat"]["gid"])
    try:
        job.report("starting the containers", phase="switch")
        compose.up(number)
        job.report("waiting until the containers are healthy", phase="verify")
        verified = verify_despite_home(compose, number, order, job.report)
    except ProblemError:
        if not was_running:
            compose.stop()
        raise
    noticed = home_detail(verified.get("problems", []))
    append_if_possible(journal, "committed", generation=number, host_key=host_key(seat), **noticed)
    return {**committed_record(seat), **verified}


def _check_use(compose: Compose, gpus: Sequence[str]) -> None:
    """Raise BusyError `gpu_in_use` where a program computes on a GPU that the seat gets: leases bind seats only."""
    own = seat_gpus(compose.seat, Journal(compose.seat.folder, "")) if is_running(compose) else []
    users = gpu_users([uuid for uuid in gpus if uuid not in own])
    if users:
        raise BusyError(
            "gpu_in_use",
            f"a GPU is in use by a program outside of the seats: {users[0]}",
            "two programs on one GPU disturb each other; the broker stops no program that it has not started",
            "try again, which chooses another GPU; else ask the person that is named",
        )


def stop(order: dict[str, Any], job: Job, lock: int) -> dict[str, Any]:
    """Stop the containers of a seat, which keep what was changed in them. No claim and no full disk prevents it."""
    seat = seat_of(order)
    compose, journal = Compose(seat, (lock,)), Journal(seat.folder, order["run"])
    append_if_possible(journal, "stopping")
    job.report("stopping the containers")
    compose.stop()
    append_if_possible(journal, "stopped")
    with contextlib.suppress(ProblemError):  # the next stop does it
        journal.shorten()
    return {"state": "committed", "generation": seat.current()}


def _stop_at_once(seat: Seat) -> bool:
    """Stop a seat without a job, whose file the disk may have no room for. Return whether it is stopped."""
    try:
        lock = os.open(str(seat.folder / "lock"), os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        Compose(seat, (lock,)).stop()
    except (ProblemError, OSError):
        return False
    finally:
        os.close(lock)
    return True


def set_keys(order: dict[str, Any], job: Job, lock: int) -> dict[str, Any]:
    """Set the public keys of a seat, which may run: sshd reads them at each login. Raises ProblemError."""
    compose, _, _ = begin(order, job, lock)
    check_claim(order["state_root"], order["claim"])
    compose.seat.assign(order["keys"], shared=False)
    return committed_record(compose.seat)


def rotate(order: dict[str, Any], job: Job, lock: int) -> dict[str, Any]:
    """Replace the token of a seat; Jupyter is started again if it runs. Raises ProblemError."""
    compose, _, _ = begin(order, job, lock)
    check_claim(order["state_root"], order["claim"])
    wanted = compose.seat.order(compose.seat.current())["seat"]
    rotate_token(compose.seat, wanted["uid"], wanted["gid"])
    if is_running(compose):
        job.report("starting Jupyter again")
        compose.restart("jupyter")
    return committed_record(compose.seat)


ACTS = {"up": bring_up, "upgrade": bring_up, "resume": resume, "stop": stop, "keys": set_keys, "rotate_token": rotate}


def _image_gone(order: dict[str, Any]) -> ProblemError:
    return ProblemError(
        "image_gone",
        f"the image of {order['seat']['name']} is not on the node ({order['image']['tag']})",
        "it was removed since the seat was stopped",
        "start the seat anew: provision me",
    )
