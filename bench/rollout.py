"""Measure a rollout, compared with a plain playbook of the same steps and with pull and start on the engines alone.

    python -m bench.rollout [fetch] [NODES...]

With the word `fetch` it measures the rollout after `provision fetch` instead.
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
FORKS = 50
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

    def fetched(self) -> Seconds:
        """Measure `provision fetch`, and once more with nothing to do."""
        return Seconds(self._provision("fetch"), self._provision("fetch"))

    def sent(self) -> int:
        """Return the bytes of layers that the lab's registry has sent since it started."""
        return sum(access.size for access in self.lab.registry.access_log() if "/blobs/" in access.path)

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
        before = bench.sent()
        ours = bench.ours()
        sent = bench.sent() - before
        print(f"<!-- {count}: {ours.first:.1f}, again {ours.again:.1f}, {sent} bytes sent -->", flush=True)
        bench.keep_files()
        bench.wipe()
        plain = bench.plain(image)
        print(f"<!-- plain: {plain.first:.1f}, again {plain.again:.1f} -->", flush=True)
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


def measure_fetch(counts: tuple[int, ...]) -> None:
    """Print the table of a fetch, and of the rollout after it, for labs of these sizes."""
    engine = setup()
    print("## A rollout after a fetch: seconds, and bytes that the registry sends\n")
    print("| nodes | fetch | bytes | fetch again | rollout after it | bytes |\n|--:|--:|--:|--:|--:|--:|")
    for count in counts:
        with _bench(engine, count) as bench:
            bench.lock()
            start = bench.sent()
            fetch = bench.fetched()
            between = bench.sent()
            switch = bench.ours()
            sent = between - start, bench.sent() - between
        print(
            f"| {count} | {fetch.first:.1f} | {sent[0]} | {fetch.again:.1f} | {switch.first:.1f} | {sent[1]} |",
            flush=True,
        )


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
    words = sys.argv[1:]
    sizes = tuple(int(word) for word in words if word != "fetch") or NODES
    (measure_fetch if "fetch" in words else main)(sizes)
