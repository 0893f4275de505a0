"""A node of a lab: a container with sshd, its own Docker Engine, and GPUs that a profile describes.

A bare node has no engine until one is installed on it.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.lab.bare import Release
from tests.lab.engine import Engine
from tests.lab.host import BedError, run
from tests.lab.kinds import DEBIAN13, Kind
from tests.lab.networks import LABEL

USER = "lab"
WAIT_SECONDS = 90
# Rights of a nested engine. --privileged would require CAP_SYS_RESOURCE, which not every machine has.
RIGHTS = (
    *("--init", "--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE", "--device-cgroup-rule", "a *:* rwm"),
    *("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"),
    *("--security-opt", "systempaths=unconfined"),
)


@dataclass(frozen=True)
class Node:
    engine: Engine
    prefix: str
    name: str
    address: str
    folder: Path
    has_engine: bool = True
    bare: Release | None = None
    volumes: tuple[str, ...] = ()  # more volumes, as `docker run -v` takes them
    kind: Kind = DEBIAN13

    @property
    def container(self) -> str:
        return f"{self.prefix}-{self.name}"

    @property
    def network(self) -> str:
        return f"{self.prefix}-lab"

    def create(self) -> None:
        label = ("--label", f"{LABEL}={self.prefix}")
        where = ("--hostname", self.name, "--network", self.network, "--ip", self.address)
        what = (
            "-e",
            f"NODE_NAME={self.container}",
            "-e",
            f"NODE_ENGINE={int(self.has_engine or self.bare is not None)}",
            "-e",
            f"NODE_CONTAINERD={int(self._has_containerd)}",
        )
        mounts = ["-v", f"{self.folder}:/etc/lab:ro"]
        if self.has_engine or self.bare:
            # A volume: overlay2 does not work on overlay2, and the inner engine would copy every layer.
            self.engine.docker("volume", "create", *label, self.container)
            mounts += ["-v", f"{self.container}:/var/lib/docker"]
        mounts += [word for volume in self.volumes for word in ("-v", volume)]
        if self._has_containerd:
            self.engine.docker("volume", "create", *label, *self._containerd_options, f"{self.container}-containerd")
            mounts += ["-v", f"{self.container}-containerd:/var/lib/containerd"]
        self.engine.docker("run", "-d", "--name", self.container, *label, *RIGHTS, *where, *what, *mounts, self._image)

    @property
    def _image(self) -> str:
        return self.bare.image if self.bare else self.kind.image

    @property
    def _has_containerd(self) -> bool:
        return self.has_engine and self.kind.containerd

    @property
    def _containerd_options(self) -> tuple[str, ...]:
        size = self.kind.containerd_size
        return ("-o", "type=tmpfs", "-o", "device=tmpfs", "-o", f"o=size={size}") if size else ()

    def host_key(self) -> str:
        """Return type and key, as in known_hosts."""
        return " ".join((self.folder / "ssh_host_ed25519_key.pub").read_text().split()[:2])

    def exec(self, *command: str, stdin: str | None = None) -> str:
        """Run a command as root on the node; return its stdout, raise BedError if it failed."""
        return self.engine.docker("exec", "-i", self.container, *command, stdin=stdin)

    def ssh(self, key: Path, known_hosts: Path, command: str) -> str:
        """Run a command line over SSH as user `lab`."""
        options = ("-o", f"UserKnownHostsFile={known_hosts}", "-o", "BatchMode=yes", "-i", key)
        return run("ssh", "-F", "none", *options, f"{USER}@{self.address}", command).stdout

    def set_profile(self, text: str) -> None:
        """Change the node's GPUs while programs run on it."""
        (self.folder / "gpu.conf").write_text(text)
        self.exec("/usr/lib/lab/gpu/bin/gpu_state.py", "/etc/lab/gpu.conf", self.container)

    def pause(self) -> None:
        """Make the node hang: it keeps its address and does not answer."""
        self.engine.docker("pause", self.container)

    def unpause(self) -> None:
        self.engine.docker("unpause", self.container)

    def disconnect(self) -> None:
        """Disconnect the node from its network; it loses its address."""
        self.engine.docker("network", "disconnect", self.network, self.container)

    def connect(self) -> None:
        self.engine.docker("network", "connect", "--ip", self.address, self.network, self.container)

    @contextmanager
    def mute(self) -> Iterator[None]:
        """Drop all packets that the node sends; unlike after disconnect() it keeps its address."""
        net = self.address.rpartition(".")[0]
        halves = (f"{net}.0/25", f"{net}.128/25")  # each narrower than the route of its network
        for half in halves:
            self.exec("ip", "route", "add", "blackhole", half)
        try:
            yield
        finally:
            for half in halves:
                self.exec("ip", "route", "del", "blackhole", half)

    def stop(self) -> None:
        """Shut the node down in order."""
        self.engine.docker("stop", "-t", "30", self.container)

    def kill(self) -> None:
        """Cut the power."""
        self.engine.docker("kill", self.container)

    def start(self) -> None:
        self.engine.docker("start", self.container)
        self.wait()

    def wait(self) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not self.answers():
            if time.monotonic() > deadline:
                log = self.engine.try_docker("logs", self.container)
                raise BedError(f"{self.container} did not come up: {log.stdout}{log.stderr}")
            time.sleep(0.1)

    def answers(self) -> bool:
        return _ssh_greets(self.address) and (not self.has_engine or self._engine_answers())

    def _engine_answers(self) -> bool:
        return not self.engine.try_docker("exec", self.container, "docker", "version").returncode


def _ssh_greets(address: str) -> bool:
    try:
        with socket.create_connection((address, 22), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
