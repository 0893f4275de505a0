"""A lab whose nodes are small files, and controllers for it that can be killed at a moment."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.workflow.fake_fleet import FakeFleet

NODES = ("n1", "n2", "n3")
COMMITTED = {node: {"generation": 2, "state": "committed", "image": "new"} for node in NODES}


class Ended(NamedTuple):
    """What is left of a controller. `returncode`: minus the number of the signal that killed it."""

    returncode: int
    stdout: str
    stderr: str


class Controllers:
    """Starts controllers as forks of a process that has imported all they need, which takes ten times as long."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self._server = server

    def run(self, folder: Path, *argv: str, **environment: str) -> Ended:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        outputs = folder / "stdout", folder / "stderr"
        order = {"argv": argv, "environment": environment, "outputs": [str(path) for path in outputs]}
        self._server.stdin.write(f"{json.dumps(order)}\n")
        self._server.stdin.flush()
        return Ended(int(self._server.stdout.readline()), *(path.read_text() for path in outputs))


@contextmanager
def running_controllers() -> Iterator[Controllers]:
    argv = [sys.executable, "-m", "tests.cli.controller", "serve"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield Controllers(server)


class ControlledLab:
    """Three nodes that run generation `generation`."""

    def __init__(self, controllers: Controllers, folder: Path, generation: int = 1) -> None:
        self._controllers, self._folder = controllers, folder
        self.state, self.nodes = folder / "state", folder / "nodes"
        self.fleet = FakeFleet(self.nodes).add(*NODES, generation=generation)

    def run(self, verb: str, *how: str) -> Ended:
        return self._controllers.run(self._folder, verb, str(self.nodes), *how, XDG_STATE_HOME=str(self.state))

    def start(self, verb: str, moment: str, *before: str) -> subprocess.Popen[str]:
        """Start a process of its own that waits at this moment for the file `go`. `before`: words of a wrapper."""
        argv = [*before, sys.executable, "-m", "tests.cli.controller", verb, str(self.nodes), "--wait", moment]
        environment = os.environ | {"XDG_STATE_HOME": str(self.state)}
        pipe = subprocess.PIPE
        process = subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True, env=environment)
        wait_for_output(process, "waiting")
        return process

    def report(self) -> dict[str, Any]:
        (path,) = self.state.glob("provisioner/demo/runs/*/report.json")
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def node_states(self) -> dict[str, dict[str, Any]]:
        return {node: {k: self.fleet.read(node)[k] for k in ("generation", "state", "image")} for node in NODES}


def wait_for_output(run: subprocess.Popen[str], text: str) -> None:
    assert run.stderr is not None
    while text not in (line := run.stderr.readline()):
        assert line, f"it ended without printing {text}"


def ended(document: dict[str, Any]) -> dict[str, str]:
    return {record["node"]: record["state"] for record in document["nodes"]}
