"""Which nodes may run an environment, and who names one."""

from collections.abc import Iterator, Sequence

from provisioner.domain.lab.environments import DEFAULT_ENVIRONMENT
from provisioner.domain.lab.groups import with_default_group
from provisioner.domain.lab.lab import Lab
from provisioner.domain.people.person import Person
from provisioner.domain.people.placement import is_allowed


def environment_nodes(lab: Lab, people: Sequence[Person], nodes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return for each environment of lab.yml the nodes that may run it, `default` first.

    `default`: all nodes. Another one: those with self-service if a group may have it, those that a row of the roster
    with this environment allows, and all if it is that of the seats of a lab without a roster. Where that is no node:
    all of them, so that it is ready before somebody names it.
    """
    found = {}
    for name in lab.all_environments:
        named = tuple(node for node in nodes if _may_run(lab, people, name, node))
        found[name] = tuple(nodes) if name == DEFAULT_ENVIRONMENT else named or tuple(nodes)
    return found


def _may_run(lab: Lab, people: Sequence[Person], name: str, node: str) -> bool:
    if lab.self_service is not None and lab.self_service.covers(node):
        groups = with_default_group(lab.groups).values()
        if any(name in group.environments for group in groups):
            return True
    if lab.people is None:
        return lab.seat.environment == name
    return any(person.environment == name and is_allowed(person, node) for person in people)


def environment_users(lab: Lab, people: Sequence[Person], name: str) -> Iterator[str]:
    """Yield what names an environment: the setting of seats without a roster, then each person with their row."""
    if lab.seat.environment == name:
        yield "seat.environment in lab.yml"
    yield from (f"{person.id} (row {person.row})" for person in people if person.environment == name)
