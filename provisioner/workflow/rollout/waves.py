"""Run waves one after the other, until all are done, too many nodes have failed, or a stop is requested."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from provisioner.domain.rollout.order import Orders
from provisioner.domain.rollout.report import (
    BAD,
    DONE,
    NodeRecord,
    NodeState,
    SeatRecord,
    build_node_record,
    merge_records,
)
from provisioner.domain.values.event import Event, OnEvent
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import RunContext, StopRequested
from provisioner.workflow.rollout.ahead import StagedAhead, StageUntil

OrderT = TypeVar("OrderT")
Gate = Callable[[], Problem | None]
Records = Mapping[str, NodeRecord]

# Nothing more is sent to a node with a seat in one of these states: it may not answer.
_LOST: frozenset[NodeState] = frozenset({"unreachable", "unknown"})


Refusal = Callable[[str, NodeRecord | None], Problem | None]


def no_refusal(node: str, record: NodeRecord | None) -> None:
    """Return None: the orders of every node may be carried out."""


def no_gate() -> None:
    """Return None: every wave may start."""


class WaveStep(NamedTuple, Generic[OrderT]):
    """One step of a wave: `apply` carries out the orders of the nodes and seats that it is given.

    `refuse` returns why the orders of a node are deferred, from the record of the steps before; None: they are not.
    `ahead`: the first step can be carried out by it for later waves while a wave goes on; None: only in its wave.
    """

    apply: Callable[[Orders[OrderT]], Records]
    orders: Orders[OrderT]
    refuse: Refusal = no_refusal
    ahead: StageUntil[OrderT] | None = None


def too_many_failures(nodes: Sequence[str], budget: int) -> Problem:
    """Return why a run ends after these nodes have failed; `budget`: how many were allowed to."""
    return Problem(
        "too_many_failures",
        f"{', '.join(nodes)} failed or could not be reached; rollout.max_failures allows {budget}",
        "a fault of these nodes is likely to occur on further nodes, too",
        "find the cause and repair it; for nodes that are only switched off: --allow-unreachable N",
    )


class WaveRun(NamedTuple):
    """Waves of nodes and the steps that each wave goes through. A seat goes on to the next step where it is `staged`.

    So no seat of a wave is stopped before all remaining seats of that wave are staged. `budget`: how many nodes may
    fail; `explain` says why the run ends after more. `gate` is called before every wave; once it returns a Problem, the
    nodes that are left are deferred.
    """

    waves: Sequence[Sequence[str]]
    steps: Sequence[WaveStep[Any]]
    budget: int
    gate: Gate = no_gate
    explain: Callable[[Sequence[str], int], Problem] = too_many_failures


class WavesResult(NamedTuple):
    """A record for each node that was begun or settled before; `stopped` is why others were not, or None."""

    records: Records
    stopped: Problem | None


def run_all_waves(wave_run: WaveRun, settled: Records, context: RunContext) -> WavesResult:
    """Run every wave. Nodes and seats that are `settled` are left as they are; the budget counts them all the same."""
    ahead = _stage_ahead(wave_run, settled, context.stop)
    try:
        result = _run_waves(wave_run, dict(settled), context, ahead)
    finally:
        ahead.halt()
    if ahead.is_working:
        _note(context.on_event, "waiting for pulls that have begun on nodes of later waves")
    ahead.end()
    return result


def _stage_ahead(wave_run: WaveRun, settled: Records, stop: StopRequested) -> StagedAhead[Any]:
    """Return what can be staged before its wave begins: the first step of every wave but the first with work."""
    first, *_ = wave_run.steps
    busy = [number for number, wave in enumerate(wave_run.waves) if any(_has_work(wave_run, n, settled) for n in wave)]
    waves = {
        number: {node: orders for node in wave_run.waves[number] if (orders := _orders_left(first, node, settled))}
        for number in busy[1:]
        if first.ahead
    }
    return StagedAhead(first.ahead or (lambda _orders, _stop: {}), waves, stop)


def _run_waves(
    wave_run: WaveRun, records: dict[str, NodeRecord], context: RunContext, ahead: StagedAhead[Any]
) -> WavesResult:
    for number, wave in enumerate(wave_run.waves):
        nodes = [node for node in wave if _has_work(wave_run, node, records)]
        if not nodes:
            continue
        if problem := wave_run.gate():
            return WavesResult(records | _defer_rest(wave_run, records, problem, context.on_event), None)
        if len(wave_run.waves) > 1:
            _note(context.on_event, f"wave {number + 1} of {len(wave_run.waves)}: {len(nodes)} to go")
        if stopped := _run_wave(wave_run, number, nodes, records, context, ahead):
            return WavesResult(records, stopped)
    return WavesResult(records, None)


def _has_work(wave_run: WaveRun, node: str, records: Records) -> bool:
    return any(_orders_left(step, node, records) for step in wave_run.steps)


def _orders_left(step: WaveStep[OrderT], node: str, records: Records) -> dict[str, OrderT]:
    """Return the orders of a step for the seats of a node that are staged, or have no record yet."""
    orders, record = step.orders.get(node, {}), records.get(node)
    if record is None:
        return dict(orders)
    if not record.seats or any(seat.state in _LOST for seat in record.seats):
        return {}
    ended = {seat.seat for seat in record.seats if seat.state != "staged"}
    return {seat: order for seat, order in orders.items() if seat not in ended}


def _defer_rest(wave_run: WaveRun, records: Records, problem: Problem, on_event: OnEvent) -> dict[str, NodeRecord]:
    """Return records with the seats of all remaining waves deferred."""
    _note(on_event, f"no further wave begins: {problem.what}")
    left = [node for wave in wave_run.waves for node in wave if _has_work(wave_run, node, records)]
    deferred = {node: _deferred(wave_run, node, records, problem) for node in left}
    report_records(list(deferred.values()), on_event)
    return deferred


def _deferred(wave_run: WaveRun, node: str, records: Records, problem: Problem) -> NodeRecord:
    seats = dict.fromkeys(seat for step in wave_run.steps for seat in _orders_left(step, node, records))
    rest = [SeatRecord(seat=seat, state="deferred", problems=(problem,)) for seat in seats]
    return merge_records(records.get(node), build_node_record(node, rest))


def _note(on_event: OnEvent, text: str) -> None:
    on_event(Event(phase="report", kind="note", text=text))


def _run_wave(  # noqa: PLR0913, PLR0917  (a wave, what was done before, and what goes on beside it)
    wave_run: WaveRun,
    number: int,
    nodes: Sequence[str],
    records: dict[str, NodeRecord],
    context: RunContext,
    ahead: StagedAhead[Any],
) -> Problem | None:
    """Add the records of the wave's nodes to `records`. Return why the wave stopped early, or None."""
    before, stopped = dict(records), None
    for step in wave_run.steps:
        left = {node: orders for node in nodes if (orders := _orders_left(step, node, records))}
        if not left:
            continue
        if stopped := reason_to_stop(wave_run, records, context.stop):
            break
        refused = _refused(step, left, records)
        found = dict(refused)
        if step is wave_run.steps[0]:
            found |= {node: record for node, record in ahead.take(number).items() if node in left}
        if rest := {node: orders for node, orders in left.items() if node not in found}:
            found |= step.apply(rest)
        records |= {node: merge_records(records.get(node), record) for node, record in found.items()}
        if any(record.state in BAD for record in found.values()):
            ahead.halt()
        ahead.begin()
    for node in nodes:
        _drop_staged(records, node)
    changed = [records[node] for node in nodes if node in records and records[node] != before.get(node)]
    report_records(changed, context.on_event)
    return stopped


def _refused(step: WaveStep[OrderT], left: Orders[OrderT], records: Records) -> Records:
    """Return records of the nodes whose orders are deferred because of how the steps before have ended."""
    found = {node: step.refuse(node, records.get(node)) for node in left}
    return {
        node: build_node_record(
            node, [SeatRecord(seat=seat, state="deferred", problems=(problem,)) for seat in left[node]]
        )
        for node, problem in found.items()
        if problem is not None
    }


def _drop_staged(records: dict[str, NodeRecord], node: str) -> None:
    """Remove seats that are only staged: they still run as before, so they count as not started."""
    record = records.get(node)
    if record is None or all(seat.state != "staged" for seat in record.seats):
        return
    ended = [seat for seat in record.seats if seat.state != "staged"]
    if ended:
        records[node] = build_node_record(node, ended, released=record.released)
    else:
        del records[node]


def report_records(records: Sequence[NodeRecord], on_event: OnEvent) -> None:
    """Emit one event per record: it is shown, and a resumption reads it from the journal."""
    for record in records:
        kind = "done" if record.state in DONE else "failed"
        text = record.problems[0].what if record.problems else record.state
        data = {"state": record.state, "record": record.model_dump(mode="json")}
        on_event(Event(phase="report", kind=kind, node=record.node, text=text, data=data))


def reason_to_stop(wave_run: WaveRun, records: Records, stop: StopRequested) -> Problem | None:
    """Return why no further step may begin, or None. Called between steps, while no job runs on a node."""
    if stop():
        return Problem(
            "interrupted",
            "stopped on request, after the running jobs had ended",
            "nodes that were not started run the same seat as before",
            "provision resume",
        )
    bad = [record.node for record in records.values() if record.state in BAD]
    return None if len(bad) <= wave_run.budget else wave_run.explain(bad, wave_run.budget)
