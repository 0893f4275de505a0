"""A fleet whose nodes are small files, with the real node code for claims. The files outlive the controller."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from provisioner.domain.lab.ordered import Deadlines, OrderedImage, OrderedRegistry
from provisioner.domain.rollout.leases import BrokerAnswer, BrokerRequest, LeasedSeat
from provisioner.domain.rollout.order import (
    AssignOrder,
    Order,
    Orders,
    OrderT,
    RemovalOrder,
    RollbackOrder,
    SwitchOrder,
)
from provisioner.domain.rollout.plan import Action, Plan, Step
from provisioner.domain.rollout.publish import PublicationOrder
from provisioner.domain.rollout.report import DONE, NodeRecord, NodeState, SeatRecord, build_node_record
from provisioner.domain.seat.document import SeatDocument
from provisioner.domain.seat.seat import Seat
from provisioner.domain.self_service.publication import SELF_SERVICE_NAME
from provisioner.domain.values.claim import Claim
from provisioner.domain.values.event import OnEvent
from provisioner.domain.values.model import Document
from provisioner.domain.values.node import NodeFacts, RunningSeat, SelfServiceFacts
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import Host, Probed, RunContext, StopRequested
from provisioner.workflow.rollout.run import never_stop
from tests.builders import a_node, a_uuid
from tests.playbooks.node_code import ProblemError, module_util

SEAT = "demo-student"
UNREACHABLE = Problem("unreachable", "no answer", "it is off", "switch it on")
claims = module_util("jobs.claims")
io_problem = module_util("base.problem").io_problem


class FakeHost(NamedTuple):
    name: str
    address: str | None = None


class FakeFleet:
    """Every seat succeeds, except those that `ends` maps to another final state (step -> node or NODE/SEAT -> state).

    `at` is called before and after each node's part of every call, with the name of that moment. It may raise or kill.
    Like a node, it releases the claim after the last seat of a switch.
    """

    def __init__(
        self,
        folder: Path,
        ends: Mapping[str, Mapping[str, NodeState]] | None = None,
        at: Callable[[str], None] = lambda _: None,
        seconds: float = 0.0,
    ) -> None:
        self.folder, self.ends, self.at, self.seconds = folder, ends or {}, at, seconds
        self.calls: list[tuple[str, tuple[str, ...]]] = []
        self.leased: dict[str, tuple[LeasedSeat, ...]] = {}
        self.seat_calls: list[tuple[str, str, tuple[str, ...]]] = []  # act, node, seats

    def add(self, *nodes: str, generation: int = 0, seats: Sequence[str] = (SEAT,)) -> "FakeFleet":
        for node in nodes:
            (self.folder / node).mkdir(parents=True)
            for seat in seats:
                state = {"generation": generation, "image": "", "run": "", "state": "committed", "ends": {}}
                self._write(node, state, seat)
        return self

    def hosts(self) -> Sequence[Host]:
        return [FakeHost(path.name) for path in sorted(self.folder.iterdir())]

    def probe(self, nodes: Sequence[str]) -> Probed:
        return self._each("probe", nodes, self._facts)

    def claim(self, claims_: Mapping[str, Claim], breaks: str) -> Mapping[str, Problem | None]:
        def take(node: str) -> Problem | None:
            return self._call_node(node, claims.take_claim, claims_[node].model_dump(), breaks)

        return self._each("claim", list(claims_), take)

    def release(self, claim: Claim, nodes: Sequence[str]) -> Mapping[str, Problem | None]:
        if not nodes:
            return {}
        return self._each("release", nodes, lambda n: self._call_node(n, claims.release_claim, claim.model_dump()))

    def stage(self, orders: Orders[Order]) -> Mapping[str, NodeRecord]:
        return self._apply("stage", orders, self._stage)

    def switch(self, orders: Orders[SwitchOrder]) -> Mapping[str, NodeRecord]:
        return self._apply("switch", orders, self._switch, release=True)

    def roll_back(self, orders: Orders[RollbackOrder]) -> Mapping[str, NodeRecord]:
        return self._apply(
            "roll_back", orders, lambda node, order: self._change("roll_back", node, order, "old"), release=True
        )

    def take_down(self, orders: Orders[RemovalOrder]) -> Mapping[str, NodeRecord]:
        return self._apply("remove", orders, self._remove, release=True)

    def publish(self, orders: Orders[PublicationOrder]) -> Mapping[str, NodeRecord]:
        return self._apply("publish", orders, self._publish, release=True)

    def _publish(self, node: str, order: PublicationOrder) -> SeatRecord:
        state = self._end("publish", node, SELF_SERVICE_NAME, "committed")
        path = self.folder / node / "self_service.json"
        if state == "committed" and order.config is None:
            path.unlink(missing_ok=True)
        elif state == "committed":
            path.write_text(json.dumps(order.for_node()))
        return SeatRecord(seat=SELF_SERVICE_NAME, state=state)

    def ask_brokers(
        self, requests: Mapping[str, Sequence[BrokerRequest]]
    ) -> Mapping[str, tuple[BrokerAnswer, ...] | Problem]:
        """Answer for the seats of `leased`, which no request changes."""
        return {node: (BrokerAnswer(seats=self.leased.get(node, ())),) * len(some) for node, some in requests.items()}

    def self_service(self, node: str) -> SelfServiceFacts | None:
        """Return what a node reports of its self-service: from the configuration as it was sent."""
        path = self.folder / node / "self_service.json"
        return reported(json.loads(path.read_text())) if path.exists() else None

    def limit_disks(self, limits: Mapping[str, Mapping[str, int | None]], run: str) -> Mapping[str, NodeRecord]:
        """Keep each limit with its seat; `run` is not recorded, as no generation changes."""
        assert run
        return self._each("disk", list(limits), lambda node: self._limit(node, limits[node]))

    def _limit(self, node: str, limits: Mapping[str, int | None]) -> NodeRecord:
        if self.ends.get("reach", {}).get(node):
            return build_node_record(
                node, [SeatRecord(seat=seat, state="unreachable", problems=(UNREACHABLE,)) for seat in limits]
            )
        for seat, limit in limits.items():
            if self.read(node, seat)["generation"]:
                self._write(node, self.read(node, seat) | {"disk_limit": limit}, seat)
        return build_node_record(node, [SeatRecord(seat=seat, state="committed") for seat in limits])

    def read(self, node: str, seat: str = SEAT) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / node / f"{seat}.seat").read_text())
        return found

    def claims_by_node(self) -> dict[str, Any]:
        """Return the only claim on each node, or None."""
        active = {host.name: claims.read_claims(str(self.folder / host.name)).active for host in self.hosts()}
        return {node: claim[0] if claim else None for node, claim in active.items()}

    def _write(self, node: str, state: Mapping[str, Any], seat: str = SEAT) -> None:
        path = self.folder / node / f"{seat}.seat"
        whole = path.with_suffix(".new")  # as a node writes: a kill in another thread leaves no half of it
        whole.write_text(json.dumps(state))
        whole.replace(path)

    def _each(self, act: str, nodes: Sequence[str], one: Callable[[str], Any]) -> dict[str, Any]:
        self.calls.append((act, tuple(nodes)))
        found = {}
        for node in nodes:
            self.at(f"{act} before {node}")
            found[node] = one(node)
            self.at(f"{act} after {node}")
        return found

    def _apply(
        self,
        act: str,
        orders: Orders[OrderT],
        one: Callable[[str, OrderT], SeatRecord],
        *,
        release: bool = False,
    ) -> dict[str, NodeRecord]:
        """Carry out the orders of each node one after the other, and release its claim as its job does."""

        def on_node(node: str) -> NodeRecord:
            self.seat_calls.append((act, node, tuple(orders[node])))
            first: Any = next(iter(orders[node].values()))
            held = first.claim.of_seats(orders[node]).model_dump() if first.claim else None
            if refused := self._call_node(node, claims.check_claim, held):
                seats = [SeatRecord(seat=seat, state="failed", problems=(refused,)) for seat in orders[node]]
                return build_node_record(node, seats)
            seats = []
            for seat, order in orders[node].items():
                self.at(f"{act} before {node}/{seat}")
                seats.append(one(node, order))
            lost = any(seat.state in {"unreachable", "unknown"} for seat in seats)
            if release and not lost:
                claims.release_claim(str(self.folder / node), held)
            return build_node_record(node, seats, released=release and not lost)

        return self._each(act, list(orders), on_node)

    def _call_node(self, node: str, function: Callable[..., None], *arguments: Any) -> Problem | None:
        if self.ends.get("reach", {}).get(node):
            return UNREACHABLE
        try:
            function(str(self.folder / node), *arguments)
        except ProblemError as fault:
            return Problem.model_validate(fault.problem)  # type: ignore[attr-defined]
        except OSError as error:
            return Problem.model_validate(io_problem(error).problem)
        return None

    def _facts(self, node: str) -> NodeFacts | Problem:
        if self.ends.get("reach", {}).get(node):
            return UNREACHABLE
        found = [(path.stem, self.read(node, path.stem)) for path in sorted((self.folder / node).glob("*.seat"))]
        seats = tuple(self._running(seat, stored) for seat, stored in found if stored["generation"] or stored["run"])
        held = claims.read_claims(str(self.folder / node))
        active = tuple(map(Claim.model_validate, held.active))
        own = self.self_service(node)
        return a_node(node, seats=seats, claims=active, fence=held.fences.highest, self_service=own)

    @staticmethod
    def _running(seat: str, stored: Mapping[str, Any]) -> RunningSeat:
        return RunningSeat(
            name=seat,
            generation=stored["generation"],
            image=stored["image"],
            run=stored["run"],
            state=stored["state"],
            previous=max(stored["generation"] - 1, 0),
            services=dict.fromkeys(("jupyter", "ssh"), "healthy"),
            disk_limit=stored.get("disk_limit"),
        )

    def _end(self, act: str, node: str, seat: str, usual: NodeState) -> NodeState:
        ends = self.ends.get(act, {})
        return ends.get(f"{node}/{seat}") or ends.get(node) or usual

    def _stage(self, node: str, order: Order) -> SeatRecord:
        seat = order.seat.name
        state, stored = self._end("stage", node, seat, "staged"), self.read(node, seat)
        assert stored["ends"].get(order.run) is None, "a run that has switched a seat does not stage it again"
        if state == "staged":
            self._write(node, stored | {"run": order.run, "state": "staged"}, seat)
        return SeatRecord(seat=seat, state=state, seconds=self.seconds)

    def _switch(self, node: str, order: SwitchOrder) -> SeatRecord:
        if isinstance(order, RemovalOrder):
            return self._remove(node, order)
        if isinstance(order, AssignOrder):
            was = self.read(node, order.seat.name)
            self._write(node, was | {"keys": order.seat.authorized_keys}, order.seat.name)
            return SeatRecord(seat=order.seat.name, state="committed", generation=was["generation"])
        return self._change("switch", node, order, order.image.reference)

    def _remove(self, node: str, order: RemovalOrder) -> SeatRecord:
        was = self.read(node, order.seat.name)
        state = self._end("remove", node, order.seat.name, "committed" if was["generation"] else "unchanged")
        if state not in DONE:
            return SeatRecord(seat=order.seat.name, state=state)
        generation = was["generation"] if order.act == "stop" else 0
        ended = {"generation": generation, "run": order.run, "state": "removed"}
        self._write(node, was | ended, order.seat.name)
        return SeatRecord(seat=order.seat.name, state=state)

    def _change(self, act: str, node: str, order: Order | RollbackOrder, image: str) -> SeatRecord:
        """Change a seat once for each run, as a real node does. A repeated order returns the record of the first."""
        seat = order.seat.name
        stored = self.read(node, seat)
        if order.run in stored["ends"]:
            return SeatRecord.model_validate(stored["ends"][order.run])
        assert stored["generation"] == order.expects
        state = self._end(act, node, seat, "committed")
        if state in {"unreachable", "unknown"}:
            return SeatRecord(seat=seat, state=state)
        if state == "committed":
            stored |= {"generation": self._next(order), "image": image}
        record = SeatRecord(seat=seat, state=state, generation=stored["generation"])
        is_final = state in {"committed", "rolled_back", "needs_attention"}  # else the order can be repeated
        ended = stored["ends"] | ({order.run: record.model_dump(mode="json")} if is_final else {})
        self._write(node, stored | {"run": order.run, "state": state, "ends": ended}, seat)
        return record

    @staticmethod
    def _next(order: Order | RollbackOrder) -> int:
        before = order.expects or 0
        return before + 1 if isinstance(order, Order) else order.to or before - 1


def reported(order: Mapping[str, Any], **over: Any) -> SelfServiceFacts:
    """Return what a node reports once an order to publish was carried out. `order`: as it was sent."""
    config = order["config"]
    return SelfServiceFacts(
        **{
            "lab": config["lab"],
            "config": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
            "pool": config["pool"],
            "version": order["version"],
            "runs": True,
            "started_by": "systemd",
            "environments": {name: found["version"] for name, found in config["environments"].items()},
            **over,
        }
    )


class FakeJournal:
    """The documents of a run, in memory."""

    run = "r1"
    folder = Path("/no/such/folder")

    def __init__(self) -> None:
        self.documents: dict[str, Document] = {}

    def keep(self, name: str, document: Document) -> Path:
        self.documents[name] = document
        return self.folder / f"{name}.json"

    def forget(self, name: str) -> None:
        self.documents.pop(name, None)


def a_context(on_event: OnEvent = lambda _: None, stop: StopRequested = never_stop) -> RunContext:
    return RunContext(FakeJournal(), on_event, stop)


def a_seat(node: str, name: str = SEAT) -> Seat:
    return Seat(
        name=name,
        lab="demo",
        node=node,
        user="student",
        uid=1000,
        gid=1000,
        home="/srv/homes/student",
        gpus=(a_uuid(node),),
        gpu_driver="nvidia",
        ports={"ssh": 22000, "jupyter": 22001},
        binds={"ssh": "198.18.0.11", "jupyter": "127.0.0.1"},
        subnet="10.213.0.0/28",
    )


def an_order(node: str, run: str = "r1", seat: str = SEAT) -> Order:
    return Order(
        run=run,
        seat=a_seat(node, seat),
        image=OrderedImage(reference="new", tag="t", platform="linux/amd64"),
        registry=OrderedRegistry(address="registry.lab:5201"),
        document=SeatDocument(files={}),
        deadlines=Deadlines(pull=60, healthy=60, min_healthy=0),
    )


def orders_of(*nodes: str, run: str = "r1", seats: Sequence[str] = (SEAT,)) -> dict[str, dict[str, Order]]:
    return {node: {seat: an_order(node, run, seat) for seat in seats} for node in nodes}


def a_plan(actions: Mapping[str, Action], pull: int = 0, generation: int = 0, seats: Sequence[str] = (SEAT,)) -> Plan:
    steps = (
        Step(
            node=node,
            seat=None if action == "skip" else seat,
            action=action,
            why="",
            bytes_to_pull=pull,
            generation=generation,
            problems=(UNREACHABLE,) if action == "skip" else (),
        )
        for node, action in actions.items()
        for seat in seats
    )
    return Plan(lab="demo", image=None, steps=tuple(steps))


def a_claim(run: str = "r1", fence: int = 1) -> Claim:
    return Claim(run=run, lab="demo", holder="ann@control1", since="2026-11-26T21:00:00+00:00", fence=fence)
