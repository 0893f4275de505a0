"""base_facts.py reports the packages of the Python that runs it."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from provisioner.adapters.resources import templates
from tests.made_wheel import a_wheel


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("__version__ = '2.8.0'\ncuda = '12.8'\n", "2.8.0"),
        # As torch's own build writes it.
        ('from typing import Optional\n__version__: str = "2.8.0+cu128"\ndebug = False\n', "2.8.0+cu128"),
        ("raise ImportError\n", None),
        ("", None),
    ],
)
def test_torch_without_metadata_is_known_by_its_own_file(
    text: str, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise RuntimeError('importing torch takes seconds')\n")
    (tmp_path / "torch/version.py").write_text(text)
    with zipfile.ZipFile(a_wheel(tmp_path, "Some_Tool", "1.0")) as wheel:
        wheel.extractall(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = subprocess.run([sys.executable, templates() / "base_facts.py"], capture_output=True, text=True, check=True)
    packages = json.loads(done.stdout)["packages"]
    assert packages.get("torch") == expected
    assert packages["some-tool"] == "1.0"
