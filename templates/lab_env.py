# ruff: noqa: INP001  (run while the lab image is built)
"""Makes, beside the base's Python and without changing it, what students work with: lab_env.py ROOT BUILD.

ROOT/jupyter is JupyterLab's own environment: it sees no other package, so nothing that a student installs stops it.
ROOT/env is where `python`, `pip` and kernels come from. It holds no package. It sees, in this order, what the student
has installed, the packages of the course in ROOT/course, the base's (torch) and, last, those of ROOT/jupyter, for
ipykernel's sake. As it is an environment, pip works in it where the base's Python is externally managed (PEP 668), and
installs into the student's own folder; as it holds no package, pip never finds that one of its own would hide what a
student wants.

ROOT/jupyter/apart is what only a program needs, run by Jupyter's Python: people do not see it among their packages.

BUILD holds requirements.txt, wheels/ and provisioner_matplotlib.py, which every Python of ROOT/env runs at its start.
"""

from __future__ import annotations

import json
import os
import py_compile
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

# Lines of a .pth file come before a student's own packages; the first one puts those before the others again.
PATHS = """\
import os, site; p = site.getusersitepackages(); site.check_enableusersite() and os.path.isdir(p) and site.addsitedir(p)
import os, site; p = {course!r}; os.path.isdir(p) and site.addsitedir(p)
{others}
"""
PROGRAM = """\
#!{python}
import runpy
runpy.run_module("{module}", run_name="__main__", alter_sys=True)
"""
PROGRAMS = {"pip": "pip", "pip3": "pip", "ipython": "IPython"}
APART = ("nvitop", "nvidia-ml-py")
NVITOP = """\
#!{python} -I
import sys
sys.path.append("{apart}")
from nvitop.cli import main
sys.exit(main())
"""
# As etc/jupyter/FILE of Jupyter's environment; a person's own settings in ~/.jupyter come before them.
SETTINGS = {
    "jupyter_config.json": {
        "LabApp": {
            "news_url": None,
            "check_for_updates_class": "jupyterlab.handlers.announcements.NeverCheckForUpdate",
        }
    },
    "labconfig/page_config.json": {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}},
}


def packages_of(env: Path) -> Path:
    return env / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def make_jupyter(env: Path, build: Path) -> None:
    venv.EnvBuilder(symlinks=True, with_pip=False).create(env)
    wheels = build / "wheels"
    pip = next(wheels.glob("pip-*.whl")) / "pip"  # pip runs from its own wheel
    offline = ["--no-index", "--no-deps", "--require-hashes", "--no-cache-dir", "--no-warn-script-location"]
    text = (build / "requirements.txt").read_text(encoding="utf-8")
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)
    apart = [block for block in blocks if block.startswith(tuple(f"{name}==" for name in APART))]
    # Without the base's settings of pip: some bases (NVIDIA's) hold every version by a constraint.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment["PIP_CONFIG_FILE"] = os.devnull
    install = [str(env / "bin/python"), str(pip), "install", *offline, "--find-links", str(wheels)]
    for wanted, where in (([block for block in blocks if block not in apart], []), (apart, ["-t", str(env / "apart")])):
        if wanted:
            requirements = build / "wanted.txt"
            requirements.write_text("".join(wanted), encoding="utf-8")
            subprocess.run([*install, *where, "-r", str(requirements)], check=True, env=environment)


def write_settings(jupyter: Path) -> None:
    for name, content in SETTINGS.items():
        path = jupyter / "etc/jupyter" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def write_program(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def add_module(module: Path, packages: Path) -> None:
    """Import a module at each start of Python. Without its bytecode, which people cannot write, that takes longer."""
    py_compile.compile(shutil.copy(module, packages), doraise=True)
    (packages / f"{module.stem}.pth").write_text(f"import {module.stem}\n", encoding="utf-8")


def make_env(env: Path, jupyter: Path) -> None:
    venv.EnvBuilder(system_site_packages=True, symlinks=True, with_pip=False).create(env)
    base = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    paths = dict.fromkeys([*base, str(packages_of(jupyter))])
    text = PATHS.format(course=str(packages_of(env.parent / "course")), others="\n".join(paths))
    (packages_of(env) / "provisioner.pth").write_text(text, encoding="utf-8")
    for name, module in PROGRAMS.items():
        write_program(env / "bin" / name, PROGRAM.format(python=env / "bin/python", module=module))
    write_program(env / "bin/nvitop", NVITOP.format(python=jupyter / "bin/python", apart=jupyter / "apart"))
    (env / "bin/jupyter").symlink_to(jupyter / "bin/jupyter")


def make_kernel(env: Path, jupyter: Path) -> None:
    path = jupyter / "share/jupyter/kernels/python3/kernel.json"
    kernel = json.loads(path.read_text(encoding="utf-8"))
    kernel["argv"][0] = str(env / "bin/python")
    kernel["display_name"] = "Python 3"
    path.write_text(json.dumps(kernel, indent=1), encoding="utf-8")
    # The base's packages come before Jupyter's: better that the build stops than every student's first notebook.
    subprocess.run([str(env / "bin/python"), "-c", "import ipykernel.kernelapp"], check=True)


def main(root: Path, build: Path) -> None:
    env, jupyter = root / "env", root / "jupyter"
    make_jupyter(jupyter, build)
    write_settings(jupyter)
    make_env(env, jupyter)
    add_module(build / "provisioner_matplotlib.py", packages_of(env))
    make_kernel(env, jupyter)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
