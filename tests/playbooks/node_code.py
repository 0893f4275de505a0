"""The node code for tests: importable as ansible.module_utils, under the name by which Ansible ships it."""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pynvml

from provisioner.adapters import resources

if TYPE_CHECKING:  # controllers import this module, and pytest would be a quarter of the time that they take to start
    import pytest


def module_util(name: str) -> ModuleType:
    """Return the module ROOM.NAME of playbooks/module_utils/provisioner."""
    package: Any = importlib.import_module("ansible.module_utils")
    folder = str(resources.playbooks() / "module_utils")
    if folder not in package.__path__:
        package.__path__.append(folder)
        sys.modules["ansible.module_utils.pynvml"] = pynvml  # shipped with the modules at run time
    return importlib.import_module(f"ansible.module_utils.provisioner.{name}")


ProblemError: type[Exception] = module_util("base.problem").ProblemError


def problem(caught: "pytest.ExceptionInfo[Exception]") -> dict[str, str]:
    """Return the problem of the ProblemError that was caught."""
    return dict(vars(caught.value)["problem"])
