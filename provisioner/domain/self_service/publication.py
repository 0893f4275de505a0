"""Publications: how the self-service of a node differs from what lab.yml and the lock require."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from packaging.version import InvalidVersion, Version

from provisioner.domain.self_service.config import PublishedGroup, SelfServiceConfig
from provisioner.domain.self_service.pool import is_of_another_lab
from provisioner.domain.values.model import Value
from provisioner.domain.values.node import NodeFacts, SelfServiceFacts
from provisioner.domain.values.problem import Problem

PublicationAction = Literal["install", "update", "keep", "remove", "defer", "skip"]

# Stands for self-service beside the names of seats, in claims and records: no seat has a space in its name.
SELF_SERVICE_NAME = "self service"
_CHANGES: frozenset[PublicationAction] = frozenset({"install", "update", "remove"})
_OF_CONFIG = ("unix_group", "show_names", "ports", "subnets", "homes", "binds", "term_ends", "order")
_OF_GROUP = tuple(PublishedGroup.model_fields)


class Publication(Value):
    """What a run does with the self-service of a node.

    `changes`: the differences, in words. `was` and `config`: digests of the configuration in force and of the new one,
    empty where there is none. `environments`: name -> new version. `pool`: UUIDs. `bytes_to_pull`: of the images that
    the node does not have yet. `defer`: it would be removed, and seats are in use. `skip`: `problems` has the reason.
    """

    node: str
    action: PublicationAction
    why: str
    changes: tuple[str, ...] = ()
    was: str = ""
    config: str = ""
    environments: dict[str, str] = {}
    pool: tuple[str, ...] = ()
    bytes_to_pull: int = 0
    busy: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def changes_node(self) -> bool:
        """Whether the run changes the node for it."""
        return self.action in _CHANGES


def skip_publication(node: str, *problems: Problem) -> Publication:
    """Build the publication of a node whose self-service is left as it is. `problems` has at least one reason."""
    return Publication(node=node, action="skip", why=problems[0].what, problems=problems)


def build_publication(
    facts: NodeFacts, config: SelfServiceConfig, version: str, before: SelfServiceConfig | None = None
) -> Publication:
    """Build the publication that brings a node to `config` and to a program of this `version`.

    `before`: the configuration in force; None: it is not known.
    """
    found = facts.self_service
    if found is not None and is_of_another_lab(config.lab, found):
        return skip_publication(facts.name, elsewhere(facts.name, found.lab))
    action, why, changes = _compare(found, config, version, before)
    sizes = {image.digest: image.bytes for image in config.images}  # environments may have the same image
    return Publication(
        node=facts.name,
        action=action,
        why=why,
        changes=changes,
        was=found.config if found else "",
        config=config.digest,
        environments=config.versions,
        pool=config.pool,
        bytes_to_pull=sum(sizes[digest] for digest in sizes if digest not in facts.images),
    )


def build_withdrawal(facts: NodeFacts, why: str) -> Publication:
    """Build the publication that removes self-service from a node, with the seats that people have started there."""
    found = facts.self_service or SelfServiceFacts(lab="")
    return Publication(
        node=facts.name,
        action="remove",
        why=why,
        was=found.config,
        environments=found.environments,
        busy=busy_work(facts),
    )


def busy_work(facts: NodeFacts) -> tuple[str, ...]:
    """Return the work in the seats that people have started on a node themselves."""
    seats = (seat for seat in facts.seats if seat.is_self_service)
    return tuple(work for seat in seats for work in seat.at_work)


def _compare(
    found: SelfServiceFacts | None, config: SelfServiceConfig, version: str, before: SelfServiceConfig | None
) -> tuple[PublicationAction, str, tuple[str, ...]]:
    if found is None:
        return "install", "no self-service on the node yet", tuple(_first(config))
    changes = tuple(_changes(found, config, version, before))
    if changes:
        return "update", "its self-service changes", changes
    if not found.runs:
        return "update", "its broker does not run", ()
    return "keep", "self-service as published", ()


def _first(config: SelfServiceConfig) -> Iterator[str]:
    count = len(config.pool)
    yield f"{count} GPU{'' if count == 1 else 's'} for members of {config.unix_group}"
    yield from (f"environment {name} {version}" for name, version in config.versions.items())


def _changes(
    found: SelfServiceFacts, config: SelfServiceConfig, version: str, before: SelfServiceConfig | None
) -> Iterator[str]:
    if is_older(found.version, version):
        yield f"broker {found.version or 'unknown'} -> {version}"
    if found.config == config.digest:
        return
    yield from _pool_changes(found.pool, config.pool)
    yield from _changed_names("environment", found.environments, config.versions)
    if before is None:
        yield "settings: those in force were published from elsewhere, so how they differ is not known"
        return
    yield from _setting_changes(before, config)


def is_older(found: str, own: str) -> bool:
    """Whether the program of a node is older than this release, or its version is not known."""
    try:
        return Version(found) < Version(own)
    except InvalidVersion:
        return found != own


def _pool_changes(before: Iterable[str], after: Iterable[str]) -> Iterator[str]:
    old, new = dict.fromkeys(before), dict.fromkeys(after)
    moved = [f"+{gpu}" for gpu in new if gpu not in old] + [f"-{gpu}" for gpu in old if gpu not in new]
    if moved:
        yield f"pool {' '.join(moved)}"


def _changed_names(noun: str, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    for name in dict.fromkeys((*before, *after)):
        if before.get(name) != after.get(name):
            yield f"{noun} {name} {before.get(name, 'none')} -> {after.get(name, 'none')}"


def _setting_changes(before: SelfServiceConfig, after: SelfServiceConfig) -> Iterator[str]:
    yield from (f"{name} {change}" for name, change in _field_changes(before, after, _OF_CONFIG))
    for name in dict.fromkeys((*before.groups, *after.groups)):
        old, new = before.groups.get(name), after.groups.get(name)
        if old is None or new is None:
            yield f"group {name} {'is new' if old is None else 'is removed'}"
        else:
            yield from (f"group {name} {field} {change}" for field, change in _field_changes(old, new, _OF_GROUP))
    for name, environment in after.environments.items():
        earlier = before.environments.get(name)
        if earlier and earlier.version == environment.version and earlier != environment:
            yield f"environment {name}: its registry or its deadlines"


def _field_changes(before: Value, after: Value, fields: Iterable[str]) -> Iterator[tuple[str, str]]:
    for field in fields:
        old, new = _text(getattr(before, field)), _text(getattr(after, field))
        if old != new:
            yield field, f"{old} -> {new}"


def _text(value: object) -> str:
    """Return a value as lab.yml would have it, for one line."""
    if isinstance(value, Value):
        return _text(value.model_dump(mode="json", exclude_none=True))
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(found)}" for name, found in value.items()) or "none"
    if isinstance(value, tuple | list):
        return ", ".join(map(_text, value)) or "none"
    return "none" if value in {None, ""} else f"{value:g}" if isinstance(value, float) else str(value)


def pattern_cautions(pattern: str, matches: Iterable[bool]) -> tuple[Problem, ...]:
    """Return a caution where the pattern of lab.yml matches no node. `matches`: for each node of the inventory."""
    if any(matches):
        return ()
    return (
        Problem(
            "no_node_with_self_service",
            f"self_service.nodes: {pattern} matches no node of the inventory",
            "people can start no seat of their own, and a node that has self-service loses it",
            "correct the pattern in lab.yml, or remove self_service there",
        ),
    )


def elsewhere(node: str, lab: str) -> Problem:
    """Return why a node gets no self-service: another lab has it there."""
    return Problem(
        "self_service_elsewhere",
        f"{node} has self-service of the lab {lab} already",
        "a node has one socket and one pool, so only one lab can have self-service on it",
        "remove it there first, or leave the node out of self_service.nodes in lab.yml",
        node,
    )
