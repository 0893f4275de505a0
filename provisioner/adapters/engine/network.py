"""How this machine's engine reaches registries: what `docker info` says, where there is an engine to ask."""

import subprocess
from json import JSONDecodeError, loads
from typing import Any

from provisioner.domain.registry.interference import EngineNetwork

_SECONDS = 10


def engine_network() -> EngineNetwork | None:
    """None where no engine answers: this is beside what was asked, so it is never a fault."""
    try:
        done = subprocess.run(
            ["docker", "info", "--format", "{{json .}}"],  # noqa: S607  (the docker that this person would call)
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
        told: dict[str, Any] = loads(done.stdout)
        config = told.get("RegistryConfig") or {}
        return EngineNetwork(
            mirrors=tuple(config.get("Mirrors") or ()),
            http_proxy=told.get("HttpProxy") or "",
            https_proxy=told.get("HttpsProxy") or "",
            no_proxy=told.get("NoProxy") or "",
        )
    except (OSError, subprocess.TimeoutExpired, JSONDecodeError, UnicodeDecodeError, ValueError, AttributeError):
        return None
