"""The versions of NVIDIA's container toolkit, as its own programs report them."""

from __future__ import annotations

import re

from ansible.module_utils.provisioner.base.command import run
from ansible.module_utils.provisioner.base.problem import ProblemError

SECONDS = 10
VERSION = r"([0-9]{1,4}(?:\.[0-9]{1,4}){1,3})"
# Fact -> the program of its package, and the line with its version: "NVIDIA Container Toolkit CLI version 1.17.8",
# "cli-version: 1.17.8" (before 1.8: "version: 1.7.0").
PROGRAMS = {
    "toolkit_version": ("nvidia-ctk", re.compile(rf"CLI version v?{VERSION}")),
    "libnvidia_container_version": ("nvidia-container-cli", re.compile(rf"^(?:cli-)?version: {VERSION}", re.MULTILINE)),
}


def toolkit_versions() -> tuple[dict[str, str | None], dict[str, str]]:
    """Return the version of the toolkit and that of its library, and the reasons for those that are absent."""
    found = {fact: _version(program, pattern) for fact, (program, pattern) in PROGRAMS.items()}
    absent = {fact: f"{PROGRAMS[fact][0]} is not installed, or does not print its version" for fact in found}
    return found, {fact: why for fact, why in absent.items() if found[fact] is None}


def _version(program: str, pattern: re.Pattern[str]) -> str | None:
    try:
        ran = run([program, "--version"], SECONDS)
    except (ProblemError, OSError):  # OSError: a file without permission to run it, or of another machine
        return None
    shown = pattern.search(ran.out) if ran.code == 0 else None
    return shown.group(1) if shown else None
