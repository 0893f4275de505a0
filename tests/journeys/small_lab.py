"""A lab of two nodes with an image small enough to be moved often, a lock that the test writes, and `provision`."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from provisioner.adapters.lab.lockfile import write_lock
from provisioner.domain.lab.lock import LockedImage
from tests.builders import a_lock, a_locked_image
from tests.lab.bed import Lab, running_lab
from tests.lab.demo import write_lab
from tests.lab.engine import Engine
from tests.lab.node import Node
from tests.playbooks.on_nodes import push_seats

NODES = ("node1", "node2")


class SmallLab:
    """`provision` runs from this checkout, with its records beside the lab."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.folder, self.state = lab, lab.folder / "lab", lab.folder / "state"
        write_lab(lab, self.folder, rollout={"min_healthy_seconds": 1, "healthy_deadline_seconds": 180})
        self.images = push_seats(lab)
        self.wanted = ""  # number of the image that the lab is held to

    def lock(self, name: str) -> LockedImage:
        """From now on the lab is held to this image."""
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

    def tell(self, verb: str, *words: str) -> tuple[int, dict[str, Any], str]:
        """Exit code, document, and what people read."""
        argv = self.argv(verb, *words, "--json")
        done = subprocess.run(argv, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout or "{}"), done.stderr

    def states(self, verb: str, *words: str) -> tuple[int, dict[str, str]]:
        code, document, people = self.tell(verb, *words)
        assert "nodes" in document, (document, people)
        return code, {record["node"]: record["state"] for record in document["nodes"]}

    def running(self) -> dict[str, str]:
        """Node -> the image that its seat really runs, as a number of ours."""
        return {node: self.image_on(node) for node in NODES}

    def image_on(self, node: str) -> str:
        image = served(self.lab.node(node))
        return next((name for name, made in self.images.items() if made.lab == image), image)

    def claims(self) -> dict[str, str]:
        ask = "cat /var/lib/provisioner/claim.json 2>/dev/null || true"
        return {node: self.lab.node(node).exec("sh", "-c", ask) for node in NODES}

    def faces(self) -> dict[str, str]:
        """Node -> what a student knows the seat by: token, host key and ports."""
        identity = "cat /var/lib/provisioner/seats/*/identity/token /var/lib/provisioner/seats/*/identity/*.pub"
        ports = "docker ps --filter label=provisioner.seat --format '{{.Ports}}' | sort"
        return {node: self.lab.node(node).exec("sh", "-c", f"{identity}; {ports}") for node in NODES}

    def steps(self, node: str) -> list[str]:
        """States of the journal of the node's seat, oldest first."""
        lines = self.lab.node(node).exec("sh", "-c", "cat /var/lib/provisioner/seats/*/journal.jsonl").splitlines()
        return [json.loads(line)["state"] for line in lines]

    def ledger(self) -> dict[str, str]:
        """What the last run has written down of each node."""
        newest = max(self.state.glob("provisioner/*/runs/*/report.json"))
        return {record["node"]: record["state"] for record in json.loads(newest.read_text())["nodes"]}

    def kept(self) -> str:
        """All that was ever written down on this machine."""
        return "".join(path.read_text(errors="replace") for path in self.state.rglob("*") if path.is_file())

    @contextmanager
    def started(self, verb: str, *words: str) -> Iterator["Started"]:
        begun = Started(self.argv(verb, *words), self.env)
        try:
            yield begun
        finally:
            begun.end()


def served(node: Node) -> str:
    """The image that the node's seat really runs; empty where none does."""
    seats = "docker ps -q --filter label=provisioner.service=ssh"
    ask = f"{seats} | xargs -r docker inspect --format '{{{{.Config.Image}}}}'"
    return node.exec("sh", "-c", ask).strip()


class Started:
    """A run on a terminal of its own, so that the kernel sends ^C to whoever is in its foreground."""

    def __init__(self, argv: list[str], env: dict[str, str]) -> None:
        self.pid, self._terminal = pty.fork()
        if not self.pid:
            os.execvpe(argv[0], argv, env | {"TERM": "xterm", "COLUMNS": "120"})
        self.said = ""
        self._code: int | None = None

    def until(self, text: str) -> None:
        """Reads until it has said so."""
        while text not in self.said:
            assert self._read(), self.said

    def interrupt(self) -> None:
        os.write(self._terminal, b"\x03")

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def code(self) -> int:
        """Once it has ended; minus a signal."""
        if self._code is None:
            while self._read():
                pass
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code

    def end(self) -> None:
        if self._code is None:
            self.kill()
            self.code()
        os.close(self._terminal)

    def _read(self) -> bool:
        try:
            chunk = os.read(self._terminal, 1 << 16)
        except OSError:  # EIO: nobody has the terminal open any more
            return False
        self.said += chunk.decode(errors="replace")
        return bool(chunk)


@contextmanager
def small_lab(engine: Engine) -> Iterator[SmallLab]:
    with running_lab(engine, ["rtx5090x2-580", "rtx4090-570"]) as lab:
        yield SmallLab(lab)
