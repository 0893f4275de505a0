"""The complete specification of a run: it is enough to finish an interrupted run with the same result."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal, NamedTuple

from pydantic import Field

from provisioner.domain.lab.lab import RolloutSettings
from provisioner.domain.lab.waves import budget, waves
from provisioner.domain.rollout.order import Order, RollbackOrder
from provisioner.domain.rollout.plan import Plan, Step
from provisioner.domain.rollout.report import NodeRecord, NodeState
from provisioner.domain.values.claim import Claim
from provisioner.domain.values.model import Document
from provisioner.domain.values.problem import UNREACHED

RUN_SPEC_SCHEMA: Literal["provisioner/undertaking/1"] = "provisioner/undertaking/1"


Verb = Literal["rollout", "upgrade", "rollback", "remove"]


class Rules(NamedTuple):
    """The rollout settings of lab.yml and the flags. `pulls`: concurrent pulls; None: chosen by measurement."""

    waves: tuple[str, ...] = ("100%",)
    max_failures: str = "0"
    allow_unreachable: int = 0
    pulls: int | None = None

    @classmethod
    def of(cls, settings: RolloutSettings, allow_unreachable: int = 0) -> "Rules":
        """Take the rules from lab.yml; `allow_unreachable` is a flag."""
        return cls(settings.waves, settings.max_failures, allow_unreachable, settings.pull_concurrency)


class RunSpec(Document):
    """`orders` are those of a rollout, `back` those of a rollback: by node, without secrets. `place`: the lab's folder.

    `settled`: nodes that the run does not change, with the reason. `budget`: how many nodes may fail, including those.
    `ignore_freeze`: the reason for changes outside the maintenance window, empty if there is none.
    """

    schema_: Literal["provisioner/undertaking/1"] = Field(default=RUN_SPEC_SCHEMA, alias="schema")
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
    claim: Claim | None = None
    ignore_freeze: str = ""
    orders: dict[str, Order] = {}
    back: dict[str, RollbackOrder] = {}

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that the run changes, in the order of the waves."""
        return tuple(node for wave in self.waves for node in wave)

    def with_allowance(self, records: Iterable[NodeRecord], allow_unreachable: int) -> "RunSpec":
        """Return the spec with a budget that allows so many unreachable nodes among the records."""
        unreachable = sum(record.state in {"unreachable", "unknown"} for record in records)
        return self.model_copy(update={"budget": self.budget + min(unreachable, allow_unreachable)})

    def with_claim(self, claim: Claim) -> "RunSpec":
        """Return the spec with a new claim, also in each order."""
        orders = {node: order.model_copy(update={"claim": claim}) for node, order in self.orders.items()}
        back = {node: order.model_copy(update={"claim": claim}) for node, order in self.back.items()}
        return self.model_copy(update={"claim": claim, "orders": orders, "back": back})


def build_run_spec(  # noqa: PLR0913  (a run spec combines them)
    run: str,
    plan: Plan,
    orders: Mapping[str, Order],
    rules: Rules,
    began: datetime,
    *,
    stale: frozenset[str] = frozenset(),
    **other: object,
) -> RunSpec:
    """Build the spec of a run. Each order expects the generation that its node had in the plan.

    `stale`: nodes that changed since the plan was reviewed; the run does not change them. `other`: further fields.
    """
    pending = [step for step in plan.pending if step.node not in stale]
    settled = tuple(_settled_record(step, step.node in stale) for step in plan.steps if step not in pending)
    expects = {step.node: step.generation for step in pending}
    spec = RunSpec.model_validate(
        {
            "lab": plan.lab,
            "run": run,
            "began": began,
            "plan": plan,
            "settled": settled,
            "waves": waves([step.node for step in pending], rules.waves),
            "budget": budget(rules.max_failures, len(plan.steps)),
            "pulls": rules.pulls,
            "orders": {node: order.model_copy(update={"expects": expects.get(node)}) for node, order in orders.items()},
            **other,
        }
    )
    return spec.with_allowance(settled, rules.allow_unreachable)


def _settled_record(step: Step, stale: bool) -> NodeRecord:
    state: NodeState = "skipped"
    if stale:
        state = "stale"
    elif step.action == "keep":
        state = "unchanged"
    elif step.action == "defer":
        state = "deferred"
    elif any(problem.code in UNREACHED for problem in step.problems):
        state = "unreachable"
    return NodeRecord(node=step.node, state=state, generation=step.generation, problems=step.problems)
