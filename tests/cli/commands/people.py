"""A lab with a roster whose nodes are values: what status would report of them is given by the test."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from provisioner.adapters.ansible.inventory import InventoryHost
from provisioner.adapters.lab.directory import read_lab
from provisioner.adapters.lab.lockfile import write_lock
from provisioner.domain.people.person import Person
from provisioner.domain.rollout.status import LabStatus, SeatStatus
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem
from tests.builders import a_lock, a_node

LAB = """
name: ml
mirror: {address: "127.0.0.1:5999", plain_http: true}
registry: {address: "127.0.0.1:5998", plain_http: true}
"""


class Nodes:
    """Two nodes, the first behind a jump host. `facts`: of nodes that are not as they are by default."""

    def __init__(self, facts: Mapping[str, NodeFacts | Problem] | None = None) -> None:
        self._facts = facts or {}

    def hosts(self) -> Sequence[InventoryHost]:
        return (InventoryHost("gpu1", None, "admin@jump.lab"), InventoryHost("gpu2", None))

    def probe(self, nodes: Sequence[str]) -> Mapping[str, NodeFacts | Problem]:
        return {name: self._facts.get(name, a_node(name)) for name in nodes}


class RosterLab:
    """The directory of a lab. `report` says who is in its roster, and what is known of their seats.

    `facts`: what nodes answer, where it is not that of any node.
    """

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self._monkeypatch = path, monkeypatch
        self.facts: dict[str, NodeFacts | Problem] = {}
        path.mkdir()
        (path / "lab.yml").write_text(LAB)
        (path / "hosts.yml").write_text("all: {hosts: {gpu1: {}, gpu2: {}}}\n")
        write_lock(path / "lab.lock", a_lock())
        monkeypatch.setattr("provisioner.cli.plan_context.fleet", lambda *_: Nodes(self.facts))

    def report(self, command: str, people: Sequence[Person], *seats: SeatStatus) -> None:
        def read_with_people(name: str) -> Any:
            return read_lab(name)._replace(people=tuple(people))

        status = LabStatus(lab="ml", seats=seats)
        self._monkeypatch.setattr(f"provisioner.cli.commands.{command}.read_lab", read_with_people)
        self._monkeypatch.setattr("provisioner.cli.plan_context.build_status", lambda *_: status)
