"""Why a node has no place in a new lock."""

from collections.abc import Mapping

from provisioner.domain.selection.selection import Selection
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import Probed
from provisioner.workflow.rollout.plan import unserved


def reasons(selection: Selection, probed: Probed) -> Mapping[str, Problem | None]:
    """For every node that was asked: why no image was chosen for it, or None where one was."""
    return {name: value if isinstance(value, Problem) else _refused(selection, name) for name, value in probed.items()}


def _refused(selection: Selection, node: str) -> Problem | None:
    choice = selection.nodes[node]
    return unserved(node, choice)[0] if choice.tag is None else None
