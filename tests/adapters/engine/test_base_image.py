import json
import subprocess
import sys
from typing import Any

import pytest

from provisioner.adapters.engine.base_image import parse_base_facts
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


@pytest.mark.parametrize(
    ("change", "complete"),
    [
        ({}, False),
        ({"jupyter": True}, False),
        ({"sshd": True, "apt": False}, False),
        ({"jupyter": True, "sshd": True}, True),
    ],
)
def test_a_base_is_complete_with_jupyter_and_sshd(change: dict[str, Any], complete: bool) -> None:
    assert parse_base_facts("x", json.dumps(GOOD | change)).complete is complete


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
