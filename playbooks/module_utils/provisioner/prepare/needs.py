"""What a node needs before it can have seats, in order, from its observed state. No I/O."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from ansible.module_utils.provisioner.docker.machine import is_older
from ansible.module_utils.provisioner.prepare.distribution import (
    TOOLKIT,
    Distribution,
    Source,
    compose_packages,
    engine_packages,
)

CDI_SINCE = 25  # the first major version of the engine with CDI (moby 25.0, features.cdi)
COMPOSE_SINCE = 2
CA_CERTIFICATES = "ca-certificates"
# The runtime of each container holds one on cgroup v2, and kernels give root 128: sixty seats have 120 containers.
INOTIFY_INSTANCES = 1024


class NodeState(NamedTuple):
    """The observed state of a node. Versions are None when the part is not installed."""

    distribution: Distribution
    docker: tuple[Source, ...]  # mirrors of Docker's packages, the preferred one first
    nvidia: tuple[Source, ...]
    written: frozenset[Source]  # those that the node uses
    engine: str | None
    compose: str | None
    engine_installed: bool
    docker_ce: bool
    containers: int
    gpus: int  # on the PCI bus or listed by NVML, whichever is more
    uuids: tuple[str, ...]  # of GPUs that the driver lists
    toolkit: bool
    cdi_on: bool
    cdi_setting: bool | None  # features.cdi of daemon.json
    cdi_complete: bool  # the specifications name every GPU
    hook_is_newer: bool  # than the running engine, which searches for the hook only when it starts
    has_ca_certificates: bool  # needed for package sources with https
    untrusted: bool  # certs.d does not have the CA of the lab's registry
    inotify_instances: int | None = None  # of a user, as the kernel allows; None: enough for the seats of this lab

    @property
    def by_cdi(self) -> bool:
        """Whether containers get GPUs by CDI, else by NVIDIA's hook. `features.cdi: false` is respected."""
        return self.cdi_setting is not False and (self.engine is None or _major(self.engine) >= CDI_SINCE)


class Need(NamedTuple):
    """One action that is needed. `deferred`: it would stop running containers, which needs --restart-engine."""

    action: str
    description: str
    detail: dict[str, Any]
    deferred: bool = False


def find_needs(state: NodeState, *, may_restart: bool) -> list[Need]:
    """Return the needs in order, none when the node is ready. Raises ProblemError for a need that cannot be met."""
    return [
        *_cdi_needs_before_start(state),
        *_engine_needs(state),
        *_gpu_needs(state, may_restart),
        *_trust_needs(state),
        *_kernel_needs(state),
    ]


def _engine_needs(state: NodeState) -> list[Need]:
    if state.engine is None and not state.engine_installed:
        wanted = engine_packages(state.distribution, docker_ce=bool(state.docker))
        return _package_needs(wanted, state.docker, state)
    lacking = [] if state.engine else [Need("start", "start the engine, now and at every boot", {})]
    if state.compose is None or is_older(state.compose, COMPOSE_SINCE):
        wanted = compose_packages(state.distribution, docker_ce=state.docker_ce)
        lacking += _package_needs(wanted, state.docker if state.docker_ce else (), state)
    return lacking


def _cdi_needs_before_start(state: NodeState) -> list[Need]:
    """Switch CDI on before the engine starts for the first time, which saves a restart."""
    if state.gpus and state.engine is None and state.cdi_setting is None:
        return [Need("cdi", "switch CDI on in /etc/docker/daemon.json; other keys stay", {})]
    return []


def _gpu_needs(state: NodeState, may_restart: bool) -> list[Need]:
    if not state.gpus:
        return []
    lacking = [] if state.toolkit else _package_needs(TOOLKIT, state.nvidia, state)
    if state.engine is not None:
        lacking += _restart_needs(state, may_restart)
    if state.uuids and state.by_cdi and not state.cdi_complete:
        lacking.append(Need("specification", "write the CDI specification of the GPUs", {}))
    return lacking


def _restart_needs(state: NodeState, may_restart: bool) -> list[Need]:
    deferred = bool(state.containers) and not may_restart
    if not state.by_cdi:
        return (
            [_restart("the engine searches for NVIDIA's hook when it starts", deferred)] if state.hook_is_newer else []
        )
    if state.cdi_on:
        return []
    lacking = [] if state.cdi_setting else [Need("cdi", "switch CDI on in /etc/docker/daemon.json", {}, deferred)]
    return [*lacking, _restart("the engine reads daemon.json when it starts", deferred)]


def _restart(why: str, deferred: bool) -> Need:
    return Need("restart", f"restart the engine: {why}", {}, deferred)


def _trust_needs(state: NodeState) -> list[Need]:
    return [Need("trust", "install the CA of the lab's registry in the engine's certs.d", {})] * state.untrusted


def _kernel_needs(state: NodeState) -> list[Need]:
    found = state.inotify_instances
    if found is None or found >= INOTIFY_INSTANCES:
        return []
    name = "fs.inotify.max_user_instances"
    return [Need("inotify", f"raise {name} from {found} to {INOTIFY_INSTANCES}, now and at every boot", {})]


def _package_needs(wanted: tuple[str, ...], sources: tuple[Source, ...], state: NodeState) -> list[Need]:
    """Return the need of packages, after that of a source that has them.

    Of several sources the one that the node uses may lack the packages by now, so all of them are asked each time.
    """
    used = next((source for source in sources if source in state.written), None)
    origin = _origin(sources, used, state)
    install = Need("packages", f"install {', '.join(wanted)} {origin}", {"packages": list(wanted)})
    if not sources or (used and len(sources) == 1):
        return [install]
    what = f"package source {sources[0].uri}"
    if sources[1:]:
        what = f"first of {', '.join(source.uri for source in sources)} that has {wanted[0]} as a package source,"
    add = Need("source", f"add the {what} with its key", {"sources": sources, "packages": list(wanted)})
    if state.has_ca_certificates or not any(source.uri.startswith("https:") for source in sources):
        return [add, install]
    return [Need("packages", f"install {CA_CERTIFICATES}", {"packages": [CA_CERTIFICATES]}), add, install]


def _origin(sources: tuple[Source, ...], used: Source | None, state: NodeState) -> str:
    if not sources:
        return f"from {state.distribution.release.name}'s sources on the node"
    if used is None and sources[1:]:
        return "from it"
    return f"from {(used or sources[0]).uri}"


def _major(version: str) -> int:
    head = re.match(r"v?([0-9]{1,9})", version)
    return int(head[1]) if head else 0
