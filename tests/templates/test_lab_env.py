"""lab_env.py creates the environment of the lab image, here on a Python of this machine with fake Jupyter packages."""

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
NVITOP = {"nvitop/__init__.py": "", "nvitop/cli.py": "def main():\n    import shared\n    print(shared.version)\n"}


def pip_wheel() -> Path:
    """Return the pip wheel that comes with Python; distributions keep it in another folder."""
    folder = sysconfig.get_config_var("WHEEL_PKG_DIR") or Path(ensurepip.__file__).parent / "_bundled"
    return next(Path(folder).glob("pip-*.whl"))


def packages(env: Path) -> Path:
    return next((env / "lib").glob("python3.*")) / "site-packages"


def make(folder: Path, *, with_pip: bool = True, **modules: str) -> subprocess.CompletedProcess[str]:
    """Run lab_env.py on a base whose Python is a virtual environment, which hides its packages from others.

    `modules`: source of the modules in the base. The result is in `folder`/root. To install pip takes half the time.
    """
    base, build = folder / "base", folder / "build"
    venv.EnvBuilder(symlinks=True, with_pip=False).create(base)
    for name, text in modules.items():
        (packages(base) / f"{name}.py").write_text(text)
    (build / "wheels").mkdir(parents=True)
    shutil.copy(templates() / "provisioner_matplotlib.py", build)
    pip = Path(shutil.copy(pip_wheel(), build / "wheels"))
    wheels = [a_wheel(build / "wheels", "ipykernel", "7.0", JUPYTER), a_wheel(build / "wheels", "shared", "2.0")]
    wheels += [a_wheel(build / "wheels", "nvitop", "1.7", NVITOP)]
    (build / "requirements.txt").write_text("".join(map(locked, [pip, *wheels] if with_pip else wheels)))
    # A base may pin versions with its own constraint file.
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
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    return {**env, "PYTHONUSERBASE": str(tmp_path / "own"), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}


def output(environment: Mapping[str, str], program: Path, *words: str) -> str:
    done = subprocess.run([str(program), *words], env=environment, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()


SHARED_VERSION = "import shared; print(shared.version)"


def test_packages_of_the_base_take_precedence_over_jupyters(root: Path, student: dict[str, str]) -> None:
    assert output(student, root / "env/bin/python", "-c", f"import torch, ipykernel; {SHARED_VERSION}") == "base"


def test_jupyter_imports_only_its_own_packages(root: Path, student: dict[str, str]) -> None:
    assert output(student, root / "env/bin/jupyter") == "2.0"
    assert "No module named 'torch'" in output(student, root / "jupyter/bin/python", "-c", "import torch")


def test_nvitop_runs_on_jupyters_packages_and_is_none_of_a_students(root: Path, student: dict[str, str]) -> None:
    assert output(student, root / "env/bin/nvitop") == "2.0"
    assert "nvitop" not in output(student, root / "env/bin/pip", "list")
    assert "No module named 'nvitop'" in output(student, root / "env/bin/python", "-c", "import nvitop")


def test_kernels_run_in_the_environment_with_torch(root: Path) -> None:
    kernel = json.loads((root / "jupyter/share/jupyter/kernels/python3/kernel.json").read_text())
    assert kernel["argv"] == [str(root / "env/bin/python"), "-m", "ipykernel_launcher"]


def test_packages_of_a_student_take_precedence_and_stay_in_their_folder(
    root: Path, student: dict[str, str], tmp_path: Path
) -> None:
    # --user is needed here: these tests may run as root, for whom pip would install into the image.
    wheel = a_wheel(tmp_path, "shared", "3.0")
    before = sorted(root.rglob("*.py"))
    assert "Successfully installed shared-3.0" in output(student, root / "env/bin/pip", "install", "--user", str(wheel))
    assert output(student, root / "env/bin/python", "-c", SHARED_VERSION) == "3.0"
    assert output(student, root / "env/bin/jupyter") == "2.0"
    assert sorted(root.rglob("*.py")) == before


def test_a_base_in_which_the_kernel_cannot_start_fails_the_build(tmp_path: Path) -> None:
    done = make(tmp_path, with_pip=False, ipykernel="raise ImportError('older than what Jupyter needs')\n")
    assert done.returncode != 0
    assert "older than what Jupyter needs" in done.stderr
