"""A plan: the action for each seat with its reason, difference and download size, then one line of summary."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.text import Text

from provisioner.console.differences import difference_lines, mask_own, merge_differences, shorten, split_lines
from provisioner.console.problems import problems
from provisioner.console.tables import group_rows
from provisioner.console.text import count, fold_names, safe_line
from provisioner.domain.lab.environments import is_default_environment
from provisioner.domain.lab.waves import waves
from provisioner.domain.rollout.pace import LINE, Pace, expect, sizes_to_pull
from provisioner.domain.rollout.plan import Action, Plan, Step
from provisioner.domain.self_service.publication import Publication, PublicationAction
from provisioner.domain.values.duration import format_duration
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.size import human_size

_DIFF_LINES = 60  # of all differences together: a plan is read on one screen or two
_LEAST_LINES = 6  # of each of them
_FEW = 3  # seats with equal steps on a node are named up to this number, and counted above it
_MOST_LINES = 20  # with the names of seats, or with their work: above it they are counted, too


class Sign(NamedTuple):
    """The mark of an action and its style."""

    mark: str
    style: str


SIGNS: Mapping[Action | PublicationAction, Sign] = {
    "create": Sign("+", "green"),
    "install": Sign("+", "green"),
    "update": Sign("~", "yellow"),
    "restart": Sign("-/+", "yellow"),
    "assign": Sign("~", "yellow"),
    "stop": Sign("x", "yellow"),
    "remove": Sign("x", "yellow"),
    "keep": Sign("=", "dim"),
    "defer": Sign("!", "magenta"),
    "skip": Sign("-", "red"),
}


def plan_view(plan: Plan, *, whole: bool = False) -> Group:
    """Render a plan. Nodes whose seats change alike share a line and one difference, shortened to its share of lines.

    `whole`: every node has its own line and its whole difference. Where nodes have several seats, equal steps share a
    line, and only `whole` shows differences.
    """
    parts: list[RenderableType] = [
        Text(f"Lab {safe_line(plan.lab)}: {safe_line(plan.image or 'no image')}"),
        _legend(plan),
        Text(),
    ]
    parts += _every_step(plan) if whole else _lines_of_seats(plan) if plan.has_many_seats else _lines_of_nodes(plan)
    parts += _lines_of_self_service(plan)
    nodes = [(step.node, problem) for step in plan.steps for problem in _of_node(step)]
    nodes += [(publication.node, problem) for publication in plan.publications for problem in publication.problems]
    people = [(step.person, problem) for step in plan.steps if step.person for problem in step.problems]
    people += plan.unplaced.items()
    cautions = problems((("", caution) for caution in plan.cautions), "yellow")
    return Group(*parts, cautions, problems(nodes), problems(people, noun="PERSON"), Text(f"\n{summary(plan)}"))


def _of_node(step: Step) -> tuple[Problem, ...]:
    return step.remarks if step.person else step.problems


def _every_step(plan: Plan) -> Iterable[RenderableType]:
    """Yield a line for each step that changes a seat, with its whole difference, after the lines of the others."""
    yield from _lines_of_seats(plan.model_copy(update={"steps": _others(plan)}))
    for step in plan.pending:
        names = safe_line(step.node) + (f": {safe_line(step.seat or '')}" if plan.has_many_seats else "")
        yield from (_step_line(names, step), *difference_lines(split_lines(step.diff)))


def _others(plan: Plan) -> tuple[Step, ...]:
    changed = {(step.node, step.seat) for step in plan.pending}
    return tuple(step for step in plan.steps if (step.node, step.seat) not in changed)


def _lines_of_nodes(plan: Plan) -> Iterable[RenderableType]:
    """Yield one line and one difference for the nodes whose seats change alike, whatever work runs there."""
    others = ((step.node, _without_node(step)) for step in _others(plan))
    yield from (_step_line(names, step) for names, step in group_rows(others))
    alike: dict[tuple[Step, str | None, str], list[Step]] = {}
    for step in plan.pending:
        alike.setdefault((_without_work(step), step.image, mask_own(step)), []).append(step)
    most = max(_LEAST_LINES, _DIFF_LINES // max(1, sum(bool(diff) for _, _, diff in alike)))
    whose_work = len(plan.interrupting) <= _MOST_LINES
    for (shown, *_), steps in alike.items():
        yield _step_line(fold_names(step.node for step in steps), shown)
        yield from (_busy_line(f"{step.node}: {who}") for step in steps if whose_work for who in step.busy)
        difference = merge_differences(steps)
        yield from difference_lines(shorten(difference.lines, most))
        if difference.own_lines:
            lines, nodes = count(difference.own_lines, "line"), count(len(steps) - 1, "other node")
            own = f"{lines} with other names, addresses, ports or UUIDs on {nodes}"
            yield Text(f"        (of {safe_line(steps[0].node)}; {own})", "dim")


def _lines_of_seats(plan: Plan) -> Iterable[RenderableType]:
    """Yield one line for the equal steps of nodes that have equally many of them."""
    whose_work = sum(bool(step.busy) for step in plan.steps) <= _MOST_LINES
    seats: dict[Step, dict[str, list[str]]] = {}
    for step in plan.steps:
        shown = _without_node(step) if whose_work else _without_work(step)
        seats.setdefault(shown, {}).setdefault(step.node, []).append(step.seat or "")
    for step, by_node in seats.items():
        most = _FEW if len(by_node) <= _MOST_LINES else 0
        rows = ((node, _seats_text(names, most)) for node, names in by_node.items())
        yield from (_step_line(f"{nodes}{text}", step) for nodes, text in group_rows(rows))


def _lines_of_self_service(plan: Plan) -> Iterable[RenderableType]:
    """Yield one line for the nodes whose self-service changes in the same way, and one for each of its changes."""
    rows = ((publication.node, _shown(publication)) for publication in plan.publications)
    for names, (action, why, changes, busy) in group_rows(rows):
        sign = SIGNS[action]
        yield Text.assemble("  ", (f"{sign.mark:<3} {names}: self-service", sign.style), f"  {safe_line(why)}")
        yield from (Text(f"        {safe_line(change)}") for change in changes)
        yield from map(_busy_line, busy)


def _shown(publication: Publication) -> tuple[PublicationAction, str, tuple[str, ...], tuple[str, ...]]:
    """Return what is shown of a publication: nodes with the same changes share it."""
    why = publication.why.removeprefix(f"{publication.node}: ")
    return publication.action, why, publication.changes, publication.busy


def _seats_text(names: list[str], most: int) -> str:
    """Return the names of up to so many seats, else how many they are; nothing for a whole node."""
    if names == [""]:
        return ""
    return f": {' '.join(map(safe_line, names))}" if len(names) <= most else f": {count(len(names), 'seat')}"


def summary(plan: Plan) -> str:
    """Return one line: how many seats would change, or why none would."""
    if not plan.nodes:
        return "Nothing to do: the inventory and its limit name no node."
    if not plan.changed_nodes:
        return _no_changes(plan)
    if not plan.pending:
        return f"Plan: {_self_service_text(plan)}."
    done = {action: sum(step.action == action for step in plan.steps) for action in SIGNS}
    deferred = f", {done['defer']} deferred" if done["defer"] else ""
    own = f", {_self_service_text(plan)}" if plan.published else ""
    if done["remove"]:
        return f"Plan: {done['remove']} to remove, {done['skip']} skipped{deferred}{own}.{_busy_text(plan)}"
    pull = sum({(step.node, step.image): step.bytes_to_pull for step in plan.pending}.values())
    assigned = f", {done['assign']} to change while it runs" if done["assign"] else ""
    stopped = f", {done['stop']} to stop" if done["stop"] else ""
    return (
        f"Plan: {done['create']} to create, {done['update']} to update, {done['restart']} to restart"
        f"{assigned}{stopped}, {done['skip']} skipped{deferred}{own}."
        f"{f' {human_size(pull)} to pull in all.' if pull else ''}{_busy_text(plan)}"
    )


def expected_time(plan: Plan, shares: Sequence[str], registry: str, pace: Pace) -> str:
    """Return how long the rollout of a plan is expected to take, and after a fetch; empty where nothing changes.

    `shares`: the waves of lab.yml. `registry`: where the nodes pull from.
    """
    if not plan.changed_nodes:
        return ""
    sizes = sizes_to_pull(plan)
    expected = expect(sizes, len(waves(plan.changed_nodes, shares)), pace)
    after = _minutes(expected.waves)
    if not sizes:
        return f"Expected: {count(len(plan.changed_nodes), 'node')}, nothing to pull: about {after}."
    least, most = human_size(min(sizes)), human_size(max(sizes))
    each = most if least == most else f"{least} to {most}"
    rate = f"{human_size(round(pace.pull or LINE))}/s" + ("" if pace.pull else " (assumed: 1 Gbit/s)")
    return (
        f"Expected: {count(len(sizes), 'node')} \N{MULTIPLICATION SIGN} {each} from {safe_line(registry)}, {rate}:"
        f" about {_minutes(expected.total)}; after fetch: {after}."
    )


def _minutes(seconds: float) -> str:
    """Return seconds in whole minutes, as an estimate is not better than that."""
    return f"{max(1, round(seconds / 60))} min"


def _self_service_text(plan: Plan) -> str:
    """Return on how many nodes self-service changes."""
    return f"self-service changes on {count(len(plan.published), 'node')}"


def _busy_text(plan: Plan) -> str:
    if not plan.interrupting:
        return ""
    names = fold_names(step.node for step in plan.interrupting)
    if plan.when_busy.policy == "force":
        return f" Work is stopped on {names}: {safe_line(plan.when_busy.reason)}"
    return f" The run waits for work on {names}, up to {format_duration(plan.when_busy.seconds)}."


def _no_changes(plan: Plan) -> str:
    left_out = [(len(plan.deferred), "deferred"), (len(plan.skipped), "skipped")]
    noun = "seat" if plan.has_many_seats else "node"
    others = " ".join(f"{count(number, noun)} {word}." for number, word in left_out if number)
    kept = len(plan.steps) - len(plan.deferred) - len(plan.skipped)
    if not plan.steps:
        return "No changes: no seat is planned, and self-service is as published or left as it is."
    if not kept:
        return f"No changes: there is no node to change. {others}"
    same = "Every other seat runs what the lock says." if others else "Every seat runs what the lock says."
    return f"No changes. {same} {others}".rstrip()


def _legend(plan: Plan) -> Text:
    """Return the signs of the actions in this plan."""
    used = {*(step.action for step in plan.steps), *(publication.action for publication in plan.publications)}
    legend = Text("   ").join(
        Text(f"{sign.mark} {action}", sign.style) for action, sign in SIGNS.items() if action in used
    )
    return Text.assemble("\n  ", legend) if used else Text()


def _without_node(step: Step) -> Step:
    """Return the step without node, seat and person, so that equal steps share a line."""
    # The problem of a person names them; it is shown below.
    why = step.problems[0].code if step.person and step.action == "skip" else step.why.removeprefix(f"{step.node}: ")
    size = step.bytes_to_pull if step.starts else 0
    shown = Step(node="", seat=None, action=step.action, why=why, busy=step.busy, bytes_to_pull=size)
    return shown.model_copy(update={"environment": step.environment})


def _without_work(step: Step) -> Step:
    return _without_node(step).model_copy(update={"busy": ()})


def _step_line(names: str, step: Step) -> Text:
    sign = SIGNS[step.action]
    head = Text.assemble("  ", (f"{sign.mark:<3} {names}", sign.style), f"  {safe_line(step.why)}")
    if not is_default_environment(step.environment):
        head.append(f"; environment {safe_line(step.environment)}")
    if step.bytes_to_pull:
        head.append(f"; {human_size(step.bytes_to_pull)} to pull")
    for who in step.busy:
        head.append("\n").append_text(_busy_line(who))
    return head


def _busy_line(who: str) -> Text:
    return Text(f"        busy: {safe_line(who)}", "magenta")
