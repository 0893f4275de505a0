"""The wheels of the lab image, downloaded by this machine's own pip with its own index configuration.

So the build itself asks no index and needs no certificate, and a lab's mirror setting is written in one place: pip's.
"""

import re
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

from provisioner.adapters.engine.base_image import BaseFacts
from provisioner.domain.values.problem import Problem, ProblemError

_OLDEST_GLIBC = 17  # manylinux2014
_BLOCK = re.compile(r"^(?=[A-Za-z0-9])", re.MULTILINE)  # a requirement, with its hashes below it
_LINES = 15


def requirements_for(lock: str, base: BaseFacts) -> str:
    """The part of the lock that holds for the base's Python.

    pip would hold the markers against its own Python, whatever `--python-version` says.
    """
    target = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": base.machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": base.version,
        "python_version": ".".join(base.version.split(".")[:2]),
        "sys_platform": "linux",
    }
    blocks = [block for block in _BLOCK.split(lock) if block and not block.startswith("#")]
    return "".join(_without_marker(block) for block in blocks if _holds(block, target))


def download(requirements: Path, folder: Path, base: BaseFacts) -> None:
    """Fills `folder` with one wheel for each requirement. Raises ProblemError with the end of what pip said."""
    python = ".".join(base.version.split(".")[:2])
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--require-hashes", "--only-binary=:all:", "-r", str(requirements), "-d", str(folder)]
    command += ["--implementation", "cp", "--python-version", python]
    command += [f"--abi={abi}" for abi in (f"cp{python.replace('.', '')}", "abi3", "none")]
    command += [f"--platform={platform}" for platform in platforms(base)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProblemError(_no_wheels(base, "\n".join(done.stderr.splitlines()[-_LINES:])))


def platforms(base: BaseFacts) -> list[str]:
    """Newest first; a wheel for an older C library runs with a newer one (PEP 600)."""
    minor = int(base.glibc.split(".")[1])
    return [f"manylinux_2_{number}_{base.machine}" for number in range(minor, _OLDEST_GLIBC - 1, -1)] + [
        f"manylinux2014_{base.machine}"
    ]


def _first(block: str) -> str:
    return block.splitlines()[0].removesuffix("\\").strip()


def _holds(block: str, target: dict[str, str]) -> bool:
    marker = Requirement(_first(block)).marker
    return marker is None or marker.evaluate(target)


def _without_marker(block: str) -> str:
    return block.replace(_first(block), _first(block).partition(";")[0].strip(), 1)


def _no_wheels(base: BaseFacts, said: str) -> Problem:
    return Problem(
        "no_wheels",
        f"pip could not download Jupyter for Python {base.version} on {base.machine}:\n{said}",
        "the lab image gets Jupyter from wheels that this machine's own pip downloads",
        "set this machine's package index, for example `pip config set global.index-url URL`, and try again",
    )
