"""Why a node has no place in a new lock."""

from collections.abc import Mapping

from provisioner.domain.problem import Problem
from provisioner.domain.selection import Selection
from provisioner.workflow.hands import Probed
from provisioner.workflow.plan import unserved


def reasons(selection: Selection, probed: Probed) -> Mapping[str, Problem | None]:
    """For every node that was asked: why no image was chosen for it, or None where one was."""
    return {name: value if isinstance(value, Problem) else _refused(selection, name) for name, value in probed.items()}


def _refused(selection: Selection, node: str) -> Problem | None:
    choice = selection.nodes[node]
    return unserved(node, choice)[0] if choice.tag is None else None
