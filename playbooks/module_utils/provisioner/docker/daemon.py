"""The engine as a service: daemon.json, of which provisioner sets one key, and starting it."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path
from typing import Any

from ansible.module_utils.provisioner.base.command import run
from ansible.module_utils.provisioner.base.files import read_existing, write_atomic
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.docker.engine import get, wait_for_engine

CONFIGURATION = Path("/etc/docker/daemon.json")
SYSTEMD = Path("/run/systemd/system")  # sd_booted(3)
SERVICE_SECONDS = 180
ANSWER_SECONDS = 60


def read_configuration() -> dict[str, Any]:
    """Return the content of daemon.json, empty when there is none.

    Raises ProblemError `daemon_json_unreadable`; the engine would not start with such a file either.
    """
    try:
        text = read_existing(CONFIGURATION)
    except OSError as error:
        raise _unreadable(str(error)) from None
    if not text.strip():
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise _unreadable(str(error)) from None
    if not isinstance(found, dict):
        raise _unreadable(f"it contains a {type(found).__name__}")
    return found


def with_cdi(found: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with `features.cdi` on; all other keys stay, in their order."""
    return {**found, "features": {**(found.get("features") or {}), "cdi": True}}


def enable_cdi() -> None:
    """Switch CDI on in daemon.json, which keeps its mode: it may hold a secret. The engine reads it when it starts."""
    CONFIGURATION.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    text = json.dumps(with_cdi(read_configuration()), indent=2) + "\n"
    mode = stat.S_IMODE(CONFIGURATION.stat().st_mode) if CONFIGURATION.exists() else 0o644
    write_atomic(CONFIGURATION, text, mode)


def count_running_containers() -> int:
    """Return the number of running containers. Raises ProblemError when the engine does not answer."""
    return len(get("/containers/json") or [])


def is_installed() -> bool:
    """Return whether the program dockerd is installed."""
    return bool(shutil.which("dockerd", path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"))


def control_service(name: str, action: str) -> None:
    """Start, restart or stop a service (`action`); a started service is enabled at boot, too.

    Raises ProblemError `service_failed`.
    """
    if SYSTEMD.is_dir():
        if action != "stop":
            run(["systemctl", "enable", f"{name}.service"], SERVICE_SECONDS)
        ran = run(["systemctl", action, f"{name}.service"], SERVICE_SECONDS)
    else:
        ran = run(["service", name, action], SERVICE_SECONDS)
    if ran.code != 0:
        raise _no_service(name, action, ran.message)


def start_engine() -> None:
    """Start the engine and wait until it answers. Raises ProblemError."""
    control_service("docker", "start")
    wait_for_engine(ANSWER_SECONDS)


def restart_engine() -> None:
    """Restart the engine and wait until it answers. Raises ProblemError."""
    control_service("docker", "restart")
    wait_for_engine(ANSWER_SECONDS)


def _unreadable(reason: str) -> ProblemError:
    return ProblemError(
        "daemon_json_unreadable",
        f"{CONFIGURATION} cannot be read as a JSON object: {reason}",
        "the file is not overwritten, and the engine does not start with it as it is",
        "correct it on the node, then run the command again",
    )


def _no_service(name: str, action: str, message: str) -> ProblemError:
    return ProblemError(
        "service_failed",
        f"the service {name} failed to {action}: {message}",
        "the node cannot be used without this service",
        f"check on the node: journalctl -u {name}, or /var/log/{name}.log",
    )
