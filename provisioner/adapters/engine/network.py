"""Read from `docker info` how the engine of this machine reaches registries."""

import subprocess
from json import JSONDecodeError, loads
from typing import Any

from provisioner.domain.registry.interference import EngineNetwork

_TIMEOUT = 10  # seconds


def read_engine_network() -> EngineNetwork | None:
    """Return mirrors and proxies of the engine, None where no engine answers. This is extra information: no error."""
    try:
        done = subprocess.run(
            ["docker", "info", "--format", "{{json .}}"],  # noqa: S607  (the docker on the user's PATH)
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT,
            check=False,
        )
        info: dict[str, Any] = loads(done.stdout)
        config = info.get("RegistryConfig") or {}
        return EngineNetwork(
            mirrors=tuple(config.get("Mirrors") or ()),
            http_proxy=info.get("HttpProxy") or "",
            https_proxy=info.get("HttpsProxy") or "",
            no_proxy=info.get("NoProxy") or "",
        )
    except (OSError, subprocess.TimeoutExpired, JSONDecodeError, UnicodeDecodeError, ValueError, AttributeError):
        return None
