"""The verbs of root about seats: all seats of people, and the ends of their leases. A refusal is a ProblemError."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any, Callable, Iterable, Mapping, NamedTuple, Protocol

from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.lease import admin
from ansible.module_utils.provisioner.lease.requests import is_over
from ansible.module_utils.provisioner.lease.state import Lease, LeaseState
from ansible.module_utils.provisioner.seat.seat import SELF_SERVICE, Seat, seats_of

PROLONGED = """\
管理员延长了您的座位，还有至少 {hours} 小时。原因：{reason}
The admin has prolonged your seat: at least {hours} hours are left. Reason: {reason}
"""  # noqa: RUF001  (Chinese punctuation)
RESTARTED = """\
管理员用新版本重新启动了您的座位，文件保留。原因：{reason}
The admin has restarted your seat with a new version; your files stay. Reason: {reason}
"""  # noqa: RUF001  (Chinese punctuation)


class Leases(Protocol):
    """What these verbs need of the keeper of the leases."""

    state_root: str
    state: LeaseState
    ended: dict[str, dict[str, Any]]

    def accept(self, state: LeaseState) -> None:
        """Take a state that counts also where the disk is full."""

    def save(self, state: LeaseState) -> None:
        """Take a state that has to be on disk before anything follows."""

    def tick(self) -> None:
        """Let time pass until now, and do what follows from it."""

    def write_notice(self, name: str, text: str) -> None:
        """Show a text in a seat about its lease, in place of an earlier one."""

    def wanted(self, seat: str) -> dict[str, Any]:
        """Return a seat as its order has it, nothing where there is none."""


class Hooks(NamedTuple):
    """What the broker does for these verbs. `upgrade`: begin the job of a seat with a reason.

    `newest`: the published versions by environment.
    """

    upgrade: Callable[[str, str], None]
    newest: Callable[[], Mapping[str, str]]


class RootVerbs:
    """Answers the requests that only root may make, each by the method of its name."""

    def __init__(self, leases: Leases, hooks: Hooks) -> None:
        """No request has come yet."""
        self._leases, self._hooks = leases, hooks

    def answer(self, verb: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return what is answered beside `v`, `id` and `ok`. Raises ProblemError."""
        if verb == "seats":
            return {"state": "ok", "seats": self._seats(), "waiting": self._waiting()}
        seat, reason = values["seat"], values["reason"]
        if not self._exists(seat):
            raise _no_such_seat(seat)
        act = {"release": self._release, "stop": self._stop, "upgrade_seat": self._upgrade}.get(verb)
        if act is None:
            self._extend(seat, values["hours"], reason)
        else:
            act(seat, reason)
        return {"state": "ok", "seat": self._row(seat, self._hooks.newest())}

    # --- what there is

    def _names(self) -> list[str]:
        """Return the seats that are people's own, by name: also one whose first job is not done yet."""
        recorded = (seat.name for seat in seats_of(self._leases.state_root) if self._is_own(seat.name))
        return sorted({*recorded, *(lease.seat for lease in self._leases.state.leases.values())})

    def _is_own(self, name: str) -> bool:
        return bool(self._leases.wanted(name).get("kind") == SELF_SERVICE)

    def _exists(self, name: str) -> bool:
        return bool(self._leases.state.of_seat(name)) or self._is_own(name)

    def _seats(self) -> list[dict[str, Any]]:
        newest = self._hooks.newest()
        return [self._row(name, newest) for name in self._names()]

    def _row(self, name: str, newest: Mapping[str, str]) -> dict[str, Any]:
        wanted, state = self._leases.wanted(name), self._leases.state
        leases, job = state.of_seat(name), state.jobs.get(name)
        lease = leases[0] if leases else None
        environment = str(wanted.get("environment", ""))
        return {
            "seat": name,
            "lab": wanted.get("lab", ""),
            "person": wanted.get("person", ""),
            "uid": lease.uid if lease else wanted.get("uid"),
            "gpus": _gpus(leases) if leases else [],
            "environment": environment,
            "version": wanted.get("version", ""),
            "newest": newest.get(environment, ""),
            "job": job.kind if job else "",
            "ended": self._leases.ended.get(name),
            "intent": Seat(self._leases.state_root, name).intent(),
            **_time(lease),
        }

    def _waiting(self) -> list[dict[str, Any]]:
        queue = self._leases.state.queue
        return [{"uid": place.uid, "gpus": place.gpus, "left_s": round(place.left_s)} for place in queue]

    # --- what is done

    def _release(self, seat: str, reason: str) -> None:
        self._leases.accept(admin.release(self._leases.state, seat, reason))
        self._leases.tick()

    def _stop(self, seat: str, reason: str) -> None:
        self._leases.accept(admin.stop(self._leases.state, seat, reason))
        self._leases.tick()

    def _extend(self, seat: str, hours: int, reason: str) -> None:
        _require_lease(self._leases.state.of_seat(seat), seat)
        self._leases.save(admin.extend(self._leases.state, seat, hours))
        self._leases.write_notice(seat, PROLONGED.format(hours=hours, reason=reason))
        self._leases.tick()

    def _upgrade(self, seat: str, reason: str) -> None:
        wanted = self._leases.wanted(seat)
        if wanted.get("version") != self._hooks.newest().get(str(wanted.get("environment")), ""):
            _require_lease(self._leases.state.of_seat(seat), seat)
            self._hooks.upgrade(seat, reason)
            self._leases.write_notice(seat, RESTARTED.format(reason=reason))


def _gpus(leases: Iterable[Lease]) -> list[str]:
    return list(dict.fromkeys(gpu for lease in leases for gpu in lease.gpus))


def _time(lease: Lease | None) -> dict[str, Any]:
    """Return state and end of a lease, those of a seat without one."""
    if lease is None:
        return {"state": "stopped", "left_s": 0, "until": None, "why": "", "released": ""}
    until = datetime.now(timezone.utc) + timedelta(seconds=lease.left_s)
    times = {"left_s": round(lease.left_s), "until": until.isoformat(timespec="seconds")}
    return {"state": lease.state, **times, "why": lease.why, "released": lease.released}


def _require_lease(leases: list[Lease], seat: str) -> None:
    """Raise ProblemError `no_lease` where a seat has none that goes on."""
    if not leases or all(map(is_over, leases)):
        raise ProblemError(
            "no_lease",
            f"{seat} is stopped, or is being stopped",
            "only the time of a seat that runs can be changed, and only a seat that runs is upgraded",
            "its person starts it with `provision me`; it gets the newest version then",
        )


def _no_such_seat(seat: str) -> ProblemError:
    return ProblemError(
        "no_seat",
        f"the broker of this node has set up no seat with the name {seat}",
        "the broker changes no seat that the control machine has set up",
        "`provision seats list` shows all seats",
    )
