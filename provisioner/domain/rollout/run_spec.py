"""What a run has set out to do, whole: whoever reads it can finish the run, and comes to the same end."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal, NamedTuple

from pydantic import Field

from provisioner.domain.lab.lab import RolloutSettings
from provisioner.domain.lab.waves import budget, waves
from provisioner.domain.rollout.order import BackOrder, Order
from provisioner.domain.rollout.plan import Plan, Step
from provisioner.domain.rollout.report import NodeRecord, NodeState
from provisioner.domain.values.claim import Claim
from provisioner.domain.values.model import Document

RUN_SPEC_SCHEMA: Literal["provisioner/undertaking/1"] = "provisioner/undertaking/1"


Verb = Literal["rollout", "upgrade", "rollback", "remove"]


class Rules(NamedTuple):
    """How a run goes on, as lab.yml and the flags have it. `pulls`: nodes that pull at once; None: as is measured."""

    waves: tuple[str, ...] = ("100%",)
    max_failures: str = "0"
    allow_unreachable: int = 0
    pulls: int | None = None

    @classmethod
    def of(cls, wish: RolloutSettings, allow_unreachable: int = 0) -> "Rules":
        return cls(wish.waves, wish.max_failures, allow_unreachable, wish.pull_concurrency)


class RunSpec(Document):
    """`orders` are those of a rollout, `back` those of a rollback: by node, none holds a secret. `place`: of the lab.

    `settled` are nodes that the run leaves alone, with the reason; `budget` is how many may end badly, of these too.
    `ignore_freeze` is the reason to go on at an hour that is none for changes, where somebody gave one.
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
    back: dict[str, BackOrder] = {}

    @property
    def nodes(self) -> tuple[str, ...]:
        """That it changes."""
        return tuple(node for wave in self.waves for node in wave)

    def sparing(self, records: Iterable[NodeRecord], allow_unreachable: int) -> "RunSpec":
        """The same, where so many of these nodes may be out of reach for now."""
        away = sum(record.state in {"unreachable", "unknown"} for record in records)
        return self.model_copy(update={"budget": self.budget + min(away, allow_unreachable)})

    def with_claim(self, claim: Claim) -> "RunSpec":
        """The same, with a claim that the nodes have not seen yet."""
        orders = {node: order.model_copy(update={"claim": claim}) for node, order in self.orders.items()}
        back = {node: order.model_copy(update={"claim": claim}) for node, order in self.back.items()}
        return self.model_copy(update={"claim": claim, "orders": orders, "back": back})


def build_run_spec(  # noqa: PLR0913  (what was agreed)
    run: str,
    plan: Plan,
    orders: Mapping[str, Order],
    rules: Rules,
    began: datetime,
    *,
    stale: frozenset[str] = frozenset(),
    **other: object,
) -> RunSpec:
    """`orders` of every node that has a seat in the plan; each is bound to the generation that the plan saw.

    `stale` nodes moved since a plan was reviewed, and are left alone. `other` are further fields as they are.
    """
    pending = [step for step in plan.pending if step.node not in stale]
    settled = tuple(_settled(step, step.node in stale) for step in plan.steps if step not in pending)
    bound = {step.node: step.generation for step in pending}
    made = RunSpec.model_validate(
        {
            "lab": plan.lab,
            "run": run,
            "began": began,
            "plan": plan,
            "settled": settled,
            "waves": waves([step.node for step in pending], rules.waves),
            "budget": budget(rules.max_failures, len(plan.steps)),
            "pulls": rules.pulls,
            "orders": {node: order.model_copy(update={"expects": bound.get(node)}) for node, order in orders.items()},
            **other,
        }
    )
    return made.sparing(settled, rules.allow_unreachable)


def _settled(step: Step, stale: bool) -> NodeRecord:
    state: NodeState = "skipped"
    if stale:
        state = "stale"
    elif step.action == "keep":
        state = "unchanged"
    elif step.action == "defer":
        state = "deferred"
    elif any(problem.code == "unreachable" for problem in step.problems):
        state = "unreachable"
    return NodeRecord(node=step.node, state=state, generation=step.generation, problems=step.problems)
