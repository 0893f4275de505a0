"""Measure a rollout, compared with a plain playbook of the same steps and with pull and start on the engines alone.

    python -m bench.rollout [NODES...]

Needs root: nodes are containers of the test bed, each with its own engine. 50 nodes take a quarter of an hour.
The output of one run is in bench/rollout.md.
"""

import json
import os
import sys
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from tests.lab.bed import Lab
from tests.lab.demo import Command, write_lab
from tests.lab.engine import Engine
from tests.lab.host import run
from tests.lab.steps import setup
from tests.playbooks.on_nodes import push_base

NODES = (3, 10)
PROFILE = "rtx4090-570"
TORCH = "2.10.0"
FORKS = 25
PLAIN_SEAT = "/srv/plain"
HERE = Path(__file__).parent
WIPE = "docker rm -f $(docker ps -aq); docker image prune -af; docker network prune -f"
START = "docker pull -q {image} && docker compose -f {seat}/gens/1/compose.yaml up -d --wait"


@dataclass(frozen=True)
class Seconds:
    """Duration of the first run, and of a second one that has nothing to do."""

    first: float
    again: float


@dataclass(frozen=True)
class Bench:
    """A lab, the command that is measured, and a folder for files."""

    lab: Lab
    command: Command
    scratch: Path

    @property
    def seat(self) -> str:
        """The folder of the seat on a node."""
        return f"/var/lib/provisioner/seats/{self.lab.prefix}-student"

    def lock(self) -> str:
        """Push the image to the lab's registry and return its name there, by digest."""
        write_lab(self.lab, self._folder, image={"complete": True}, rollout={"min_healthy_seconds": 0})
        self._provision("lock")
        lock = json.loads((self._folder / "lab.lock").read_text())
        return str(lock["images"][0]["lab"])

    def ours(self) -> Seconds:
        """Measure `provision rollout`."""
        return Seconds(self._provision("rollout", "--yes"), self._provision("rollout", "--yes"))

    def _provision(self, verb: str, *words: str) -> float:
        start = perf_counter()
        done = self.command.run(verb, str(self._folder), *words)
        if done.returncode:
            raise RuntimeError(f"provision {verb} ended with {done.returncode}: {done.stderr}")
        return perf_counter() - start

    @property
    def _folder(self) -> Path:
        return self.lab.folder / "lab"

    def keep_files(self) -> None:
        """Copy the files of every seat here, as input of the other measurements."""
        for node in self.lab.nodes:
            archive = node.exec("sh", "-c", f"tar -C {self.seat} -cf - gens/1 identity notice | base64")
            (self.scratch / f"{node.name}.tar").write_bytes(b64decode(archive))
            (self.scratch / f"{node.name}.token").write_text(node.exec("cat", f"{self.seat}/identity/token"))

    def plain(self, image: str) -> Seconds:
        """Measure the plain playbook."""
        return Seconds(self._playbook(image), self._playbook(image))

    def _playbook(self, image: str) -> float:
        program = Path(sys.executable).with_name("ansible-playbook")
        variables = [f"seat={PLAIN_SEAT}", f"files={self.scratch}", f"image={image}"]
        words: list[str | Path] = [
            program,
            "-i",
            self.lab.inventory,
            "-f",
            str(FORKS),
            *(word for text in variables for word in ("-e", text)),
        ]
        start = perf_counter()
        run(*words, HERE / "plain.yml", env={**os.environ, "ANSIBLE_PIPELINING": "1"})
        return perf_counter() - start

    def engines(self, image: str) -> Seconds:
        """Measure pull and start on all engines at once, without SSH: the lower bound for every tool."""
        return Seconds(self._engines(image), self._engines(image))

    def _engines(self, image: str) -> float:
        start = perf_counter()
        self._on_all(START.format(image=image, seat=PLAIN_SEAT))
        return perf_counter() - start

    def wipe(self) -> None:
        """Remove all containers and images from the nodes."""
        self._on_all(WIPE)

    def _on_all(self, script: str) -> None:
        with ThreadPoolExecutor(FORKS) as pool:
            list(pool.map(lambda node: node.exec("sh", "-c", script), self.lab.nodes))


def main(counts: tuple[int, ...] = NODES) -> None:
    """Print the table for labs of these sizes."""
    engine = setup()
    print("## A rollout: seconds, cold and once more with nothing to do\n")
    print("| nodes | provision | plain playbook | engines alone | times plain | our share above the engines |")
    print("|--:|--:|--:|--:|--:|--:|")
    cold = [_row(engine, count) for count in counts]
    print(f"\nLoad of the machine in the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    if len(counts) > 1:
        nodes = counts[-1] - counts[0]
        each = ((cold[-1][which] - cold[0][which]) / nodes for which in range(2))
        print("\nEach further node: {:.1f} s by provision, {:.1f} s by the plain playbook\n".format(*each))


def _row(engine: Engine, count: int) -> tuple[float, float]:
    """Print two rows; return the seconds of the first runs of provision and of the plain playbook."""
    with _bench(engine, count) as bench:
        image = bench.lock()
        ours = bench.ours()
        bench.keep_files()
        bench.wipe()
        plain = bench.plain(image)
        bench.wipe()
        alone = bench.engines(image)
    for what, its, theirs, least in (
        ("first", ours.first, plain.first, alone.first),
        ("again", ours.again, plain.again, alone.again),
    ):
        share = f"{1 - least / its:.0%}" if what == "first" else ""
        print(
            f"| {count}, {what} | {its:.1f} | {theirs:.1f} | {least:.1f} | {its / theirs:.2f} | {share} |", flush=True
        )
    return ours.first, plain.first


@contextmanager
def _bench(engine: Engine, count: int) -> Iterator[Bench]:
    lab = Lab("bench", engine=engine)
    lab.down()
    try:
        lab.up([PROFILE] * count)
        push_base(lab, TORCH)
        with TemporaryDirectory() as scratch:
            yield Bench(lab, Command(engine, lab), Path(scratch))
    finally:
        lab.down()


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])) or NODES)
