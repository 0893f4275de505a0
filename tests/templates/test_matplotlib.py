"""Which matplotlibrc is read with the lab's module: that of people always comes first. With the real matplotlib."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from provisioner.adapters.resources import templates
from tests.made_wheel import install_wheels

pytestmark = pytest.mark.lab  # it asks a package index

PRINT = "import matplotlib; print(matplotlib.matplotlib_fname()); print(matplotlib.rcParams['figure.dpi'])"
# Place below the folder of the test -> the figure.dpi that the file there sets.
LAB, OWN, XDG, MPL, HERE, NAMED = (
    "lab/matplotlibrc",
    "home/.config/matplotlib/matplotlibrc",
    "xdg/matplotlib/matplotlibrc",
    "cache/matplotlibrc",
    "work/matplotlibrc",
    "named",
)
SEAT = {"MPLCONFIGDIR": "cache"}  # as a seat sets it, for each base image


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with matplotlib, and the module as `sitecustomize`, which every start of Python imports."""
    return install_wheels(tmp_path_factory.mktemp("packages"), "matplotlib")


def read(folder: Path, packages: Path, files: list[str], variables: Mapping[str, str]) -> tuple[Path, str]:
    """Return the file that matplotlib has read, and its figure.dpi."""
    for place in ("home", "work", "cache", "site"):
        (folder / place).mkdir()
    for number, name in enumerate(files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"figure.dpi: {200 + number}\n")
    module = (templates() / "provisioner_matplotlib.py").read_text()
    assert "/opt/provisioner/matplotlib/matplotlibrc" in module
    text = module.replace("/opt/provisioner/matplotlib/matplotlibrc", str(folder / LAB))
    (folder / "site/sitecustomize.py").write_text(text)
    base = {name: value for name, value in os.environ.items() if not name.startswith(("MPL", "MATPLOTLIB", "XDG"))}
    own = {name: str(folder / value) for name, value in variables.items()}
    env = {**base, **own, "HOME": str(folder / "home"), "PYTHONPATH": f"{folder / 'site'}:{packages}"}
    command = [sys.executable, "-c", PRINT]
    done = subprocess.run(command, cwd=folder / "work", env=env, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    file, dpi = done.stdout.splitlines()
    return Path(file), dpi


@pytest.mark.parametrize(
    ("files", "variables", "expected"),
    [
        ([LAB], {}, LAB),
        ([LAB], SEAT, LAB),
        ([LAB, OWN], {}, OWN),
        ([LAB, OWN], SEAT, OWN),
        ([LAB, OWN, MPL], SEAT, MPL),
        ([LAB, OWN, XDG], {**SEAT, "XDG_CONFIG_HOME": "xdg"}, XDG),
        ([LAB, OWN, MPL, HERE], SEAT, HERE),
        ([LAB, OWN, MPL, NAMED], {**SEAT, "MATPLOTLIBRC": "named"}, NAMED),
        ([LAB, HERE, NAMED], {**SEAT, "MATPLOTLIBRC": "named"}, HERE),
    ],
)
def test_a_file_of_a_person_comes_before_the_labs(
    tmp_path: Path, packages: Path, files: list[str], variables: Mapping[str, str], expected: str
) -> None:
    file, dpi = read(tmp_path, packages, files, variables)
    assert (tmp_path / "work" / file, dpi) == (tmp_path / expected, f"{200 + files.index(expected)}.0")


def test_without_the_labs_file_matplotlib_is_as_it_always_is(tmp_path: Path, packages: Path) -> None:
    file, dpi = read(tmp_path, packages, [], SEAT)
    assert "mpl-data" in str(file)
    assert dpi == "100.0"


@pytest.mark.parametrize("home", ["/nonexistent", "", "relative"])
def test_an_odd_home_does_not_stop_python(tmp_path: Path, home: str) -> None:
    (tmp_path / "sitecustomize.py").write_text((templates() / "provisioner_matplotlib.py").read_text())
    env = {"HOME": home, "PYTHONPATH": str(tmp_path), "MPLCONFIGDIR": "\udcff"}
    done = subprocess.run([sys.executable, "-c", "pass"], env=env, capture_output=True, check=True)
    assert done.stderr == b""
