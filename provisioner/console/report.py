"""The report of a run: the state of each node, access to its seat, the problems and the sum."""

from collections import Counter
from collections.abc import Iterable, Mapping

from rich.console import Group, RenderableType
from rich.text import Text

from provisioner.console.problems import problems
from provisioner.console.tables import group_rows
from provisioner.console.text import count, fold_some_names, human_duration, safe_line
from provisioner.domain.rollout.report import DONE, Access, NodeRecord, NodeState, RolloutReport
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
_MOST_LISTS = 10  # nodes whose seats are named; above it they are only counted
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
    """Render each node with one seat by itself, the others grouped by state. `means` replaces the text of some states.

    Of a node with several seats the states are counted, and on a few nodes the seats that are not done are named.
    """
    many = [record for record in report.nodes if sum(record.counts.values()) > 1]
    served = [record for record in report.nodes if record.access is not None and record not in many]
    published = ((record.node, _published(record)) for record in report.nodes if record.environments)
    others = [
        record for record in report.nodes if record.access is None and record not in many and not _has_none(record)
    ]
    parts: list[RenderableType] = [_seat(record) for record in served]
    words = _MEANS | means
    parts += [
        _others(names, state, words[state])
        for names, state in group_rows((record.node, record.state) for record in others)
    ]
    has_names = sum(any(seat.state not in DONE for seat in record.seats) for record in many) <= _MOST_LISTS
    rows = ((record.node, _counted(record, has_names=has_names)) for record in many)
    parts += [_many(names, state, text) for names, (state, text) in group_rows(rows)]
    parts += [_own(names, state, text) for names, (state, text) in group_rows(published)]
    stopped = [("", report.stopped)] if report.stopped else []
    found = [*_problems(report.nodes), *report.unplaced.items(), *stopped]
    return Group(*parts, problems(found), _sum(report))


def _seat(record: NodeRecord) -> Text:
    took = f"  {human_duration(record.seconds)}" if record.seconds else ""
    head = Text.assemble((safe_line(record.node), "bold"), "  ", (record.state, _STYLES.get(record.state, "red")))
    head.append(f"  generation {record.generation}{took}")
    return head if record.access is None else head.append(access_text(record.access))


def _has_none(record: NodeRecord) -> bool:
    """Whether a node has self-service and no seat of the lab."""
    return bool(record.environments) and not record.counts


def _published(record: NodeRecord) -> tuple[NodeState | None, str]:
    """Return the environments of a node's self-service, with its state where no seat of the node shows that."""
    found = record.environments.items()
    text = safe_line(", ".join(f"{name} {one.version} {one.state}" for name, one in found))
    return record.state if _has_none(record) else None, text


def _own(names: str, state: NodeState | None, text: str) -> Text:
    shown = ("  ", (state, _STYLES.get(state, "red"))) if state else ()
    return Text.assemble((names, "bold"), *shown, f"  self-service: {text}")


def _counted(record: NodeRecord, *, has_names: bool) -> tuple[NodeState, str]:
    """Return state and text of a node with several seats: how many are in each state, and which are not done."""
    by_state: dict[NodeState, list[str]] = {}
    for seat in record.seats if has_names else ():
        if seat.state not in DONE:
            by_state.setdefault(seat.state, []).append(seat.seat)
    left = "".join(f"\n  {state}: {fold_some_names(names)}" for state, names in by_state.items())
    return record.state, f"  {_counts(record.counts)}{left}"


def _counts(counts: Mapping[NodeState, int]) -> str:
    return ", ".join(f"{number} {state}" for state, number in counts.items()) or "none"


def _many(names: str, state: NodeState, text: str) -> Text:
    return Text.assemble((names, "bold"), "  ", (state, _STYLES.get(state, "red")), text)


def access_text(way: Access) -> str:
    """Return the URL, tunnel, ssh command and host key of a seat, one line each."""
    named = (("jupyter", way.jupyter), ("tunnel", way.tunnel), ("ssh", way.ssh), ("host key", way.host_key))
    return "".join(f"\n  {name:<8}  {safe_line(text)}" for name, text in named if text)


def _others(names: str, state: NodeState, means: str) -> Text:
    return Text.assemble((names, "bold"), "  ", (state, _STYLES.get(state, "red")), f"  {means}")


def _problems(records: Iterable[NodeRecord]) -> Iterable[tuple[str, Problem]]:
    return ((record.node, problem) for record in records for problem in record.problems)


def _sum(report: RolloutReport) -> Text:
    seats = Counter(report.seat_counts)
    has_many = seats.total() > len(report.nodes)
    states = _counts(seats if has_many else Counter(record.state for record in report.nodes))
    took = human_duration((report.ended_at - report.started_at).total_seconds())
    verdict = "Done" if report.done else "Not done"
    style = "bold green" if report.done else "bold red"
    homes = f", {count(report.home_faults, 'home')} at fault" if report.home_faults else ""
    number = count(len(report.nodes), "node") + (f", {count(seats.total(), 'seat')}" if has_many else "")
    return Text.assemble(("\n" + verdict, style), f": {number}: {states}{homes}; {took}.")
