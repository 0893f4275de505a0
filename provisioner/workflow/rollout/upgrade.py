"""Find out why a new lock does not serve a node."""

from collections.abc import Mapping

from provisioner.domain.selection.selection import Selection
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import Probed
from provisioner.workflow.rollout.plan import unserved_problems


def unserved_reasons(selection: Selection, probed: Probed) -> Mapping[str, Problem | None]:
    """Return for every probed node why no image was selected for it, or None where one was."""
    return {node: facts if isinstance(facts, Problem) else _reason(selection, node) for node, facts in probed.items()}


def _reason(selection: Selection, node: str) -> Problem | None:
    choice = selection.nodes[node]
    return unserved_problems(node, choice)[0] if choice.tag is None else None
