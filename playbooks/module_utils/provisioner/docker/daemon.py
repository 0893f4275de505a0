"""The node's engine as a service: its configuration, of which one key is ours, and its start."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.provisioner.base.command import run
from ansible.module_utils.provisioner.base.files import read, write_atomic
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.docker.engine import get, wait_for_engine

CONFIGURATION = Path("/etc/docker/daemon.json")
SYSTEMD = Path("/run/systemd/system")  # sd_booted(3)
SERVICE_SECONDS = 180
ANSWER_SECONDS = 60


def read_configuration() -> dict[str, Any]:
    """Raises ProblemError where a person's daemon.json cannot be read: the engine would not start with it either."""
    text = read(CONFIGURATION)
    if not text.strip():
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise _unreadable(str(error)) from None
    if not isinstance(found, dict):
        raise _unreadable(f"it holds {type(found).__name__}")
    return found


def with_cdi(found: dict[str, Any]) -> dict[str, Any]:
    """Every key that is there stays, in its place."""
    return {**found, "features": {**(found.get("features") or {}), "cdi": True}}


def enable_cdi() -> None:
    CONFIGURATION.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_atomic(CONFIGURATION, json.dumps(with_cdi(read_configuration()), indent=2) + "\n", 0o644)


def count_running_containers() -> int:
    """Raises ProblemError where the engine does not answer."""
    return len(get("/containers/json") or [])


def is_installed() -> bool:
    return bool(shutil.which("dockerd", path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"))


def control_service(name: str, act: str) -> None:
    """`act`: start, restart or stop; what is started comes back at the next boot. Raises ProblemError."""
    if SYSTEMD.is_dir():
        if act != "stop":
            run(["systemctl", "enable", f"{name}.service"], SERVICE_SECONDS)
        ran = run(["systemctl", act, f"{name}.service"], SERVICE_SECONDS)
    else:
        ran = run(["service", name, act], SERVICE_SECONDS)
    if ran.code != 0:
        raise _no_service(name, act, ran.message)


def start_engine() -> None:
    control_service("docker", "start")
    wait_for_engine(ANSWER_SECONDS)


def restart_engine() -> None:
    control_service("docker", "restart")
    wait_for_engine(ANSWER_SECONDS)


def _unreadable(reason: str) -> ProblemError:
    return ProblemError(
        "daemon_json_unreadable",
        f"{CONFIGURATION} is no JSON object: {reason}",
        "what a person wrote there must not be lost, and no engine starts with it as it is",
        "mend it on the node, then run the command again",
    )


def _no_service(name: str, act: str, said: str) -> ProblemError:
    return ProblemError(
        "service_failed",
        f"the service {name} did not {act}: {said}",
        "the node cannot be used without it",
        f"see on the node: journalctl -u {name}, or /var/log/{name}.log",
    )
