"""Recovery of one seat: ends a switch that a killed process or a power cut left open."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.base.progress import Report
from ansible.module_utils.provisioner.docker import engine
from ansible.module_utils.provisioner.seat.busy import require_consent
from ansible.module_utils.provisioner.seat.compose import Compose
from ansible.module_utils.provisioner.seat.journal import Journal
from ansible.module_utils.provisioner.seat.seat import Seat
from ansible.module_utils.provisioner.transaction.undo import undo_switch
from ansible.module_utils.provisioner.transaction.verify import clear_verify_keys

ATTEMPTS = 3  # to undo one switch; each may be ended by a kill or a power cut
CHECK_SECONDS = 120  # a GPU check of a killed job ends within this time


class NeedsAttentionError(ProblemError):
    """Neither the new nor the old generation could be started; there is no automatic retry."""

    state = "needs_attention"


def check_usable(compose: Compose, journal: Journal) -> None:
    """Raise NeedsAttentionError when a rollback of the seat failed, until it is healthy, removed or rolled back."""
    last = journal.last_step()
    if last and last["state"] == "needs_attention" and set(compose.services().values()) != {"healthy"}:
        raise _needs_attention(compose.seat, _failed_undo(last))


def recover_seat(compose: Compose, journal: Journal, order: dict[str, Any], report: Report) -> None:
    """End an unfinished switch: commit it when it was committed on disk, else undo it.

    Raises NeedsAttentionError when that fails, and BusyError when the GPUs are in use now.
    """
    step = journal.open_switch()
    if step is None:
        return
    engine.wait_for_engine(0)  # without an engine the switch stays open for a later call
    clear_verify_keys(compose.seat)
    if compose.seat.current() == step["detail"]["to"]:
        journal.append("committed", generation=step["detail"]["to"], recovered=True)
        return
    if journal.rollback_attempts() >= ATTEMPTS:
        journal.append("needs_attention", because="recovery_loops")
        raise _needs_attention(compose.seat, _too_many_attempts(step))
    require_consent(compose, journal, _with_patience(order), report)
    back = 0 if compose.seat.is_wanted_down() else step["detail"]["back"]
    record = undo_switch(compose, journal, back, _interrupted(step), report)
    if record["state"] == "needs_attention":
        raise _needs_attention(compose.seat, record["problems"][-1])


def _with_patience(order: dict[str, Any]) -> dict[str, Any]:
    """Return the order, waiting for a GPU check of the killed job, which may still compute."""
    wanted = order.get("when_busy") or {}
    if wanted.get("policy", "defer") != "defer":
        return order
    return {**order, "when_busy": {"policy": "wait", "seconds": CHECK_SECONDS}}


def _interrupted(step: dict[str, Any]) -> dict[str, str]:
    return {
        "code": "interrupted",
        "what": f"run {step['run']} was interrupted during its switch, at {step['at']}",
        "why": "its process was killed or the node lost power; the seat goes back to the generation before",
        "fix": "nothing to do: the run that found the interruption continues",
    }


def _too_many_attempts(step: dict[str, Any]) -> dict[str, str]:
    return {
        "what": f"{ATTEMPTS} attempts to undo the switch of run {step['run']} were interrupted",
        "why": "the node restarts or kills the process repeatedly, so there is no further automatic attempt",
        "fix": "find the cause (journalctl -k), then run `provision rollback` or `provision remove`",
    }


def _failed_undo(last: dict[str, Any]) -> dict[str, str]:
    return {
        "what": f"the rollback failed at {last['at']}, run {last['run']}: {last['detail'].get('because')}",
        "why": "there is no automatic retry, and the seat is not changed until its state is resolved by hand",
        "fix": "run `provision rollback` or `provision remove`; home, token and host key are kept",
    }


def _needs_attention(seat: Seat, problem: dict[str, str]) -> NeedsAttentionError:
    return NeedsAttentionError(
        "needs_attention",
        f"{seat.name} could not be restored: {problem['what']}",
        problem["why"],
        f"check on the node: docker compose -p {seat.name} ps -a; then {problem['fix']}",
    )
