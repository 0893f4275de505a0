"""Tests that take too long for every commit: `make test-long` lists their parts and runs one. A plugin of pytest.

The marker `long("PART")` adds a test to a part; the part `fuzz` has all tests with Hypothesis. `pytest` leaves out
the marked tests; `pytest --long PART` runs the tests of a part that have not passed yet on the same tree.
"""

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / ".long"
PARTS = {
    "attack": "hostile homes, images, registries and nodes at once; a search for secrets everywhere",
    "bed": "the test bed itself, after a change of tests/lab",
    "chaos": "runs killed at more moments; an hour of random faults on real nodes, while people start and stop seats",
    "course": "a course's packages in real images, from the package index of this machine",
    "engines": "other releases: Docker Engine 20.10, and 28 with containerd's image store; ansible-core 2.21",
    "fuzz": "every test with Hypothesis, with 1000 examples each",
    "mig": "a rollout to a card that is split into MIG devices",
    "roster": "sixty people on three nodes: costs, work, a power cut, a rollback; kills in every state of five seats",
    "scale": "ten nodes",
    "self-service": "seats that people start: an upgrade beside twenty of them; ends of leases, kills, a power cut",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", choices=sorted(PARTS), help="run only this part of the long tests")


def pytest_configure(config: pytest.Config) -> None:
    if (part := config.getoption("long")) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Record(RECORDS / f"{part}.passed"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    part = config.getoption("long")
    passed = Record(RECORDS / f"{part}.passed").passed() if part else set()
    chosen, others = list[pytest.Item](), list[pytest.Item]()
    for item in items:
        (chosen if is_chosen(item, part) and item.nodeid not in passed else others).append(item)
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = chosen


def is_chosen(item: pytest.Item, part: str | None) -> bool:
    mark = item.get_closest_marker("long")
    if part is None:
        return mark is None
    if part == "fuzz":
        return bool(getattr(getattr(item, "obj", None), "is_hypothesis_test", False))
    return mark is not None and mark.args[0] == part


class Record:
    """The tests that passed on this tree: a file with the name of the tree, then one test per line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def passed(self) -> set[str]:
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        return set(lines[1:]) if lines[:1] == [tree()] else set()

    def pytest_sessionstart(self) -> None:  # with xdist, only workers collect
        if not self.passed():
            self._path.parent.mkdir(exist_ok=True)
            self._path.write_text(f"{tree()}\n")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            with self._path.open("a") as file:
                file.write(f"{report.nodeid}\n")


def tree() -> str:
    """Return a hash of the tracked files of this checkout, with uncommitted changes.

    Workers ask for it at the same time, so each has a copy of the index: only one process at a time may change that.
    """
    with TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        shutil.copy(ROOT / git("rev-parse", "--git-path", "index"), index)
        git("add", "--update", index=index)
        return git("write-tree", index=index)


def git(*words: str, index: Path | None = None) -> str:
    environment = os.environ | ({"GIT_INDEX_FILE": str(index)} if index else {})
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()
