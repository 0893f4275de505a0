"""The nodes of a lab, through Ansible; and this machine alone, through the same plays."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from provisioner.adapters.ansible.inventory import InventoryHost, hosts
from provisioner.adapters.ansible.play import HostEvent, play, scratch, this_machine
from provisioner.adapters.ansible.results import (
    ended,
    facts_of,
    module_failed,
    no_token,
    probed,
    progress,
    record_of,
    refusal,
    silent,
)
from provisioner.adapters.ansible.settings import Settings
from provisioner.domain.rollout.order import STATE_ROOT, BackOrder, DownOrder, Order
from provisioner.domain.rollout.report import NodeRecord
from provisioner.domain.values.claim import Claim
from provisioner.domain.values.event import Event, OnEvent, Phase
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem

_LAST_WORDS = {"ok", "failed", "unreachable"}


class AnsibleFleet:
    """`limit` as Ansible reads it. `state_root` is where the nodes keep their seats; `shared`: see `connections`.

    Every method raises ProblemError where Ansible did not run the play.
    """

    def __init__(
        self,
        settings: Settings,
        on_event: OnEvent,
        *,
        limit: str | None = None,
        state_root: str = STATE_ROOT,
        shared: Path | None = None,
    ) -> None:
        self._settings = settings
        self._on_event = on_event
        self._limit = limit
        self._state_root = state_root
        self._shared = shared

    @cached_property
    def _hosts(self) -> Sequence[InventoryHost]:
        if self._settings.inventory is None:
            return (InventoryHost(this_machine(), None),)
        return hosts(self._settings, self._limit)

    def hosts(self) -> Sequence[InventoryHost]:
        """Read once. Raises ProblemError (usage) where the inventory cannot be read, or no host is left of it."""
        return self._hosts

    def probe(self, nodes: Sequence[str]) -> Mapping[str, NodeFacts | Problem]:
        found: dict[str, NodeFacts | Problem] = {}

        def hear(heard: HostEvent) -> None:
            if heard.word in _LAST_WORDS:
                found[heard.node] = answer = facts_of(heard)
                self._on_event(probed(heard.node, answer))

        if nodes:
            order = json.dumps({"state_root": self._state_root})
            with scratch(dict.fromkeys(nodes, order), self._shared) as folder:
                play(self._settings, folder, "probe", hear)
        return {node: found.get(node) or module_failed("the play ended without a word of it") for node in nodes}

    def stage(self, orders: Mapping[str, Order]) -> Mapping[str, NodeRecord]:
        return self._work("stage", "stage", {node: order.model_dump_json() for node, order in orders.items()})

    def switch(self, orders: Mapping[str, Order]) -> Mapping[str, NodeRecord]:
        return self._work("switch", "switch", {node: order.model_dump_json() for node, order in orders.items()})

    def roll_back(self, orders: Mapping[str, BackOrder]) -> Mapping[str, NodeRecord]:
        return self._work("rollback", "switch", {node: order.model_dump_json() for node, order in orders.items()})

    def claim(self, claim: Claim, nodes: Sequence[str], breaks: str) -> Mapping[str, Problem | None]:
        """None for each node that the run holds from now on. `breaks` is a run that it may take them from."""
        return self._claims(nodes, {"act": "take", "claim": claim.model_dump(), "breaks": breaks})

    def release(self, claim: Claim, nodes: Sequence[str]) -> Mapping[str, Problem | None]:
        """None for each node that the run does not hold any more."""
        return self._claims(nodes, {"act": "release", "claim": claim.model_dump()})

    def _claims(self, nodes: Sequence[str], order: Mapping[str, Any]) -> Mapping[str, Problem | None]:
        answers: dict[str, Problem | None] = {}

        def hear(heard: HostEvent) -> None:
            if heard.word in _LAST_WORDS:
                answers[heard.node] = refusal(heard)

        if nodes:
            text = json.dumps({**order, "state_root": self._state_root})
            with scratch(dict.fromkeys(nodes, text), self._shared) as folder:
                play(self._settings, folder, "claim", hear)
        return {node: answers.get(node, module_failed("the play ended without a word of it")) for node in nodes}

    def take_down(self, orders: Mapping[str, DownOrder]) -> Mapping[str, NodeRecord]:
        return self._work("remove", "switch", {node: order.model_dump_json() for node, order in orders.items()})

    def access(self, seats: Mapping[str, str]) -> Mapping[str, str | Problem]:
        """The token of a seat (by name) of each node. It is in no event, result or argument on its way."""
        if not seats:
            return {}
        orders = {node: json.dumps({"token": self._token_path(seat)}) for node, seat in seats.items()}
        with scratch(orders, self._shared) as folder:
            play(self._settings, folder, "access", lambda _: None)
            return {node: _token(folder / "orders" / f"{node}.token", seat) for node, seat in seats.items()}

    def notify(self, seats: Mapping[str, str], run: str, text: str | None) -> Mapping[str, NodeRecord]:
        """Tells `text` to the people of a seat (by name) of each node; None takes the notice back."""
        given = {"run": run, "text": text, "state_root": self._state_root}
        orders = {node: json.dumps({**given, "seat": {"name": seat}}) for node, seat in seats.items()}
        return self._work("notify", "notice", orders)

    def _token_path(self, seat: str) -> str:
        return f"{self._state_root}/seats/{seat}/identity/token"

    def _work(self, playbook: str, phase: Phase, orders: Mapping[str, str]) -> Mapping[str, NodeRecord]:
        """A job on each node, followed to its end. Nodes that are not asked for anything are not in the result."""
        records: dict[str, NodeRecord] = {}
        begun: set[str] = set()

        def hear(heard: HostEvent) -> None:
            # Where a switch is ordered and the line goes dead, only the node knows whether it has the order.
            maybe = phase == "switch" and heard.word == "unreachable"
            if record := record_of(heard, begun=heard.node in begun or maybe):
                records[heard.node] = record
                self._on_event(ended(phase, record))
            elif heard.word == "ok":
                begun.add(heard.node)
                self._on_event(Event(phase=phase, kind="started", node=heard.node))
            elif heard.word == "retry":
                self._on_event(progress(heard))

        if orders:
            with scratch(orders, self._shared) as folder:
                play(self._settings, folder, playbook, hear)
        return {node: records.get(node) or silent(node) for node in orders}


def _token(path: Path, seat: str) -> str | Problem:
    return path.read_text() if path.exists() else no_token(seat)


def local_fleet(on_event: OnEvent, *, state_root: str = STATE_ROOT) -> AnsibleFleet:
    """This machine alone, as the person who asks: no SSH, no other account."""
    return AnsibleFleet(Settings(inventory=None), on_event, state_root=state_root)
