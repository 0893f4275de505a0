"""A fleet without Ansible: the same modules of the same release, started on a node of the bed by its own Python.

A play takes ten times the processor time of the module that it runs. The journeys, and some tests beside this module,
hold the way through Ansible.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from provisioner.adapters import resources
from provisioner.adapters.ansible.fleet import AnsibleFleet
from provisioner.adapters.ansible.play import HostEvent
from provisioner.adapters.ansible.pynvml_part import pynvml_part
from provisioner.adapters.ansible.settings import Settings
from provisioner.domain.values.event import OnEvent
from tests.lab.node import Node

PROGRAM = "/opt/direct"
PATIENCE = 4.0  # seconds
# Ansible's wrapper of a module sets the same two names.
MAIN = f"""\
import json
import runpy
import sys

sys.path.insert(0, {PROGRAM!r})
from ansible.module_utils import basic

module, arguments = json.load(sys.stdin)
basic._ANSIBLE_ARGS, basic._ANSIBLE_PROFILE = json.dumps({{"ANSIBLE_MODULE_ARGS": arguments}}).encode(), "legacy"
runpy.run_path({PROGRAM!r} + "/library/provisioner_" + module + ".py", run_name="__main__")
"""


class DirectFleet(AnsibleFleet):
    """One node of a lab. The token of its seat is still fetched by Ansible."""

    def __init__(self, inventory: Path, node: Node, on_event: OnEvent) -> None:
        super().__init__(Settings(inventory), on_event)
        self._node = node

    def _play(self, playbook: str, orders: Mapping[str, str], on_host_event: Callable[[HostEvent], None]) -> None:
        (order,) = orders.values()
        event = self._run(playbook, {"order": order})
        on_host_event(event)
        while event.status != "failed" and (job := event.result.get("job")):
            looked = self._run("watch", {"job": job, "patience": PATIENCE})
            if looked.status == "failed" or looked.result["finished"]:
                on_host_event(looked)
                return
            on_host_event(HostEvent(looked.node, "retry", looked.result))

    def _run(self, module: str, arguments: Mapping[str, Any]) -> HostEvent:
        call = ("sh", "-c", f"python3 -I {self._program}/main.py || true")  # a module that fails ends with 1
        result = json.loads(self._node.exec(*call, stdin=json.dumps([module, arguments])))
        return HostEvent(self._node.name, "failed" if result.get("failed") else "ok", result)

    @cached_property
    def _program(self) -> str:
        """Copy the modules and what they import to the node. Returns their folder."""
        ansible = Path(next(iter(import_module("ansible.module_utils").__path__)))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            utils = folder / "ansible/module_utils"
            shutil.copytree(ansible, utils)
            (folder / "ansible/__init__.py").touch()
            shutil.copytree(resources.playbooks() / "module_utils/provisioner", utils / "provisioner")
            (utils / "pynvml.py").write_text(pynvml_part())
            shutil.copytree(resources.playbooks() / "library", folder / "library")
            (folder / "main.py").write_text(MAIN)
            self._node.exec("rm", "-rf", PROGRAM)
            self._node.engine.docker("cp", folder, f"{self._node.container}:{PROGRAM}")
        return PROGRAM
