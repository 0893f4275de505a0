"""Finds the login for a registry in Docker's configuration, then in podman's.

The order in a file is that of go-containerregistry's authn: credHelpers[host], credsStore, auths[host]. The docker
package resolves logins too, but reads no file of podman's, waits for a helper without a limit, and takes a file that
cannot be read for an empty one.
"""

import json
import re
import subprocess
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_HUB_KEY = "https://index.docker.io/v1/"  # the key that `docker login` uses for Docker Hub
_HELPER_SECONDS = 30
_HELPER = re.compile(r"[A-Za-z0-9._-]+")


class UnusableLogin(Exception):  # noqa: N818  (the text says why)
    """A configured login that cannot be used. The text names its file and holds no secret."""


@dataclass(frozen=True, slots=True)
class Login:
    """`token`: the secret is an identity token, not a password. `source`: the file or helper, for messages."""

    source: str
    user: str = ""
    secret: str = field(default="", repr=False)
    token: bool = False


def find_login(host: str, environment: Mapping[str, str]) -> Login | None:
    """Return the login for `host` (HOST[:PORT]), None for anonymous access. Raises UnusableLogin."""
    for path in _config_files(environment):
        config = _read(path)
        login = None if config is None else _from_config(config, host, path, environment)
        if login is not None:
            return login
    return None


def _config_files(environment: Mapping[str, str]) -> Iterator[Path]:
    home = Path(environment.get("HOME", "/"))
    docker = environment.get("DOCKER_CONFIG")
    yield (Path(docker) if docker else home / ".docker") / "config.json"
    named = environment.get("REGISTRY_AUTH_FILE")
    runtime = environment.get("XDG_RUNTIME_DIR")
    if named:
        yield Path(named)
    elif runtime:
        yield Path(runtime) / "containers" / "auth.json"
    yield Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "containers" / "auth.json"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnusableLogin(f"{path} cannot be read ({error.strerror})") from None
    except ValueError:
        raise UnusableLogin(f"{path} is not valid JSON") from None
    if not isinstance(config, dict):
        raise UnusableLogin(f"{path} is not a Docker configuration")
    return config


def _from_config(config: dict[str, Any], host: str, path: Path, environment: Mapping[str, str]) -> Login | None:
    helpers = _table(config, "credHelpers")
    helper = next((helpers[key] for key in _keys(host) if key in helpers), None) or config.get("credsStore")
    login = _from_helper(str(helper), host, path, environment) if helper else None
    return login or _from_auths(_table(config, "auths"), host, path)


def _table(config: dict[str, Any], name: str) -> dict[str, Any]:
    table = config.get(name)
    return table if isinstance(table, dict) else {}


def _keys(host: str) -> tuple[str, ...]:
    return (_HUB_KEY, *sorted(_HUB)) if host in _HUB else (host,)


def _host_of(key: str) -> str:
    """Return HOST[:PORT] of a key: `https://host:port/v1/` and `host:port` name the same registry."""
    return key.split("://", 1)[-1].split("/", 1)[0]


def _from_auths(auths: dict[str, Any], host: str, path: Path) -> Login | None:
    wanted = {_host_of(key) for key in _keys(host)}
    entry = next((value for key, value in auths.items() if _host_of(key) in wanted), None)
    if not isinstance(entry, dict):
        return None
    if entry.get("identitytoken"):
        return Login(source=str(path), secret=str(entry["identitytoken"]), token=True)
    if entry.get("auth"):
        return _from_basic(str(entry["auth"]), host, path)
    if entry.get("username"):
        return Login(source=str(path), user=str(entry["username"]), secret=str(entry.get("password", "")))
    return None


def _from_basic(text: str, host: str, path: Path) -> Login:
    try:
        user, colon, secret = b64decode(text, validate=True).decode().rstrip("\0").partition(":")
    except ValueError:
        colon = user = secret = ""
    if not colon:
        raise UnusableLogin(f"the entry for {host} in {path} is damaged")
    return Login(source=str(path), user=user, secret=secret)


def _from_helper(helper: str, host: str, path: Path, environment: Mapping[str, str]) -> Login | None:
    name = f"docker-credential-{helper}"
    if not _HELPER.fullmatch(helper):
        raise UnusableLogin(f"{path} names a credential helper of an invalid name: {helper!r}")
    try:
        answer = subprocess.run(
            [name, "get"],
            input=(_HUB_KEY if host in _HUB else host).encode(),
            capture_output=True,
            env=dict(environment),
            timeout=_HELPER_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise UnusableLogin(f"{path} names {name}, which is not installed") from None
    except (OSError, subprocess.TimeoutExpired):
        raise UnusableLogin(f"{name}, named in {path}, fails to start or does not end") from None
    return _read_answer(answer, name, path)


def _read_answer(answer: subprocess.CompletedProcess[bytes], name: str, path: Path) -> Login | None:
    if answer.returncode != 0:
        # The protocol has only this text to say so (docker-credential-helpers, credentials/error.go).
        if b"credentials not found" in answer.stdout + answer.stderr:
            return None
        raise UnusableLogin(f"{name}, named in {path}, ended with code {answer.returncode}")
    try:
        entry = json.loads(answer.stdout)
        user, secret = str(entry["Username"]), str(entry["Secret"])
    except (ValueError, KeyError, TypeError):
        raise UnusableLogin(f"{name}, named in {path}, returned no credentials") from None
    if not user and not secret:  # docker-credential-pass, for a host without an entry
        return None
    return Login(source=f"{name} ({path})", user=user, secret=secret, token=user == "<token>")
