"""Groups of people, and the limits of their seats."""

from collections.abc import Mapping

from provisioner.domain.lab.lab import Group, Lab, Limits

DEFAULT_GROUP = "student"  # exists in every lab


def with_default_group(groups: Mapping[str, Group]) -> dict[str, Group]:
    """Return the groups of lab.yml, with the default group first if lab.yml does not name it."""
    return dict(groups) if DEFAULT_GROUP in groups else {DEFAULT_GROUP: Group(), **groups}


def limits_of(lab: Lab, group: str) -> Limits:
    """Return the limits of each container of a seat: those of its group, and where it sets none those of seat.limits.

    `group` empty, or not in lab.yml any more: the default group.
    """
    groups = with_default_group(lab.groups)
    own = groups.get(group, groups[DEFAULT_GROUP]).model_dump(include=set(Limits.model_fields), exclude_none=True)
    return lab.seat.limits.model_copy(update=own)
