"""The package index of this machine, for uv: uv's own settings, else those of pip.

They are passed on by environment variables, as command lines are visible to every user of this machine.
"""

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from provisioner.adapters.mirror.pip_index import pip_settings

_OWN_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS")
_OWN_KEYS = frozenset({"index", "index-url", "extra-index-url", "find-links", "no-index"})
_SECTIONS = (":env:", "download", "global")  # of pip, by precedence; `pip download` gets the wheels later


class IndexSettings(NamedTuple):
    """By which uv asks the index that this machine is configured with. They may hold a password."""

    environment: Mapping[str, str]
    options: tuple[str, ...] = ()


def uv_settings() -> IndexSettings:
    """Return the environment of uv, and its options."""
    environment = {**os.environ, "UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1"}
    environment.setdefault("UV_SYSTEM_CERTS", "1")  # as pip does: a university may have a CA of its own
    if has_own_index(environment):
        return IndexSettings(environment)
    found = pip_settings()
    settings = {
        key.partition(".")[2]: found[key] for section in reversed(_SECTIONS) for key in _keys_of(found, section)
    }
    return IndexSettings({**_from_pip(settings), **environment}, _options(settings))


def has_own_index(environment: Mapping[str, str]) -> bool:
    """Whether a variable or a file of settings names an index for uv."""
    return any(environment.get(name) for name in _OWN_VARIABLES) or any(
        _OWN_KEYS & {*document, *document.get("pip", {})} for document in map(_read, _own_files(environment))
    )


def _keys_of(settings: Mapping[str, str], section: str) -> list[str]:
    return [key for key in settings if key.partition(".")[0] == section]


def _own_files(environment: Mapping[str, str]) -> Iterator[Path]:
    """Yield the places of uv's settings: of this person, and of the machine."""
    if named := environment.get("UV_CONFIG_FILE"):
        yield Path(named)
        return
    personal = environment.get("XDG_CONFIG_HOME") or f"{environment.get('HOME', '/nowhere')}/.config"
    system = (environment.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")
    yield from (Path(folder) / "uv/uv.toml" for folder in (personal, *system, "/etc"))


def _read(path: Path) -> dict[str, dict[str, object]]:
    """Return the settings of a file; none of one that uv itself will complain about."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _from_pip(settings: Mapping[str, str]) -> dict[str, str]:
    proxy = settings.get("proxy", "")
    found = {
        "UV_DEFAULT_INDEX": settings.get("index-url", ""),
        "UV_INDEX": " ".join(settings.get("extra-index-url", "").split()),
        "UV_FIND_LINKS": ",".join(settings.get("find-links", "").split()),
        "UV_INSECURE_HOST": " ".join(settings.get("trusted-host", "").split()),
        "UV_HTTP_TIMEOUT": settings.get("timeout", settings.get("default-timeout", "")),
        "SSL_CERT_FILE": settings.get("cert", ""),
        "SSL_CLIENT_CERT": settings.get("client-cert", ""),
        "HTTPS_PROXY": proxy,
        "HTTP_PROXY": proxy,
    }
    return {name: value for name, value in found.items() if value}


def _options(settings: Mapping[str, str]) -> tuple[str, ...]:
    is_offline = settings.get("no-index", "").lower() in {"1", "true", "yes", "on"}
    # pip takes the best version of all its indexes, uv by itself those of the first one that has the package.
    return ("--index-strategy", "unsafe-best-match", *(("--no-index",) if is_offline else ()))
