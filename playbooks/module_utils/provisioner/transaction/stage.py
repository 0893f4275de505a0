"""Bringing all that is new to the node and proving it, while all that is old goes on."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from ansible.module_utils.provisioner.base.command import run
from ansible.module_utils.provisioner.base.files import read, write_atomic
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.base.progress import Report
from ansible.module_utils.provisioner.docker import engine
from ansible.module_utils.provisioner.docker.pull import pull
from ansible.module_utils.provisioner.jobs.jobfile import Job
from ansible.module_utils.provisioner.seat.accounts import with_group, with_user
from ansible.module_utils.provisioner.seat.busy import is_running
from ansible.module_utils.provisioner.seat.compose import Compose
from ansible.module_utils.provisioner.seat.identity import make_identity
from ansible.module_utils.provisioner.seat.journal import Journal
from ansible.module_utils.provisioner.seat.notice import make_notice_folder
from ansible.module_utils.provisioner.seat.precheck import check_disk_space, check_engine, check_ports, ensure_home
from ansible.module_utils.provisioner.seat.seat import seat_of
from ansible.module_utils.provisioner.transaction.boot import install
from ansible.module_utils.provisioner.transaction.expected import changed_by_run, check_expected
from ansible.module_utils.provisioner.transaction.recover import check_usable, recover_seat
from ansible.module_utils.provisioner.transaction.result import committed_record
from ansible.module_utils.provisioner.transaction.retention import KEEP_REPOSITORY, remove_old_generations

CERTIFICATES = Path("/etc/docker/certs.d")
TRIAL_SECONDS = 120


def stage(order: dict[str, Any], job: Job, lock: int, code: dict[str, str]) -> dict[str, Any]:
    """The record of a staged generation. Raises ProblemError with what is in the way. `code` is our own, for recovery."""
    seat = seat_of(order)
    compose, journal = Compose(seat, (lock,)), Journal(seat.folder, order["run"])
    check_expected(seat, journal, order)
    check_usable(compose, journal)
    recover_seat(compose, journal, order, job.report)
    if changed_by_run(seat, journal, order["run"]):
        return committed_record(seat)
    job.report("looking at room, ports and home")
    _check(order)
    _trust(order["registry"])
    pull(order, job.report)
    _hold_way_back(compose, order, job.report)
    job.report("starting the image once")
    made = _accounts(order)
    make_identity(seat, order["seat"]["uid"], order["seat"]["gid"])
    make_notice_folder(seat)
    number = seat.staged(order)
    if not number:
        number = seat.next_number()
        seat.write(number, order, made)
    compose.check(number)
    engine.tag(order["image"]["reference"], KEEP_REPOSITORY, seat.tag(number))
    with contextlib.suppress(OSError):  # where nothing may be installed, the next contact recovers
        install(order["state_root"], code)
    journal.append("staged", generation=number)
    remove_old_generations(seat, {number, seat.current(), seat.previous()})  # what failed before takes no room twice
    return {"state": "staged", "generation": number}


def _hold_way_back(compose: Compose, order: dict[str, Any], report: Report) -> None:
    """`docker image prune -a` leaves one name of an image that runs, and that may be another than compose asks for.

    All its layers are there, so it is pulled for its name alone. Where that fails, the switch says what is lacking.
    """
    old = compose.seat.current()
    if old and is_running(compose):
        with contextlib.suppress(ProblemError):
            pull({**compose.seat.order(old), "deadlines": order["deadlines"]}, report)


def _check(order: dict[str, Any]) -> None:
    info, image, seat = check_engine(), order["image"], order["seat"]
    check_disk_space(info, 0 if engine.image(image["reference"]) else image["bytes"])
    check_ports(seat)
    ensure_home(Path(seat["home"]), seat["uid"], seat["gid"])


def _trust(registry: dict[str, Any]) -> None:
    """The engine reads this folder at every pull; only root may write it, and on one's own machine it is one's own."""
    path = CERTIFICATES / registry["address"] / "ca.crt"
    if registry["ca"] and os.geteuid() == 0 and read(path) != registry["ca"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, registry["ca"], 0o644)


def _accounts(order: dict[str, Any]) -> dict[str, str]:
    """The image's own accounts and the seat's user: without an account sshd lets nobody in."""
    seat = order["seat"]
    passwd = with_user(_cat(order, "/etc/passwd"), seat["user"], seat["uid"], seat["gid"], f"/home/{seat['user']}")
    return {"passwd": passwd, "group": with_group(_cat(order, "/etc/group"), seat["user"], seat["gid"])}


def _cat(order: dict[str, Any], path: str) -> str:
    """From a container that is thrown away; so it is proved, too, that the image unpacks and starts."""
    seat, environment = order["seat"], engine.client_environment()
    name = f"provisioner-trial-{seat['name']}"
    run(["docker", "rm", "-f", name], TRIAL_SECONDS, env=environment)  # of a trial that was killed
    rights = ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", f"{seat['uid']}:{seat['gid']}"]
    # `void`: an image may ask for every GPU, and they are not tried here.
    bounds = ["--network", "none", "--log-driver", "none", "--env", "NVIDIA_VISIBLE_DEVICES=void"]
    what = ["--pull", "never", "--entrypoint", "cat", order["image"]["reference"], path]
    ran = run(["docker", "run", "--rm", "--name", name, *rights, *bounds, *what], TRIAL_SECONDS, env=environment)
    if ran.code != 0:
        run(["docker", "rm", "-f", name], TRIAL_SECONDS, env=environment)
        raise _does_not_start(order["image"]["reference"], ran.message)
    return ran.out


def _does_not_start(reference: str, said: str) -> ProblemError:
    return ProblemError(
        "image_does_not_start",
        f"{reference} is on the node but does not start: {said}",
        "an image store that lost power or room in the middle of a pull can hold half an image under a whole name",
        f"remove it on the node (docker rmi {reference}) and try again",
    )
