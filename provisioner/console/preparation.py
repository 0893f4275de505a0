"""The state of prepared nodes and of the registry: equal nodes share a line."""

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from provisioner.console.problems import problems
from provisioner.console.tables import group_rows
from provisioner.console.text import count, safe_line
from provisioner.domain.rollout.preparation import NodePreparation, Preparation, PrepareState, RegistryPreparation
from provisioner.domain.values.problem import Problem

_STYLES: Mapping[PrepareState, str] = {
    "ready": "green",
    "prepared": "green",
    "lacking": "yellow",
    "deferred": "magenta",
}
# What each state means.
_MEANS: Mapping[PrepareState, str] = {
    "ready": "complete; nothing to do",
    "lacking": "not changed yet; missing:",
    "prepared": "prepared with these changes:",
    "deferred": "in use; not changed where a restart would stop containers",
    "failed": "not ready",
    "unreachable": "could not be reached; not touched",
    "unknown": "contact was lost; the node finishes its job on its own",
}
_NodeRow = tuple[PrepareState, tuple[str, ...], tuple[str, ...]]


def preparation_view(found: Preparation) -> Group:
    """Render the registry and the nodes, then their problems and the sum."""
    rows = group_rows((node.node, _node_row(node)) for node in found.nodes)
    parts: list[RenderableType] = [_registry(found.registry)]
    parts += [_nodes(names, *row) for names, row in rows]
    return Group(*parts, problems(_problems(found)), _sum(found))


def _node_row(node: NodePreparation) -> _NodeRow:
    return node.state, node.changes, node.pending


def _registry(registry: RegistryPreparation) -> Text:
    if not registry.node:
        means = "answers; used as it is" if registry.state == "ready" else "does not work"
    else:
        means = f"on {safe_line(registry.node)}  {_MEANS[registry.state]}"
    head = _head(f"registry {safe_line(registry.address)}", registry.state, means)
    return head.append(_items(registry.changes))


def _nodes(names: str, state: PrepareState, changes: Sequence[str], pending: Sequence[str]) -> Text:
    text = _head(names, state, _MEANS[state]).append(_items(changes))
    return text.append(_items([f"pending: {words}" for words in pending]))


def _head(name: str, state: PrepareState, means: str) -> Text:
    return Text.assemble((name, "bold"), "  ", (state, _STYLES.get(state, "red")), f"  {means}")


def _items(words: Iterable[str]) -> str:
    return "".join(f"\n  - {safe_line(text)}" for text in words)


def _problems(found: Preparation) -> Iterable[tuple[str, Problem]]:
    yield from (("registry", problem) for problem in found.registry.problems)
    yield from ((node.node, problem) for node in found.nodes for problem in node.problems)


def _sum(found: Preparation) -> Text:
    states = [*(node.state for node in found.nodes)]
    ready = sum(state in {"ready", "prepared"} for state in states)
    text = f"\n{ready} of {count(len(states), 'node')} ready."
    if "deferred" in states:
        text += " --restart-engine makes the pending changes; it stops the containers of these nodes for a moment."
    return Text(text)
