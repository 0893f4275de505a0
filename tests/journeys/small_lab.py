"""A lab of two nodes with small images, a lock that the test writes, and `provision` from this checkout."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from provisioner.adapters.lab.lockfile import write_lock
from provisioner.domain.lab.lock import LockedImage
from tests.builders import a_lock, a_locked_image
from tests.lab.bed import Lab, running_lab
from tests.lab.demo import write_lab
from tests.lab.engine import Engine
from tests.lab.node import Node
from tests.playbooks.on_nodes import push_seat_images

NODES = ("node1", "node2")


class SmallLab:
    """`provision` runs from this checkout; its records lie beside the lab."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.folder, self.state = lab, lab.folder / "lab", lab.folder / "state"
        write_lab(lab, self.folder, rollout={"min_healthy_seconds": 1, "healthy_deadline_seconds": 180})
        self.images = push_seat_images(lab)
        self.wanted = ""  # number of the locked image

    def lock(self, name: str) -> LockedImage:
        """Write a lab.lock with this image."""
        made = self.images[name]
        image = a_locked_image(lab=made.lab, base=made.base, rootfs=made.rootfs, bytes=made.bytes)
        write_lock(self.folder / "lab.lock", a_lock(image).model_copy(update={"lab": self.lab.prefix}))
        return image

    def argv(self, verb: str, *words: str) -> list[str]:
        return [
            "env",
            "--default-signal=INT",
            sys.executable,
            "-m",
            "provisioner",
            verb,
            str(self.folder),
            *words,
        ]

    @property
    def env(self) -> dict[str, str]:
        return os.environ | {"XDG_STATE_HOME": str(self.state)}

    def run_json(self, verb: str, *words: str) -> tuple[int, dict[str, Any], str]:
        """Return exit code, document and stderr."""
        argv = self.argv(verb, *words, "--json")
        done = subprocess.run(argv, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout or "{}"), done.stderr

    def states(self, verb: str, *words: str) -> tuple[int, dict[str, str]]:
        exit_code, document, output = self.run_json(verb, *words)
        assert "nodes" in document, (document, output)
        return exit_code, {record["node"]: record["state"] for record in document["nodes"]}

    def running_images(self) -> dict[str, str]:
        """Node -> number of the image that its seat runs."""
        return {node: self.image_on(node) for node in NODES}

    def image_on(self, node: str) -> str:
        image = image_of_seat(self.lab.node(node))
        return next((name for name, made in self.images.items() if made.lab == image), image)

    def claims(self) -> dict[str, str]:
        ask = "cat /var/lib/provisioner/claim.json 2>/dev/null || true"
        return {node: self.lab.node(node).exec("sh", "-c", ask) for node in NODES}

    def seat_identities(self) -> dict[str, str]:
        """Node -> what identifies the seat to its student: token, host key and ports."""
        identity = "cat /var/lib/provisioner/seats/*/identity/token /var/lib/provisioner/seats/*/identity/*.pub"
        ports = "docker ps --filter label=provisioner.seat --format '{{.Ports}}' | sort"
        return {node: self.lab.node(node).exec("sh", "-c", f"{identity}; {ports}") for node in NODES}

    def journal_states(self, node: str) -> list[str]:
        """Return the states in the journal of the node's seat, oldest first."""
        lines = self.lab.node(node).exec("sh", "-c", "cat /var/lib/provisioner/seats/*/journal.jsonl").splitlines()
        return [json.loads(line)["state"] for line in lines]

    def recorded_states(self) -> dict[str, str]:
        """Node -> its state in the report of the last run."""
        newest = max(self.state.glob("provisioner/*/runs/*/report.json"))
        return {record["node"]: record["state"] for record in json.loads(newest.read_text())["nodes"]}

    def recorded_text(self) -> str:
        """Return the text of all records of all runs."""
        return "".join(path.read_text(errors="replace") for path in self.state.rglob("*") if path.is_file())

    @contextmanager
    def in_terminal(self, verb: str, *words: str) -> Iterator["TerminalRun"]:
        run = TerminalRun(self.argv(verb, *words), self.env)
        try:
            yield run
        finally:
            run.end()


def image_of_seat(node: Node) -> str:
    """Return the image that the node's seat runs; empty if no seat runs."""
    seats = "docker ps -q --filter label=provisioner.service=ssh"
    ask = f"{seats} | xargs -r docker inspect --format '{{{{.Config.Image}}}}'"
    return node.exec("sh", "-c", ask).strip()


def find_leftovers(pid: int) -> list[str]:
    """Return temporary folders of a run and processes that use one; wait up to 30 s until there are none."""
    deadline = time.monotonic() + 30
    while True:
        found = [*processes_with_folder(Path(f"/tmp/prov-{pid}-")), *map(str, Path("/tmp").glob(f"prov-{pid}-*"))]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def processes_with_folder(folder: Path) -> list[str]:
    """Return the command lines of the processes that have the folder in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append((path.parent / "cmdline").read_text())
        except OSError:
            continue
    return found


class TerminalRun:
    """A run on its own terminal, so that the kernel sends ^C to the foreground process group."""

    def __init__(self, argv: list[str], env: dict[str, str]) -> None:
        self.pid, self._terminal = pty.fork()
        if not self.pid:
            os.execvpe(argv[0], argv, env | {"TERM": "xterm", "COLUMNS": "120"})
        self.output = ""
        self._code: int | None = None

    def wait_for(self, text: str) -> None:
        """Read the output until it contains `text`."""
        while text not in self.output:
            assert self._read(), self.output

    def interrupt(self) -> None:
        os.write(self._terminal, b"\x03")

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def exit_code(self) -> int:
        """Wait for the end of the run; return its exit code, or minus the signal that ended it."""
        if self._code is None:
            while self._read():
                pass
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code

    def end(self) -> None:
        if self._code is None:
            self.kill()
            self.exit_code()
        os.close(self._terminal)

    def _read(self) -> bool:
        try:
            chunk = os.read(self._terminal, 1 << 16)
        except OSError:  # EIO: the terminal is closed on the other side
            return False
        self.output += chunk.decode(errors="replace")
        return bool(chunk)


@contextmanager
def small_lab(engine: Engine) -> Iterator[SmallLab]:
    with running_lab(engine, ["rtx5090x2-580", "rtx4090-570"]) as lab:
        yield SmallLab(lab)
