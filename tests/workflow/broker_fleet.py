"""Nodes with brokers that are values: they answer as the node code does, and keep what they were asked."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from provisioner.adapters.ansible.inventory import InventoryHost
from provisioner.domain.rollout.leases import BrokerAnswer, BrokerRequest, EndedJob, GpuUse, LeasedSeat
from provisioner.domain.values.problem import Problem
from tests.builders import a_uuid

OLD, NEW = "0" * 12, "1" * 12
UNREACHABLE = Problem("unreachable", "no answer", "it is off", "switch it on")
WITHOUT = Problem("no_self_service", "this node has no self-service", "why", "fix")
BROKER_DOWN = Problem("broker_down", "the broker does not answer", "why", "fix")


def a_leased_seat(person: str = "anna", **over: Any) -> LeasedSeat:
    usual = {"seat": f"ml_{person}", "lab": "ml", "person": person, "uid": 5001, "state": "active", "left_s": 3600}
    versions = {"environment": "default", "version": NEW, "newest": NEW}
    return LeasedSeat(**{**usual, **versions, "gpus": (a_uuid(person),), **over})


class BrokerFleet:
    """`fails`: nodes without answers, and why. `refuses`: verb -> the problem with which it is refused.

    `upgrades`: what an upgrade makes of a seat, at the next look.
    """

    def __init__(self, **seats: Sequence[LeasedSeat]) -> None:
        self.seats = {node: {seat.seat: seat for seat in some} for node, some in seats.items()}
        self.fails: dict[str, Problem] = {}
        self.refuses: dict[str, list[Problem]] = {}
        self.rows: dict[str, tuple[GpuUse, ...]] = {}
        self.asked: list[tuple[str, BrokerRequest]] = []
        self.upgrades: Callable[[LeasedSeat], LeasedSeat] = upgraded
        self.lab = "ml"

    def hosts(self) -> Sequence[InventoryHost]:
        return [InventoryHost(node, None) for node in self.seats]

    def ask_brokers(
        self, requests: Mapping[str, Sequence[BrokerRequest]]
    ) -> Mapping[str, tuple[BrokerAnswer, ...] | Problem]:
        return {node: self._answers(node, some) for node, some in requests.items()}

    def _answers(self, node: str, requests: Sequence[BrokerRequest]) -> tuple[BrokerAnswer, ...] | Problem:
        problem = self.fails.get(node)
        if problem is None:
            return tuple(self._answer(node, request) for request in requests)
        return problem if problem.code == "unreachable" else (BrokerAnswer(problem=problem),) * len(requests)

    def _answer(self, node: str, request: BrokerRequest) -> BrokerAnswer:
        self.asked.append((node, request))
        if request.verb == "seats":
            found = BrokerAnswer(seats=tuple(self.seats[node].values()))
            done = {name: self.upgrades(seat) if seat.job else seat for name, seat in self.seats[node].items()}
            self.seats[node] = done
            return found
        if request.verb == "usage":
            return BrokerAnswer(rows=self.rows.get(node, ()), lab=self.lab)
        if refusals := self.refuses.get(request.verb):
            return BrokerAnswer(problem=refusals.pop())
        assert request.seat
        changed = _changed(self.seats[node][request.seat], request)
        self.seats[node][request.seat] = changed
        return BrokerAnswer(seat=changed)


def _changed(seat: LeasedSeat, request: BrokerRequest) -> LeasedSeat:
    changes: dict[str, dict[str, Any]] = {
        "release": {"left_s": 0, "released": request.reason},
        "extend": {"left_s": 3600 * (request.hours or 0), "released": ""},
        "stop": {"state": "stopping", "why": "admin", "released": request.reason},
        "upgrade_seat": {"job": "upgrade"},
    }
    return seat.model_copy(update=changes[request.verb])


def upgraded(seat: LeasedSeat) -> LeasedSeat:
    return seat.model_copy(
        update={"job": "", "version": seat.newest, "ended": EndedJob(kind="upgrade", state="committed")}
    )
