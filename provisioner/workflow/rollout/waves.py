"""Wave after wave, judged by what its nodes report, until all is done, too much went wrong, or somebody says stop."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from provisioner.domain.rollout.report import BAD, DONE, NodeRecord
from provisioner.domain.values.event import Event, OnEvent
from provisioner.domain.values.problem import Problem

WaveStep = Callable[[Sequence[str]], Mapping[str, NodeRecord]]
StopRequested = Callable[[], bool]
Gate = Callable[[], Problem | None]
Records = Mapping[str, NodeRecord]


def nothing() -> None:
    """Is in the way."""


class WaveRun(NamedTuple):
    """`acts` one after the other on all nodes of a wave: a node goes on to the next one where it is `staged`.

    So nothing old stops on any node of a wave before all that are left of it hold all that is new. `gate` is asked
    before every wave; once it names one, the nodes that are left are deferred.
    """

    waves: Sequence[Sequence[str]]
    acts: Sequence[WaveStep]
    budget: int
    stop_requested: StopRequested
    gate: Gate = nothing


class WavesResult(NamedTuple):
    """A record for each node that was begun or settled before; `stopped` is why others were not."""

    records: Records
    stopped: Problem | None


def run_all_waves(course: WaveRun, settled: Records, on_event: OnEvent) -> WavesResult:
    """Nodes that are settled already are not asked; the budget counts them all the same."""
    records = dict(settled)
    for number, wave in enumerate(course.waves, 1):
        nodes = [node for node in wave if node not in records]
        if not nodes:
            continue
        if problem := course.gate():
            return WavesResult(records | _left_for_later(course, records, problem, on_event), None)
        if len(course.waves) > 1:
            _note(on_event, f"wave {number} of {len(course.waves)}: {len(nodes)} to go")
        if stopped := _wave(course, nodes, records, on_event):
            return WavesResult(records, stopped)
    return WavesResult(records, None)


def _left_for_later(course: WaveRun, records: Records, problem: Problem, on_event: OnEvent) -> dict[str, NodeRecord]:
    """The nodes that no wave has come to."""
    _note(on_event, f"no further wave begins: {problem.what}")
    left = [node for wave in course.waves for node in wave if node not in records]
    deferred = {node: NodeRecord(node=node, state="deferred", problems=(problem,)) for node in left}
    tell(list(deferred.values()), on_event)
    return deferred


def _note(on_event: OnEvent, text: str) -> None:
    on_event(Event(phase="report", kind="note", text=text))


def _wave(course: WaveRun, nodes: Sequence[str], records: dict[str, NodeRecord], on_event: OnEvent) -> Problem | None:
    """Adds the records of its nodes; why it stopped before its end."""
    going, stopped = list(nodes), None
    for act in course.acts:
        if not going or (stopped := reason_to_stop(course, records)):
            break
        records |= act(going)
        going = [node for node in going if records[node].state == "staged"]
    for node in going:
        records.pop(node, None)  # one that is staged runs all that is old, as if nothing had begun
    tell([records[node] for node in nodes if node in records], on_event)
    return stopped


def tell(records: Sequence[NodeRecord], on_event: OnEvent) -> None:
    """How nodes ended, for people and for whoever has to finish the run."""
    for record in records:
        kind = "done" if record.state in DONE else "failed"
        text = record.problems[0].what if record.problems else record.state
        data = {"state": record.state, "record": record.model_dump(mode="json")}
        on_event(Event(phase="report", kind=kind, node=record.node, text=text, data=data))


def reason_to_stop(course: WaveRun, records: Records) -> Problem | None:
    """Before every act: nothing that is at work is left for it."""
    if course.stop_requested():
        return _interrupted()
    bad = [record.node for record in records.values() if record.state in BAD]
    return _over_budget(bad, course.budget) if len(bad) > course.budget else None


def _interrupted() -> Problem:
    return Problem(
        "interrupted",
        "stopped on request, after what was at work had come to its end",
        "the nodes that were not started run what they ran before",
        "provision resume",
    )


def _over_budget(bad: Sequence[str], budget: int) -> Problem:
    return Problem(
        "too_many_failures",
        f"{', '.join(bad)} ended badly or could not be reached; {budget} may (rollout.max_failures)",
        "what goes wrong on some nodes would go wrong on more of them",
        "see why, and mend it; nodes that are only switched off: --allow-unreachable N",
    )
