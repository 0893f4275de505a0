"""Checks before anything is stopped: engine, disk space, ports, home."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import time
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Iterator

from ansible.module_utils.provisioner.base.command import run_in_child
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.docker.engine import INSTALL, get
from ansible.module_utils.provisioner.docker.machine import (
    compose_refusal,
    compose_version,
    free_bytes,
    image_store,
    is_older,
    routes,
)

# A pull needs the compressed layers and, beside them, what they unpack to: for PyTorch images about 2.5 times as much.
UNPACKED = 3.5
SPARE = 1 << 30  # bytes that stay free
COMPOSE = 2  # the first major version that is a plugin of docker
MOST_LINKS = 40  # on one way, as for the kernel (path_resolution(7))
STAT_SECONDS = 10  # a home on NFS hangs while its server is down
EVERYWHERE = ("0.0.0.0", "::", "")  # noqa: S104  (what an engine reports, not what we bind to)


def check_engine() -> dict[str, Any]:
    """Return the engine's description of itself.

    Raises ProblemError `no_engine`, `no_compose`, or `compose_without_engine` where the engine refuses this compose.
    """
    info: dict[str, Any] = get("/info")
    version = compose_version()
    if version is None or is_older(version, COMPOSE):
        raise ProblemError(
            "no_compose",
            "docker on the node has no compose plugin" if version is None else f"compose on the node is {version}",
            "a seat is started by `docker compose`, version 2 or newer",
            INSTALL.replace("Docker Engine", "the package docker-compose-plugin"),
        )
    if refusal := compose_refusal(get("/version") or {}):
        raise ProblemError(
            "compose_without_engine",
            f"compose {version} on the node cannot talk to its engine {info.get('ServerVersion', '')}: {refusal}",
            "a seat is started by compose; an engine refuses one that is too old for it",
            "install the compose of the engine's release on the node: the package docker-compose-plugin",
        )
    return info


def check_disk_space(info: dict[str, Any], image_bytes: int) -> None:
    """Check the free disk space; `image_bytes` are still to be pulled (compressed), 0 when the image is present.

    Raises ProblemError `disk_full`.
    """
    store = image_store(info)
    # The engine's own folder holds volumes and logs, if not images.
    for folder, need in ((store, int(image_bytes * UNPACKED) + SPARE), (info["DockerRootDir"], SPARE)):
        free = free_bytes(folder)
        if free is None or free >= need:
            continue
        raise ProblemError(
            "disk_full",
            f"{folder} has {free / 1e9:.1f} GB free; {need / 1e9:.1f} GB are needed there",
            f"{image_bytes / 1e9:.1f} GB are pulled and then unpacked; an engine that runs out of disk space discards"
            " what it has pulled",
            "free disk space on the node: see `docker system df`; `docker image prune` removes unused images",
        )


def check_ports(seat: dict[str, Any]) -> None:
    """Check that the seat can publish its ports; a port that its own containers use counts as free.

    Raises ProblemError `port_taken` or `no_such_address`.
    """
    for service, port in sorted(seat["ports"].items()):
        holder = container_on_port(get("/containers/json") or [], seat["binds"][service], port)
        if holder == seat["name"]:
            continue
        if holder is not None:
            raise _port_taken(service, seat["binds"][service], port, f"the container {holder}")
        _try_bind(service, seat["binds"][service], port)


def check_subnet(seat: dict[str, Any]) -> None:
    """Check that no other network of the engine and no route of the node overlaps the subnet of the seat.

    The seat of an earlier release has no subnet, and nothing is checked. Raises ProblemError `subnet_taken`.
    """
    if not seat.get("subnet"):
        return
    wanted, others = IPv4Network(seat["subnet"]), []
    for network in get("/networks") or []:
        configs = (network.get("IPAM") or {}).get("Config") or []
        found = [config["Subnet"] for config in configs if ":" not in config.get("Subnet", ":")]
        if (network.get("Labels") or {}).get("com.docker.compose.project") != seat["name"]:
            others += [(subnet, f"the network {network['Name']} of the engine") for subnet in found]
        elif seat["subnet"] in found:
            return
    others += [(route, f"a route of the node to {route}") for route in routes()]
    for subnet, holder in others:
        if wanted.overlaps(IPv4Network(subnet, strict=False)):
            raise _subnet_taken(seat["subnet"], holder)


def container_on_port(containers: list[dict[str, Any]], address: str, port: int) -> str | None:
    """Return the compose project (else the name) of the container among these that publishes this port, or None."""
    for container in containers:
        for publication in container.get("Ports") or []:
            same = publication.get("IP", "") in (address, *EVERYWHERE)
            if publication.get("PublicPort") == port and same:
                project = container["Labels"].get("com.docker.compose.project")
                return str(project or container["Names"][0].lstrip("/"))
    return None


def _try_bind(service: str, address: str, port: int) -> None:
    refused = _bind_error(address, port)
    if refused == errno.EADDRNOTAVAIL:
        raise _no_address(service, address)
    if refused is not None:
        raise _port_taken(service, address, port, os.strerror(refused))


def is_port_taken(address: str, port: int) -> bool:
    """Return whether a program listens on this port; any account may have started it."""
    return _bind_error(address, port) == errno.EADDRINUSE


def _bind_error(address: str, port: int) -> int | None:
    """Return the errno of listening on this port, None when it is possible."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the engine binds
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno or 0
        return None


def wait_for_addresses(seat: dict[str, Any], seconds: float) -> None:
    """Wait up to `seconds` until the node has all addresses of the seat: a node without a cable may have none."""
    deadline = time.monotonic() + seconds
    while not all(map(_has_address, seat["binds"].values())) and time.monotonic() < deadline:
        time.sleep(1)


def _has_address(address: str) -> bool:
    return _bind_error(address, 0) != errno.EADDRNOTAVAIL


def ensure_home(home: Path, uid: int, gid: int) -> None:
    """Make the home when it is missing; an existing home is never changed. Raises ProblemError."""
    try:
        found = run_in_child(lambda: _look_at(home), STAT_SECONDS)
    except TimeoutError:
        raise _home_fault("home_hangs", f"{home} does not answer within {STAT_SECONDS} s", f"ls -ld {home}") from None
    except ChildProcessError as error:
        raise _home_fault("home_unreadable", f"{home}: {error}", f"ls -ld {home}") from None
    if found is None:
        _make_home(home, uid, gid)
        return
    owner, is_folder = found
    if not is_folder:
        raise _home_fault("home_unreadable", f"{home} is not a folder", f"ls -ld {home}")
    if owner != uid:
        what = f"{home} belongs to uid {owner}, but the seat has uid {uid}"
        raise _home_fault("home_owner", what, f"chown {uid}:{gid} {home}")


def _look_at(home: Path) -> tuple[int, bool] | None:
    """Return the owner of what is at this path, and whether it is a folder; None where there is nothing.

    Raises OSError for a link that leads to nothing.
    """
    if not os.path.lexists(str(home)):
        return None
    found = home.stat()
    return found.st_uid, stat.S_ISDIR(found.st_mode)


def check_home_parents(home: Path) -> None:
    """Check that only root can put another folder in the place of a home, or of a folder above it, also behind links.

    Otherwise its user could swap it for a link to any folder of the node between this check and the mount. Raises
    ProblemError `home_unsafe`.
    """
    try:
        unsafe = run_in_child(lambda: _first_unsafe(home), STAT_SECONDS)
    except (TimeoutError, ChildProcessError) as error:
        raise _home_fault("home_unreadable", f"{home.parent}: {error}", f"ls -ld {home.parent}") from None
    if unsafe:
        raise ProblemError(
            "home_unsafe",
            f"an account other than root can replace {unsafe}, which is on the way to {home}",
            "a link in its place would mount any folder of the node into the seat, as if it were the home",
            f"give it to root on the node (chown root: {unsafe}; chmod go-w {unsafe}), or set seat.homes in lab.yml",
        )


def _first_unsafe(home: Path) -> str | None:
    """Return the first folder or link on the way to the home that is not root's alone, also behind links."""
    return next((str(unsafe) for unsafe in map(_unsafe_at, _way_to(home)) if unsafe), None)


def _way_to(path: Path) -> Iterator[Path]:
    """Yield each folder and link that the system passes until it is at the path, and the first one that is missing.

    The folder of what is yielded is never a link itself.
    """
    folder, rest, links = Path("/"), list(path.parts[1:]), 0
    while rest and os.path.lexists(str(folder)):
        entry = folder / rest.pop(0)
        yield entry
        if entry.is_symlink() and links < MOST_LINKS:
            target, links = Path(os.readlink(str(entry))), links + 1
            folder, rest = Path("/") if target.is_absolute() else folder, [*target.parts[target.is_absolute() :], *rest]
        else:
            folder = folder.parent if entry.name == ".." else entry


def _unsafe_at(entry: Path) -> Path | None:
    """Return the folder in which others than root can replace this entry, or the link that is not root's, else None."""
    found = entry.lstat() if os.path.lexists(str(entry)) else None
    if found and stat.S_ISLNK(found.st_mode) and found.st_uid:
        return entry
    folder = entry.parent.lstat()
    others = folder.st_mode & stat.S_IWOTH or (folder.st_mode & stat.S_IWGRP and folder.st_gid != 0)
    is_kept = folder.st_mode & stat.S_ISVTX and found and found.st_uid == 0  # as root's folders in /tmp
    return entry.parent if folder.st_uid or (others and not is_kept) else None


def _make_home(home: Path, uid: int, gid: int) -> None:
    try:
        reason = run_in_child(lambda: _try_to_make(home, uid, gid), STAT_SECONDS)
    except TimeoutError:
        reason = f"no answer within {STAT_SECONDS} s"
    except ChildProcessError as error:
        reason = str(error)
    if reason:
        what = f"{home} cannot be created: {reason}"
        raise _home_fault("home_not_made", what, f"install -d -m 700 -o {uid} -g {gid} {home}")


def _try_to_make(home: Path, uid: int, gid: int) -> str | None:
    """Make the home under another name, give it to its user, and rename it: a kill leaves no home of a wrong owner.

    The parent may belong to the user, who can put a link in the place of each name in it. So the owner is set on the
    open folder, and no link is followed. Return the reason when it fails.
    """
    temporary = f".{home.name}.new"
    try:
        home.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        parent = os.open(str(home.parent), os.O_RDONLY | os.O_DIRECTORY)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(temporary, dir_fd=parent)  # left by a kill
        os.mkdir(temporary, mode=0o700, dir_fd=parent)
        made = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        os.fchown(made, uid, gid)
        os.rename(temporary, home.name, src_dir_fd=parent, dst_dir_fd=parent)
        os.fsync(parent)
    except OSError as error:
        return error.strerror
    return None  # the process ends here, and closes both folders


def _home_fault(code: str, what: str, command: str) -> ProblemError:
    why = "the seat runs as this user and stores its data in this folder; a rollout never changes the owner of a home"
    return ProblemError(code, what, why, f"check it on the node; if that is intended: {command}")


def _port_taken(service: str, address: str, port: int, holder: str) -> ProblemError:
    return ProblemError(
        "port_taken",
        f"port {port} on {address} is taken: {holder}",
        f"the seat publishes {service} on this port; its ports never change without a change of lab.yml",
        f"stop the program that listens there (see `ss -ltnp sport = :{port}`), or change seat.ports in lab.yml",
    )


def _subnet_taken(subnet: str, holder: str) -> ProblemError:
    return ProblemError(
        "subnet_taken",
        f"the subnet {subnet} is taken: {holder}",
        "the containers of the seat have a network of their own; two networks with the same addresses cannot both work",
        "make the plan again, which chooses another one; or set seat.subnets in lab.yml to a network that is free",
    )


def _no_address(service: str, address: str) -> ProblemError:
    return ProblemError(
        "no_such_address",
        f"the node has no address {address}",
        f"the seat publishes {service} on this address",
        "set ansible_host to the node's own address, or `bind: loopback` in lab.yml",
    )
