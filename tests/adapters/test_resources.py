import shutil
import subprocess
import sys
from pathlib import Path

from provisioner.adapters import resources


def test_a_checkout_has_playbooks_and_templates_at_its_root() -> None:
    root = Path(__file__).parents[2]
    assert (resources.playbooks(), resources.templates()) == (root / "playbooks", root / "templates")


def test_an_installed_package_contains_playbooks_and_templates(tmp_path: Path) -> None:
    package = tmp_path / "provisioner"
    adapters = package / "adapters"
    adapters.mkdir(parents=True)
    for folder in (package, adapters):
        (folder / "__init__.py").touch()
    shutil.copy(resources.__file__, adapters)
    for name in ("playbooks", "templates"):
        (package / "resources" / name).mkdir(parents=True)
    script = "from provisioner.adapters.resources import playbooks, templates; print(playbooks(), templates())"
    argv = [sys.executable, "-P", "-c", script]
    printed = subprocess.run(
        argv, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert printed.stdout.split() == [str(package / "resources" / name) for name in ("playbooks", "templates")]
