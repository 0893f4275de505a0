"""The nodes of a lab, or this machine alone, through the same Ansible plays."""

import json
import re
from collections.abc import Callable, Mapping, Sequence, Sized
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from provisioner.adapters.ansible.batch import dump_batch, dump_fetch, dump_publication
from provisioner.adapters.ansible.broker_answers import parse_answers
from provisioner.adapters.ansible.inventory import InventoryHost, hosts
from provisioner.adapters.ansible.play import HostEvent, local_hostname, play_folder, run_playbook
from provisioner.adapters.ansible.results import (
    module_failed,
    parse_claim_problem,
    parse_facts,
    parse_progress,
    parse_record,
    probe_event,
    record_event,
    result_missing,
    same_record,
)
from provisioner.adapters.ansible.settings import Settings
from provisioner.domain.rollout.fetch import FetchOrder
from provisioner.domain.rollout.leases import BROKER_SOCKET, BrokerAnswer, BrokerRequest
from provisioner.domain.rollout.order import (
    STATE_ROOT,
    DiskLimitOrder,
    NoticeOrder,
    Order,
    Orders,
    RemovalOrder,
    RollbackOrder,
    SeatName,
    SwitchOrder,
)
from provisioner.domain.rollout.publish import PublicationOrder
from provisioner.domain.rollout.report import NodeRecord
from provisioner.domain.values.claim import Claim, implausible_fences
from provisioner.domain.values.event import Event, OnEvent, Phase
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem

Result = TypeVar("Result")
Some = TypeVar("Some", bound=Sized)
OneOrder = TypeVar("OneOrder")

_FINAL_STATUSES = {"ok", "failed", "unreachable"}
_MAX_TOKEN = 512  # bytes; tokens are 64 hexadecimal digits. A longer file is not read whole
_TOKEN = re.compile(rb"[A-Za-z0-9._~-]+")


class AnsibleFleet:
    """The nodes that an inventory names. Every method raises ProblemError where Ansible did not run the play.

    `limit` is a pattern as Ansible reads it. `state_root` is the directory on the nodes that holds their seats.
    `shared` is a folder of connections that several plays use: see `connections`. `accounts` are the names of people
    whose accounts a probe looks up on each node.
    """

    def __init__(  # noqa: PLR0913  (all but two have a default)
        self,
        settings: Settings,
        on_event: OnEvent,
        *,
        limit: str | None = None,
        state_root: str = STATE_ROOT,
        shared: Path | None = None,
        accounts: Sequence[str] = (),
    ) -> None:
        """Store the settings. The inventory is read at the first call of `hosts`."""
        self._settings = settings
        self._on_event = on_event
        self._limit = limit
        self._state_root = state_root
        self._shared = shared
        self._accounts = accounts

    @cached_property
    def _hosts(self) -> Sequence[InventoryHost]:
        if self._settings.inventory is None:
            return (InventoryHost(local_hostname(), None),)
        return hosts(self._settings, self._limit)

    def hosts(self) -> Sequence[InventoryHost]:
        """Read the inventory once and return its nodes. Raises ProblemError (usage): unreadable, or no host matches."""
        return self._hosts

    def probe(self, nodes: Sequence[str]) -> Mapping[str, NodeFacts | Problem]:
        """Return the facts of each node, or the problem that prevented reading them."""

        def parse(event: HostEvent) -> NodeFacts | Problem:
            answer = parse_facts(event)
            self._on_event(probe_event(event.node, answer))
            return answer

        orders = {node: {"accounts": list(self._accounts)} for node in nodes}
        probed = self._run_on_each("probe", orders, parse)
        fences = {name: facts.fence for name, facts in probed.items() if isinstance(facts, NodeFacts)}
        return {**probed, **implausible_fences(fences)}

    def stage(self, orders: Orders[Order]) -> Mapping[str, NodeRecord]:
        """Prepare the next generation of each seat beside the running one, and verify it as far as possible.

        This and the next three methods take orders by node and by seat, and return a record with all ordered seats for
        each node that has an order.
        """
        return self._run_jobs("stage", "stage", orders, dump_batch)

    def switch(self, orders: Orders[SwitchOrder]) -> Mapping[str, NodeRecord]:
        """Switch each seat to its staged generation. A seat that fails to verify returns to the previous one.

        A seat with a removal order is stopped; one with an order to assign goes on running.
        """
        return self._run_jobs("switch", "switch", orders, dump_batch)

    def roll_back(self, orders: Orders[RollbackOrder]) -> Mapping[str, NodeRecord]:
        """Switch each seat to an earlier generation that its node still keeps."""
        return self._run_jobs("rollback", "switch", orders, dump_batch)

    def take_down(self, orders: Orders[RemovalOrder]) -> Mapping[str, NodeRecord]:
        """Remove each seat from its node. Homes are kept."""
        return self._run_jobs("remove", "switch", orders, dump_batch)

    def publish(self, orders: Orders[PublicationOrder]) -> Mapping[str, NodeRecord]:
        """Install, update or remove self-service: one order a node."""
        return self._run_jobs("self_service", "switch", orders, dump_publication)

    def fetch(self, orders: Orders[FetchOrder]) -> Mapping[str, NodeRecord]:
        """Pull images and keep them: one order a node, under a name that stands for its images."""
        return self._run_jobs("fetch", "fetch", orders, dump_fetch)

    def claim(self, claims: Mapping[str, Claim], breaks: str) -> Mapping[str, Problem | None]:
        """Take claims by node: None for each that was taken. `breaks`: a run whose claims may be replaced."""
        orders = {
            node: {"act": "take", "claim": claim.model_dump(), "breaks": breaks} for node, claim in claims.items()
        }
        return self._run_on_each("claim", orders, parse_claim_problem)

    def release(self, claim: Claim, nodes: Sequence[str]) -> Mapping[str, Problem | None]:
        """Release nodes from a run: None for each node of which the run no longer holds anything."""
        order = {"act": "release", "claim": claim.model_dump()}
        return self._run_on_each("claim", dict.fromkeys(nodes, order), parse_claim_problem)

    def access(self, seats: Mapping[str, Sequence[str]]) -> Mapping[str, Mapping[str, str | Problem]]:
        """Return the Jupyter token of each of the `seats` of each node, by node and by seat.

        No event, result or argument contains a token.
        """
        wanted = _nonempty(seats)
        if not wanted:
            return {}
        orders = {node: json.dumps({"tokens": list(map(self._token_path, names))}) for node, names in wanted.items()}
        with play_folder(orders, self._shared) as folder:
            run_playbook(self._settings, folder, "access", lambda _: None)
            return {node: _read_tokens(folder / "orders", node, names) for node, names in wanted.items()}

    def notify(self, seats: Mapping[str, Sequence[str]], run: str, text: str | None) -> Mapping[str, NodeRecord]:
        """Show the notice `text` to the users of the `seats` of each node; None clears the notice."""
        orders = {node: {seat: self._notice_order(seat, run, text) for seat in names} for node, names in seats.items()}
        return self._run_jobs("notify", "notice", orders, dump_batch)

    def _notice_order(self, seat: str, run: str, text: str | None) -> NoticeOrder:
        return NoticeOrder(run=run, state_root=self._state_root, seat=SeatName(name=seat), text=text)

    def limit_disks(self, limits: Mapping[str, Mapping[str, int | None]], run: str) -> Mapping[str, NodeRecord]:
        """Set the limits at which nodes warn of the use of the disk, in bytes, by node and seat. Nothing restarts."""
        orders = {
            node: {seat: self._disk_order(seat, run, limit) for seat, limit in seats.items()}
            for node, seats in limits.items()
        }
        return self._run_jobs("disk", "disk", orders, dump_batch)

    def _disk_order(self, seat: str, run: str, limit: int | None) -> DiskLimitOrder:
        return DiskLimitOrder(run=run, state_root=self._state_root, seat=SeatName(name=seat), disk_limit=limit)

    def ask_brokers(
        self, requests: Mapping[str, Sequence[BrokerRequest]]
    ) -> Mapping[str, tuple[BrokerAnswer, ...] | Problem]:
        """Return what the broker of each node answers to its requests, in their order."""
        orders = {
            node: {"socket": BROKER_SOCKET, "requests": [_request(one) for one in wanted]}
            for node, wanted in _nonempty(requests).items()
        }
        answers = self._run_on_each("leases", orders, parse_answers)
        return {node: _all_answers(found, requests[node]) for node, found in answers.items()}

    def _token_path(self, seat: str) -> str:
        return f"{self._state_root}/seats/{seat}/identity/token"

    def _run_on_each(
        self, playbook: str, orders: Mapping[str, Mapping[str, Any]], parse: Callable[[HostEvent], Result]
    ) -> Mapping[str, Result | Problem]:
        """Run a play of one task with the order of each node. `parse` reads the final event of a node."""
        results: dict[str, Result | Problem] = {}

        def on_host_event(event: HostEvent) -> None:
            if event.status in _FINAL_STATUSES:
                results[event.node] = parse(event)

        if orders:
            texts = {node: json.dumps({**order, "state_root": self._state_root}) for node, order in orders.items()}
            self._play(playbook, texts, on_host_event)
        return {node: results.get(node, result_missing()) for node in orders}

    def _run_jobs(
        self,
        playbook: str,
        phase: Phase,
        orders: Mapping[str, Mapping[str, OneOrder]],
        dump: Callable[[Mapping[str, OneOrder]], str],
    ) -> Mapping[str, NodeRecord]:
        """Start a job on each node that has an order, and follow the job to its end. `dump`: the orders as JSON."""
        records: dict[str, NodeRecord] = {}
        begun: set[str] = set()
        started: set[str] = set()
        wanted = _nonempty(orders)

        def on_host_event(event: HostEvent) -> None:
            # If the connection breaks while a switch is being ordered, or the node does not answer in time, only the
            # node knows whether it has the order.
            has_no_answer = event.status == "unreachable" or bool(event.result.get("timedout"))
            may_have_started = phase == "switch" and has_no_answer
            seats = list(wanted[event.node])
            if record := parse_record(event, seats, started=event.node in started or may_have_started):
                records[event.node] = record
                self._on_event(record_event(phase, record))
            elif event.status == "start" and event.node not in begun:
                begun.add(event.node)
                self._on_event(Event(phase=phase, kind="started", node=event.node))
            elif event.status in {"ok", "retry"}:
                started.add(event.node)
                self._on_event(parse_progress(event))

        if wanted:
            self._play(playbook, {node: dump(seats) for node, seats in wanted.items()}, on_host_event)
        missing = result_missing()
        return {n: records.get(n) or same_record(n, list(seats), "unknown", missing) for n, seats in wanted.items()}

    def _play(self, playbook: str, orders: Mapping[str, str], on_host_event: Callable[[HostEvent], None]) -> None:
        """Run a play on the nodes that have an order."""
        with play_folder(orders, self._shared) as folder:
            run_playbook(self._settings, folder, playbook, on_host_event)


def _nonempty(by_node: Mapping[str, Some]) -> dict[str, Some]:
    """Return the nodes that have anything."""
    return {node: some for node, some in by_node.items() if some}


def _request(request: BrokerRequest) -> dict[str, Any]:
    """Return a request as the broker reads it: without what its verb does not need."""
    return request.model_dump(mode="json", exclude_none=True)


def _all_answers(
    found: tuple[BrokerAnswer, ...] | Problem, requests: Sequence[BrokerRequest]
) -> tuple[BrokerAnswer, ...] | Problem:
    if isinstance(found, Problem) or len(found) == len(requests):
        return found
    return module_failed(f"the broker gave {len(found)} answers to {len(requests)} requests")


def _read_tokens(folder: Path, node: str, seats: Sequence[str]) -> dict[str, str | Problem]:
    """Read the files that the play has fetched, numbered in the order of `seats`."""
    return {seat: _read_token(folder / f"{node}.{number}.token", seat) for number, seat in enumerate(seats)}


def _read_token(path: Path, seat: str) -> str | Problem:
    if path.exists():
        with path.open("rb") as file:
            token = file.read(_MAX_TOKEN + 1)
        return token.decode() if len(token) <= _MAX_TOKEN and _TOKEN.fullmatch(token) else _bad_token(seat)
    return Problem(
        "no_token",
        f"the node has no token for {seat}, or it could not be fetched",
        "the token of a seat is created when the seat is staged for the first time",
        "check with `provision status` whether the seat exists",
    )


def _bad_token(seat: str) -> Problem:
    return Problem(
        "bad_token",
        f"what the node sends as the token of {seat} is no token",
        "a token becomes part of a URL: letters, digits, `.`, `_`, `~` and `-`, at most 512",
        "look at identity/token of the seat on the node",
    )


def local_fleet(on_event: OnEvent, *, state_root: str = STATE_ROOT) -> AnsibleFleet:
    """Return this machine alone as a fleet: no SSH, and no change of user."""
    return AnsibleFleet(Settings(inventory=None), on_event, state_root=state_root)
