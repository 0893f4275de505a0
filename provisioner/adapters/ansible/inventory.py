"""Which nodes a person means: their inventory as Ansible itself reads it, and their --limit."""

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from provisioner.adapters.ansible.settings import Settings, environment
from provisioner.domain.values.problem import Problem, ProblemError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
REGISTRY = "registry"  # the group of the host that holds the lab's registry
_SECONDS = 120  # an inventory may be a program that asks a cloud


@dataclass(frozen=True)
class InventoryHost:
    """`address` is ansible_host where the inventory gives one as plain text."""

    name: str
    address: str | None


def hosts(settings: Settings, limit: str | None) -> tuple[InventoryHost, ...]:
    """The nodes, in the inventory's order: a host of the group `registry` alone is none.

    Raises ProblemError (usage) where it cannot be read, or nothing is left of it.
    """
    if limit is not None and not limit.strip():
        # To Ansible an empty limit is no limit.
        raise ProblemError(_nothing_matched(limit, ()), "usage")
    listing, said = _listing(settings, limit)
    if listing is None and limit:
        everything, said = _listing(settings, None)
        if everything is not None:
            raise ProblemError(_nothing_matched(limit, _names(everything)), "usage")
    if listing is None:
        raise ProblemError(_unreadable(settings, said), "usage")
    found = tuple(_host(name, listing["_meta"]["hostvars"].get(name, {})) for name in _names(listing))
    if not found:
        names = _names(_listing(settings, None)[0] or {}) if limit else ()
        raise ProblemError(_nothing_matched(limit, names), "usage")
    if bad := [host.name for host in found if not _NAME.fullmatch(host.name)]:
        raise ProblemError([_bad_name(name) for name in bad], "usage")
    return found


def registry_host(settings: Settings) -> InventoryHost | None:
    """The one host of the group `registry`; None where there is no such group. Raises ProblemError (usage)."""
    listing, said = _listing(settings, None)
    if listing is None:
        raise ProblemError(_unreadable(settings, said), "usage")
    names = listing.get(REGISTRY, {}).get("hosts", [])
    if len(names) > 1:
        raise ProblemError(_two_registries(names), "usage")
    return _host(names[0], listing["_meta"]["hostvars"].get(names[0], {})) if names else None


def _listing(settings: Settings, limit: str | None) -> tuple[dict[str, Any] | None, str]:
    """What `ansible-inventory --list` prints, None where it fails; and what it said."""
    only = [f"--limit={limit}"] if limit else []
    argv = ["ansible-inventory", "-i", str(settings.inventory), "--list", *only, *settings.arguments()]
    given = os.environ | environment(settings, 1)
    try:
        ran = subprocess.run(
            argv, env=given, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        return None, f"ansible-inventory did not end within {_SECONDS} s"
    return (None if ran.returncode else json.loads(ran.stdout)), ran.stderr


def _names(listing: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_walk(listing, "all", frozenset())))


def _walk(listing: Mapping[str, Any], group: str, above: frozenset[str]) -> Iterator[str]:
    content = listing.get(group, {})
    yield from content.get("hosts", ())
    for child in content.get("children", ()):
        if child not in above and child != REGISTRY:
            yield from _walk(listing, child, above | {group})


def _host(name: str, variables: Mapping[str, Any]) -> InventoryHost:
    address = variables.get("ansible_host")
    return InventoryHost(name, address if isinstance(address, str) and "{" not in address else None)


def _nothing_matched(limit: str | None, names: tuple[str, ...]) -> Problem:
    if limit is None:
        what, fix = "the inventory names no hosts", "add nodes to hosts.yml"
    else:
        what = f"no host matches --limit {limit!r}, or some part of it matches none"
        fix = f"the inventory has: {', '.join(names[:20])}{', …' if names[20:] else ''}" if names else "correct --limit"
    why = "a run over no hosts would do nothing and look like success; to Ansible an empty limit even means all hosts"
    return Problem("no_hosts_matched", what, why, fix)


def _two_registries(names: list[str]) -> Problem:
    return Problem(
        "two_registries",
        f"the group {REGISTRY} of the inventory has {len(names)} hosts: {', '.join(names)}",
        "a lab has one registry, at registry.address in lab.yml",
        "leave one host in the group",
    )


def _unreadable(settings: Settings, said: str) -> Problem:
    return Problem(
        "inventory_unreadable",
        f"Ansible cannot read {settings.inventory}: {said.strip()[-2000:]}",
        "it names the nodes",
        f"correct it until this shows your nodes: ansible-inventory -i {settings.inventory} --graph",
    )


def _bad_name(name: str) -> Problem:
    return Problem(
        "bad_host_name",
        f"not a plain host name: {name[:80]!r}",
        "Ansible reads patterns, ranges and options in host names, and it becomes a file name",
        "use letters, digits, dots, dashes and underscores, and give the address as ansible_host",
    )
