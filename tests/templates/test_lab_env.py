"""The environment of the lab image, made for real on top of a Python of this machine, with stand-ins for Jupyter."""

import ensurepip
import json
import os
import shutil
import subprocess
import sysconfig
import venv
from collections.abc import Mapping
from pathlib import Path

import pytest

from provisioner.adapters.resources import templates
from tests.made_wheel import a_wheel, locked

KERNEL = json.dumps({"argv": ["python", "-m", "ipykernel_launcher"], "display_name": "Python 3 (ipykernel)"})
JUPYTER = {
    "ipykernel/__init__.py": "def main():\n    import shared\n    print(shared.version)\n",
    "ipykernel/kernelapp.py": "",
    "ipykernel-7.0.data/data/share/jupyter/kernels/python3/kernel.json": KERNEL,
    "ipykernel-7.0.dist-info/entry_points.txt": "[console_scripts]\njupyter = ipykernel:main\n",
}


def pip_wheel() -> Path:
    """Python's own copy; distributions keep it elsewhere."""
    folder = sysconfig.get_config_var("WHEEL_PKG_DIR") or Path(ensurepip.__file__).parent / "_bundled"
    return next(Path(folder).glob("pip-*.whl"))


def packages(env: Path) -> Path:
    return next((env / "lib").glob("python3.*")) / "site-packages"


def make(folder: Path, **modules: str) -> subprocess.CompletedProcess[str]:
    """Runs lab_env.py with a base whose Python is itself an environment, which hides its packages from others.

    `modules` are what the base holds; the result is in the folder's `root`.
    """
    base, build = folder / "base", folder / "build"
    venv.EnvBuilder(symlinks=True, with_pip=False).create(base)
    for name, text in modules.items():
        (packages(base) / f"{name}.py").write_text(text)
    (build / "wheels").mkdir(parents=True)
    pip = Path(shutil.copy(pip_wheel(), build / "wheels"))
    wheels = [pip, a_wheel(build / "wheels", "ipykernel", "7.0", JUPYTER), a_wheel(build / "wheels", "shared", "2.0")]
    (build / "requirements.txt").write_text("".join(map(locked, wheels)))
    # A base may hold every version by a constraint of its own.
    (folder / "constraint.txt").write_text("shared==1.0\n")
    constrained = {**os.environ, "PIP_CONSTRAINT": str(folder / "constraint.txt")}
    command = [str(base / "bin/python3"), str(templates() / "lab_env.py"), str(folder / "root"), str(build)]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=constrained)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    done = make(folder, torch="version = 'base'\n", shared="version = 'base'\n")
    assert done.returncode == 0, done.stderr
    return folder / "root"


@pytest.fixture
def student(tmp_path: Path) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    return {**own, "PYTHONUSERBASE": str(tmp_path / "own"), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}


def said(environment: Mapping[str, str], program: Path, *words: str) -> str:
    done = subprocess.run([str(program), *words], env=environment, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()


WHICH = "import shared; print(shared.version)"


def test_the_bases_packages_come_before_jupyters(root: Path, student: dict[str, str]) -> None:
    assert said(student, root / "env/bin/python", "-c", f"import torch, ipykernel; {WHICH}") == "base"


def test_jupyter_sees_nothing_but_its_own(root: Path, student: dict[str, str]) -> None:
    assert said(student, root / "env/bin/jupyter") == "2.0"
    assert "No module named 'torch'" in said(student, root / "jupyter/bin/python", "-c", "import torch")


def test_kernels_run_where_torch_is(root: Path) -> None:
    kernel = json.loads((root / "jupyter/share/jupyter/kernels/python3/kernel.json").read_text())
    assert kernel["argv"] == [str(root / "env/bin/python"), "-m", "ipykernel_launcher"]


def test_what_a_student_installs_comes_first_and_stays_in_their_own_folder(
    root: Path, student: dict[str, str], tmp_path: Path
) -> None:
    # Root may write everywhere, and pip would not turn to the own folder by itself.
    wheel = a_wheel(tmp_path, "shared", "3.0")
    before = sorted(root.rglob("*.py"))
    assert "Successfully installed shared-3.0" in said(student, root / "env/bin/pip", "install", "--user", str(wheel))
    assert said(student, root / "env/bin/python", "-c", WHICH) == "3.0"
    assert said(student, root / "env/bin/jupyter") == "2.0"
    assert sorted(root.rglob("*.py")) == before


def test_a_base_that_the_kernel_cannot_start_beside_stops_the_build(tmp_path: Path) -> None:
    done = make(tmp_path, ipykernel="raise ImportError('older than what Jupyter needs')\n")
    assert done.returncode != 0
    assert "older than what Jupyter needs" in done.stderr
