"""Fetches the tokens of all seats of a node at once, into files: no argument, result or log contains a token.

Ansible's own `fetch` runs two modules for each file, which takes minutes for sixty seats.
"""

from __future__ import annotations

import os
from typing import Any

from ansible.plugins.action import ActionBase

LONGEST = 513  # characters of a token: one more than is valid


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible is not typed
    """Writes DEST.N.token for the N-th of the files that the order names, unless the node cannot read it."""

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return whether the node answered. The task has `order`, for the module, and `dest`."""
        super().run(tmp, task_vars)
        arguments = self._task.args
        asked = {"order": arguments["order"]}
        found = self._execute_module(module_name="provisioner_tokens", module_args=asked, task_vars=task_vars)
        self._remove_tmp_path(self._connection._shell.tmpdir)  # noqa: SLF001  (as Ansible's own plugins)
        tokens = found.get("tokens")
        if not isinstance(tokens, list):
            return {"failed": True, "msg": "the node returned no tokens"}
        for number, token in enumerate(tokens):
            if isinstance(token, str):
                _write(f"{arguments['dest']}.{number}.token", token[:LONGEST])
        return {"changed": False}


def _write(path: str, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
