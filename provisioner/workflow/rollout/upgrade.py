"""Find out why a new lock does not serve a node."""

from collections.abc import Mapping, Sequence

from provisioner.domain.rollout.upgrade import Reasons
from provisioner.domain.selection.selection import Selection
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import Probed
from provisioner.workflow.rollout.plan import unserved_problems


def unserved_reasons(
    selections: Mapping[str, Selection], nodes: Mapping[str, Sequence[str]], probed: Probed
) -> Reasons:
    """Return why no image was selected for a node, or None where one was, by environment and node.

    `nodes`: by environment those that may run it.
    """
    return {
        name: {node: _reason(selection, node, probed) for node in nodes[name]} for name, selection in selections.items()
    }


def _reason(selection: Selection, node: str, probed: Probed) -> Problem | None:
    facts = probed[node]
    if isinstance(facts, Problem):
        return facts
    choice = selection.nodes[node]
    return unserved_problems(node, choice)[0] if choice.tag is None else None
