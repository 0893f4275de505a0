"""How a run ended: each node with its state and the way to its seat, what went wrong, and the sum."""

from collections import Counter
from collections.abc import Iterable, Mapping

from rich.console import Group, RenderableType
from rich.text import Text

from provisioner.console.problems import problems
from provisioner.console.tables import folded
from provisioner.console.text import count, duration, line
from provisioner.domain.rollout.report import Access, NodeRecord, NodeState, RolloutReport
from provisioner.domain.values.problem import Problem

_STYLES: Mapping[NodeState, str] = {
    "committed": "green",
    "unchanged": "green",
    "rolled_back": "yellow",
    "deferred": "magenta",
    "stale": "magenta",
    "not_started": "dim",
    "skipped": "dim",
}
# What a state means for the person who reads it.
_MEANS: dict[NodeState, str] = {
    "unchanged": "runs what it should; nothing was to do",
    "staged": "everything new is there; nothing was switched",
    "committed": "runs the new generation, verified",
    "rolled_back": "runs what it ran before",
    "failed": "nothing old was stopped",
    "needs_attention": "neither the new seat nor the old one could be brought up",
    "deferred": "left alone: someone works on it, or it is no hour for changes",
    "stale": "left alone: it moved since the plan was made",
    "skipped": "left out",
    "unreachable": "could not be reached; not touched",
    "unknown": "contact was lost; it ends on the old or the new by itself",
    "not_started": "the run stopped before it; not touched",
}

# The same where seats were taken down.
REMOVAL: dict[NodeState, str] = {
    "committed": "taken down; home, token and host key stay",
    "unchanged": "had no seat to take down",
}


def report_view(report: RolloutReport, means: dict[NodeState, str] = _MEANS) -> Group:
    """Nodes with a seat one by one, for their addresses differ; the others by what became of them."""
    served = [record for record in report.nodes if record.access is not None]
    others = [record for record in report.nodes if record.access is None]
    parts: list[RenderableType] = [_seat(record) for record in served]
    words = _MEANS | means
    parts += [
        _others(names, state, words[state]) for names, state in folded((record.node, record.state) for record in others)
    ]
    stopped = [("", report.stopped)] if report.stopped else []
    return Group(*parts, problems([*_problems(report.nodes), *stopped]), _sum(report))


def _seat(record: NodeRecord) -> Text:
    took = f"  {duration(record.seconds)}" if record.seconds else ""
    head = Text.assemble((line(record.node), "bold"), "  ", (record.state, _STYLES.get(record.state, "red")))
    head.append(f"  generation {record.generation}{took}")
    return head if record.access is None else head.append(access(record.access))


def access(way: Access) -> str:
    """The way to a seat, one line each, to copy from."""
    named = (("jupyter", way.jupyter), ("tunnel", way.tunnel), ("ssh", way.ssh), ("host key", way.host_key))
    return "".join(f"\n  {name:<8}  {line(text)}" for name, text in named if text)


def _others(names: str, state: NodeState, means: str) -> Text:
    return Text.assemble((names, "bold"), "  ", (state, _STYLES.get(state, "red")), f"  {means}")


def _problems(records: Iterable[NodeRecord]) -> Iterable[tuple[str, Problem]]:
    return ((record.node, problem) for record in records for problem in record.problems)


def _sum(report: RolloutReport) -> Text:
    counts = Counter(record.state for record in report.nodes)
    states = ", ".join(f"{number} {state}" for state, number in counts.items()) or "none"
    took = duration((report.ended_at - report.started_at).total_seconds())
    verdict = "Done" if report.done else "Not done"
    style = "bold green" if report.done else "bold red"
    return Text.assemble(("\n" + verdict, style), f": {count(len(report.nodes), 'node')}: {states}; {took}.")
