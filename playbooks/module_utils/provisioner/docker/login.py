"""The login for a registry that root of this node has: what `docker login` or a credential helper stored."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

HELPER_SECONDS = 30
HELPER_NAME = re.compile(r"[A-Za-z0-9._-]+")
IDENTITY = "<token>"  # the user name by which a credential helper marks an identity token


def find_login(address: str) -> dict[str, str] | None:
    """Return the login for a registry (HOST[:PORT]) as the engine's API takes it, None when there is none.

    The order is that of the docker command: credHelpers[address], credsStore, auths. A key of `auths` may be a URL.
    """
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    try:
        config = json.loads((folder / "config.json").read_text())
        helper = _table(config, "credHelpers").get(address) or config.get("credsStore")
        login = _from_helper(str(helper), address) if helper else None
        return login or _from_auths(_table(config, "auths"), address)
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


def _table(config: dict[str, Any], name: str) -> dict[str, Any]:
    table = config.get(name)
    return table if isinstance(table, dict) else {}


def _host_of(key: str) -> str:
    return key.split("://", 1)[-1].split("/", 1)[0]


def _from_auths(auths: dict[str, Any], address: str) -> dict[str, str] | None:
    entry = auths.get(address) or next((value for key, value in auths.items() if _host_of(key) == address), None)
    if not isinstance(entry, dict):
        return None
    if entry.get("identitytoken"):
        return {"identitytoken": str(entry["identitytoken"]), "serveraddress": address}
    if entry.get("auth"):
        text = base64.b64decode("".join(str(entry["auth"]).split())).decode().rstrip("\0")
        user, colon, password = text.partition(":")
        return {"username": user, "password": password} if colon else None
    if entry.get("username"):
        return {"username": str(entry["username"]), "password": str(entry.get("password", ""))}
    return None


def _from_helper(helper: str, address: str) -> dict[str, str] | None:
    if not HELPER_NAME.fullmatch(helper):
        return None
    try:
        ran = subprocess.run(
            [f"docker-credential-{helper}", "get"],
            input=address.encode(),
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
