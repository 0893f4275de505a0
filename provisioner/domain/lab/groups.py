"""Groups of people, and the limits of their seats."""

from collections.abc import Mapping

from provisioner.domain.lab.lab import Group, Lab, Limits
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.size import size_bytes

DEFAULT_GROUP = "student"  # exists in every lab


def with_default_group(groups: Mapping[str, Group]) -> dict[str, Group]:
    """Return the groups of lab.yml, with the default group first if lab.yml does not name it."""
    return dict(groups) if DEFAULT_GROUP in groups else {DEFAULT_GROUP: Group(), **groups}


def limits_of(lab: Lab, group: str) -> Limits:
    """Return the limits of each container of a seat: those of its group, and where it sets none those of seat.limits.

    `group` empty, or not in lab.yml any more: the default group.
    """
    own = _group(lab, group).model_dump(include=set(Limits.model_fields), exclude_none=True)
    return lab.seat.limits.model_copy(update=own)


def disk_limit_of(lab: Lab, group: str) -> int | None:
    """Return the bytes that home and containers of a seat of this group should stay below; None: no limit."""
    disk = _group(lab, group).disk
    return None if disk is None else size_bytes(disk)


def disk_cautions(lab: Lab) -> tuple[Problem, ...]:
    """Return that limits of the disk are not enforced, where a group has one."""
    names = [f"groups.{name}.disk" for name, group in lab.groups.items() if group.disk is not None]
    if not names:
        return ()
    return (
        Problem(
            "disk_not_enforced",
            f"{', '.join(names)}: seats are measured each night, and their people are warned from the limit on",
            "nothing stops a person meanwhile, who can fill the disk of a node for all",
            "for a limit that holds set quotas of the file system on the nodes, such as `setquota -u UID`, with the uid"
            " that `provision seats list LAB --json` shows",
        ),
    )


def _group(lab: Lab, name: str) -> Group:
    groups = with_default_group(lab.groups)
    return groups.get(name, groups[DEFAULT_GROUP])
