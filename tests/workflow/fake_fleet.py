"""Nodes as small files: what each runs, and their own code for who may change them. They outlive their controller."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from provisioner.domain.rollout.order import BackOrder, Deadlines, DownOrder, Order, OrderedImage, OrderedRegistry
from provisioner.domain.rollout.plan import Action, Plan, Step
from provisioner.domain.rollout.report import NodeRecord, NodeState
from provisioner.domain.seat.seat import Seat
from provisioner.domain.values.claim import Claim
from provisioner.domain.values.node import NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import Host, Probed
from tests.builders import a_node, a_uuid
from tests.playbooks.node_code import ProblemError, module_util

SEAT = "demo-student"
UNREACHABLE = Problem("unreachable", "no answer", "it is off", "switch it on")
claims = module_util("jobs.claims")


class FakeHost(NamedTuple):
    name: str
    address: str | None = None


class FakeFleet:
    """Every node does as asked, but for those named in `ends` (act -> node) with the state that they end in.

    `at` is told of every moment, before and after each node's part of a call: it may raise, kill or look.
    """

    def __init__(
        self,
        folder: Path,
        ends: Mapping[str, Mapping[str, NodeState]] | None = None,
        at: Callable[[str], None] = lambda _: None,
        seconds: float = 0.0,
    ) -> None:
        self.folder, self.ends, self.at, self.seconds = folder, ends or {}, at, seconds
        self.asked: list[tuple[str, tuple[str, ...]]] = []

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
        return self._each("claim", nodes, lambda n: self._asked(n, claims.take_claim, claim.model_dump(), breaks))

    def release(self, claim: Claim, nodes: Sequence[str]) -> Mapping[str, Problem | None]:
        if not nodes:
            return {}
        return self._each("release", nodes, lambda n: self._asked(n, claims.release_claim, claim.model_dump()))

    def stage(self, orders: Mapping[str, Order]) -> Mapping[str, NodeRecord]:
        return self._each("stage", list(orders), lambda n: self._stage(n, orders[n]))

    def switch(self, orders: Mapping[str, Order]) -> Mapping[str, NodeRecord]:
        return self._each(
            "switch", list(orders), lambda n: self._change("switch", n, orders[n], orders[n].image.reference)
        )

    def roll_back(self, orders: Mapping[str, BackOrder]) -> Mapping[str, NodeRecord]:
        return self._each("roll_back", list(orders), lambda n: self._change("roll_back", n, orders[n], "old"))

    def take_down(self, orders: Mapping[str, DownOrder]) -> Mapping[str, NodeRecord]:
        def gone(node: str) -> NodeRecord:
            order = orders[node]
            assert order.act == "remove"
            held = order.claim.model_dump() if order.claim else None
            if refused := self._asked(node, claims.check_claim, held):
                return NodeRecord(node=node, state="failed", problems=(refused,))
            was = self.read(node)
            claims.release_claim(str(self.folder / node), held)
            self._write(node, was | {"generation": 0, "run": order.run, "state": "removed"})
            return NodeRecord(node=node, state="committed" if was["generation"] else "unchanged", released=True)

        return self._each("remove", list(orders), gone)

    def read(self, node: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / node / "node.json").read_text())
        return found

    def alive(self) -> dict[str, Any]:
        """Node -> the claim that holds it."""
        return {host.name: claims.read_claim(str(self.folder / host.name))[0] for host in self.hosts()}

    def _write(self, node: str, state: Mapping[str, Any]) -> None:
        (self.folder / node / "node.json").write_text(json.dumps(state))

    def _each(self, act: str, nodes: Sequence[str], one: Callable[[str], Any]) -> dict[str, Any]:
        self.asked.append((act, tuple(nodes)))
        found = {}
        for node in nodes:
            self.at(f"{act} before {node}")
            found[node] = one(node)
            self.at(f"{act} after {node}")
        return found

    def _asked(self, node: str, ask: Callable[..., None], *given: Any) -> Problem | None:
        if self.ends.get("reach", {}).get(node):
            return UNREACHABLE
        try:
            ask(str(self.folder / node), *given)
        except ProblemError as fault:
            return Problem.model_validate(fault.problem)  # type: ignore[attr-defined]
        return None

    def _facts(self, node: str) -> NodeFacts | Problem:
        if self.ends.get("reach", {}).get(node):
            return UNREACHABLE
        told = self.read(node)
        seat = RunningSeat(
            name=SEAT,
            generation=told["generation"],
            image=told["image"],
            run=told["run"],
            state=told["state"],
            previous=max(told["generation"] - 1, 0),
            services=dict.fromkeys(("jupyter", "ssh"), "healthy"),
        )
        alive, fence = claims.read_claim(str(self.folder / node))
        seats = (seat,) if told["generation"] or told["run"] else ()
        return a_node(node, seats=seats, claim=Claim.model_validate(alive) if alive else None, fence=fence)

    def _stage(self, node: str, order: Order) -> NodeRecord:
        if refused := self._asked(node, claims.check_claim, order.claim.model_dump() if order.claim else None):
            return NodeRecord(node=node, state="failed", problems=(refused,))
        state = self.ends.get("stage", {}).get(node, "staged")
        told = self.read(node)
        assert told["ends"].get(order.run) is None, "a run that has switched a seat does not stage it again"
        if state == "staged":
            self._write(node, told | {"run": order.run, "state": "staged"})
        return NodeRecord(node=node, state=state, seconds=self.seconds)

    def _change(self, act: str, node: str, order: Order | BackOrder, image: str) -> NodeRecord:
        """As on a node: once for each run; whoever asks again is told how it ended."""
        held = order.claim.model_dump() if order.claim else None
        if refused := self._asked(node, claims.check_claim, held):
            return NodeRecord(node=node, state="failed", problems=(refused,))
        told = self.read(node)
        if order.run in told["ends"]:
            return NodeRecord.model_validate(told["ends"][order.run])
        assert told["generation"] == order.expects
        state = self.ends.get(act, {}).get(node, "committed")
        if state in {"unreachable", "unknown"}:
            return NodeRecord(node=node, state=state)
        if state == "committed":
            told |= {"generation": self._next(order), "image": image}
        record = NodeRecord(node=node, state=state, generation=told["generation"], released=True)
        ended = told["ends"] | {order.run: record.model_dump(mode="json")}
        self._write(node, told | {"run": order.run, "state": state, "ends": ended})
        claims.release_claim(str(self.folder / node), held)
        return record

    @staticmethod
    def _next(order: Order | BackOrder) -> int:
        before = order.expects or 0
        return before + 1 if isinstance(order, Order) else order.to or before - 1


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
