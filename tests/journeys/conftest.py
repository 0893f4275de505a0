"""The command as users install it: from the wheel, outside the checkout, run on a lab of real parts."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.journeys.small_lab import SmallLab, small_lab
from tests.lab.bed import Lab, running_lab
from tests.lab.demo import Command, write_lab
from tests.lab.engine import Engine
from tests.lab.host import locked
from tests.lab.kinds import DEBIAN13, Kind
from tests.lab.tags import push_demo_tags
from tests.playbooks.on_nodes import push_base

ROOT = Path(__file__).resolve().parents[2]
# Seconds that a seat is watched once it is healthy. Other tests cover what this watch finds.
QUICK = {"min_healthy_seconds": 1}
# Images are used as they are, and none is built: test_rollout.py and test_lab_image.py build real ones.
COMPLETE = {"complete": True}


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`provision` from a wheel of this checkout, in its own environment, with the versions locked for development.

    All workers of a test run share it.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "installed"
    with locked("program"):
        if not (folder / "ready").exists():
            install(folder)
            (folder / "ready").touch()
    return folder / "env/bin/provision"


def install(folder: Path) -> None:
    folder.mkdir()
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    frozen = run(sys.executable, "-m", "pip", "freeze", "--exclude-editable").stdout
    (folder / "constraints.txt").write_text(frozen)
    # pip of this environment installs; each module is compiled by the first command that imports it.
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env")
    pip = (sys.executable, "-m", "pip", "--python", folder / "env/bin/python")
    run(*pip, "install", "-q", "--no-compile", "-c", folder / "constraints.txt", wheel)


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    # No notices about newer versions of pip on stderr.
    quiet = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return subprocess.run(words, capture_output=True, text=True, check=True, env=quiet, cwd="/")


class CommandResult(NamedTuple):
    """Result of a run of the command: exit code, JSON document, and the text for people."""

    code: int
    document: dict[str, Any]
    output: str


class Site(NamedTuple):
    """A lab of the test bed, its lab directory, and the installed command."""

    lab: Lab
    folder: Path
    command: Command

    def run_json(self, verb: str, *words: str, env: Mapping[str, str] | None = None) -> CommandResult:
        """Run with --json: stdout holds the document, stderr the text."""
        done = self.command.run(verb, str(self.folder), *words, "--json", env=env)
        assert "Traceback" not in done.stderr
        return CommandResult(done.returncode, json.loads(done.stdout), done.stderr)

    def roll_out(self) -> CommandResult:
        """Run a rollout without --json; the document is read from the report that the run wrote."""
        done = self.command.run("rollout", str(self.folder), "--yes")
        assert "Traceback" not in done.stderr
        newest = max(self.lab.folder.glob("xdg_state_home/provisioner/*/runs/*/report.json"))
        return CommandResult(done.returncode, json.loads(newest.read_text()), done.stdout + done.stderr)


@contextmanager
def running_site(
    engine: Engine,
    program: Path,
    profiles: Sequence[str],
    bases: Sequence[str] = (),
    kind: Kind = DEBIAN13,
    **settings: object,
) -> Iterator[Site]:
    """Start nodes and a mirror; write a lab directory with `settings`. Nothing is rolled out yet.

    The mirror has complete bases for the versions of torch `bases`, or the demo tags.
    """
    with running_lab(engine, profiles, kind=kind) as lab:
        for torch in bases:
            push_base(lab, torch)
        if not bases:
            push_demo_tags(lab.mirror)
        write_lab(lab, lab.folder / "lab", **{"rollout": QUICK} | settings)
        yield Site(lab, lab.folder / "lab", Command(engine, lab, program))


@pytest.fixture(scope="session")
def small(testbed: Engine) -> Iterator[SmallLab]:
    with small_lab(testbed) as lab:
        yield lab
