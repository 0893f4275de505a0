"""Orders of the broker: those of the control machine, with names, ports and subnet from the records of the node."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Iterable, Iterator, NamedTuple, Sequence

from ansible.module_utils.provisioner.base.allocation import folder_name, free_pair, free_subnet, unique_name
from ansible.module_utils.provisioner.base.fill import fill, slotted
from ansible.module_utils.provisioner.base.host import is_clock_synchronised, now
from ansible.module_utils.provisioner.base.names import login_name
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.broker.callers import Caller
from ansible.module_utils.provisioner.broker.config import Config, Environment, Group
from ansible.module_utils.provisioner.docker.engine import get
from ansible.module_utils.provisioner.docker.machine import routes
from ansible.module_utils.provisioner.gpu.cdi import cdi_devices
from ansible.module_utils.provisioner.seat.journal import Journal
from ansible.module_utils.provisioner.seat.precheck import is_port_taken
from ansible.module_utils.provisioner.seat.seat import BROKER, SELF_SERVICE, Seat, seats_of, with_assigned

OF_OTHER_SEATS = 'restart: "unless-stopped"\n'  # a line of compose.yaml
MOST_KEYS = 8  # of a seat; the latest ones


class Own(NamedTuple):
    """The seat of a person as it is on disk; `wanted` is that of its current order, None without one."""

    seat: Seat
    wanted: dict[str, Any] | None
    image: dict[str, Any] | None = None

    @property
    def version(self) -> str:
        """The version of its environment, empty without a seat."""
        return str((self.wanted or {}).get("version", ""))


def find_own(state_root: str, config: Config, caller: Caller) -> Own:
    """Return the seat of a person, which may not exist yet.

    Raises ProblemError `seat_damaged`, `identity_changed` if it has another uid, and `seat_of_the_lab` if the control
    machine has set it up: then the person has a seat already, and the broker does not change it.
    """
    own = Seat(state_root, unique_name(config.lab, caller.name))
    for seat in (own, *_usual(state_root, config, caller)):
        number = seat.current()
        order = seat.order(number) if number else None
        if order and _is_of(order["seat"], config, caller):
            _check_own(seat, order["seat"], caller)
            return Own(seat, order["seat"], order["image"])
        if order and seat is own:
            raise _of_the_lab(seat)
    return Own(own, None)


def _usual(state_root: str, config: Config, caller: Caller) -> list[Seat]:
    """Return the seat with the name that a person of the roster may have from an earlier release, if it can have it."""
    is_plain = unique_name(config.lab, caller.name) == f"{config.lab}_{caller.name}"
    return [Seat(state_root, f"{config.lab}-{caller.name}")] if is_plain else []


def _is_of(wanted: dict[str, Any], config: Config, caller: Caller) -> bool:
    return wanted.get("lab") == config.lab and wanted.get("person", "") == caller.name


def _check_own(seat: Seat, wanted: dict[str, Any], caller: Caller) -> None:
    if wanted.get("kind") != SELF_SERVICE:
        raise _of_the_lab(seat)
    if wanted["uid"] != caller.uid:
        raise _identity_changed(seat, wanted["uid"], caller)


class Change(NamedTuple):
    """What a new order is made of. `gpus`: UUIDs. `keys`: lines of authorized_keys that are added.

    `runs`: the seat has a lease already, so that its own containers listen on its ports.
    """

    config: Config
    environment: Environment
    group: Group
    caller: Caller
    own: Own
    gpus: Sequence[str]
    keys: Sequence[str] = ()
    runs: bool = False


def build_order(
    change: Change, run: str, document: dict[str, Any], pending: Iterable[dict[str, Any]], state_root: str
) -> dict[str, Any]:
    """Return the order that brings a seat to a document. `pending`: the orders of jobs that have not ended.

    Raises ProblemError `no_free_port`, `no_free_subnet` and `bad_document`.
    """
    wanted = [*_of_all_seats(state_root, change.config.term_ends), *(order["seat"] for order in pending)]
    seat = _seat(change, _Ledger(change.own.seat.name, wanted))
    try:
        files = _filled(document, seat)
    except (ValueError, KeyError, TypeError) as error:
        raise _bad_document(change.environment, error) from None
    environment = change.environment
    return {
        **order_head(run, state_root, seat),
        "image": environment.image,
        "registry": environment.registry,
        "files": files,
        "document": slotted(document),
        "deadlines": environment.deadlines,
        "expects": None,
        "disk_limit": change.group.disk,
        "when_busy": consent(change.caller),
    }


def _filled(document: dict[str, Any], seat: dict[str, Any]) -> dict[str, str]:
    """Return the files of a seat. Raises ValueError where it is a document for seats without a lease."""
    files = fill(document, seat)
    if OF_OTHER_SEATS in files["compose.yaml"]:
        raise ValueError("the engine would start the seat by itself, also without a lease")
    return files


def other_gpus(own: Own, order: dict[str, Any], gpus: Sequence[str], keys: Sequence[str]) -> dict[str, Any]:
    """Return an order for a seat that keeps its version, and gets other GPUs. `order`: of its current generation."""
    kept = (own.wanted or {}).get("authorized_keys", ())
    return with_assigned(order, {"gpus": list(gpus), "authorized_keys": merge_keys(keys, kept)})


def with_driver(order: dict[str, Any]) -> dict[str, Any]:
    """Return an order with the driver that the node has for its GPUs. It asks the engine. Raises ProblemError."""
    return with_assigned(order, {"gpu_driver": gpu_driver(order["seat"]["gpus"])})


def consent(caller: Caller) -> dict[str, Any]:
    """Return the policy of an order that its own person has asked for, with `now`, `restart` or `switch`."""
    return {"policy": "force", "seconds": 0, "reason": f"asked for by {caller.name} through the broker"}


def order_head(run: str, state_root: str, seat: dict[str, Any]) -> dict[str, Any]:
    """Return what every order of the broker has. Its claim has no fence, see `check_claim`."""
    claim = {"run": run, "lab": seat.get("lab", ""), "holder": "the broker", "since": now(), "scope": "seats"}
    return {
        "run": run,
        "by": BROKER,
        "claim": {**claim, "seats": [seat["name"]]},
        "state_root": state_root,
        "seat": seat,
    }


def _seat(change: Change, ledger: _Ledger) -> dict[str, Any]:
    config, caller, kept = change.config, change.caller, change.own.wanted or {}
    return {
        "name": change.own.seat.name,
        "kind": SELF_SERVICE,
        "version": change.environment.version,
        "lab": config.lab,
        "node": config.node,
        "person": caller.name,
        "environment": change.environment.name,
        "user": kept.get("user") or login_name(caller.name),
        "uid": caller.uid,
        "gid": kept.get("gid") or caller.gid,
        "home": kept.get("home") or f"{config.homes}/{folder_name(caller.name)}",
        "gpus": list(change.gpus),
        "shared": False,
        "gpu_driver": "nvidia",  # until the job looks: the engine may not answer, which the broker does not wait for
        "ports": ledger.ports(kept.get("ports", {}), config, runs=change.runs),
        "binds": dict(config.binds),
        "subnet": kept.get("subnet") or ledger.free_subnet(config.subnets),
        "authorized_keys": merge_keys(change.keys, kept.get("authorized_keys", ())),
        "limits": change.group.limits,
        "capacity": {"memory": None, "cpus": None, "open_files": None},
        "start_interval": change.environment.start_interval,
        "cull_s": round(change.group.terms.idle_s),
    }


def merge_keys(new: Sequence[str], kept: Sequence[str]) -> list[str]:
    """Return the keys of a seat with new ones in front: from two laptops a person uses the same seat."""
    return list(dict.fromkeys([*new, *kept]))[:MOST_KEYS]


def gpu_driver(gpus: Sequence[str]) -> str:
    """Return `cdi` if the node's specifications name each of the GPUs, else `nvidia`."""
    if not gpus:
        return "nvidia"
    folders = map(Path, (get("/info") or {}).get("CDISpecDirs") or [])
    names = set(cdi_devices(folders))
    return "cdi" if all(f"nvidia.com/gpu={uuid}" in names for uuid in gpus) else "nvidia"


class _Ledger:
    """The ports and subnets of all other seats: of every generation on the node, and of orders still to be done."""

    def __init__(self, name: str, wanted: Iterable[dict[str, Any]]) -> None:
        """`name`: the seat that needs some. `wanted`: all seats as their orders have them."""
        others = [seat for seat in wanted if seat.get("name") != name]
        self._ports = {port for seat in others for port in seat.get("ports", {}).values()}
        self._subnets = {seat["subnet"] for seat in others if seat.get("subnet")}

    def ports(self, kept: dict[str, int], config: Config, *, runs: bool) -> dict[str, int]:
        """Return the ports that a seat keeps, else the first free pair. Raises ProblemError `no_free_port`.

        It keeps none that another seat got after the term, and a seat that does not run none on which a program
        listens: else an account with a shell on the node could keep any other one from its seat.
        """
        if kept and self._ports.isdisjoint(kept.values()) and (runs or not _taken(kept, config)):
            return kept
        (first, last), taken = config.ports, set(self._ports)
        while pair := free_pair(first, last, taken):
            found = dict(zip(("ssh", "jupyter"), pair))
            used = _taken(found, config)
            if not used:
                return found
            taken |= used
        raise _full("no_free_port", f"every pair of ports from {first} to {last}", "self_service.ports")

    def free_subnet(self, pools: Sequence[str]) -> str:
        """Return the first free subnet. Raises ProblemError `no_free_subnet`."""
        found = free_subnet("", pools, [*routes(), *self._subnets])
        if found is None:
            raise _full("no_free_subnet", f"every subnet of {', '.join(pools)}", "seat.subnets")
        return found


def _taken(ports: dict[str, int], config: Config) -> set[int]:
    """Return those of the ports of a seat on which a program listens."""
    return {port for service, port in ports.items() if is_port_taken(config.binds[service], port)}


def _of_all_seats(state_root: str, term_ends: str) -> Iterator[dict[str, Any]]:
    """Yield the seat of each generation; of a damaged one the job finds that its ports are taken.

    A self-service seat that was stopped until the end of a term that is over has no ports any more. Where the clock of
    the node may be wrong, no term is over.
    """
    has_ended = bool(term_ends) and is_clock_synchronised() and now()[: len(term_ends)] > term_ends
    for seat in seats_of(state_root):
        with contextlib.suppress(ProblemError):
            is_over = has_ended and term_ends >= _stopped_on(seat) > ""
            for number in seat.numbers():
                wanted = seat.order(number)["seat"]
                yield {**wanted, "ports": {}} if is_over and wanted.get("kind") == SELF_SERVICE else wanted


def _stopped_on(seat: Seat) -> str:
    """Return the day on which a seat was stopped, empty if it was started again."""
    last = Journal(seat.folder, "").last_step()
    return str(last["at"])[: len("2027-01-31")] if last and last["state"] == "stopped" else ""


def _full(code: str, what: str, key: str) -> ProblemError:
    return ProblemError(code, f"{what} is taken", "each seat has its own", f"ask the admin to widen {key} in lab.yml")


def _bad_document(environment: Environment, error: Exception) -> ProblemError:
    return ProblemError(
        "bad_document",
        f"the environment {environment.name} ({environment.version}) does not fit the seat: {error}",
        "the files of a seat say exactly what it may have, and each value in them stays this value",
        "ask the admin of the lab: the environment has to be published again, or the name of your account has"
        " characters that are not allowed",
    )


def _of_the_lab(seat: Seat) -> ProblemError:
    return ProblemError(
        "seat_of_the_lab",
        f"the seat {seat.name} is on this node already: the admin of the lab has set it up",
        "a person has one seat on a node, and the broker changes none of the admin's",
        "if it is yours, use it as your letter says; ask the admin if it does not run",
    )


def _identity_changed(seat: Seat, uid: int, caller: Caller) -> ProblemError:
    return ProblemError(
        "identity_changed",
        f"{seat.name} belongs to uid {uid}, and the account {caller.name} has uid {caller.uid} now",
        "the seat and its home would be given to another account",
        "ask the admin of the lab: they can remove the seat, or give the account its former uid",
    )
