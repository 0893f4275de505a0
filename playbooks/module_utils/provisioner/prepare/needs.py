"""What a node lacks before it can have seats, and in which order it is brought: a pure account of what was seen."""

from __future__ import annotations

from typing import Any, NamedTuple

from ansible.module_utils.provisioner.prepare.distribution import (
    TOOLKIT,
    Distribution,
    Source,
    compose_packages,
    engine_packages,
)

CDI_SINCE = 25  # the first engine that knows CDI (moby 25.0, features.cdi)
COMPOSE_SINCE = 2
CA_CERTIFICATES = "ca-certificates"


class NodeState(NamedTuple):
    """A node before or during its preparation. Versions are None where there is no such part."""

    at: Distribution
    docker: Source | None
    nvidia: Source | None
    written: frozenset[str]  # names of sources that are there as they should be
    engine: str | None
    compose: str | None
    engine_installed: bool
    docker_ce: bool
    containers: int
    cards: int  # on the PCI bus, or by NVML where that shows more
    uuids: tuple[str, ...]  # of cards that the driver drives
    toolkit: bool
    cdi_on: bool
    cdi_wish: bool | None  # features.cdi of daemon.json
    cdi_complete: bool  # the specifications name every card
    hook_is_newer: bool  # than the running engine, which looks for it only when it starts
    authorities: bool  # the machine has certificates to hold a source's https against
    untrusted: bool  # the lab registry's authority is not what certs.d has

    @property
    def by_cdi(self) -> bool:
        """Else by NVIDIA's hook. A person's no to CDI is a no."""
        return self.cdi_wish is not False and (self.engine is None or _major(self.engine) >= CDI_SINCE)


class Need(NamedTuple):
    """One thing to do. `deferred`: it would end containers that run, and nobody has asked for that."""

    act: str
    words: str
    detail: dict[str, Any]
    deferred: bool = False


def find_needs(seen: NodeState, *, may_restart: bool) -> list[Need]:
    """In order; empty where the node is ready. Raises ProblemError where what it lacks cannot be brought at all."""
    return [*_cdi_needs_before_start(seen), *_engine_needs(seen), *_gpu_needs(seen, may_restart), *_trust_needs(seen)]


def _engine_needs(seen: NodeState) -> list[Need]:
    if seen.engine is None and not seen.engine_installed:
        return _package_needs(engine_packages(seen.at, seen.docker), seen.docker, seen)
    lacking = [] if seen.engine else [Need("start", "start the engine, now and at every boot", {})]
    if seen.compose is None or _major(seen.compose) < COMPOSE_SINCE:
        wanted = compose_packages(seen.at, docker_ce=seen.docker_ce)
        lacking += _package_needs(wanted, seen.docker if seen.docker_ce else None, seen)
    return lacking


def _cdi_needs_before_start(seen: NodeState) -> list[Need]:
    """An engine that does not run yet reads its configuration when it starts."""
    if seen.cards and seen.engine is None and seen.cdi_wish is None:
        return [Need("cdi", "switch CDI on in /etc/docker/daemon.json; its other keys stay", {})]
    return []


def _gpu_needs(seen: NodeState, may_restart: bool) -> list[Need]:
    if not seen.cards:
        return []
    lacking = [] if seen.toolkit else _package_needs(TOOLKIT, seen.nvidia, seen)
    if seen.engine is not None:
        lacking += _restart_needs(seen, may_restart)
    if seen.uuids and seen.by_cdi and not seen.cdi_complete:
        lacking.append(Need("specification", "write the CDI specification of the GPUs", {}))
    return lacking


def _restart_needs(seen: NodeState, may_restart: bool) -> list[Need]:
    deferred = bool(seen.containers) and not may_restart
    if not seen.by_cdi:
        return [_restart("it finds NVIDIA's hook when it starts", deferred)] if seen.hook_is_newer else []
    if seen.cdi_on:
        return []
    lacking = [] if seen.cdi_wish else [Need("cdi", "switch CDI on in /etc/docker/daemon.json", {}, deferred)]
    return [*lacking, _restart("it reads daemon.json when it starts", deferred)]


def _restart(why: str, deferred: bool) -> Need:
    return Need("restart", f"restart the engine: {why}", {}, deferred)


def _trust_needs(seen: NodeState) -> list[Need]:
    return [Need("trust", "trust the authority of the lab's registry, in the engine's certs.d", {})] * seen.untrusted


def _package_needs(wanted: tuple[str, ...], source: Source | None, seen: NodeState) -> list[Need]:
    origin = f"from {source.uri}" if source else f"from {seen.at.release.name}'s sources on the node"
    install = Need("packages", f"install {', '.join(wanted)} {origin}", {"packages": list(wanted)})
    if source is None or source.name in seen.written:
        return [install]
    add = Need("source", f"add the source {source.uri} with its key", {"source": source})
    if seen.authorities or not source.uri.startswith("https:"):
        return [add, install]
    return [Need("packages", f"install {CA_CERTIFICATES}", {"packages": [CA_CERTIFICATES]}), add, install]


def _major(version: str) -> int:
    head = version.lstrip("v").split(".", 1)[0]
    return int(head) if head.isdigit() else 0
