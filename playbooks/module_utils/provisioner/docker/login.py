"""The login for a registry that root of this node has: what `docker login`, `podman login` or a helper stored.

The places and their order are those in which the control machine looks.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any, Iterator

HELPER_SECONDS = 30
HELPER_NAME = re.compile(r"[A-Za-z0-9._-]+")
HUB = ("https://index.docker.io/v1/", "docker.io", "index.docker.io", "registry-1.docker.io")  # the first: its key
IDENTITY = "<token>"  # the user name by which a credential helper marks an identity token


def find_login(address: str, repository: str | None = None) -> dict[str, str] | None:
    """Return the login for a registry (HOST[:PORT]) as the engine's API takes it, None when there is none.

    DOCKER_AUTH_CONFIG comes first, then the file of Docker, then those of podman; in each the order is that of the
    docker command: credHelpers[address], credsStore, auths. A key of `auths` may be a URL, or name a part of the
    registry (containers-auth.json(5)); of those that fit `repository` the longest is taken. None: any part of it fits.
    """
    for text in _configurations():
        with contextlib.suppress(ValueError, AttributeError, RecursionError):
            config = json.loads(text)
            helpers = _table(config, "credHelpers")
            helper = next((helpers[key] for key in _keys(address) if key in helpers), None) or config.get("credsStore")
            login = _from_helper(str(helper), address) if helper else None
            login = login or _from_auths(_table(config, "auths"), address, repository)
            if login:
                return login
    return None


def _configurations() -> Iterator[str]:
    """Return the content of each configuration that can be read."""
    yield os.environ.get("DOCKER_AUTH_CONFIG") or "{}"
    for path in _files():
        with contextlib.suppress(OSError, UnicodeDecodeError):
            yield path.read_text()


def _files() -> Iterator[Path]:
    home, podman = Path.home(), Path("containers") / "auth.json"
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/containers/{os.getuid()}"
    named = os.environ.get("REGISTRY_AUTH_FILE")
    yield Path(os.environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
    yield Path(named) if named else Path(runtime) / podman
    yield Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / podman


def _table(config: dict[str, Any], name: str) -> dict[str, Any]:
    table = config.get(name)
    return table if isinstance(table, dict) else {}


def _keys(address: str) -> tuple[str, ...]:
    return HUB if address in HUB else (address,)


def _split_key(key: str) -> tuple[str, str]:
    """Return HOST[:PORT] and path of a key; the path of a URL names the version of the API, and no part."""
    scheme, _, rest = key.rpartition("://")
    host, _, path = rest.partition("/")
    path = path.strip("/")
    return host, "" if scheme or path in ("v1", "v2") else path


def _from_auths(auths: dict[str, Any], address: str, repository: str | None) -> dict[str, str] | None:
    wanted = {_split_key(key)[0] for key in _keys(address)}
    split = [(*_split_key(key), value) for key, value in auths.items()]
    fitting = [(path, value) for host, path, value in split if host in wanted and _is_below(repository, path)]
    entry = auths.get(address) if not any(path for path, _ in fitting) else None  # before the same host as a URL
    entry = entry or max(fitting, key=lambda found: len(found[0]), default=("", None))[1]
    if not isinstance(entry, dict):
        return None
    entry = {name.casefold(): value for name, value in entry.items()}  # as Go reads it
    if entry.get("identitytoken"):
        return {"identitytoken": str(entry["identitytoken"]), "serveraddress": address}
    if entry.get("auth"):
        text = base64.b64decode("".join(str(entry["auth"]).split())).decode().rstrip("\0")
        user, colon, password = text.partition(":")
        return {"username": user, "password": password} if colon else None
    if entry.get("username"):
        return {"username": str(entry["username"]), "password": str(entry.get("password", ""))}
    return None


def _is_below(repository: str | None, path: str) -> bool:
    return repository is None or not path or f"{repository}/".startswith(f"{path}/")


def _from_helper(helper: str, address: str) -> dict[str, str] | None:
    if not HELPER_NAME.fullmatch(helper):
        return None
    try:
        ran = subprocess.run(
            [f"docker-credential-{helper}", "get"],
            input=_keys(address)[0].encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=HELPER_SECONDS,
            check=False,
        )
        answer = json.loads(ran.stdout) if ran.returncode == 0 else {}
        user, secret = str(answer.get("Username") or ""), str(answer.get("Secret") or "")
    except (OSError, ValueError, AttributeError, RecursionError, subprocess.TimeoutExpired):
        return None
    if not secret:
        return None
    if user == IDENTITY:
        return {"identitytoken": secret, "serveraddress": address}
    return {"username": user, "password": secret}
