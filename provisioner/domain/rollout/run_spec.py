"""The complete specification of a run: it is enough to finish an interrupted run with the same result."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from provisioner.domain.lab.lab import RolloutSettings
from provisioner.domain.lab.waves import budget, waves
from provisioner.domain.rollout.order import HeldGpus, Order, Orders, RollbackOrder, documents_of
from provisioner.domain.rollout.plan import Plan, Step
from provisioner.domain.rollout.publish import PublicationOrder, published_documents
from provisioner.domain.rollout.report import (
    DONE,
    NodeRecord,
    NodeState,
    SeatRecord,
    build_access,
    build_node_record,
)
from provisioner.domain.seat.document import SeatDocument
from provisioner.domain.self_service.publication import SELF_SERVICE_NAME, Publication
from provisioner.domain.values.claim import Claim
from provisioner.domain.values.model import Document
from provisioner.domain.values.problem import UNREACHED

RUN_SPEC_SCHEMA: Literal["provisioner/run_spec/2"] = "provisioner/run_spec/2"
_EARLIER: Literal["provisioner/undertaking/1"] = "provisioner/undertaking/1"  # one order a node


OrderT = TypeVar("OrderT", Order, RollbackOrder)
Verb = Literal["rollout", "upgrade", "rollback", "remove", "seats move", "seats stop", "seats start"]


class Rules(NamedTuple):
    """The rollout settings of lab.yml and the flags. `pulls`: concurrent pulls; None: chosen by measurement.

    `prefetch`: the nodes of later waves pull while a wave switches.
    """

    waves: tuple[str, ...] = ("100%",)
    max_failures: str = "0"
    allow_unreachable: int = 0
    pulls: int | None = None
    prefetch: bool = True

    @classmethod
    def of(cls, settings: RolloutSettings, allow_unreachable: int = 0) -> "Rules":
        """Take the rules from lab.yml; `allow_unreachable` is a flag."""
        return cls(
            settings.waves, settings.max_failures, allow_unreachable, settings.pull_concurrency, settings.prefetch
        )


class RunSpec(Document):
    """`orders` are those of a rollout, `back` those of a rollback: by node and seat, without secrets.

    `publications`: the orders of self-service, by node. In JSON, `documents` has the documents of all orders, by
    digest.

    `place`: the lab's folder. `settled`: nodes and seats that the run does not change, with the reason. `budget`: how
    many nodes may fail, including those. `ignore_freeze`: the reason for changes outside the maintenance window, empty
    if there is none.
    """

    schema_: Literal["provisioner/run_spec/2", "provisioner/undertaking/1"] = Field(
        default=RUN_SPEC_SCHEMA, alias="schema"
    )
    lab: str
    run: str
    verb: Verb = "rollout"
    place: str = ""
    began: datetime
    plan: Plan
    settled: tuple[NodeRecord, ...] = ()
    waves: tuple[tuple[str, ...], ...]
    budget: int
    pulls: int | None = None
    prefetch: bool = True
    claim: Claim | None = None
    ignore_freeze: str = ""
    orders: dict[str, dict[str, Order]] = {}
    back: dict[str, dict[str, RollbackOrder]] = {}
    publications: dict[str, PublicationOrder] = {}

    @model_validator(mode="before")
    @classmethod
    def _with_seats(cls, data: Any) -> Any:
        """Read what an earlier release wrote, which had one order a node."""
        if not isinstance(data, dict) or data.get("schema") != _EARLIER:
            return data
        nested = {field: _below_seats(data.get(field, {})) for field in ("orders", "back")}
        return {**data, **nested, "schema": RUN_SPEC_SCHEMA}

    @model_validator(mode="before")
    @classmethod
    def _with_documents(cls, data: Any) -> Any:
        """Put the document of each order in the place of its digest."""
        if not isinstance(data, dict) or "documents" not in data:
            return data
        documents = {digest: SeatDocument.model_validate(found) for digest, found in data["documents"].items()}
        nodes = data.get("orders", {}).items()
        orders = {
            node: {seat: _with_document(order, documents) for seat, order in seats.items()} for node, seats in nodes
        }
        published = {node: _with_published(order, documents) for node, order in data.get("publications", {}).items()}
        return {**data, "orders": orders, "publications": published}

    @model_serializer(mode="wrap")
    def _dump_documents(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        orders = (order for seats in self.orders.values() for order in seats.values())
        found = documents_of(orders) | published_documents(self.publications.values())
        documents = {digest: document.model_dump(mode="json") for digest, document in found.items()}
        return {**dump(self), "documents": documents}

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that the run changes, in the order of the waves."""
        return tuple(node for wave in self.waves for node in wave)

    def with_allowance(self, records: Iterable[NodeRecord], allow_unreachable: int) -> "RunSpec":
        """Return the spec with a budget that allows so many unreachable nodes among the records."""
        unreachable = sum(record.state in {"unreachable", "unknown"} for record in records)
        return self.model_copy(update={"budget": self.budget + min(unreachable, allow_unreachable)})

    @property
    def claims(self) -> dict[str, Claim]:
        """The claim on each node that the run changes: on the seats that it changes there; empty without a claim."""
        claims = self.plan.claims(self.claim) if self.claim else {}
        return {node: claims[node] for node in self.nodes if node in claims}

    def with_claim(self, claim: Claim) -> "RunSpec":
        """Return the spec with a new claim, and in each order that of its seat."""
        own = claim.of_seats([SELF_SERVICE_NAME])
        changes = {
            "claim": claim,
            "orders": _with_claim(self.orders, claim),
            "back": _with_claim(self.back, claim),
            "publications": {n: order.model_copy(update={"claim": own}) for n, order in self.publications.items()},
        }
        return self.model_copy(update=changes)


def _with_document(order: dict[str, Any], documents: Mapping[str, SeatDocument]) -> dict[str, Any]:
    document = documents.get(order.get("document", ""))
    return {**order, "document": document} if document else order


def _with_published(order: dict[str, Any], documents: Mapping[str, SeatDocument]) -> dict[str, Any]:
    found = {name: documents.get(digest, digest) for name, digest in order.get("documents", {}).items()}
    return {**order, "documents": found}


def _below_seats(orders: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {node: {order["seat"]["name"]: order} for node, order in orders.items()}


def _with_claim(orders: Orders[OrderT], claim: Claim) -> dict[str, dict[str, OrderT]]:
    return {
        node: {seat: order.model_copy(update={"claim": claim.of_seats([seat])}) for seat, order in seats.items()}
        for node, seats in orders.items()
    }


def build_run_spec(  # noqa: PLR0913  (a run spec combines them)
    run: str,
    plan: Plan,
    orders: Orders[Order],
    rules: Rules,
    began: datetime,
    *,
    stale: frozenset[str] = frozenset(),
    local: bool = False,
    publications: Mapping[str, PublicationOrder] = {},
    **other: object,
) -> RunSpec:
    """Build the spec of a run. Each order expects the generation that its seat had in the plan.

    `stale`: nodes that changed since the plan was reviewed; the run does not change them. `local`: the user is at the
    machine of the seat. `other`: further fields.
    """
    pending = [step for step in plan.pending if step.node not in stale]
    changed = [node for node in plan.changed_nodes if node not in stale]
    settled = tuple(_settled_records(plan, orders, stale, local=local))
    spec = RunSpec.model_validate(
        {
            "lab": plan.lab,
            "run": run,
            "began": began,
            "plan": plan,
            "settled": settled,
            "waves": waves(changed, rules.waves),
            "budget": budget(rules.max_failures, len(plan.nodes)),
            "pulls": rules.pulls,
            "prefetch": rules.prefetch,
            "orders": _pending_orders(pending, orders),
            "publications": {node: order for node, order in publications.items() if node in changed},
            **other,
        }
    )
    return spec.with_allowance(settled, rules.allow_unreachable)


def _pending_orders(pending: Iterable[Step], orders: Orders[Order]) -> dict[str, dict[str, Order]]:
    found: dict[str, dict[str, Order]] = {}
    for step in pending:
        order = orders.get(step.node, {}).get(step.seat or "")
        if order is not None:
            held = HeldGpus(gpus=step.gpus, shared=step.shared)
            expecting = order.model_copy(update={"expects": step.generation, "held": held})
            found.setdefault(step.node, {})[order.seat.name] = expecting
    return found


def _settled_records(plan: Plan, orders: Orders[Order], stale: Collection[str], *, local: bool) -> Iterator[NodeRecord]:
    """Yield a record of each node with steps that the run does not execute."""
    left: dict[str, list[SeatRecord]] = {}
    pending = {(step.node, step.seat) for step in plan.pending if step.node not in stale}
    for step in plan.steps:
        if (step.node, step.seat) not in pending:
            record = _settled_record(step, step.node in stale)
            order = orders.get(step.node, {}).get(record.seat)
            access = build_access(order.seat, "", local=local) if order and record.state in DONE else None
            left.setdefault(step.node, []).append(record.model_copy(update={"access": access}))
    publications = {publication.node: publication for publication in plan.publications}
    for node, publication in publications.items():
        if node in stale or not publication.changes_node:
            left.setdefault(node, []).append(_settled_publication(publication, node in stale))
    for node, seats in left.items():
        record_of_node = build_node_record(node, seats)
        is_whole = not seats[0].seat and node not in publications
        yield record_of_node.model_copy(update={"seats": ()}) if is_whole else record_of_node


def _settled_publication(publication: Publication, stale: bool) -> SeatRecord:
    """Return the record of self-service that the run leaves as it is."""
    states: dict[str, NodeState] = {"keep": "unchanged", "defer": "deferred"}
    state = "stale" if stale else states.get(publication.action, "skipped")
    return SeatRecord(seat=SELF_SERVICE_NAME, state=state, problems=publication.problems)


def _settled_record(step: Step, stale: bool) -> SeatRecord:
    state: NodeState = "skipped"
    if stale:
        state = "stale"
    elif step.action == "keep":
        state = "unchanged"
    elif step.action == "defer":
        state = "deferred"
    elif any(problem.code in UNREACHED for problem in step.problems):
        state = "unreachable"
    problems = step.problems + step.remarks
    return SeatRecord(seat=step.seat or "", state=state, generation=step.generation, problems=problems)
