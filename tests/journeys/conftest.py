"""The command as people have it: installed from the wheel, outside the checkout, on a lab of real parts."""

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
from tests.lab.demo import PROFILES, Command, write_lab
from tests.lab.engine import Engine
from tests.lab.host import locked
from tests.lab.tags import push_demo_tags

ROOT = Path(__file__).resolve().parents[2]
# How long a seat is watched once it is healthy; what that finds has tests of its own.
QUICK = {"min_healthy_seconds": 1}


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`provision`, from a wheel of this checkout in an environment of its own; versions as locked for development.

    One for all workers of a run.
    """
    of_the_run = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        of_the_run = of_the_run.parent
    place = of_the_run / "installed"
    with locked("program"):
        if not (place / "ready").exists():
            install(place)
            (place / "ready").touch()
    return place / "env/bin/provision"


def install(place: Path) -> None:
    place.mkdir()
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", place, ROOT)
    (wheel,) = place.glob("*.whl")
    frozen = run(sys.executable, "-m", "pip", "freeze", "--exclude-editable").stdout
    (place / "constraints.txt").write_text(frozen)
    run(sys.executable, "-m", "venv", place / "env")
    run(place / "env/bin/pip", "install", "-q", "-c", place / "constraints.txt", wheel)


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    # pip's news of itself and of its caches is not what a test is about.
    quiet = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return subprocess.run(words, capture_output=True, text=True, check=True, env=quiet, cwd="/")


class Told(NamedTuple):
    """What a run of the command said: its code, its document, and what people read."""

    code: int
    document: dict[str, Any]
    people: str


class Story(NamedTuple):
    """A lab, its directory, and the command to run on it."""

    lab: Lab
    folder: Path
    command: Command

    def tell(self, verb: str, *words: str, env: Mapping[str, str] | None = None) -> Told:
        """With --json: the document is what stdout holds."""
        done = self.command.run(verb, str(self.folder), *words, "--json", env=env)
        assert "Traceback" not in done.stderr
        return Told(done.returncode, json.loads(done.stdout), done.stderr)

    def roll_out(self) -> Told:
        """As a person would: all that is said, and the document that the run left on the disk."""
        done = self.command.run("rollout", str(self.folder), "--yes")
        assert "Traceback" not in done.stderr
        newest = max(self.lab.folder.glob("xdg_state_home/provisioner/*/runs/*/report.json"))
        return Told(done.returncode, json.loads(newest.read_text()), done.stdout + done.stderr)


@contextmanager
def running_story(engine: Engine, program: Path, profiles: Sequence[str], **wish: object) -> Iterator[Story]:
    """Nodes, a mirror with the demo tags, and a lab directory with `wish` in lab.yml; nothing rolled out yet."""
    with running_lab(engine, profiles) as lab:
        push_demo_tags(lab.mirror)
        write_lab(lab, lab.folder / "lab", **{"rollout": QUICK} | wish)
        yield Story(lab, lab.folder / "lab", Command(engine, lab, program))


@pytest.fixture(scope="module")
def story(testbed: Engine, program: Path) -> Iterator[Story]:
    """Three nodes of three generations."""
    with running_story(testbed, program, PROFILES) as story:
        yield story


@pytest.fixture(scope="session")
def small(testbed: Engine) -> Iterator[SmallLab]:
    with small_lab(testbed) as lab:
        yield lab
