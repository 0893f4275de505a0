"""course_env.py installs a course's packages beside a base, here a virtual environment of a Python of this machine."""

import json
import shutil
import subprocess
import venv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from provisioner.adapters.resources import templates
from tests.made_wheel import a_wheel, locked
from tests.templates.test_lab_env import output, packages, pip_wheel, student

__all__ = ["student"]
TORCH = "__version__ = '2.8.0+cu128'\n"
MARK = "provisioner: course: "


@dataclass
class Base:
    """A base with torch and `shared`, whose students use `env`, or the base's own Python."""

    root: Path
    build: Path

    @property
    def base(self) -> Path:
        return self.root / "base"

    @property
    def env(self) -> Path:
        return self.root / "env"

    @property
    def course(self) -> Path:
        return self.root / "course"

    def add(self, name: str, version: str = "2.0", files: Mapping[str, str] = {}, needs: tuple[str, ...] = ()) -> None:
        content = {path.replace("__", "/"): text for path, text in files.items()} or None
        wheel = a_wheel(self.build / "wheels", name, version, content, needs=needs)
        with (self.build / "requirements.txt").open("a") as file:
            file.write(locked(wheel))

    def installed(self) -> subprocess.CompletedProcess[str]:
        command = [
            str(self.base / "bin/python3"),
            str(templates() / "course_env.py"),
            str(self.course),
            str(self.build),
        ]
        return subprocess.run(command, check=False, capture_output=True, text=True)

    def reasons(self) -> list[str]:
        done = self.installed()
        assert done.returncode != 0
        return [line.removeprefix(MARK) for line in done.stderr.splitlines() if line.startswith(MARK)]


@pytest.fixture
def base(tmp_path: Path) -> Base:
    """A base with a Jupyter of its own."""
    found = Base(tmp_path / "opt", tmp_path / "build")
    venv.EnvBuilder(symlinks=True, with_pip=False).create(found.base)
    (packages(found.base) / "torch.py").write_text(TORCH)
    (packages(found.base) / "shared.py").write_text("version = 'base'\n")
    (found.build / "wheels").mkdir(parents=True)
    shutil.copy(pip_wheel(), found.build / "wheels")
    (found.build / "requirements.txt").touch()
    return found


@pytest.fixture
def with_env(base: Base) -> Base:
    """A base for which lab_env.py has made an environment: of that, the paths alone."""
    venv.EnvBuilder(symlinks=True, with_pip=False).create(base.env)
    lines = (templates() / "lab_env.py").read_text().partition('PATHS = """\\\n')[2].partition('"""')[0]
    text = lines.format(course=str(packages_of(base.course)), others=packages(base.base))
    (packages(base.env) / "provisioner.pth").write_text(text)
    return base


def packages_of(root: Path) -> Path:
    return root / "lib" / packages(root.parent / "base").parent.name / "site-packages"


SHOW = "import shared, torch; print(shared.version, torch.__version__)"
TOOL = {
    "tool.py": "import sys\ndef main(): print(sys.executable)\n",
    "tool-1.0.dist-info__entry_points.txt": "[console_scripts]\ntool = tool:main\n",
    "tool-1.0.data__data__share__jupyter__kernels__python3__kernel.json": json.dumps({"argv": ["python"]}),
    "tool-1.0.data__data__share__jupyter__labextensions__tool__x.js": "1",
}


def test_the_course_comes_before_the_base_and_after_the_student(with_env: Base, student: dict[str, str]) -> None:
    with_env.add("shared")
    with_env.add("tool", "1.0", TOOL)
    done = with_env.installed()
    assert done.returncode == 0, done.stderr
    python = with_env.env / "bin/python"
    assert output(student, python, "-c", SHOW) == "2.0 2.8.0+cu128"
    own = Path(output(student, python, "-c", "import site; print(site.getusersitepackages())"))
    own.mkdir(parents=True)
    (own / "shared.py").write_text("version = 'own'\n")
    assert output(student, python, "-c", SHOW) == "own 2.8.0+cu128"
    assert output(student, with_env.base / "bin/python3", "-c", SHOW) == "base 2.8.0+cu128"
    # Programs run by the student's Python, and no other Python is left.
    assert [path.name for path in (with_env.course / "bin").iterdir()] == ["tool"]
    assert output(student, with_env.course / "bin/tool") == str(python)
    assert not (with_env.course / "pyvenv.cfg").exists()
    # A kernel of the course does not take the place of the lab's; an extension of JupyterLab stays.
    assert not list(with_env.course.rglob("kernel.json"))
    assert (with_env.course / "share/jupyter/labextensions/tool/x.js").exists()


def test_in_a_base_with_its_own_jupyter_the_order_is_the_same(base: Base, student: dict[str, str]) -> None:
    base.add("shared")
    assert base.installed().returncode == 0
    # The final stage copies this file into the base's folder of packages; this stage has done so for its check.
    assert (packages(base.base) / "provisioner.pth").read_text() == (base.course / "provisioner.pth").read_text()
    python = base.base / "bin/python3"
    assert output(student, python, "-c", SHOW) == "2.0 2.8.0+cu128"


def another_torch(base: Base) -> None:
    base.add("evil", "1.0", {"torch.py": "__version__ = '9.9'\n"})


def lacking(base: Base) -> None:
    base.add("tool", "1.0", needs=("absent>=3", "shared>=2", 'never ; extra == "x"', "torch>=2.6"))


def too_old_for_torch(base: Base) -> None:
    info = packages(base.base) / "torch-2.8.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.8.0\nRequires-Dist: shared>=3\n")
    base.add("shared")


def breaks_torch(base: Base) -> None:
    (packages(base.base) / "torch.py").write_text(f"import shared\n{TORCH}assert shared.version == 'base'\n")
    base.add("shared")


def changed_wheel(base: Base) -> None:
    base.add("shared")
    a_wheel(base.build / "wheels", "shared", "2.0", {"shared.py": "version = 'another'\n"})


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (another_torch, "`import torch` would give"),
        (lacking, "tool 1.0 needs absent>=3, and the image has none"),
        (too_old_for_torch, "torch 2.8.0 needs shared>=3, and the image has 2.0"),
        (breaks_torch, "AssertionError"),
        (changed_wheel, "pip could not install the packages"),
    ],
)
def test_an_image_that_would_not_work_is_refused_with_the_reason(
    with_env: Base, spoil: Callable[[Base], None], expected: str
) -> None:
    spoil(with_env)
    assert expected in "\n".join(with_env.reasons())
