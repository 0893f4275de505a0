"""Stage a generation: pull its image, write its files and check them while the seat keeps running."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.base.progress import Report
from ansible.module_utils.provisioner.docker import engine
from ansible.module_utils.provisioner.docker.pull import pull
from ansible.module_utils.provisioner.docker.trial import image_accounts
from ansible.module_utils.provisioner.docker.trust import install_ca
from ansible.module_utils.provisioner.jobs.claims import check_claim
from ansible.module_utils.provisioner.jobs.jobfile import Job
from ansible.module_utils.provisioner.mount.check import check_mounts
from ansible.module_utils.provisioner.seat.accounts import with_group, with_user
from ansible.module_utils.provisioner.seat.busy import is_running
from ansible.module_utils.provisioner.seat.compose import Compose
from ansible.module_utils.provisioner.seat.identity import make_identity
from ansible.module_utils.provisioner.seat.notice import make_notice_folder
from ansible.module_utils.provisioner.seat.precheck import (
    check_disk_space,
    check_engine,
    check_home_parents,
    check_ports,
    check_subnet,
    ensure_home,
)
from ansible.module_utils.provisioner.seat.seat import ordered_cas
from ansible.module_utils.provisioner.transaction.boot import install
from ansible.module_utils.provisioner.transaction.expected import begin, committed_record
from ansible.module_utils.provisioner.transaction.retention import KEEP_REPOSITORY, remove_old_generations


def stage(order: dict[str, Any], job: Job, lock: int, code: dict[str, str]) -> dict[str, Any]:
    """Stage the generation of the order and return the record.

    `code` is the node code for recovery at boot, see `own_code`; if it is empty, none is installed.
    Raises ProblemError when the order cannot be staged.
    """
    compose, journal, is_done = begin(order, job, lock)
    seat = compose.seat
    if is_done:
        return committed_record(seat)
    job.report("checking disk space, ports and home")
    _check(order)
    _trust(order["registry"], order["state_root"])
    pull(order, job.report)
    _restore_image_name(compose, order, job.report)
    job.report("starting the image for a test")
    made = _accounts(order)
    check_claim(order["state_root"], order.get("claim"))  # a pull may take hours
    make_identity(seat, order["seat"]["uid"], order["seat"]["gid"])
    make_notice_folder(seat)
    number = seat.staged(order)
    if not number:
        number = seat.next_number()
        seat.write(number, order, made)
    compose.check(number)
    engine.tag(order["image"]["reference"], KEEP_REPOSITORY, seat.tag(number))
    with contextlib.suppress(OSError):  # without the boot unit, the next contact recovers
        if code:
            install(order["state_root"], code, measures=bool(order["seat"].get("person")))
    journal.append("staged", generation=number)
    # Generations of failed attempts are removed.
    remove_old_generations(seat, {number, seat.current(), seat.previous()})
    return {"state": "staged", "generation": number}


def _restore_image_name(compose: Compose, order: dict[str, Any], report: Report) -> None:
    """Restore the name of the running image, which `docker image prune -a` may have removed.

    The layers are on the node, so only the name is pulled. When that fails, the switch reports what is missing.
    """
    old = compose.seat.current()
    if old and is_running(compose):
        with contextlib.suppress(ProblemError):
            pull({**compose.seat.order(old), "deadlines": order["deadlines"]}, report, patience=0)


def _check(order: dict[str, Any]) -> None:
    info, image, seat = check_engine(), order["image"], order["seat"]
    check_disk_space(info, 0 if engine.image(image["reference"]) else image["bytes"])
    check_ports(seat)
    check_subnet(seat)
    if seat.get("person"):
        check_home_parents(Path(seat["home"]))
    ensure_home(Path(seat["home"]), seat["uid"], seat["gid"])
    check_mounts(order)


def _trust(registry: dict[str, Any], state_root: str) -> None:
    """Install the registry's CA for the engine. Only root may; other users do it themselves."""
    if registry["ca"] and os.geteuid() == 0:
        install_ca(registry, ordered_cas(state_root, registry["address"]))


def _accounts(order: dict[str, Any]) -> dict[str, str]:
    """Return passwd and group of the image with the seat's user added; sshd needs an account for a login."""
    seat, found = order["seat"], image_accounts(order)
    passwd = with_user(found["passwd"], seat["user"], seat["uid"], seat["gid"], f"/home/{seat['user']}")
    return {"passwd": passwd, "group": with_group(found["group"], seat["user"], seat["gid"])}
