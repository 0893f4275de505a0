"""The verbs of the broker: what each person may ask for, and the answer. Each one is about the caller's own seat."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta, timezone
from typing import Any, Callable, NamedTuple

from ansible.module_utils.provisioner.admin.seats import Hooks, RootVerbs
from ansible.module_utils.provisioner.base.allocation import unique_name
from ansible.module_utils.provisioner.base.child import Child
from ansible.module_utils.provisioner.base.host import is_clock_synchronised
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.broker import refusals
from ansible.module_utils.provisioner.broker.callers import Caller, check_member
from ansible.module_utils.provisioner.broker.config import Config, Environment, Group
from ansible.module_utils.provisioner.broker.keeper import Keeper
from ansible.module_utils.provisioner.broker.orders import (
    Change,
    Own,
    build_order,
    consent,
    find_own,
    merge_keys,
    order_head,
    other_gpus,
)
from ansible.module_utils.provisioner.broker.request import ROOT_VERBS, Request
from ansible.module_utils.provisioner.lease import requests
from ansible.module_utils.provisioner.lease.queue import keep_place, leave, position, working_gpus
from ansible.module_utils.provisioner.lease.rates import CHANGES_AN_HOUR, HOUR_S, Window
from ansible.module_utils.provisioner.lease.requests import Wish
from ansible.module_utils.provisioner.lease.state import RUNS, Lease, LeaseState, dump
from ansible.module_utils.provisioner.seat.compose import Compose
from ansible.module_utils.provisioner.seat.identity import host_key
from ansible.module_utils.provisioner.seat.seat import Seat

JOBS_AT_ONCE = 4  # that people have asked for
UNASKED = ("stop", "resume")  # a seat that crashes again and again takes no place from others
LOG_SECONDS = 40
USAGE_SECONDS = 20
TIMED = ("up", "renew", "keep_alive", "extend", "release")  # they set a time that begins now
WITHOUT_RECORDS = ("down", "cancel", "status")
LOG_LINES = 100
LOG_CHARACTERS = 12_000  # up to 48 kB as UTF-8


class Later(NamedTuple):
    """An answer whose `field` is the result of a child."""

    answer: dict[str, Any]
    field: str
    child: Child


class Asked(NamedTuple):
    """A request with what is known of its person. `seat`: the name of their seat."""

    values: dict[str, Any]
    caller: Caller
    config: Config
    group: Group
    own: Own
    id: str

    @property
    def seat(self) -> str:
        """The name of the seat, which may not exist yet."""
        return self.own.seat.name


class Verbs:
    """Answers requests, each by the method of its name. A refusal is a ProblemError."""

    def __init__(self, keeper: Keeper) -> None:
        """No request has come yet."""
        self._keeper = keeper
        self._changes = Window(HOUR_S, CHANGES_AN_HOUR)
        self._root = RootVerbs(keeper, Hooks(self._upgrade_seat, keeper.newest))

    def answer(self, request: Request, caller: Caller) -> dict[str, Any] | Later:
        """Return what is answered beside `v`, `id` and `ok`. Raises ProblemError."""
        if request.verb in ROOT_VERBS:
            return self._for_admin(request, caller)
        config = self._keeper.config.read()
        if caller.uid == 0:
            return self._for_root(request, config)
        check_member(caller, config.unix_group)
        group = config.group_of(caller.groups)
        if group is None:
            raise refusals.no_group(caller.name)
        self._pass_time(request.verb)
        own = self._own(request.verb, config, caller)
        asked = Asked(request.values, caller, config, group, own, request.id)
        act: Callable[[Asked], dict[str, Any] | Later] = getattr(self, f"_{request.verb}")
        return act(asked)

    def _pass_time(self, verb: str) -> None:
        """Let time pass until now, before a time is set that would get shorter by it."""
        if verb in TIMED:
            self._keeper.tick()

    def _own(self, verb: str, config: Config, caller: Caller) -> Own:
        """Return the seat of a person. One whose records are damaged can still be stopped."""
        state_root = self._keeper.state_root
        try:
            return find_own(state_root, config, caller)
        except ProblemError as fault:
            if fault.problem["code"] != "seat_damaged" or verb not in WITHOUT_RECORDS:
                raise
        return Own(Seat(state_root, unique_name(config.lab, caller.name)), None)

    def _for_root(self, request: Request, config: Config) -> dict[str, Any]:
        """Answer the admin, who sees everything and has no seat."""
        if request.verb == "status":
            return {"state": "ok", "leases": dump(self._keeper.state)}
        if request.verb == "environments":
            return {
                "state": "ok",
                "environments": [_listed(one, config.groups) for one in config.environments.values()],
            }
        raise refusals.root_has_no_seat()

    def _for_admin(self, request: Request, caller: Caller) -> dict[str, Any] | Later:
        """Answer a verb that only root may ask for. To end a lease needs no configuration, which may be damaged."""
        if caller.uid:
            raise refusals.for_root_only(request.verb)
        if request.verb != "usage":
            self._pass_time(request.verb)
            return self._root.answer(request.verb, request.values)
        usage, since = self._keeper.usage, request.values.get("since", "")
        lab = self._keeper.config.read().lab
        return Later({"state": "ok", "lab": lab}, "rows", Child(lambda: usage.total(since), USAGE_SECONDS))

    def _upgrade_seat(self, name: str, reason: str) -> None:
        """Begin to bring a seat to the published version, with the limits and GPUs that it has. Raises ProblemError."""
        config, state, seat = self._keeper.config.read(), self._keeper.state, self._keeper.seat(name)
        self._check_free(name)
        order = seat.order(seat.current())
        wanted, lease = order["seat"], state.of_seat(name)[0]
        environment = config.environments.get(wanted["environment"])
        self._check_room()
        if environment is None:
            raise refusals.no_such_environment(wanted["environment"], list(config.environments))
        limits = {"limits": wanted["limits"], "disk": seat.disk_limit()}
        group = Group("", None, len(lease.gpus), 0.0, lease.terms, (), **limits)
        caller = Caller(wanted["uid"], wanted["gid"], wanted["person"], ())
        run = _new_run()
        change = Change(config, environment, group, caller, Own(seat, wanted, order["image"]), lease.gpus)
        forced = {"policy": "force", "seconds": 0, "reason": reason}
        started = requests.start_job(state, name, "upgrade", run, 0)
        self._keeper.start(started, name, {**self._build(change, run), "when_busy": forced})

    # --- what there is

    def _environments(self, asked: Asked) -> dict[str, Any]:
        known = [asked.config.environments[name] for name in _known(asked)]
        used = (self._latest(asked) or {}).get("environment", "")
        if used not in _known(asked) and not self._lease(asked):
            used = ""  # it cannot be started again
        listed = [_listed(one, (asked.group,)) for one in known]
        return {"state": self._state(asked), "environments": listed, "used": used}

    def _status(self, asked: Asked) -> dict[str, Any]:
        seat, state = asked.own.seat, self._keeper.state
        leases = [_lease(lease) for lease in state.of_seat(asked.seat)]
        disk = {"use": seat.disk_use(), "limit": seat.disk_limit()} if asked.own.wanted else None
        return {
            **self._seat(asked),
            "job": self._keeper.progress(asked.seat),
            "ended": self._ended(asked),
            "lease": leases[0] if leases else None,
            "disk": disk,
            "intent": seat.intent(),
            "kernels": self._keeper.kernels.get(asked.seat),
        }

    def _ended(self, asked: Asked) -> dict[str, Any] | None:
        """Return the record of the last job of the seat, without names of others where the lab does not show them."""
        ended = self._keeper.ended.get(asked.seat)
        if ended is None or asked.config.show_names:
            return ended
        return {**ended, "problems": list(map(refusals.without_names, ended["problems"]))}

    def _logs(self, asked: Asked) -> Later:
        if asked.own.wanted is None:
            raise refusals.no_seat()
        compose = Compose(asked.own.seat)
        service, lines = asked.values["service"], asked.values.get("lines", LOG_LINES)
        child = Child(lambda: compose.logs(lines, service)[-LOG_CHARACTERS:], LOG_SECONDS)
        return Later({"state": self._state(asked)}, "text", child)

    # --- a seat comes and goes

    def _up(self, asked: Asked) -> dict[str, Any]:
        lease, job = self._lease(asked), self._keeper.state.jobs.get(asked.seat)
        environment, gpus, hours = _wanted(asked, lease)
        self._check_all_gpus(asked, gpus)
        if (job and job.kind == "stop") or (lease and requests.is_over(lease)):
            raise refusals.stopping()
        if job and not self._is_as_wished(asked, environment, gpus):
            raise refusals.stopping()
        if job:
            return self._seat(asked)
        if lease and not self._is_change(asked, lease, environment, gpus):
            return self._with_keys(asked)
        self._keep_place(asked)
        self._check_rate(asked)
        wish = _wish(asked, gpus, hours)
        granted = requests.grant(self._keeper.state, wish, asked.config.pool)
        if granted is None:
            return self._wait(asked, wish)
        keeps_version = lease is not None and not self._switches(asked, environment)
        self._start(asked, granted, None if keeps_version else environment)
        return self._seat(asked)

    def _check_all_gpus(self, asked: Asked, gpus: int) -> None:
        """Raise ProblemError where a person has GPUs in another seat, too: its account had another name then."""
        leases = self._keeper.state.of_person(asked.caller.uid)
        others = sum(len(lease.gpus) for lease in leases if lease.seat != asked.seat)
        if others and gpus + others > asked.group.gpus:
            raise refusals.too_many("GPUs", gpus + others, asked.group.gpus, asked.group.name)

    def _lease(self, asked: Asked) -> Lease | None:
        found = self._keeper.state.of_seat(asked.seat)
        return found[0] if found else None

    def _switches(self, asked: Asked, environment: Environment | None) -> bool:
        return environment is not None and (asked.own.wanted or {}).get("environment") != environment.name

    def _is_change(self, asked: Asked, lease: Lease, environment: Environment | None, gpus: int) -> bool:
        """Return whether a running seat has to be started anew; refuse it unless that was asked for."""
        if environment and self._switches(asked, environment):
            if not asked.values.get("switch"):
                raise refusals.other_environment(str((asked.own.wanted or {}).get("environment")), environment.name)
            return True
        if gpus != len(lease.gpus):
            if not asked.values.get("restart"):
                raise refusals.restart_needed("other GPUs", "--restart")
            return True
        return False

    def _is_as_wished(self, asked: Asked, environment: Environment | None, gpus: int) -> bool:
        """Return whether the seat has, once its job has ended, what is asked for."""
        latest = self._latest(asked)
        if latest is None or len(latest["gpus"]) != gpus:
            return False
        return environment is None or bool(latest["environment"] == environment.name)

    def _with_keys(self, asked: Asked) -> dict[str, Any]:
        """Answer for a seat that runs already; keys that it does not have are added while it runs."""
        kept = (asked.own.wanted or {}).get("authorized_keys", [])
        keys = merge_keys(asked.values.get("keys", ()), kept)
        if not set(keys) <= set(kept):
            self._check_rate(asked)
            self._begin(asked, "keys", {"keys": keys})
        return self._seat(asked)

    def _wait(self, asked: Asked, wish: Wish) -> dict[str, Any]:
        if not wish.wait_s:
            raise refusals.no_free_gpu(wish.gpus, self._holders(asked.config))
        most = len(working_gpus(self._keeper.state, asked.config.pool))
        if wish.gpus > most:
            raise refusals.more_than_work(wish.gpus, most)
        self._keeper.save(requests.wait(self._keeper.state, wish, self._keeper.clock().boottime))
        self._keeper.tick()
        return {**self._seat(asked), "holders": self._holders(asked.config)}

    def _start(self, asked: Asked, granted: LeaseState, environment: Environment | None) -> None:
        """Start a seat with the published version of an environment; None: it goes on with the version that it has."""
        run = granted.jobs[asked.seat].run
        gpus = next(
            lease.gpus for lease in granted.leases.values() if lease.state == "pending" and lease.seat == asked.seat
        )
        keys = asked.values.get("keys", ())
        if environment is None:
            order = self._of_current(asked, run, gpus, keys)
        else:
            runs = self._lease(asked) is not None
            change = Change(asked.config, environment, asked.group, asked.caller, asked.own, gpus, keys, runs)
            order = self._build(change, run)
        self._keeper.start(granted, asked.seat, order)
        self._changes.count(asked.caller.uid, self._keeper.clock().boottime)

    def _build(self, change: Change, run: str) -> dict[str, Any]:
        keeper = self._keeper
        document = keeper.config.document(change.environment)
        return build_order(change, run, document, keeper.store.read_orders(), keeper.state_root)

    def _of_current(self, asked: Asked, run: str, gpus: tuple[str, ...], keys: list[str]) -> dict[str, Any]:
        """Return the order of a seat that keeps its version, with other GPUs."""
        seat = asked.own.seat
        order = other_gpus(asked.own, seat.order(seat.current()), gpus, keys)
        head = order_head(run, self._keeper.state_root, order["seat"])
        return {**order, **head, "disk_limit": asked.group.disk, "when_busy": consent(asked.caller)}

    def _down(self, asked: Asked) -> dict[str, Any]:
        self._keeper.accept(requests.give_back(self._keeper.state, asked.caller.uid))
        self._keeper.tick()
        return self._seat(asked)

    def _cancel(self, asked: Asked) -> dict[str, Any]:
        self._keeper.accept(leave(self._keeper.state, asked.caller.uid))
        self._keeper.tick()
        return self._seat(asked)

    # --- a seat that runs

    def _renew(self, asked: Asked) -> dict[str, Any]:
        self._check_active(asked, asked.values["hours"])
        renewed = requests.renew(self._keeper.state, asked.caller.uid, asked.values["hours"])
        if renewed is None:
            raise refusals.somebody_waits()
        self._keeper.save(renewed)
        self._keeper.clear_notice(asked.seat)
        self._keeper.tick()
        return self._time(asked)

    def _keep_alive(self, asked: Asked) -> dict[str, Any]:
        self._check_active(asked, asked.values["hours"])
        self._keeper.save(requests.keep_alive(self._keeper.state, asked.caller.uid, asked.values["hours"]))
        return self._time(asked)

    def _upgrade(self, asked: Asked) -> dict[str, Any]:
        lease = self._lease(asked)
        environment = self._published(asked, (asked.own.wanted or {}).get("environment", ""))
        if lease is None or asked.own.version == environment.version:
            return self._seat(asked)
        self._check_now(asked, "the new version")
        change = Change(asked.config, environment, asked.group, asked.caller, asked.own, lease.gpus, runs=True)
        run = _new_run()
        self._begin_order(asked, "upgrade", run, self._build(change, run))
        return self._seat(asked)

    def _rotate_token(self, asked: Asked) -> dict[str, Any]:
        if asked.own.wanted is None:
            raise refusals.no_seat()
        if self._lease(asked):
            self._check_now(asked, "a new token")
        self._begin(asked, "rotate_token", {})
        return self._seat(asked)

    def _published(self, asked: Asked, name: str) -> Environment:
        if asked.own.wanted is None:
            raise refusals.no_seat()
        return _environment(asked, name)

    def _check_active(self, asked: Asked, hours: float) -> None:
        lease = self._lease(asked)
        if lease is None:
            raise refusals.no_seat()
        if requests.is_over(lease):
            raise refusals.stopping()
        if lease.released:
            raise refusals.released(lease.released)
        if hours > asked.group.hours:
            raise refusals.too_many("hours", hours, asked.group.hours, asked.group.name)

    def _check_now(self, asked: Asked, what: str) -> None:
        if not asked.values.get("now"):
            raise refusals.restart_needed(what, "--now")

    def _begin(self, asked: Asked, kind: str, words: dict[str, Any]) -> None:
        run = _new_run()
        head = order_head(run, self._keeper.state_root, {"name": asked.seat, "lab": asked.config.lab})
        self._begin_order(asked, kind, run, {**head, **words})

    def _begin_order(self, asked: Asked, kind: str, run: str, order: dict[str, Any]) -> None:
        self._check_free(asked.seat)
        self._check_rate(asked)
        state = requests.start_job(self._keeper.state, asked.seat, kind, run, asked.caller.uid)
        self._keeper.start(state, asked.seat, order)
        self._changes.count(asked.caller.uid, self._keeper.clock().boottime)

    def _keep_place(self, asked: Asked) -> None:
        """Note that a person who waits asks again, also where the request is refused then."""
        state, uid = self._keeper.state, asked.caller.uid
        if asked.values.get("wait_s") and state.place(uid):
            self._keeper.accept(keep_place(state, uid, self._keeper.clock().boottime))

    def _check_rate(self, asked: Asked) -> None:
        """Raise ProblemError where a person, or all together, change seats too often."""
        if self._changes.is_full(asked.caller.uid, self._keeper.clock().boottime):
            raise refusals.too_often(CHANGES_AN_HOUR, "changes of a seat", "an hour")
        self._check_room()

    def _check_free(self, seat: str) -> None:
        """Raise ProblemError where a seat is being changed or stopped."""
        state = self._keeper.state
        if seat in state.jobs or any(map(requests.is_over, state.of_seat(seat))):
            raise refusals.stopping()

    def _check_room(self) -> None:
        """Raise ProblemError where the node changes as many seats as it may."""
        running = [job for job in self._keeper.state.jobs.values() if job.kind not in UNASKED]
        if len(running) >= JOBS_AT_ONCE:
            raise refusals.node_occupied(JOBS_AT_ONCE)

    # --- what is shown

    def _state(self, asked: Asked) -> str:
        """Return the state of the caller's seat in one word."""
        state = self._keeper.state
        leases, job = state.of_seat(asked.seat), state.jobs.get(asked.seat)
        if any(lease.state == "stopping" or lease.why for lease in leases):
            return "stopping"
        if job and job.kind in ("up", "resume"):
            return "starting"
        if leases and (asked.seat in state.down or self._keeper.was_not_resumed(asked.seat)):
            return "starting"
        if leases:
            return "ending" if leases[0].state == "ending" else "running"
        if state.place(asked.caller.uid):
            return "offered" if any(held.uid == asked.caller.uid for held in state.held.values()) else "waiting"
        return "stopped" if asked.own.wanted else "absent"

    def _seat(self, asked: Asked) -> dict[str, Any]:
        """Return state and seat, and the place in the queue of who waits."""
        state = self._keeper.state
        found: dict[str, Any] = {"state": self._state(asked), "seat": self._described(asked)}
        place = position(state, asked.caller.uid)
        return {**found, "position": place} if place else found

    def _described(self, asked: Asked) -> dict[str, Any] | None:
        wanted, leases = self._latest(asked), self._keeper.state.of_seat(asked.seat)
        if wanted is None:
            return None
        binds, ports = wanted["binds"], wanted["ports"]
        return {
            "name": asked.seat,
            "state": self._state(asked),
            "jupyter": f"http://{binds['jupyter']}:{ports['jupyter']}/lab",
            "ssh": {
                "host": binds["ssh"],
                "port": ports["ssh"],
                "user": wanted["user"],
                "host_key": host_key(asked.own.seat),
            },
            "gpus": list(leases[-1].gpus) if leases else [],
            "left_s": round(leases[0].left_s) if leases else 0,
            "environment": wanted["environment"],
            "version": wanted.get("version", ""),
        }

    def _latest(self, asked: Asked) -> dict[str, Any] | None:
        """Return the seat as it is to be: that of the order that is being carried out, else the current one."""
        job = self._keeper.state.jobs.get(asked.seat)
        if job and job.kind in ("up", "upgrade"):
            orders = (order for order in self._keeper.store.read_orders() if order.get("run") == job.run)
            return next((dict(order["seat"]) for order in orders), asked.own.wanted)
        return asked.own.wanted

    def _time(self, asked: Asked) -> dict[str, Any]:
        lease = self._lease(asked)
        left = round(lease.left_s) if lease else 0
        return {"state": self._state(asked), "left_s": left, "until": _until(left)}

    def _holders(self, config: Config) -> list[dict[str, Any]]:
        """Return who has the GPUs of the pool and until when; names only where the lab shows them."""
        found: list[dict[str, Any]] = []
        for gpu in config.pool:
            lease, card = self._keeper.state.holder(gpu), self._keeper.state.cards.get(gpu)
            if lease:
                found.append({"gpu": gpu, "name": self._person(lease), "until": _until(lease.left_s)})
            elif card and card.state != "free":
                found.append({"gpu": gpu, "name": card.user, "until": None, "state": card.state})
        return found if config.show_names else [{**one, "name": None} for one in found]

    def _person(self, lease: Lease) -> str:
        return str(self._keeper.wanted(lease.seat).get("person", ""))


def _wish(asked: Asked, gpus: int, hours: float) -> Wish:
    """Return what a person asks for; the name of its lease is one that no request can choose."""
    return Wish(
        lease=f"l-{secrets.token_hex(8)}",
        seat=asked.seat,
        uid=asked.caller.uid,
        gpus=gpus,
        hours=hours,
        terms=asked.group.terms,
        request=asked.id,
        kept=tuple((asked.own.wanted or {}).get("gpus", ())),
        wait_s=float(asked.values.get("wait_s", 0)),
    )


def _new_run() -> str:
    """Return the name of a run that no request can choose."""
    return f"{RUNS}{secrets.token_hex(8)}"


def _until(left_s: float) -> str | None:
    """Return when so many seconds are over by the wall clock, for people only; None where that clock is not right."""
    if not is_clock_synchronised():
        return None
    return (datetime.now(timezone.utc) + timedelta(seconds=left_s)).isoformat(timespec="seconds")


def _listed(environment: Environment, groups: tuple[Group, ...]) -> dict[str, Any]:
    allowed = [group for group in groups if environment.name in group.environments]
    return {
        "name": environment.name,
        "version": environment.version,
        "torch": environment.torch,
        "max_gpus": max((group.gpus for group in allowed), default=0),
        "max_hours": max((group.hours for group in allowed), default=0),
    }


def _lease(lease: Lease) -> dict[str, Any]:
    shown = {"id": lease.id, "gpus": list(lease.gpus), "state": lease.state, "left_s": round(lease.left_s)}
    return {**shown, "until": _until(lease.left_s), "why": lease.why, "awake_s": round(lease.awake_s)}


def _wanted(asked: Asked, lease: Lease | None) -> tuple[Environment | None, int, float]:
    """Return environment, number of GPUs and hours of a request within the ceilings of its group.

    What it does not say is as it is for a seat that runs, and else as it was, or the first that is allowed. The
    environment is None for a seat whose own one is not published for its person any more: it keeps that until it stops.
    """
    group, values = asked.group, asked.values
    gpus = values.get("gpus", len(lease.gpus) if lease else min(1, group.gpus))
    hours = values.get("hours", group.hours)
    known, before = _known(asked), (asked.own.wanted or {}).get("environment")
    name = values.get("environment") or before or next(iter(known), group.environments[0] if group.environments else "")
    is_kept = lease is not None and name == before and name not in known
    environment = None if is_kept else _environment(asked, name)
    if gpus > group.gpus:
        raise refusals.too_many("GPUs", gpus, group.gpus, group.name)
    if hours > group.hours:
        raise refusals.too_many("hours", hours, group.hours, group.name)
    return environment, gpus, hours


def _known(asked: Asked) -> list[str]:
    """Return the names of the environments that are published for the person."""
    return [name for name in asked.group.environments if name in asked.config.environments]


def _environment(asked: Asked, name: str) -> Environment:
    known = _known(asked)
    if name not in known:
        raise refusals.no_such_environment(name, known)
    return asked.config.environments[name]
