"""Bringing all that is new to the node and proving it, while all that is old goes on."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Callable

from ansible.module_utils import provisioner_engine as engine
from ansible.module_utils.provisioner_accounts import with_group, with_user
from ansible.module_utils.provisioner_boot import install
from ansible.module_utils.provisioner_busy import is_up
from ansible.module_utils.provisioner_compose import Compose
from ansible.module_utils.provisioner_host import Fault, read, run, write_whole
from ansible.module_utils.provisioner_identity import make_identity
from ansible.module_utils.provisioner_jobfile import Job
from ansible.module_utils.provisioner_journal import Journal
from ansible.module_utils.provisioner_moved import check_unmoved, moved_by
from ansible.module_utils.provisioner_notice import make_folder
from ansible.module_utils.provisioner_precheck import check_engine, check_ports, check_room, ensure_home
from ansible.module_utils.provisioner_pull import pull
from ansible.module_utils.provisioner_seat import seat_of
from ansible.module_utils.provisioner_switching import KEEP, check_sound, committed, recover, tidy

CERTIFICATES = Path("/etc/docker/certs.d")
TRIAL_SECONDS = 120


def stage(order: dict[str, Any], job: Job, lock: int, code: dict[str, str]) -> dict[str, Any]:
    """The record of a staged generation. Raises Fault with what is in the way. `code` is our own, for recovery."""
    seat = seat_of(order)
    compose, journal = Compose(seat, (lock,)), Journal(seat.folder, order["run"])
    check_unmoved(seat, journal, order)
    check_sound(compose, journal)
    recover(compose, journal, order, job.tell)
    if moved_by(seat, journal, order["run"]):
        return committed(seat)
    job.tell("looking at room, ports and home")
    _check(order)
    _trust(order["registry"])
    pull(order, job.tell)
    _hold_way_back(compose, order, job.tell)
    job.tell("starting the image once")
    made = _accounts(order)
    make_identity(seat, order["seat"]["uid"], order["seat"]["gid"])
    make_folder(seat)
    number = seat.staged(order)
    if not number:
        number = seat.next_number()
        seat.write(number, order, made)
    compose.check(number)
    engine.tag(order["image"]["reference"], KEEP, seat.tag(number))
    with contextlib.suppress(OSError):  # where nothing may be installed, the next contact recovers
        install(order["state_root"], code)
    journal.append("staged", generation=number)
    tidy(seat, {number, seat.current(), seat.previous()})  # what failed before takes no room twice
    return {"state": "staged", "generation": number}


def _hold_way_back(compose: Compose, order: dict[str, Any], tell: Callable[..., None]) -> None:
    """`docker image prune -a` leaves one name of an image that runs, and that may be another than compose asks for.

    All its layers are there, so it is pulled for its name alone. Where that fails, the switch says what is lacking.
    """
    old = compose.seat.current()
    if old and is_up(compose):
        with contextlib.suppress(Fault):
            pull({**compose.seat.order(old), "deadlines": order["deadlines"]}, tell)


def _check(order: dict[str, Any]) -> None:
    info, image, seat = check_engine(), order["image"], order["seat"]
    check_room(info, 0 if engine.image(image["reference"]) else image["bytes"])
    check_ports(seat)
    ensure_home(Path(seat["home"]), seat["uid"], seat["gid"])


def _trust(registry: dict[str, Any]) -> None:
    """The engine reads this folder at every pull; only root may write it, and on one's own machine it is one's own."""
    path = CERTIFICATES / registry["address"] / "ca.crt"
    if registry["ca"] and os.geteuid() == 0 and read(path) != registry["ca"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, registry["ca"], 0o644)


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
        raise _does_not_start(order["image"]["reference"], ran.said)
    return ran.out


def _does_not_start(reference: str, said: str) -> Fault:
    return Fault(
        "image_does_not_start",
        f"{reference} is on the node but does not start: {said}",
        "an image store that lost power or room in the middle of a pull can hold half an image under a whole name",
        f"remove it on the node (docker rmi {reference}) and try again",
    )
