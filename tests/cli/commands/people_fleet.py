"""A lab with a roster on nodes that are small files, which report each seat as it was ordered last."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from provisioner.adapters.ansible.inventory import InventoryHost
from provisioner.adapters.lab.lockfile import read_lock, write_lock
from provisioner.adapters.state.files import state_home
from provisioner.adapters.state.journal import events
from provisioner.domain.lab.lock import Placement
from provisioner.domain.rollout.order import Order, RemovalOrder, SwitchOrder
from provisioner.domain.rollout.report import NodeState, SeatRecord
from provisioner.domain.values.node import Account, NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem
from tests.builders import a_gpu, a_lock
from tests.cli.commands.people import LAB
from tests.workflow.fake_fleet import FakeFleet

PEOPLE = ("anna", "bob", "eve")
ROSTER = "id,uid,node,gpus\nanna,70001,gpu*,1\nbob,70002,gpu1,shared\neve,70003,gpu2,0\n"
NEW: Mapping[str, Any] = {"generation": 0, "image": "", "run": "", "state": "", "ends": {}}
UP, DOWN = dict.fromkeys(("jupyter", "ssh"), "healthy"), dict.fromkeys(("jupyter", "ssh"), "missing")


class PeopleFleet(FakeFleet):
    """Nodes with two GPUs each, which have the locked images already."""

    def hosts(self) -> Sequence[InventoryHost]:
        return [InventoryHost(host.name, None) for host in super().hosts()]

    def read(self, node: str, seat: str = "") -> dict[str, Any]:
        return super().read(node, seat) if (self.folder / node / f"{seat}.seat").exists() else dict(NEW)

    def work(self, node: str, seat: str) -> None:
        """Let a seat be in use."""
        self._write(node, self.read(node, seat) | {"at_work": ["python (pid 7)"]}, seat)

    def running(self) -> dict[str, list[str]]:
        """Return by node the seats that run."""
        found = {host.name: self._facts(host.name) for host in self.hosts()}
        return {
            node: [seat.name for seat in facts.seats if seat.generation and not seat.is_down]
            for node, facts in found.items()
            if isinstance(facts, NodeFacts)
        }

    def _facts(self, node: str) -> NodeFacts | Problem:
        facts = super()._facts(node)
        if isinstance(facts, Problem):
            return facts
        changes = {
            "gpus": (a_gpu(node), a_gpu(node, 1)),
            "pci_gpus": 2,
            "accounts": dict.fromkeys(PEOPLE, Account()),
            "images": tuple(image.lab.rpartition("@")[2] for image in a_lock().images),
        }
        return facts.model_copy(update=changes)

    def _switch(self, node: str, order: SwitchOrder) -> SeatRecord:
        record, seat = super()._switch(node, order), order.seat.name
        if record.state == "committed":
            self._write(node, self.read(node, seat) | self._after(node, order), seat)
        return record

    def _after(self, node: str, order: SwitchOrder) -> dict[str, Any]:
        if isinstance(order, RemovalOrder):
            return {"down": True}
        if isinstance(order, Order):
            return {"down": False, "order": order.model_dump() | {"files": order.files}}
        stored = self.read(node, order.seat.name)["order"]
        keys = "".join(f"{key}\n" for key in order.seat.authorized_keys)
        return {"order": stored | {"seat": order.seat, "files": stored["files"] | {"authorized_keys": keys}}}

    @staticmethod
    def _running(seat: str, stored: Mapping[str, Any]) -> RunningSeat:
        running = FakeFleet._running(seat, stored)
        if "order" not in stored:
            return running
        order = Order.model_validate(stored["order"])
        names = ("lab", "person", "uid", "home", "gpus", "shared", "subnet", "limits", "capacity")
        changes = {name: getattr(order.seat, name) for name in names} | {
            "files": order.files,
            "ports": dict(order.seat.ports),
            "services": DOWN if stored["down"] else UP,
            "at_work": tuple(stored.get("at_work", ())),
        }
        return running.model_copy(update=changes)


class PeopleLab:
    """The directory of a lab, its lock and its fleet."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.fleet = path, PeopleFleet(path / "nodes")
        self.fleet.add("gpu1", "gpu2", seats=())
        (path / "lab.yml").write_text(f"{LAB}people: {{roster: roster.csv}}\n")
        (path / "hosts.yml").write_text("all: {hosts: {gpu1: {}, gpu2: {}}}\n")
        self.write_roster(ROSTER)
        write_lock(path / "lab.lock", a_lock())
        for module in ("rollout", "resume", "seats.person_change"):
            monkeypatch.setattr(f"provisioner.cli.commands.{module}.open_fleet", self._open)
        for module in ("plan_context", "commands.plan"):
            monkeypatch.setattr(f"provisioner.cli.{module}.fleet", lambda *_: self.fleet)

    @contextmanager
    def _open(self, *_: object) -> Iterator[PeopleFleet]:
        yield self.fleet

    def write_roster(self, text: str) -> None:
        (self.path / "roster.csv").write_text(text)

    def fail(self, act: str, node: str, state: NodeState) -> None:
        """Let this act end in this state on a node."""
        self.fleet.ends = {act: {node: state}}

    def places(self) -> dict[str, Placement]:
        lock = read_lock(self.path / "lab.lock")
        assert lock is not None
        return lock.people

    def notes(self) -> list[dict[str, Any]]:
        """Return what the journals keep of who asked for a change, and why."""
        folders = sorted((state_home() / "ml" / "runs").iterdir())
        found = [entry.event.data for folder in folders for entry in events(folder)]
        return [data for data in found if "reason" in data]
