"""Download the wheels of the lab image with the pip of this machine and its index configuration.

The build itself needs no package index and no certificate, and a package mirror is configured in one place: in pip.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

from provisioner.adapters.engine.base_image import BaseFacts
from provisioner.domain.values.problem import Problem, ProblemError

_OLDEST_GLIBC = 17  # manylinux2014
_BLOCK = re.compile(r"^(?=[A-Za-z0-9])", re.MULTILINE)  # a requirement and the lines of its hashes
_LINES = 15  # of pip's error output


def select_requirements(lock: str, base: BaseFacts) -> str:
    """Return the requirements of the lock whose markers match the base's Python, without those markers.

    pip evaluates markers for its own Python, even with `--python-version`.
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
    return "".join(_without_marker(block) for block in blocks if _matches(block, target))


def download_wheels(
    requirements: Path, folder: Path, base: BaseFacts, seconds: float = 1800, *, own: Path | None = None
) -> None:
    """Download one wheel for each requirement into `folder`, in `seconds` at most.

    `own`: a folder of wheels beside those of the index, which may not exist. Raises ProblemError with the end of pip's
    output.
    """
    python = ".".join(base.version.split(".")[:2])
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--require-hashes", "--only-binary=:all:", "-r", str(requirements), "-d", str(folder)]
    command += ["--implementation", "cp", "--python-version", python]
    command += [f"--abi={abi}" for abi in (f"cp{python.replace('.', '')}", "abi3", "none")]
    command += [f"--platform={platform}" for platform in platform_tags(base)]
    command += [f"--find-links={own}"] if own is not None and own.is_dir() else []
    # A constraint of this machine's pip limits what is chosen, and this was chosen before.
    environment = {**os.environ, "PIP_CONSTRAINT": os.devnull}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:  # an index that sends a byte now and then keeps pip's own time limits from ending
        raise ProblemError(_no_wheels(base, f"it was stopped after {seconds:g} s")) from None
    if done.returncode:
        raise ProblemError(_no_wheels(base, "\n".join(done.stderr.splitlines()[-_LINES:])))


def _no_wheels(base: BaseFacts, output: str) -> Problem:
    return Problem(
        "no_wheels",
        f"pip could not download wheels for Python {base.version} on {base.machine}:\n{output}",
        "the lab image gets Python packages from wheels that the pip of this machine downloads, by their hashes",
        "configure the package index of this machine, for example `pip config set global.index-url URL`",
    )


def platform_tags(base: BaseFacts) -> list[str]:
    """Return the platform tags of the base, newest first: wheels for an older glibc run with a newer one (PEP 600)."""
    minor = int(base.glibc.split(".")[1])
    return [f"manylinux_2_{number}_{base.machine}" for number in range(minor, _OLDEST_GLIBC - 1, -1)] + [
        f"manylinux2014_{base.machine}"
    ]


def _specifier(block: str) -> str:
    return block.splitlines()[0].removesuffix("\\").strip()


def _matches(block: str, target: dict[str, str]) -> bool:
    marker = Requirement(_specifier(block)).marker
    return marker is None or marker.evaluate(target)


def _without_marker(block: str) -> str:
    return block.replace(_specifier(block), _specifier(block).partition(";")[0].strip(), 1)
