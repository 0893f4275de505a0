"""Switch a seat to another generation: it ends on the old or on the new one, whenever it is interrupted.

Each step is in the journal before it begins; renaming the link `current` commits the new generation.
"""

from __future__ import annotations

import contextlib
from typing import Any

from ansible.module_utils.provisioner.base.files import write_atomic
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.base.progress import Report
from ansible.module_utils.provisioner.docker import engine
from ansible.module_utils.provisioner.inside.check import QUESTIONS, check_seat
from ansible.module_utils.provisioner.jobs.job import problem_of
from ansible.module_utils.provisioner.jobs.jobfile import Job
from ansible.module_utils.provisioner.mount.check import check_mounts
from ansible.module_utils.provisioner.seat.busy import check_gpus_free, is_running, require_consent
from ansible.module_utils.provisioner.seat.compose import Compose
from ansible.module_utils.provisioner.seat.identity import host_key, rotate_token
from ansible.module_utils.provisioner.seat.journal import Journal
from ansible.module_utils.provisioner.seat.precheck import check_ports, check_subnet
from ansible.module_utils.provisioner.seat.seat import BROKER, Seat
from ansible.module_utils.provisioner.transaction.expected import begin, committed_record
from ansible.module_utils.provisioner.transaction.retention import KEEP_REPOSITORY, fetched_tag, remove_old_generations
from ansible.module_utils.provisioner.transaction.undo import append_if_possible, home_detail, undo_switch
from ansible.module_utils.provisioner.transaction.verify import verify_despite_home


def switch(order: dict[str, Any], job: Job, lock: int) -> dict[str, Any]:
    """Switch to the staged generation and return the record. Raises ProblemError when nothing was changed."""
    compose, journal, is_done = begin(order, job, lock)
    seat = compose.seat
    if is_done:
        return committed_record(seat)
    _check_ready(seat, order)  # fail before waiting for users of the GPUs
    require_consent(compose, journal, order, job.report)
    old, older = seat.current(), seat.previous()
    record = transact(compose, journal, _check_ready(seat, order), order, job.report)
    if record["state"] == "committed":
        is_repair = older and seat.is_same(old, record["generation"])
        remove_old_generations(seat, {record["generation"], older if is_repair else old})
        with contextlib.suppress(ProblemError):
            compose.remove_unused_networks()
        with contextlib.suppress(ProblemError):  # the generation keeps its image from now on
            digest = order["image"]["reference"].rpartition("@")[2]
            engine.untag(f"{KEEP_REPOSITORY}:{fetched_tag(order['seat']['lab'], digest)}")
    return record


def _check_ready(seat: Seat, order: dict[str, Any]) -> int:
    """Return the staged generation, after checking again what may have changed since staging."""
    number = seat.staged(order)
    if not number or engine.image(order["image"]["reference"]) is None:
        raise ProblemError(
            "not_staged",
            f"the image or the generation to switch to is not on the node ({order['image']['tag']})",
            "it was staged and removed since then; the running seat was not stopped",
            "run the rollout again",
        )
    check_gpus_free(seat, order)
    check_ports(order["seat"])
    check_subnet(order["seat"])
    check_mounts(order)
    return number


def transact(compose: Compose, journal: Journal, number: int, order: dict[str, Any], report: Report) -> dict[str, Any]:
    """Start and verify a generation, then commit it; undo the switch when that fails. Return the record."""
    seat = compose.seat
    old, wanted, is_new_start = _undo_target(compose, order), order["seat"], _is_stopped_of_broker(compose, order)
    journal.append("switching", to=number, back=old)
    verified: dict[str, Any] = {}
    try:
        if is_new_start:  # an account of the node could listen on its ports, and read the token that was sent there
            rotate_token(seat, wanted["uid"], wanted["gid"])
        report("starting the new containers", phase="switch")
        compose.up(number)
        journal.append("verifying", to=number)
        report("waiting until the containers are healthy", phase="verify")
        verified = verify_despite_home(compose, number, order, report)
        seat.commit(number)
    except Exception as error:  # noqa: BLE001  (any error has to be undone)
        if seat.current() != number:  # else it was committed, and only the sync of the folder failed
            _keep_logs(compose, number)
            return undo_switch(compose, journal, old, problem_of(error), report)
    noticed = home_detail(verified.get("problems", []))
    append_if_possible(journal, "committed", generation=number, host_key=host_key(seat), **noticed)
    problems = [*verified.get("problems", []), *_cautions_inside(compose, order, report)]
    return {**committed_record(seat), **verified, **({"problems": problems} if problems else {})}


def _cautions_inside(compose: Compose, order: dict[str, Any], report: Report) -> list[dict[str, str]]:
    """Return what the check from inside finds, after the commit: nothing of it fails a seat.

    The broker does not ask: a person waits for the seat, and its environment was asked when it was published.
    """
    questions = order.get("files", {}).get(QUESTIONS)
    if not questions or order.get("by") == BROKER:
        return []
    report("asking from inside what lab.yml sets there")
    try:
        return check_seat(order, questions, (compose.container("jupyter") or {"Id": "missing"})["Id"])
    except ProblemError as fault:
        return [fault.problem]


def _keep_logs(compose: Compose, number: int) -> None:
    with contextlib.suppress(ProblemError, OSError):  # the log is optional, the undo is not
        write_atomic(compose.seat.generation(number) / "failure.log", compose.logs())


def _undo_target(compose: Compose, order: dict[str, Any]) -> int:
    """Return the generation that an undo would go to: the current one, 0 when its image and containers are gone.

    A seat that the broker had stopped has no lease: its GPUs may be somebody else's, so an undo leaves it stopped (0).

    Raises ProblemError `no_way_back` when its containers run without their image: they could not be started again.
    """
    seat, old = compose.seat, compose.seat.current()
    if _is_stopped_of_broker(compose, order):
        return 0
    if not old or engine.image(seat.order(old)["image"]["reference"]):
        return old
    if is_running(compose):
        raise _no_way_back(seat, old)
    return 0


def _is_stopped_of_broker(compose: Compose, order: dict[str, Any]) -> bool:
    return order.get("by") == BROKER and not is_running(compose)


def _no_way_back(seat: Seat, old: int) -> ProblemError:
    reference = seat.order(old)["image"]["reference"]
    return ProblemError(
        "no_way_back",
        f"{seat.name} runs generation {old}, whose image was removed from the node by force",
        "if the new generation failed, the old one could not be started again",
        f"pull it on the node (docker pull {reference}), or take the seat down first: provision remove",
    )
