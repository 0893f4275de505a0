"""Published holes of the container toolkit that a node has."""

from collections.abc import Mapping

from provisioner.domain.compatibility.data import CompatibilityData
from provisioner.domain.compatibility.rows import ToolkitPackage
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.version import DottedVersion


def toolkit_problems(facts: NodeFacts, data: CompatibilityData) -> tuple[Problem, ...]:
    """Return the warning `toolkit_vulnerable` of a node with a toolkit that has published holes.

    It keeps no seat from the node. A toolkit of unknown version has none that could be named.
    """
    versions: Mapping[ToolkitPackage, DottedVersion | None] = {
        "nvidia-container-toolkit": facts.toolkit_version,
        "libnvidia-container": facts.libnvidia_container_version,
    }
    holes = [hole for hole in data.toolkit_holes if _is_open(versions[hole.package], hole.fixed)]
    if not holes:
        return ()
    found = ", ".join(f"{package} {versions[package]}" for package in dict.fromkeys(hole.package for hole in holes))
    cves = ", ".join(dict.fromkeys(cve for hole in holes for cve in hole.cves))
    return (
        Problem(
            "toolkit_vulnerable",
            f"{facts.name}: {found} has published holes: {cves}",
            "by them an image can read files of the node or become root on it",
            f"install {max(hole.fixed for hole in holes)} or newer on the node, for example: apt-get update && apt-get "
            "install nvidia-container-toolkit nvidia-container-toolkit-base libnvidia-container-tools "
            "libnvidia-container1; containers that run are not stopped by it",
            facts.name,
        ),
    )


def with_toolkit_problems(facts: NodeFacts, data: CompatibilityData) -> NodeFacts:
    """Return the facts of a node with the warning among its problems."""
    return facts.model_copy(update={"problems": (*facts.problems, *toolkit_problems(facts, data))})


def _is_open(version: DottedVersion | None, fixed: DottedVersion) -> bool:
    return version is not None and version < fixed
