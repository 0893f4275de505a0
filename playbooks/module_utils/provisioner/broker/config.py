"""What the admin has published: who may have which GPUs for how long, and the environments.

STATE_ROOT/self_service/config.json                            written by the control machine, root only
STATE_ROOT/self_service/environments/NAME/VERSION/document.json    what the files of a seat are filled from
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Iterable, NamedTuple

from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.broker.request import ENVIRONMENT
from ansible.module_utils.provisioner.lease.requests import HOUR_S
from ansible.module_utils.provisioner.lease.state import Terms

SCHEMA = "provisioner/self_service/1"
FOLDER = "self_service"
LOCK_FILE = "broker.lock"  # held by the broker while it runs; its text is the pid
MAIN_FILE, VERSION_FILE = "broker.py", "version"  # of the program
STUDENT = "student"
VERSION = re.compile(r"[0-9a-f]{12}")
LAB = re.compile(r"[a-z][a-z0-9-]*")
DAY = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})?")


class Group(NamedTuple):
    """The ceilings of a group. `unix`: the unix group whose members are in it, None for no such rule."""

    name: str
    unix: str | None
    gpus: int
    hours: float
    terms: Terms
    environments: tuple[str, ...]
    limits: dict[str, Any]
    disk: int | None


class Environment(NamedTuple):
    """A published environment; `image`, `registry` and `deadlines` are those of an order."""

    name: str
    version: str
    torch: str
    image: dict[str, Any]
    registry: dict[str, Any]
    deadlines: dict[str, Any]
    start_interval: bool


class Config(NamedTuple):
    """The whole configuration. `ports`: the first and the last one. `homes`: the folder of all homes.

    `term_ends`: a day (YYYY-MM-DD), empty for none.
    """

    lab: str
    node: str
    unix_group: str
    show_names: bool
    pool: tuple[str, ...]
    ports: tuple[int, int]
    subnets: tuple[str, ...]
    homes: str
    binds: dict[str, str]
    term_ends: str
    groups: tuple[Group, ...]
    environments: dict[str, Environment]

    def group_of(self, unix_groups: Iterable[str]) -> Group | None:
        """Return the first group with one of these unix groups, else that of students, None if there is neither."""
        names = set(unix_groups)
        found = next((group for group in self.groups if group.unix in names), None)
        return found or next((group for group in self.groups if group.name == STUDENT), None)


class ConfigFile:
    """The file of the configuration, which is read again whenever it has been replaced."""

    def __init__(self, state_root: str) -> None:
        """Nothing is read yet."""
        self._folder = Path(state_root) / FOLDER
        self._stamp: tuple[int, ...] = ()
        self._config: Config | None = None

    def read(self) -> Config:
        """Return the configuration. Raises ProblemError `self_service_config` when there is none that is whole."""
        path = self._folder / "config.json"
        try:
            found = path.stat()
            stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
            if self._config is None or stamp != self._stamp:
                self._config, self._stamp = None, stamp
                self._config = parse_config(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            self._config = None
            raise _no_config(f"{path}: {error!r}") from None
        return self._config

    def pool(self) -> tuple[str, ...]:
        """Return the GPUs that may be leased now, none without a configuration."""
        try:
            return self.read().pool
        except ProblemError:
            return ()

    def document(self, environment: Environment) -> dict[str, Any]:
        """Return the document of an environment. Raises ProblemError `environment_damaged`."""
        path = self._folder / "environments" / environment.name / environment.version / "document.json"
        try:
            document = json.loads(path.read_text())
            digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
            files = document["files"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise _damaged(environment, repr(error)) from None
        if not digest.startswith(environment.version) or not isinstance(files, dict):
            raise _damaged(environment, "its content is not that of its version")
        return dict(document)


def parse_config(found: Any) -> Config:
    """Return the configuration from its JSON form. Raises ValueError, TypeError, KeyError or AttributeError."""
    if found["schema"] != SCHEMA:
        raise ValueError(f"its schema is {found['schema']!r}")
    config = Config(
        lab=_fitting(LAB, found["lab"]),
        node=str(found["node"]),
        unix_group=str(found["unix_group"]),
        show_names=found["show_names"] is True,
        pool=tuple(map(str, found["pool"])),
        ports=(int(found["ports"]["first"]), int(found["ports"]["last"])),
        subnets=tuple(map(str, found["subnets"])),
        homes=str(found["homes"]),
        binds={service: str(found["binds"][service]) for service in ("ssh", "jupyter")},
        term_ends=_fitting(DAY, found["term_ends"] or ""),
        groups=tuple(_group(str(name), found["groups"][name]) for name in found.get("order") or found["groups"]),
        environments={name: _environment(name, one) for name, one in found["environments"].items()},
    )
    if len(set(config.pool)) != len(config.pool):
        raise ValueError("a GPU is twice in its pool")
    return config


def _group(name: str, found: dict[str, Any]) -> Group:
    hours = float(found["hours"])
    terms = Terms(hours * HOUR_S, float(found["idle_hours"] or 0) * HOUR_S, float(found["grace_minutes"]) * 60)
    return Group(
        name=name,
        unix=found["unix"],
        gpus=int(found["gpus"]),
        hours=hours,
        terms=terms,
        environments=tuple(map(str, found["environments"])),
        limits=dict(found["limits"]),
        disk=found["disk"],
    )


def _environment(name: str, found: dict[str, Any]) -> Environment:
    return Environment(
        name=_fitting(ENVIRONMENT, name),
        version=_fitting(VERSION, found["version"]),
        torch=str(found["torch"]),
        image=dict(found["image"]),
        registry=dict(found["registry"]),
        deadlines=dict(found["deadlines"]),
        start_interval=bool(found["start_interval"]),
    )


def _fitting(rule: re.Pattern[str], text: str) -> str:
    if not rule.fullmatch(text):
        raise ValueError(f"{text!r} is not allowed")
    return text


def _no_config(what: str) -> ProblemError:
    return ProblemError(
        "self_service_config",
        f"the configuration of self-service cannot be read: {what}",
        "it says who may have which GPUs; seats that run go on, and their leases end as before",
        "ask the admin of the lab to run `provision rollout`",
    )


def _damaged(environment: Environment, why: str) -> ProblemError:
    return ProblemError(
        "environment_damaged",
        f"the environment {environment.name} ({environment.version}) cannot be read on the node: {why}",
        "seats are made from its document",
        "ask the admin of the lab to run `provision rollout`",
    )
