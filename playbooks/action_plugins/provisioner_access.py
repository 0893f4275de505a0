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
        dest = self._task.args["dest"]
        tokens = self._run_module(task_vars).get("tokens")
        if not isinstance(tokens, list):
            return {"failed": True, "msg": "the node returned no tokens"}
        for number, token in enumerate(tokens):
            if isinstance(token, str):
                _write(f"{dest}.{number}.token", token[:LONGEST])
        return {"changed": False}

    def _run_module(self, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Run the module as any other, by the action plugin `normal` with its limits, and return its result."""
        task = self._task.copy()
        task.action, task.args = "provisioner_tokens", {"order": self._task.args["order"]}
        loaders = self._shared_loader_obj
        normal = loaders.action_loader.get(
            "ansible.legacy.normal",
            task=task,
            connection=self._connection,
            play_context=self._play_context,
            loader=self._loader,
            templar=self._templar,
            shared_loader_obj=loaders,
        )
        return dict(normal.run(task_vars=task_vars))


def _write(path: str, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
