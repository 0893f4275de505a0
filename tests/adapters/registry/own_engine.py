"""A Docker Engine for pulls alone, with its containerd. A damaged image ends some engines: no other test uses this one.

It makes no network and writes no rule of the firewall.
"""

import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_SECONDS = 30


@dataclass(frozen=True)
class OwnEngine:
    place: Path

    def docker_pulls(self, reference: str, config: Path) -> bool:
        """Return whether the classic image store has the image then. `config`: the client's folder, for logins."""
        host = f"unix://{self.place}/docker.sock"
        return _works(["docker", "pull", "-q", reference], {"DOCKER_HOST": host, "DOCKER_CONFIG": str(config)})

    def containerd_pulls(self, reference: str, login: str | None) -> bool:
        """Return whether containerd has the image then, as Docker has it since its release 29."""
        socket = f"{self.place}/exec/containerd/containerd.sock"
        words = ["ctr", "-a", socket, "-n", "pulls", "images", "pull", "--plain-http", "--platform", "linux/amd64"]
        return _works([*words, *(("--user", login) if login else ()), reference], {})


def _works(command: list[str], environment: Mapping[str, str]) -> bool:
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/nonexistent",
    } | dict(environment)
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False
    )
    return done.returncode == 0


@contextmanager
def own_engine(place: Path) -> Iterator[OwnEngine]:
    """Start dockerd with everything it writes below `place`."""
    command = ["dockerd", "--data-root", f"{place}/data", "--exec-root", f"{place}/exec"]
    command += ["--pidfile", f"{place}/pid", "--host", f"unix://{place}/docker.sock", "--max-download-attempts", "1"]
    command += ["--config-file", f"{place}/daemon.json", "--bridge", "none"]
    command += ["--iptables=false", "--ip-masq=false", "--ip-forward=false"]
    (place / "daemon.json").write_text("{}")
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            _await(place, process)
            yield OwnEngine(place)
        finally:
            process.terminate()
            process.wait(_SECONDS)


def _await(place: Path, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _SECONDS
    while time.monotonic() < until and process.poll() is None:
        if (place / "docker.sock").exists() and _works(
            ["docker", "version"], {"DOCKER_HOST": f"unix://{place}/docker.sock"}
        ):
            return
        time.sleep(0.1)
    pytest.fail(f"dockerd did not start: {(place / 'log').read_text()[-2000:]}")
