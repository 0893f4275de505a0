"""Finds the login for a repository in DOCKER_AUTH_CONFIG, then in Docker's configuration, then in podman's.

The order in a file is that of go-containerregistry's authn: credHelpers[host], credsStore, auths[host]. The docker
package resolves logins too, but reads no file of podman's, waits for a helper without a limit, and takes a file that
cannot be read for an empty one.
"""

import json
import os
import re
import subprocess
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_HUB_KEY = "https://index.docker.io/v1/"  # the key that `docker login` uses for Docker Hub
_CONFIG_VARIABLE = "DOCKER_AUTH_CONFIG"
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


def find_login(host: str, environment: Mapping[str, str], repository: str = "") -> Login | None:
    """Return the login for a repository of `host` (HOST[:PORT]), None for anonymous access. Raises UnusableLogin.

    The longest entry wins that names the host, or the host and a part of the repository's path: podman writes such
    entries (containers-auth.json(5)).
    """
    for source, raw in _config_texts(environment):
        login = _from_config(_parse(raw, source), host, repository, source, environment)
        if login is not None:
            return login
    return None


def _config_texts(environment: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each configuration that exists."""
    if text := environment.get(_CONFIG_VARIABLE):  # Docker CLI 28.3 and GitLab's runners
        yield _CONFIG_VARIABLE, text.encode()
    for path in _config_files(environment):
        try:
            yield str(path), path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UnusableLogin(f"{path} cannot be read ({error.strerror})") from None


def _config_files(environment: Mapping[str, str]) -> Iterator[Path]:
    home = Path(environment.get("HOME", "/"))
    docker = environment.get("DOCKER_CONFIG")
    yield (Path(docker) if docker else home / ".docker") / "config.json"
    named = environment.get("REGISTRY_AUTH_FILE")
    runtime = environment.get("XDG_RUNTIME_DIR") or f"/run/containers/{os.getuid()}"
    if named:
        yield Path(named)
    elif os.access(runtime, os.X_OK):  # the default folder of podman may belong to root
        yield Path(runtime) / "containers" / "auth.json"
    yield Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "containers" / "auth.json"


def _parse(raw: bytes, source: str) -> dict[str, Any]:
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError):
        raise UnusableLogin(f"{source} is not valid JSON") from None
    if not isinstance(config, dict):
        raise UnusableLogin(f"{source} is not a Docker configuration")
    return config


def _from_config(
    config: dict[str, Any], host: str, repository: str, source: str, environment: Mapping[str, str]
) -> Login | None:
    helpers = _table(config, "credHelpers")
    helper = next((helpers[key] for key in _keys(host) if key in helpers), None) or config.get("credsStore")
    login = _from_helper(str(helper), host, source, environment) if helper else None
    return login or _from_auths(_table(config, "auths"), host, repository, source)


def _table(config: dict[str, Any], name: str) -> dict[str, Any]:
    table = config.get(name)
    return table if isinstance(table, dict) else {}


def _keys(host: str) -> tuple[str, ...]:
    return (_HUB_KEY, *sorted(_HUB)) if host in _HUB else (host,)


def _split_key(key: str) -> tuple[str, str]:
    """Return HOST[:PORT] and path of a key. The path of a URL such as `https://host:port/v1/` names the API's version.

    So only a key without a scheme names a part of the registry.
    """
    scheme, _, rest = key.rpartition("://")
    host, _, path = rest.partition("/")
    path = path.strip("/")
    return host, "" if scheme or path in {"v1", "v2"} else path


def _from_auths(auths: dict[str, Any], host: str, repository: str, source: str) -> Login | None:
    wanted = {_split_key(key)[0] for key in _keys(host)}
    split = ((_split_key(key), value) for key, value in auths.items())
    fitting = [(path, value) for (named, path), value in split if named in wanted and _is_below(repository, path)]
    entry = auths.get(host) if not any(path for path, _ in fitting) else None  # before the same host as a URL
    entry = entry or max(fitting, key=lambda found: len(found[0]), default=(None, None))[1]
    if not isinstance(entry, dict):
        return None
    entry = {name.casefold(): value for name, value in entry.items()}  # as Go reads it
    if entry.get("identitytoken"):
        return Login(source=source, secret=str(entry["identitytoken"]), token=True)
    if entry.get("auth"):
        return _from_basic(str(entry["auth"]), host, source)
    if entry.get("username"):
        return Login(source=source, user=str(entry["username"]), secret=str(entry.get("password", "")))
    return None


def _is_below(repository: str, path: str) -> bool:
    return not path or f"{repository}/".startswith(f"{path}/")


def _from_basic(text: str, host: str, source: str) -> Login:
    try:
        raw = b64decode("".join(text.split()), validate=True)  # tools that wrap base64 leave line ends in it
        user, colon, secret = raw.decode().rstrip("\0").partition(":")
    except ValueError:
        colon = user = secret = ""
    if not colon:
        raise UnusableLogin(f"the entry for {host} in {source} is damaged")
    return Login(source=source, user=user, secret=secret)


def _from_helper(helper: str, host: str, source: str, environment: Mapping[str, str]) -> Login | None:
    name = f"docker-credential-{helper}"
    if not _HELPER.fullmatch(helper):
        raise UnusableLogin(f"{source} names a credential helper of an invalid name: {helper!r}")
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
        raise UnusableLogin(f"{source} names {name}, which is not installed") from None
    except (OSError, subprocess.TimeoutExpired):
        raise UnusableLogin(f"{name}, named in {source}, fails to start or does not end") from None
    return _read_answer(answer, name, source)


def _read_answer(answer: subprocess.CompletedProcess[bytes], name: str, source: str) -> Login | None:
    if answer.returncode != 0:
        # The protocol has only this text to say so (docker-credential-helpers, credentials/error.go).
        if b"credentials not found" in answer.stdout + answer.stderr:
            return None
        raise UnusableLogin(f"{name}, named in {source}, ended with code {answer.returncode}")
    try:
        entry = json.loads(answer.stdout)
        user, secret = str(entry["Username"]), str(entry["Secret"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UnusableLogin(f"{name}, named in {source}, returned no credentials") from None
    if not user and not secret:  # docker-credential-pass, for a host without an entry
        return None
    return Login(source=f"{name} ({source})", user=user, secret=secret, token=user == "<token>")
