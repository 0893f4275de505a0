"""A fleet whose nodes are small files, with the real node code for claims. The files outlive the controller."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from provisioner.domain.rollout.order import (
    Deadlines,
    Order,
    OrderedImage,
    OrderedRegistry,
    RemovalOrder,
    RollbackOrder,
)
from provisioner.domain.rollout.plan import Action, Plan, Step
from provisioner.domain.rollout.report import NodeRecord, NodeState
from provisioner.domain.seat.seat import Seat
from provisioner.domain.values.claim import Claim
from provisioner.domain.values.event import OnEvent
from provisioner.domain.values.model import Document
from provisioner.domain.values.node import NodeFacts, RunningSeat
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
    """Every node succeeds, except those that `ends` maps to another final state (step -> node -> state).

    `at` is called before and after each node's part of every call, with the name of that moment. It may raise or kill.
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

    def add(self, *nodes: str, generation: int = 0) -> "FakeFleet":
        for node in nodes:
            (self.folder / node).mkdir(parents=True)
            self._write(node, {"generation": generation, "image": "", "run": "", "state": "committed", "ends": {}})
        return self

    def hosts(self) -> Sequence[Host]:
        return [FakeHost(path.name) for path in sorted(self.folder.iterdir())]

    def probe(self, nodes: Sequence[str]) -> Probed:
        return self._each("probe", nodes, self._facts)

    def claim(self, claim: Claim, nodes: Sequence[str], breaks: str) -> Mapping[str, Problem | None]:
        return self._each("claim", nodes, lambda n: self._call_node(n, claims.take_claim, claim.model_dump(), breaks))

    def release(self, claim: Claim, nodes: Sequence[str]) -> Mapping[str, Problem | None]:
        if not nodes:
            return {}
        return self._each("release", nodes, lambda n: self._call_node(n, claims.release_claim, claim.model_dump()))

    def stage(self, orders: Mapping[str, Order]) -> Mapping[str, NodeRecord]:
        return self._each("stage", list(orders), lambda n: self._stage(n, orders[n]))

    def switch(self, orders: Mapping[str, Order]) -> Mapping[str, NodeRecord]:
        return self._each(
            "switch", list(orders), lambda n: self._change("switch", n, orders[n], orders[n].image.reference)
        )

    def roll_back(self, orders: Mapping[str, RollbackOrder]) -> Mapping[str, NodeRecord]:
        return self._each("roll_back", list(orders), lambda n: self._change("roll_back", n, orders[n], "old"))

    def take_down(self, orders: Mapping[str, RemovalOrder]) -> Mapping[str, NodeRecord]:
        def remove(node: str) -> NodeRecord:
            order = orders[node]
            assert order.act == "remove"
            held = order.claim.model_dump() if order.claim else None
            if refused := self._call_node(node, claims.check_claim, held):
                return NodeRecord(node=node, state="failed", problems=(refused,))
            was = self.read(node)
            claims.release_claim(str(self.folder / node), held)
            self._write(node, was | {"generation": 0, "run": order.run, "state": "removed"})
            return NodeRecord(node=node, state="committed" if was["generation"] else "unchanged", released=True)

        return self._each("remove", list(orders), remove)

    def read(self, node: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / node / "node.json").read_text())
        return found

    def claims_by_node(self) -> dict[str, Any]:
        """Return the claim on each node, or None."""
        return {host.name: claims.read_claim(str(self.folder / host.name))[0] for host in self.hosts()}

    def _write(self, node: str, state: Mapping[str, Any]) -> None:
        (self.folder / node / "node.json").write_text(json.dumps(state))

    def _each(self, act: str, nodes: Sequence[str], one: Callable[[str], Any]) -> dict[str, Any]:
        self.calls.append((act, tuple(nodes)))
        found = {}
        for node in nodes:
            self.at(f"{act} before {node}")
            found[node] = one(node)
            self.at(f"{act} after {node}")
        return found

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
        stored = self.read(node)
        seat = RunningSeat(
            name=SEAT,
            generation=stored["generation"],
            image=stored["image"],
            run=stored["run"],
            state=stored["state"],
            previous=max(stored["generation"] - 1, 0),
            services=dict.fromkeys(("jupyter", "ssh"), "healthy"),
        )
        alive, fence = claims.read_claim(str(self.folder / node))
        seats = (seat,) if stored["generation"] or stored["run"] else ()
        return a_node(node, seats=seats, claim=Claim.model_validate(alive) if alive else None, fence=fence)

    def _stage(self, node: str, order: Order) -> NodeRecord:
        if refused := self._call_node(node, claims.check_claim, order.claim.model_dump() if order.claim else None):
            return NodeRecord(node=node, state="failed", problems=(refused,))
        state = self.ends.get("stage", {}).get(node, "staged")
        stored = self.read(node)
        assert stored["ends"].get(order.run) is None, "a run that has switched a seat does not stage it again"
        if state == "staged":
            self._write(node, stored | {"run": order.run, "state": "staged"})
        return NodeRecord(node=node, state=state, seconds=self.seconds)

    def _change(self, act: str, node: str, order: Order | RollbackOrder, image: str) -> NodeRecord:
        """Change a node once for each run, as a real node does. A repeated order returns the record of the first."""
        held = order.claim.model_dump() if order.claim else None
        if refused := self._call_node(node, claims.check_claim, held):
            return NodeRecord(node=node, state="failed", problems=(refused,))
        stored = self.read(node)
        if order.run in stored["ends"]:
            return NodeRecord.model_validate(stored["ends"][order.run])
        assert stored["generation"] == order.expects
        state = self.ends.get(act, {}).get(node, "committed")
        if state in {"unreachable", "unknown"}:
            return NodeRecord(node=node, state=state)
        if state == "committed":
            stored |= {"generation": self._next(order), "image": image}
        record = NodeRecord(node=node, state=state, generation=stored["generation"], released=True)
        ended = stored["ends"] | {order.run: record.model_dump(mode="json")}
        self._write(node, stored | {"run": order.run, "state": state, "ends": ended})
        claims.release_claim(str(self.folder / node), held)
        return record

    @staticmethod
    def _next(order: Order | RollbackOrder) -> int:
        before = order.expects or 0
        return before + 1 if isinstance(order, Order) else order.to or before - 1


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


def a_seat(node: str) -> Seat:
    return Seat(
        name=SEAT,
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


def an_order(node: str, run: str = "r1") -> Order:
    return Order(
        run=run,
        seat=a_seat(node),
        image=OrderedImage(reference="new", tag="t", platform="linux/amd64"),
        registry=OrderedRegistry(address="registry.lab:5201"),
        files={},
        deadlines=Deadlines(pull=60, healthy=60, min_healthy=0),
    )


def a_plan(actions: Mapping[str, Action], pull: int = 0, generation: int = 0) -> Plan:
    steps = (
        Step(
            node=node,
            seat=None if action == "skip" else SEAT,
            action=action,
            why="",
            bytes_to_pull=pull,
            generation=generation,
            problems=(UNREACHABLE,) if action == "skip" else (),
        )
        for node, action in actions.items()
    )
    return Plan(lab="demo", image=None, steps=tuple(steps))


def a_claim(run: str = "r1", fence: int = 1) -> Claim:
    return Claim(run=run, lab="demo", holder="ann@control1", since="2026-11-26T21:00:00+00:00", fence=fence)
