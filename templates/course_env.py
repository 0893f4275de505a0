# ruff: noqa: INP001  (run while the lab image is built)
"""Installs a course's packages beside the base's Python and without changing it: course_env.py ROOT BUILD.

ROOT has the packages, and in bin/ their programs, which run by the student's Python: that of the environment env/
beside ROOT, else the base's. The packages come after those that the student installs, and before the base's. Where
there is no environment, ROOT/provisioner.pth has to be copied into the base's folder of packages.

BUILD holds requirements.txt and wheels/, with a wheel of pip. A line that begins with MARK says why the build failed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

MARK = "provisioner: course: "
# Puts the course's packages before the base's; those of the student are before both already.
PATHS = """\
import site, sys; n = len(sys.path); site.addsitedir({course!r}); p = sys.path[n:]; del sys.path[n:]; \
i = sys.path.index({base!r}) if {base!r} in sys.path else n; sys.path[i:i] = p
"""
# What a course's versions must not break, though it did not ask for it.
KEPT = ("torch", "torchvision", "torchaudio", "triton", "ipykernel")


class CourseError(Exception):
    """The image would not be what the course needs."""


def packages_of(root: Path) -> Path:
    return root / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def install(root: Path, build: Path, pip: Path, python: str) -> None:
    """Install the wheels into ROOT, their programs for the student's `python`."""
    # An environment, while they are installed: so no package of the base counts as installed already.
    venv.EnvBuilder(symlinks=True, with_pip=False).create(root)
    made = list((root / "bin").iterdir())
    offline = ["--no-index", "--no-deps", "--require-hashes", "--no-cache-dir", "--no-warn-script-location"]
    what = ["--find-links", str(build / "wheels"), "-r", str(build / "requirements.txt")]
    # Without the base's settings of pip: some bases (NVIDIA's) hold every version by a constraint.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment["PIP_CONFIG_FILE"] = os.devnull
    command = [str(root / "bin/python"), str(pip / "pip"), "install", *offline, *what]  # pip runs from its own wheel
    if subprocess.run(command, check=False, env=environment).returncode:
        raise CourseError("pip could not install the packages; its own lines are above")
    for path in (*made, root / "pyvenv.cfg"):
        path.unlink()
    own, students = f"#!{root}/bin/python".encode(), f"#!{python}".encode()
    for program in (root / "bin").iterdir():
        line, end, rest = program.read_bytes().partition(b"\n")
        if line.startswith(own):
            program.write_bytes(students + end + rest)
    # The lab's own kernel is the one with torch; Jupyter's Python would run this one.
    shutil.rmtree(root / "share/jupyter/kernels/python3", ignore_errors=True)


def look(course: Path, pip: Path) -> None:
    """Print, as the student's Python, the file of torch, and what packages of the course, torch or Jupyter lack."""
    try:
        import torch  # noqa: PLC0415

        file = torch.__file__
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        file = None
    if importlib.util.find_spec("ipykernel"):
        import ipykernel.kernelapp  # noqa: F401, PLC0415
    sys.path.append(str(pip))
    found = {name_of(each): each for each in importlib.metadata.distributions(path=[str(course)])}
    lacking = [text for each in found.values() for text in unsatisfied(each, set())]
    for name in KEPT:
        try:
            lacking += unsatisfied(importlib.metadata.distribution(name), set(found))
        except importlib.metadata.PackageNotFoundError:
            continue
    print(json.dumps([file, lacking]))  # noqa: T201


def name_of(found: importlib.metadata.Distribution) -> str:
    return re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower()


def unsatisfied(found: importlib.metadata.Distribution, only: set[str]) -> list[str]:
    """Return what a package needs and does not get. `only`: of packages with these names, where there are any."""
    from pip._vendor.packaging.requirements import Requirement  # noqa: PLC0415

    lacking = []
    for need in map(Requirement, found.requires or ()):
        name = re.sub(r"[-_.]+", "-", need.name).lower()
        if (only and name not in only) or (need.marker and not need.marker.evaluate({"extra": ""})):
            continue
        version = version_of(name)
        if version is None or not need.specifier.contains(version, prereleases=True):
            what = f"{found.metadata['Name']} {found.version} needs {need}"
            lacking.append(f"{what}, and the image has {version or 'none'}")
    return lacking


def version_of(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return getattr(sys.modules.get(name), "__version__", None)  # torch without metadata


def check(python: str, root: Path, pip: Path, base: str | None) -> None:
    """Raise CourseError where students import another torch than the `base` did, or a package lacks another."""
    command = [python, __file__, "--look", str(packages_of(root)), str(pip)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise CourseError(f"torch or a notebook does not start with the packages: {done.stderr.strip()[-2000:]}")
    torch, lacking = json.loads(done.stdout.splitlines()[-1])
    if torch != base:
        raise CourseError(f"`import torch` would give {torch}, and not the image's {base}")
    if lacking:
        raise CourseError("\n".join(lacking))


def main(root: Path, build: Path) -> None:
    env = root.parent / "env/bin/python"
    python = str(env) if env.exists() else sys.executable
    torch = importlib.util.find_spec("torch")
    pip = next((build / "wheels").glob("pip-*.whl"))
    install(root, build, pip, python)
    base = sysconfig.get_path("purelib")
    paths = root / "provisioner.pth"
    paths.write_text(PATHS.format(course=str(packages_of(root)), base=base), encoding="utf-8")
    if not env.exists():
        shutil.copy(paths, base)
    check(python, root, pip, None if torch is None else torch.origin)


if __name__ == "__main__":
    if sys.argv[1] == "--look":
        look(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        try:
            main(Path(sys.argv[1]), Path(sys.argv[2]))
        except CourseError as problem:
            sys.exit("\n".join(f"{MARK}{line}" for line in str(problem).splitlines()))
