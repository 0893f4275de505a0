"""The part of pynvml that is sent to nodes."""

import builtins
import dis
import sys
import types
from collections.abc import Iterator

import pynvml
import pytest

from provisioner.adapters.ansible.pynvml_part import part_of, pynvml_part

SOURCE = '''\
# A licence.
"""A module."""
import os
BASE = 1
NVML_ERROR_LOST = 15
UNUSED = 2

def wrapped(function):
    return function

@wrapped
def used():
    return needed(BASE)

def needed(number):
    return number

class Unused:
    pass
'''


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("pynvml_part_of_a_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # pynvml adds its classes of errors to its own module
    exec(pynvml_part(), vars(module))
    return module


def test_part_keeps_licence_imports_errors_and_what_the_wanted_names_need() -> None:
    part = part_of(SOURCE, ["used"])
    assert part.startswith("# A licence.\n")
    assert "@wrapped\ndef used():" in part
    assert "UNUSED" not in part
    names: dict[str, object] = {}
    exec(part, names)
    assert {"os", "BASE", "NVML_ERROR_LOST", "wrapped", "used", "needed"} <= names.keys()
    assert "Unused" not in names


def test_part_has_every_name_that_its_own_code_loads(part: types.ModuleType) -> None:
    missing = {name for name in global_names(compile(pynvml_part(), "", "exec")) if not hasattr(part, name)}
    assert missing - set(dir(builtins)) == set()


def global_names(code: types.CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname in {"LOAD_GLOBAL", "LOAD_NAME"}:
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from global_names(constant)


def test_part_is_small_and_is_pynvml(part: types.ModuleType) -> None:
    assert len(pynvml_part()) < 40_000
    assert part.NVML_ERROR_GPU_IS_LOST == pynvml.NVML_ERROR_GPU_IS_LOST
    assert part.nvmlDeviceGetMemoryInfo.__code__.co_code == pynvml.nvmlDeviceGetMemoryInfo.__code__.co_code
