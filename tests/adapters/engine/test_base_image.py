import json
import subprocess
import sys
from typing import Any

import pytest

from provisioner.adapters.engine.base_image import read
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


def test_the_probe_speaks_of_the_python_that_runs_it() -> None:
    command = [sys.executable, "-c", (templates() / "base_facts.py").read_text()]
    facts = read("x", subprocess.run(command, capture_output=True, text=True, check=True).stdout)
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
def test_a_base_is_complete_with_both(change: dict[str, Any], complete: bool) -> None:
    assert read("x", json.dumps(GOOD | change)).complete is complete


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
def test_an_image_that_no_lab_image_can_be_made_of_is_named(output: str) -> None:
    with pytest.raises(ProblemError) as refused:
        read("mirror.lab:5200/odd:1", output)
    (problem,) = refused.value.problems
    assert problem.code == "base_unfit"
    assert "mirror.lab:5200/odd:1" in problem.what


def test_an_old_python_is_good_enough_where_jupyter_is_there() -> None:
    assert read("x", json.dumps(GOOD | {"version": "3.8.10", "jupyter": True})).jupyter
