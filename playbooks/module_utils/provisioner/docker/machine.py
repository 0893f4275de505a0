"""Facts of the machine: host name, platform, addresses, engine, disk space, images."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import struct
from pathlib import Path
from typing import Any

from ansible.module_utils.provisioner.base.command import run
from ansible.module_utils.provisioner.base.files import read
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.docker.engine import client_environment, get
from ansible.module_utils.provisioner.docker.plugins import compose_program
from ansible.module_utils.provisioner.docker.process import open_files

SIOCGIFADDR = 0x8915  # linux/sockios.h
MASK_COLUMN = 7  # of /proc/net/route
DEFAULT_ROUTE = "00000000"  # the destination of the default route there
MOST_ROUTES = 8192  # reported; a plan avoids these, and before a seat is started all are looked at
PLATFORMS = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}
# Interfaces of networks inside the machine, which other machines of the lab cannot reach.
INNER = ("lo", "docker", "br-", "veth", "virbr", "cni", "flannel", "podman")

REFUSAL_SECONDS = 30  # for compose to say that it cannot talk to the engine
COMPOSE_API = (1, 41)  # of Docker 20.10, the client in compose 2.0
CONTAINERD_STORE = ["driver-type", "io.containerd.snapshotter.v1"]
CONTAINERD_CONFIGURATION = Path("/etc/containerd/config.toml")
CONTAINERD_ROOT = re.compile(r"""^root\s*=\s*["'](/[^"']+)["']""", re.MULTILINE)
CONTAINERD_DEFAULT = "/var/lib/containerd"
# In the address of a containerd that the engine has started, unless daemon.json sets exec-root.
OWN_CONTAINERD = "/docker/containerd/"
SERVICE_CONTAINERD = ("/run/containerd/containerd.sock", "/var/run/containerd/containerd.sock")


def machine_facts() -> dict[str, Any]:
    """Return `hostname`, `platform` (as Docker names it), `addresses` and `routes`."""
    machine = os.uname().machine
    return {
        "hostname": socket.gethostname(),
        "platform": PLATFORMS.get(machine, f"linux/{machine}"),
        "addresses": addresses(),
        "routes": routes()[:MOST_ROUTES],
    }


def addresses() -> list[str]:
    """Return one IPv4 address for each external interface; that of the default route comes first."""
    names = [name for _, name in socket.if_nameindex() if not name.startswith(INNER)]
    routed = _default_route()
    found = [_address(name) for name in sorted(names, key=lambda name: name != routed)]
    return [address for address in found if address]


def routes() -> list[str]:
    """Return the IPv4 networks that the machine has a route to, without the default route: sorted, in CIDR notation."""
    rows = [row for row in _routes() if row[1] != DEFAULT_ROUTE]
    return sorted({f"{_dotted(row[1])}/{bin(int(row[MASK_COLUMN], 16)).count('1')}" for row in rows})


def _routes() -> list[list[str]]:
    """Return the rows of the main routing table, see proc_pid_net(5): interface, destination, …, mask as the eighth."""
    rows = [line.split() for line in read(Path("/proc/net/route")).splitlines()[1:]]
    return [row for row in rows if len(row) > MASK_COLUMN]


def _dotted(number: str) -> str:
    """Return an address that the kernel shows as a number in the machine's byte order."""
    return socket.inet_ntoa(struct.pack("=L", int(number, 16)))


def _default_route() -> str:
    return next((row[0] for row in _routes() if row[1] == DEFAULT_ROUTE), "")


def _address(name: str) -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
        except OSError:
            return None
    return socket.inet_ntoa(answer[20:24])


def engine_facts() -> tuple[dict[str, Any] | None, dict[str, Any], dict[str, str]]:
    """Return the facts of the engine, its own `info`, and the reasons for facts that are absent."""
    try:
        info = get("/info")
    except ProblemError as fault:
        why = fault.problem["what"]
        return None, {}, {"engine": why, "compose": why}
    compose, store = compose_version(), image_store(info)
    facts = {
        "version": info.get("ServerVersion", ""),
        "compose_version": compose,
        "storage_driver": info.get("Driver", ""),
        "cgroup_driver": info.get("CgroupDriver", ""),
        "runtimes": sorted(info.get("Runtimes", {})),
        "root_dir": info.get("DockerRootDir", ""),
        "image_store": store,
        "free_bytes": free_bytes(store),
        "capacity": capacity(info),
    }
    absent = {} if compose else {"compose": "the docker command on the node has no compose plugin"}
    return facts, info, absent


def capacity(info: dict[str, Any]) -> dict[str, int | None]:
    """Return `memory` (bytes), `cpus` and `open_files` that containers can be limited to; None where they cannot be.

    An engine without the control group of CPUs (one of a user, mostly) refuses to start a container with a limit of
    CPUs, and one without that of memory ignores a limit.
    """
    return {
        "memory": info.get("MemTotal") or None if info.get("MemoryLimit") else None,
        "cpus": info.get("NCPU") or None if info.get("CpuCfsQuota") else None,
        "open_files": open_files(),
    }


def compose_version() -> str | None:
    """Return the version of the compose plugin, None when there is none."""
    try:
        ran = run(["docker", "compose", "version", "--short"], 30, env=client_environment())
    except ProblemError:
        return None
    return ran.out.strip().lstrip("v") if ran.code == 0 and ran.out.strip() else None


def compose_refusal(version: dict[str, Any]) -> str | None:
    """Return why compose cannot talk to the engine, None where it can; `version` is the engine's answer to /version.

    Engine 29 refuses clients of an API before 1.44 (moby: daemon/server/middleware/version.go). Compose prints its own
    version all the same, and fails when it starts containers. Older engines refuse no compose 2, so it is not run.
    """
    lowest = re.match(r"([0-9]{1,4})\.([0-9]{1,4})$", str(version.get("MinAPIVersion", "")))
    if lowest is None or (int(lowest[1]), int(lowest[2])) <= COMPOSE_API:
        return None
    start, environment = compose_program()
    ran = run([*start, "compose", "ls", "--quiet"], REFUSAL_SECONDS, env={**client_environment(), **environment})
    return None if ran.code == 0 else ran.message


def image_store(info: dict[str, Any]) -> str:
    """Return the folder of images and of containers' layers; `info` is the engine's description of itself.

    It is the engine's own folder, or containerd's where the engine keeps its images there (`driver-type` in
    DriverStatus): the default since Docker Engine 29, and the setting `containerd-snapshotter` before it. The engine
    does not name containerd's folder, so it is looked up: below the engine's folder where the engine has started
    containerd itself, else in containerd's configuration, else its default.
    """
    root = str(info.get("DockerRootDir", ""))
    if not any(row[:2] == CONTAINERD_STORE for row in info.get("DriverStatus") or []):
        return root
    own = f"{root}/containerd/daemon"
    address = str((info.get("Containerd") or {}).get("Address", ""))  # older engines do not name it
    # Only root may look into the engine's folder, and `provision me` need not be root.
    if OWN_CONTAINERD in address or (address not in SERVICE_CONTAINERD and os.path.isdir(own)):  # noqa: PTH112  (no error for a user)
        return own
    found = CONTAINERD_ROOT.search(read(CONTAINERD_CONFIGURATION).split("\n[", 1)[0])
    return found.group(1) if found else CONTAINERD_DEFAULT


def is_older(version: str, major: int) -> bool:
    """Return whether a version is older than `major`. One without numbers (compose built from source: `dev`) is not."""
    head = re.match(r"[0-9]{1,9}", version)
    return head is not None and int(head[0]) < major


def free_bytes(folder: str) -> int | None:
    """Return the free bytes of the file system of `folder`, without those that are reserved for root.

    Where the folder does not exist or a user may not look into it, its nearest parent counts.
    """
    for place in (folder, *map(str, Path(folder).parents)):
        try:
            return shutil.disk_usage(place).free
        except (FileNotFoundError, PermissionError):
            continue
        except OSError:
            return None
    return None


def image_digests() -> list[str]:
    """Return the digests of all images on the node. Old engines name an image without a digest <none>@<none>."""
    named = [name for image in get("/images/json") or [] for name in image.get("RepoDigests") or []]
    return sorted({name.rpartition("@")[2] for name in named if not name.endswith("@<none>")})
