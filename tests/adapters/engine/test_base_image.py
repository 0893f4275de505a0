import json
import subprocess
import sys
from pathlib import Path

import pytest

from provisioner.adapters.engine.base_image import parse_base_facts
from provisioner.adapters.engine.parts import FONT
from provisioner.adapters.resources import templates
from provisioner.domain.values.problem import ProblemError

GOOD = {
    "python": "/opt/conda/bin/python3",
    "version": "3.11.13",
    "machine": "x86_64",
    "glibc": "2.35",
    "jupyter": False,
    "sshd": False,
    "apt": True,
}


def test_the_script_reports_the_python_that_runs_it() -> None:
    command = [sys.executable, "-c", (templates() / "base_facts.py").read_text()]
    facts = parse_base_facts("x", subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert facts.python == sys.executable
    assert facts.version == ".".join(map(str, sys.version_info[:3]))


def test_the_script_names_the_tools_that_are_missing(tmp_path: Path) -> None:
    """With a `git`, a font and no other tool, by the packages that bring them."""
    git, font = tmp_path / "git", tmp_path / "font"
    git.write_text("#!/bin/sh\n")
    git.chmod(0o755)
    font.touch()
    text = (templates() / "base_facts.py").read_text()
    text = text.replace("/usr/local/bin:/usr/bin:/bin", str(tmp_path)).replace("zh_CN.UTF-8", "xx_XX.UTF-8")
    text = text.replace("/usr/share/fonts/truetype/wqy/wqy-microhei.ttc", str(font))
    output = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout
    missing = parse_base_facts("x", output).missing_tools
    assert {"tmux", "procps", "openssh-client", "locales"} <= set(missing)
    assert not {"git", FONT} & set(missing)


@pytest.mark.parametrize(
    "output",
    [
        "",
        "python3: not found",
        "[]",
        json.dumps({"python": 3}),
        json.dumps(GOOD | {"apt": False}),
        json.dumps(GOOD | {"version": "3.9.5"}),
        json.dumps(GOOD | {"glibc": ""}),
        json.dumps(GOOD | {"missing_tools": ["git; id"]}),
        json.dumps(GOOD | {"missing_tools": ["git\nADD http://192.0.2.1/ /"]}),
    ],
)
def test_an_image_that_no_lab_image_can_be_built_from_is_refused(output: str) -> None:
    with pytest.raises(ProblemError) as refused:
        parse_base_facts("mirror.lab:5200/odd:1", output)
    (problem,) = refused.value.problems
    assert problem.code == "base_unfit"
    assert "mirror.lab:5200/odd:1" in problem.what


def test_an_old_python_is_accepted_if_jupyter_is_installed() -> None:
    assert parse_base_facts("x", json.dumps(GOOD | {"version": "3.8.10", "jupyter": True})).jupyter
