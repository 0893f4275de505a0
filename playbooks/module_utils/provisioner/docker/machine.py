"""The machine under it all: its name, addresses, engine and room."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
from pathlib import Path
from typing import Any

from ansible.module_utils.provisioner.base.command import run
from ansible.module_utils.provisioner.base.files import read
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.docker.engine import client_environment, get

SIOCGIFADDR = 0x8915  # linux/sockios.h
PLATFORMS = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}
# Networks inside the machine: nobody in the lab reaches the node there.
INNER = ("lo", "docker", "br-", "veth", "virbr", "cni", "flannel", "podman")


def machine_facts() -> dict[str, Any]:
    machine = os.uname().machine
    return {
        "hostname": socket.gethostname(),
        "platform": PLATFORMS.get(machine, f"linux/{machine}"),
        "addresses": addresses(),
    }


def addresses() -> list[str]:
    """IPv4, one for each interface that leads out; that of the default route first."""
    names = [name for _, name in socket.if_nameindex() if not name.startswith(INNER)]
    routed = _default_route()
    found = [_address(name) for name in sorted(names, key=lambda name: name != routed)]
    return [address for address in found if address]


def _default_route() -> str:
    rows = [line.split() for line in read(Path("/proc/net/route")).splitlines()[1:]]
    return next((row[0] for row in rows if len(row) > 1 and row[1] == "00000000"), "")


def _address(name: str) -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
        except OSError:
            return None
    return socket.inet_ntoa(answer[20:24])


def engine_facts() -> tuple[dict[str, Any] | None, dict[str, Any], dict[str, str]]:
    """Facts, the engine's own `info`, and the reasons for what is absent."""
    try:
        info = get("/info")
    except ProblemError as fault:
        why = fault.problem["what"]
        return None, {}, {"engine": why, "compose": why}
    compose = compose_version()
    facts = {
        "version": info.get("ServerVersion", ""),
        "compose_version": compose,
        "storage_driver": info.get("Driver", ""),
        "cgroup_driver": info.get("CgroupDriver", ""),
        "runtimes": sorted(info.get("Runtimes", {})),
        "root_dir": info.get("DockerRootDir", ""),
        "free_bytes": free_bytes(info.get("DockerRootDir", "")),
    }
    absent = {} if compose else {"compose": "the docker command on the node has no compose plugin"}
    return facts, info, absent


def compose_version() -> str | None:
    try:
        ran = run(["docker", "compose", "version", "--short"], 30, env=client_environment())
    except ProblemError:
        return None
    return ran.out.strip().lstrip("v") if ran.code == 0 and ran.out.strip() else None


def free_bytes(folder: str) -> int | None:
    """On the file system of `folder`; what is kept back for root does not count."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def image_digests() -> list[str]:
    """What a pull by digest would find here already. Older engines write <none>@<none> where there is no digest."""
    named = [name for image in get("/images/json") or [] for name in image.get("RepoDigests") or []]
    return sorted({name.rpartition("@")[2] for name in named if not name.endswith("@<none>")})
