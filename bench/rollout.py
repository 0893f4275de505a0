"""What a rollout costs, beside a plain playbook that does the same steps, and beside the engines' own pull and start.

    python -m bench.rollout [NODES...]

Needs root: nodes are containers of the test bed, each with an engine of its own. 50 nodes take a quarter of an hour.
What one run printed is in bench/rollout.md.
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
    first: float
    again: float


@dataclass(frozen=True)
class Bench:
    lab: Lab
    command: Command
    scratch: Path

    @property
    def seat(self) -> str:
        return f"/var/lib/provisioner/seats/{self.lab.prefix}-student"

    def lock(self) -> str:
        """Pushes the image to the lab's registry; its name there, by digest."""
        write_lab(self.lab, self._folder, image={"complete": True}, rollout={"min_healthy_seconds": 0})
        self._provision("lock")
        lock = json.loads((self._folder / "lab.lock").read_text())
        return str(lock["images"][0]["lab"])

    def ours(self) -> Seconds:
        return Seconds(self._provision("rollout", "--yes"), self._provision("rollout", "--yes"))

    def _provision(self, verb: str, *words: str) -> float:
        began = perf_counter()
        done = self.command.run(verb, str(self._folder), *words)
        if done.returncode:
            raise RuntimeError(f"provision {verb} ended with {done.returncode}: {done.stderr}")
        return perf_counter() - began

    @property
    def _folder(self) -> Path:
        return self.lab.folder / "lab"

    def keep_files(self) -> None:
        """Of every node's seat, for the others to bring."""
        for node in self.lab.nodes:
            archive = node.exec("sh", "-c", f"tar -C {self.seat} -cf - gens/1 identity notice | base64")
            (self.scratch / f"{node.name}.tar").write_bytes(b64decode(archive))
            (self.scratch / f"{node.name}.token").write_text(node.exec("cat", f"{self.seat}/identity/token"))

    def plain(self, image: str) -> Seconds:
        return Seconds(self._playbook(image), self._playbook(image))

    def _playbook(self, image: str) -> float:
        program = Path(sys.executable).with_name("ansible-playbook")
        given = [f"seat={PLAIN_SEAT}", f"files={self.scratch}", f"image={image}"]
        words: list[str | Path] = [
            program,
            "-i",
            self.lab.inventory,
            "-f",
            str(FORKS),
            *(w for g in given for w in ("-e", g)),
        ]
        began = perf_counter()
        run(*words, HERE / "plain.yml", env={**os.environ, "ANSIBLE_PIPELINING": "1"})
        return perf_counter() - began

    def engines(self, image: str) -> Seconds:
        """All at once, without SSH: what no way of bringing them up can save."""
        return Seconds(self._engines(image), self._engines(image))

    def _engines(self, image: str) -> float:
        began = perf_counter()
        self._on_all(START.format(image=image, seat=PLAIN_SEAT))
        return perf_counter() - began

    def wipe(self) -> None:
        """No container and no image is left."""
        self._on_all(WIPE)

    def _on_all(self, script: str) -> None:
        with ThreadPoolExecutor(FORKS) as pool:
            list(pool.map(lambda node: node.exec("sh", "-c", script), self.lab.nodes))


def main(counts: tuple[int, ...] = NODES) -> None:
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
    """The seconds of the first runs: ours, and the plain playbook's."""
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
