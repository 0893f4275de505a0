"""The node's own code, as plain Python: what Ansible ships as ansible.module_utils is found there in tests, too."""

import importlib
import sys
from types import ModuleType
from typing import Any

import pynvml
import pytest

from provisioner.adapters import resources


def module_util(name: str) -> ModuleType:
    """The module ROOM.NAME of playbooks/module_utils/provisioner."""
    package: Any = importlib.import_module("ansible.module_utils")
    folder = str(resources.playbooks() / "module_utils")
    if folder not in package.__path__:
        package.__path__.append(folder)
        sys.modules["ansible.module_utils.pynvml"] = pynvml  # travels with the modules at run time
    return importlib.import_module(f"ansible.module_utils.provisioner.{name}")


ProblemError: type[Exception] = module_util("base.problem").ProblemError


def problem(caught: pytest.ExceptionInfo[Exception]) -> dict[str, str]:
    """The problem of the ProblemError that was caught."""
    return dict(vars(caught.value)["problem"])
