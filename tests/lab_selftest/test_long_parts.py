"""A part of the long tests goes on where it ended, with workers as without."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.long_parts import ROOT, tree

pytestmark = pytest.mark.long("bed")

CONFTEST = """
from pathlib import Path
from tests import long_parts

long_parts.RECORDS = Path(__file__).parent / "records"
long_parts.tree = lambda: "a tree"
"""
TESTS = """
from pathlib import Path
import pytest

@pytest.mark.long("bed")
def test_passes(): pass

@pytest.mark.long("bed")
def test_passes_the_second_time():
    mark = Path(__file__).parent / "mark"
    there = mark.exists()
    mark.touch()
    assert there
"""


@pytest.mark.parametrize("workers", ["-n0", "-n1"])
def test_a_part_runs_again_what_has_not_passed(tmp_path: Path, workers: str) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = long(part): x\n")

    def run() -> str:
        words = [sys.executable, "-m", "pytest", "-p", "tests.long_parts", workers, "--long=bed", "-q", str(tmp_path)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return done.stdout.rstrip().rpartition("\n")[2]

    assert run().startswith("1 failed, 1 passed")
    assert run().startswith("1 passed")
    assert "no tests ran" in run() or "2 deselected" in run()


def test_workers_name_the_tree_at_the_same_time() -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: tree(), range(32)))) == 1
