"""All containers of a node, listed once: with sixty seats, lists for each of them would be three hundred requests."""

from __future__ import annotations

from typing import Any, Collection, NamedTuple

from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.docker.engine import get

PROJECT = "com.docker.compose.project"
SIZE_SECONDS = 120  # the engine walks through the writable layer of each container
STOPPED = ("created", "exited", "dead")


class Listing(NamedTuple):
    """The containers of the node as the engine lists them, stopped ones too; None: it does not answer.

    `layers`: container ID -> bytes in its writable layer, None where the engine does not report them.
    """

    containers: list[dict[str, Any]] | None
    layers: dict[str, int] | None

    def of_project(self, name: str) -> list[dict[str, Any]] | None:
        """Return the containers of a compose project, None when the engine does not answer."""
        if self.containers is None:
            return None
        return [container for container in self.containers if _labels(container).get(PROJECT) == name]

    def labels(self, name: str) -> set[str]:
        """Return the values of a label of all containers."""
        return {_labels(container)[name] for container in self.containers or [] if name in _labels(container)}

    def active(self) -> list[dict[str, Any]]:
        """Return the containers that are neither stopped nor just created."""
        return [container for container in self.containers or [] if is_active(container)]

    def layer_bytes(self, containers: list[dict[str, Any]] | None) -> int | None:
        """Return the bytes in the writable layers of these containers, None when they are not known."""
        if containers is None or self.layers is None:
            return None
        return sum(self.layers.get(container["Id"], 0) for container in containers)


def running_containers(label: str) -> dict[str, list[dict[str, Any]]] | None:
    """Return the containers that are neither stopped nor just created by the value of a label of theirs.

    None when the engine does not answer.
    """
    listed = _listed()
    found: dict[str, list[dict[str, Any]]] = {}
    for container in filter(is_active, listed or []):
        if label in _labels(container):
            found.setdefault(_labels(container)[label], []).append(container)
    return None if listed is None else found


def list_containers(label: str, without: Collection[str] = ()) -> Listing:
    """List all containers, and the sizes of those that have `label`: the size is what costs.

    `without`: values of the label whose containers are left out when sizes are asked for.
    """
    containers = _listed()
    if containers is None or not without:
        return Listing(containers, None if containers is None else _layers({"label": [label]}))
    found = ((container["Id"], _labels(container).get(label)) for container in containers)
    wanted = [number for number, value in found if value is not None and value not in without]
    return Listing(containers, _layers({"id": wanted}) if wanted else {})


def is_active(container: dict[str, Any]) -> bool:
    """Return whether a listed container is neither stopped nor just created; a paused one is active."""
    return container["State"] not in STOPPED


def _listed() -> list[dict[str, Any]] | None:
    try:
        return list(get("/containers/json", all="1") or [])
    except ProblemError:
        return None


def _layers(filters: dict[str, list[str]]) -> dict[str, int] | None:
    try:
        listed = get("/containers/json", SIZE_SECONDS, all="1", size="1", filters=filters) or []
    except ProblemError:
        return None
    return {container["Id"]: container.get("SizeRw") or 0 for container in listed}


def _labels(container: dict[str, Any]) -> dict[str, str]:
    return container.get("Labels") or {}
