"""Which nodes may run an environment, and who names one."""

from collections.abc import Callable, Iterator, Sequence

from provisioner.domain.lab.environments import DEFAULT_ENVIRONMENT
from provisioner.domain.lab.groups import with_default_group
from provisioner.domain.lab.lab import Lab, SelfService
from provisioner.domain.people.person import Person
from provisioner.domain.people.placement import is_allowed


def environment_nodes(lab: Lab, people: Sequence[Person], nodes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return for each environment of lab.yml the nodes that may run it, `default` first.

    `default`: all nodes. Another one: those with self-service if a group may have it, those that a row of the roster
    with this environment allows, and all if it is that of the seats of a lab without a roster. Where nothing names it:
    all, so that it is ready before somebody does. With only a part of the lab in `nodes`, that may be none of them.
    """
    return {name: tuple(filter(_rule(lab, people, name), nodes)) for name in lab.all_environments}


def _rule(lab: Lab, people: Sequence[Person], name: str) -> Callable[[str], bool]:
    """Return whether a node may run an environment."""
    rows = [person for person in people if person.environment == name]
    pool = _self_service(lab, name)
    of_seats = lab.people is None and lab.seat.environment == name
    if name == DEFAULT_ENVIRONMENT or of_seats or not (rows or pool):
        return lambda node: True  # noqa: ARG005
    return lambda node: (pool is not None and pool.covers(node)) or any(is_allowed(row, node) for row in rows)


def _self_service(lab: Lab, name: str) -> SelfService | None:
    """Return where people start seats themselves, if a group may have this environment."""
    groups = with_default_group(lab.groups).values()
    return lab.self_service if any(name in group.environments for group in groups) else None


def environment_users(lab: Lab, people: Sequence[Person], name: str) -> Iterator[str]:
    """Yield what names an environment: the setting of seats without a roster, then each person with their row."""
    if lab.seat.environment == name:
        yield "seat.environment in lab.yml"
    yield from (f"{person.id} (row {person.row})" for person in people if person.environment == name)
