"""The state of a node before and during its preparation."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.provisioner.base.files import read
from ansible.module_utils.provisioner.docker import daemon
from ansible.module_utils.provisioner.docker.machine import compose_version, engine_facts, machine_facts
from ansible.module_utils.provisioner.docker.process import PID_FILE
from ansible.module_utils.provisioner.docker.trust import is_trusted
from ansible.module_utils.provisioner.gpu.cdi import HOOK, cdi_devices
from ansible.module_utils.provisioner.gpu.nvidia import nvidia_facts
from ansible.module_utils.provisioner.gpu.nvml import count_cards
from ansible.module_utils.provisioner.prepare import apt
from ansible.module_utils.provisioner.prepare.distribution import docker_source, nvidia_source, read_distribution
from ansible.module_utils.provisioner.prepare.needs import NodeState

SPEC_FOLDERS = ("/etc/cdi", "/var/run/cdi")  # the default folders of an engine with CDI
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
CA_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def observe(order: dict[str, Any]) -> NodeState:
    """Return the state of this node, compared with the order where that is needed. Raises ProblemError."""
    distribution, platform = read_distribution(), machine_facts()["platform"]
    apt.require_apt()
    docker = tuple(docker_source(given, distribution) for given in order["docker"])
    nvidia_toolkit = tuple(nvidia_source(given, platform) for given in order["nvidia"])
    engine, info, _ = engine_facts()
    nvidia = nvidia_facts()[0]
    uuids = tuple(gpu["uuid"] for gpu in nvidia["gpus"] if gpu.get("uuid") and not gpu.get("mig_enabled"))
    return NodeState(
        distribution=distribution,
        docker=docker,
        nvidia=nvidia_toolkit,
        written=frozenset(source for source in (*docker, *nvidia_toolkit) if apt.has_source(source)),
        engine=engine["version"] if engine else None,
        compose=compose_version(),
        engine_installed=daemon.is_installed(),
        docker_ce=apt.is_installed("docker-ce"),
        containers=daemon.count_running_containers() if engine else 0,
        gpus=max(nvidia["pci_gpus"] or 0, count_cards(nvidia["gpus"])),
        uuids=uuids,
        toolkit=bool(shutil.which(HOOK)),
        cdi_on=bool(info.get("CDISpecDirs")),
        cdi_setting=(daemon.read_configuration().get("features") or {}).get("cdi"),
        cdi_complete=_names_all(uuids, info),
        hook_is_newer=_hook_is_newer(),
        has_ca_certificates=CA_CERTIFICATES.exists(),
        untrusted=not is_trusted(order["registry"]),
        inotify_instances=_inotify_instances() if order.get("many_seats") else None,
    )


def _inotify_instances() -> int | None:
    text = read(INOTIFY).strip()
    return int(text) if text.isdigit() else None


def _names_all(uuids: tuple[str, ...], info: dict[str, Any]) -> bool:
    devices = cdi_devices(Path(folder) for folder in info.get("CDISpecDirs") or SPEC_FOLDERS)
    return all(f"nvidia.com/gpu={uuid}" in devices for uuid in uuids)


def _hook_is_newer() -> bool:
    """Compare the change time of the hook with that of the engine's PID file, which is written at its start."""
    hook = shutil.which(HOOK)
    try:
        return bool(hook) and Path(str(hook)).lstat().st_ctime > PID_FILE.stat().st_ctime
    except OSError:
        return False
