"""The logins of this control machine for pushes to registries that `provision prepare` set up, in its state folder.

The registry's host has only a hash of each password. A login that is lost is replaced by the next `provision prepare`.
"""

import hashlib
import json
from base64 import b64encode
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from provisioner.adapters.state.files import state_home, write_text
from provisioner.domain.values.model import Document

PUSH_LOGIN_SCHEMA: Literal["provisioner/push-login/1"] = "provisioner/push-login/1"
_FOLDER = "push_logins"  # no lab can have this name: its records lie in the same state folder
_MAX_BYTES = 1 << 16


class PushLogin(Document):
    """The login for the registry that nodes read at `registry`. `address`: where it takes pushes.

    `entry`: the line of the registry's htpasswd file, with a hash of the password.
    """

    schema_: Literal["provisioner/push-login/1"] = Field(default=PUSH_LOGIN_SCHEMA, alias="schema")
    registry: str
    address: str
    user: str
    password: str = Field(repr=False)
    entry: str

    def docker_config(self) -> str:
        """Return a configuration of Docker that holds this login."""
        token = b64encode(f"{self.user}:{self.password}".encode()).decode()
        return json.dumps({"auths": {self.address: {"auth": token}}})


class PushLogins:
    """One file a registry, mode 0600."""

    def __init__(self, folder: Path | None = None) -> None:
        """Use `folder`, by default the one below the user's state folder."""
        self._folder = folder or state_home() / _FOLDER

    def find(self, registry: str) -> PushLogin | None:
        """Return the login for a registry, None if there is none or the file is damaged."""
        try:
            with self._path(registry).open("rb") as file:
                found = PushLogin.model_validate_json(file.read(_MAX_BYTES))
        except (OSError, ValidationError):
            return None
        return found if found.registry == registry else None

    def save(self, login: PushLogin) -> None:
        """Write a login in place of an older one. Raises ProblemError (`unwritable`)."""
        write_text(self._path(login.registry), login.model_dump_json(indent=2) + "\n", mode=0o600)

    def _path(self, registry: str) -> Path:
        return self._folder / f"{hashlib.sha256(registry.encode()).hexdigest()[:32]}.json"
