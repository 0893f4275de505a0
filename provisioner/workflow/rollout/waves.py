"""Run waves one after the other, until all are done, too many nodes have failed, or a stop is requested."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from provisioner.domain.rollout.report import BAD, DONE, NodeRecord
from provisioner.domain.values.event import Event, OnEvent
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import RunContext, StopRequested

OrderT = TypeVar("OrderT")
Gate = Callable[[], Problem | None]
Records = Mapping[str, NodeRecord]


def no_gate() -> None:
    """Return None: every wave may start."""


class WaveStep(NamedTuple, Generic[OrderT]):
    """One step of a wave: `apply` carries out the orders of the nodes that it is given."""

    apply: Callable[[Mapping[str, OrderT]], Records]
    orders: Mapping[str, OrderT]


class WaveRun(NamedTuple):
    """Waves of nodes and the steps that each wave goes through. A node goes on to the next step where it is `staged`.

    So no seat of a wave is stopped before all remaining nodes of that wave are staged. `budget`: how many nodes may
    fail. `gate` is called before every wave; once it returns a Problem, the nodes that are left are deferred.
    """

    waves: Sequence[Sequence[str]]
    steps: Sequence[WaveStep[Any]]
    budget: int
    gate: Gate = no_gate


class WavesResult(NamedTuple):
    """A record for each node that was begun or settled before; `stopped` is why others were not, or None."""

    records: Records
    stopped: Problem | None


def run_all_waves(wave_run: WaveRun, settled: Records, context: RunContext) -> WavesResult:
    """Run every wave. Nodes that are `settled` are left as they are; the budget counts them all the same."""
    records = dict(settled)
    for number, wave in enumerate(wave_run.waves, 1):
        nodes = [node for node in wave if node not in records]
        if not nodes:
            continue
        if problem := wave_run.gate():
            return WavesResult(records | _defer_rest(wave_run, records, problem, context.on_event), None)
        if len(wave_run.waves) > 1:
            _note(context.on_event, f"wave {number} of {len(wave_run.waves)}: {len(nodes)} to go")
        if stopped := _run_wave(wave_run, nodes, records, context):
            return WavesResult(records, stopped)
    return WavesResult(records, None)


def _defer_rest(wave_run: WaveRun, records: Records, problem: Problem, on_event: OnEvent) -> dict[str, NodeRecord]:
    """Return deferred records for the nodes of all remaining waves."""
    _note(on_event, f"no further wave begins: {problem.what}")
    left = [node for wave in wave_run.waves for node in wave if node not in records]
    deferred = {node: NodeRecord(node=node, state="deferred", problems=(problem,)) for node in left}
    report_records(list(deferred.values()), on_event)
    return deferred


def _note(on_event: OnEvent, text: str) -> None:
    on_event(Event(phase="report", kind="note", text=text))


def _run_wave(
    wave_run: WaveRun, nodes: Sequence[str], records: dict[str, NodeRecord], context: RunContext
) -> Problem | None:
    """Add the records of the wave's nodes to `records`. Return why the wave stopped early, or None."""
    active, stopped = list(nodes), None
    for step in wave_run.steps:
        if not active or (stopped := reason_to_stop(wave_run, records, context.stop)):
            break
        records |= step.apply({node: step.orders[node] for node in active})
        active = [node for node in active if records[node].state == "staged"]
    for node in active:
        records.pop(node, None)  # a node that is only staged still runs its old seat: it counts as not started
    report_records([records[node] for node in nodes if node in records], context.on_event)
    return stopped


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
    if len(bad) <= wave_run.budget:
        return None
    return Problem(
        "too_many_failures",
        f"{', '.join(bad)} failed or could not be reached; rollout.max_failures allows {wave_run.budget}",
        "a fault of these nodes is likely to occur on further nodes, too",
        "find the cause and repair it; for nodes that are only switched off: --allow-unreachable N",
    )
