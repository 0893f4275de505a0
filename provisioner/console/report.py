"""The report of a run: the state of each node, access to its seat, the problems and the sum."""

from collections import Counter
from collections.abc import Iterable, Mapping

from rich.console import Group, RenderableType
from rich.text import Text

from provisioner.console.problems import problems
from provisioner.console.tables import group_rows
from provisioner.console.text import count, human_duration, safe_line
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
# What each state means.
_MEANS: dict[NodeState, str] = {
    "unchanged": "already as requested; nothing to do",
    "staged": "everything is staged; nothing was switched",
    "committed": "runs the new generation, verified",
    "rolled_back": "runs its previous generation",
    "failed": "no running seat was stopped",
    "needs_attention": "neither the new seat nor the old one starts",
    "deferred": "not changed: it is in use, or it is outside the maintenance window",
    "stale": "not changed: the node changed since the plan was made",
    "skipped": "not part of the run",
    "unreachable": "could not be reached; not touched",
    "unknown": "contact was lost; the node finishes or rolls back on its own",
    "not_started": "the run stopped before this node; not touched",
}

# What the states mean in a removal.
REMOVAL_MEANINGS: dict[NodeState, str] = {
    "committed": "taken down; home, token and host key stay",
    "unchanged": "had no seat",
}


def report_view(report: RolloutReport, means: dict[NodeState, str] = _MEANS) -> Group:
    """Render each node with a seat by itself, the others grouped by state. `means` replaces the text of some states."""
    served = [record for record in report.nodes if record.access is not None]
    others = [record for record in report.nodes if record.access is None]
    parts: list[RenderableType] = [_seat(record) for record in served]
    words = _MEANS | means
    parts += [
        _others(names, state, words[state])
        for names, state in group_rows((record.node, record.state) for record in others)
    ]
    stopped = [("", report.stopped)] if report.stopped else []
    return Group(*parts, problems([*_problems(report.nodes), *stopped]), _sum(report))


def _seat(record: NodeRecord) -> Text:
    took = f"  {human_duration(record.seconds)}" if record.seconds else ""
    head = Text.assemble((safe_line(record.node), "bold"), "  ", (record.state, _STYLES.get(record.state, "red")))
    head.append(f"  generation {record.generation}{took}")
    return head if record.access is None else head.append(access_text(record.access))


def access_text(way: Access) -> str:
    """Return the URL, tunnel, ssh command and host key of a seat, one line each."""
    named = (("jupyter", way.jupyter), ("tunnel", way.tunnel), ("ssh", way.ssh), ("host key", way.host_key))
    return "".join(f"\n  {name:<8}  {safe_line(text)}" for name, text in named if text)


def _others(names: str, state: NodeState, means: str) -> Text:
    return Text.assemble((names, "bold"), "  ", (state, _STYLES.get(state, "red")), f"  {means}")


def _problems(records: Iterable[NodeRecord]) -> Iterable[tuple[str, Problem]]:
    return ((record.node, problem) for record in records for problem in record.problems)


def _sum(report: RolloutReport) -> Text:
    counts = Counter(record.state for record in report.nodes)
    states = ", ".join(f"{number} {state}" for state, number in counts.items()) or "none"
    took = human_duration((report.ended_at - report.started_at).total_seconds())
    verdict = "Done" if report.done else "Not done"
    style = "bold green" if report.done else "bold red"
    homes = f", {count(len(report.home_faults), 'home')} at fault" if report.home_faults else ""
    return Text.assemble(("\n" + verdict, style), f": {count(len(report.nodes), 'node')}: {states}{homes}; {took}.")
