"""Where the parts of self-service lie on a node, beside what the broker itself keeps there (broker/store.py).

STATE_ROOT/self_service/environments/NAME/VERSION/    document.json; environment.json: its part of the configuration
STATE_ROOT/self_service/environments/NAME/current     -> VERSION, the published one; `previous` -> the one before
STATE_ROOT/self_service/program/                      the broker, see broker/program.py
STATE_ROOT/self_service/program.before/               the one before, until the new one is verified
STATE_ROOT/self_service/config.before.json            the configuration before, likewise
STATE_ROOT/self_service/before.json                   the links before, likewise
STATE_ROOT/self_service/started.json                  how the broker was started, and from which program
STATE_ROOT/self_service/broker.log                    its errors, on a node without systemd
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils.provisioner.base.files import read
from ansible.module_utils.provisioner.broker.config import FOLDER, MAIN_FILE, VERSION, VERSION_FILE

CURRENT, PREVIOUS = "current", "previous"
LINKS = (CURRENT, PREVIOUS)
DOCUMENT, ENVIRONMENT = "document.json", "environment.json"
PLAIN = re.compile(r"/[A-Za-z0-9._/+-]+")  # systemd, cron and a shell may interpret other characters


class Layout(NamedTuple):
    """The paths of self-service below a state root."""

    state_root: str

    @property
    def folder(self) -> Path:
        """The folder of everything else."""
        return Path(self.state_root) / FOLDER

    @property
    def config(self) -> Path:
        """The configuration that the broker reads."""
        return self.folder / "config.json"

    @property
    def config_before(self) -> Path:
        """The configuration before, while the new one is not verified."""
        return self.folder / "config.before.json"

    @property
    def environments(self) -> Path:
        """The folder of all versions of all environments."""
        return self.folder / "environments"

    @property
    def program(self) -> Path:
        """The folder of the program."""
        return self.folder / "program"

    @property
    def program_before(self) -> Path:
        """The folder of the program before, while the new one is not verified."""
        return self.folder / "program.before"

    @property
    def main(self) -> Path:
        """The main file of the program."""
        return self.program / MAIN_FILE

    @property
    def log(self) -> Path:
        """Where the broker writes its errors on a node without systemd."""
        return self.folder / "broker.log"

    def make_folder(self) -> None:
        """Make the folder, for root only, whatever has made it before. Raises OSError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the content of a file of the folder, empty where there is none that is whole."""
        try:
            found = json.loads(read(self.folder / name))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def program_version(self) -> str:
        """Return the version of the program, empty where it is not known."""
        return read(self.program / VERSION_FILE).strip()

    def names(self) -> list[str]:
        """Return the names of all environments of which there is a folder."""
        return sorted(path.name for path in self.environments.glob("*") if path.is_dir())

    def versions(self, name: str) -> list[str]:
        """Return the versions of an environment that are on the node."""
        folder = self.environments / name
        return sorted(path.name for path in folder.glob("*") if VERSION.fullmatch(path.name) and not path.is_symlink())

    def link(self, name: str, link: str) -> str:
        """Return the version that a link of an environment names, empty without one."""
        try:
            return os.readlink(str(self.environments / name / link))
        except OSError:
            return ""

    def image(self, name: str, version: str) -> str:
        """Return the reference of the image of a version, empty where it cannot be read."""
        try:
            return str(json.loads(read(self.environments / name / version / ENVIRONMENT))["image"]["reference"])
        except (ValueError, KeyError, TypeError):
            return ""
