"""Run each module under a limit of memory: Ansible keeps what a node prints, and a node can print without end.

It stands in for Ansible's own action plugin of this name, which runs every module that has none of its own. The limit
is that of the worker process, of which Ansible starts one for each task on each node: it ends that task alone.
"""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

WORKING_BYTES = 64 << 20  # to pack the module, and to read its result
MOST_BYTES = 700_000  # of a result: ansible-runner passes no more on
_limited = False


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible is not typed
    """Runs the module that the task names."""

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the result of the module, or a failure where the node printed more than any valid result has."""
        super().run(tmp, task_vars)
        if self._connection.transport != "local":  # a job on this machine would inherit the limit
            _limit_memory()
        try:
            result: dict[str, Any] = self._execute_module(task_vars=task_vars)
            size = len(json.dumps(result, default=str))
        except MemoryError:
            return _too_long("more than Ansible may keep in memory for it")
        self._remove_tmp_path(self._connection._shell.tmpdir)  # noqa: SLF001  (as Ansible's own plugin)
        return result if size <= MOST_BYTES else _too_long(f"{size / 1e6:.1f} MB")


def _too_long(size: str) -> dict[str, Any]:
    return {"failed": True, "msg": f"the node printed {size}; a valid result has at most {MOST_BYTES / 1e6} MB"}


def _limit_memory() -> None:
    """Limit the memory of this process, in which all tries of a task run, to WORKING_BYTES more than it has now."""
    global _limited  # noqa: PLW0603  (of this process)
    if _limited:
        return
    _limited = True
    held = _held_bytes()
    if held is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    given = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([held + WORKING_BYTES, *given]), hard))


def _held_bytes() -> int | None:
    """Return the bytes that count for RLIMIT_DATA (proc_pid_status(5), VmData), None where the kernel does not say."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:")), None)
