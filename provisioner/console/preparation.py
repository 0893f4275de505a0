"""What nodes lack, or what was done to them: nodes that are alike once."""

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from provisioner.console.problems import problems
from provisioner.console.tables import folded
from provisioner.console.text import count, line
from provisioner.domain.rollout.preparation import NodePreparation, Preparation, PrepareState, RegistryPreparation
from provisioner.domain.values.problem import Problem

_STYLES: Mapping[PrepareState, str] = {
    "ready": "green",
    "prepared": "green",
    "lacking": "yellow",
    "deferred": "magenta",
}
# What a state means for the person who reads it.
_MEANS: Mapping[PrepareState, str] = {
    "ready": "has all it needs; nothing was to do",
    "lacking": "not changed yet; it lacks:",
    "prepared": "was made ready:",
    "deferred": "is in use; left as it is where a restart would end containers",
    "failed": "is not ready",
    "unreachable": "could not be reached; not touched",
    "unknown": "contact was lost; what it was at goes on by itself",
}
_Alike = tuple[PrepareState, tuple[str, ...], tuple[str, ...]]


def preparation_view(found: Preparation) -> Group:
    alike = folded((node.node, _alike(node)) for node in found.nodes)
    parts: list[RenderableType] = [_registry(found.registry)]
    parts += [_nodes(names, *kind) for names, kind in alike]
    return Group(*parts, problems(_problems(found)), _sum(found))


def _alike(node: NodePreparation) -> _Alike:
    return node.state, node.changes, node.pending


def _registry(registry: RegistryPreparation) -> Text:
    if not registry.node:
        means = "answers; it is used as it is" if registry.state == "ready" else "does not serve"
    else:
        means = f"on {line(registry.node)}  {_MEANS[registry.state]}"
    head = _head(f"registry {line(registry.address)}", registry.state, means)
    return head.append(_items(registry.changes))


def _nodes(names: str, state: PrepareState, changes: Sequence[str], pending: Sequence[str]) -> Text:
    text = _head(names, state, _MEANS[state]).append(_items(changes))
    return text.append(_items([f"pending: {words}" for words in pending]))


def _head(name: str, state: PrepareState, means: str) -> Text:
    return Text.assemble((name, "bold"), "  ", (state, _STYLES.get(state, "red")), f"  {means}")


def _items(words: Iterable[str]) -> str:
    return "".join(f"\n  - {line(text)}" for text in words)


def _problems(found: Preparation) -> Iterable[tuple[str, Problem]]:
    yield from (("registry", problem) for problem in found.registry.problems)
    yield from ((node.node, problem) for node in found.nodes for problem in node.problems)


def _sum(found: Preparation) -> Text:
    states = [*(node.state for node in found.nodes)]
    ready = sum(state in {"ready", "prepared"} for state in states)
    text = f"\n{ready} of {count(len(states), 'node')} ready."
    if "deferred" in states:
        text += " What is pending is done by --restart-engine, which ends the containers of these nodes for a moment."
    return Text(text)
