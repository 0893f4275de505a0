"""A semester of a lab on this one machine, and what it costs whoever runs `provision`.

    python -m bench.semester [NODES]

Rolled out; upgraded while people work on two nodes and three are off, killed in the middle and resumed; caught up with;
brought back. After every step each node is held to be as it should be, by the report and by what really runs there.
Needs root: nodes are containers of the test bed, each with an engine of its own. What runs printed is in
bench/semester.md.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TypeVar

from bench.rollout import FORKS, PROFILE, TORCH
from bench.usage import Usage, measured
from provisioner.adapters.lab.lockfile import read_lock
from provisioner.adapters.state.journal import events
from provisioner.workflow.rollout.resume import heard
from tests.journeys.small_lab import served
from tests.lab.bed import Lab
from tests.lab.demo import PROGRAM, Command, write_lab
from tests.lab.gpus import profile_text
from tests.lab.node import Node
from tests.lab.steps import setup
from tests.playbooks.on_nodes import push_base

Answer = TypeVar("Answer")

NODES = 50
BEFORE, AFTER = "2.9.1", TORCH
WORK = "proc = 4242:1024:python train.py\n"
KILLED = -9
# All nodes share this machine: how soon a container is healthy is not what this is about.
SLOW = {"healthy_deadline_seconds": 900}


@dataclass(frozen=True)
class Semester:
    lab: Lab
    torch_of: dict[str, str] = field(default_factory=dict)  # what the lock has held, by the name of the image

    @property
    def _folder(self) -> Path:
        return self.lab.folder / "lab"

    @property
    def _busy(self) -> Sequence[Node]:
        return self.lab.nodes[1 : 1 + min(2, len(self.lab.nodes) // 4)]

    @property
    def _dead(self) -> Sequence[Node]:
        return self.lab.nodes[-min(3, len(self.lab.nodes) // 4) :]

    def pass_by(self) -> None:
        every, away = len(self.lab.nodes), len(self._busy) + len(self._dead)
        reached = every - away
        write_lab(self.lab, self._folder, image={"complete": True, "torch": BEFORE}, rollout=SLOW)
        self._do("lock", "lock")
        self._do("rollout", "rollout", "--yes", states={"committed": every})
        self._held({BEFORE: every})
        self._people_work(WORK)
        _on_all(Node.stop, self._dead)
        self._upgrade_until_killed()
        left = {"committed": reached, "deferred": len(self._busy), "unreachable": len(self._dead)}
        self._do("resume", "resume", code=1, states=left)
        self._people_work("")
        _on_all(Node.start, self._dead)
        self._held({AFTER: reached, BEFORE: away})
        self._do("rollout, the others", "rollout", "--yes", states={"committed": away, "unchanged": reached})
        self._held({AFTER: every})
        self._do("rollout, nothing to do", "rollout", "--yes", states={"unchanged": every})
        self._do("rollback", "rollback", "--yes", states={"committed": every})
        self._held({BEFORE: every})

    def _people_work(self, work: str) -> None:
        for node in self._busy:
            node.set_profile(f"{profile_text(PROFILE)}\n{work}")

    def _upgrade_until_killed(self) -> None:
        """As a control machine dies: no process is left of it."""
        before = self._newest_run
        agreed = ("--yes", "--leave-behind", "--allow-unreachable", str(len(self._dead)))

        def is_amid() -> bool:
            return self._newest_run > before and _switches_second_wave(self._newest_run)

        used = self._run("upgrade", "--torch", AFTER, *agreed, kill_when=is_amid)
        _expect("the end of the upgrade", used.code, KILLED, self._said)
        told = Counter[str](record.state for record in heard(events(self._newest_run)).values())
        _row("upgrade, killed in its second wave", used, told)

    @property
    def _newest_run(self) -> Path:
        return max(self.lab.folder.glob("xdg_state_home/provisioner/*/runs/*"))

    def _do(self, title: str, *words: str, code: int = 0, states: Mapping[str, int] | None = None) -> None:
        used = self._run(*words)
        _expect(f"the exit code of {title}", used.code, code, self._said)
        document = json.loads(self._told.read_text())
        found = Counter[str](record["state"] for record in document["nodes"]) if states else Counter[str]()
        _expect(f"the nodes after {title}", found, Counter(states or {}), self._said)
        _row(title, used, found)

    def _run(self, verb: str, *words: str, kill_when: Callable[[], bool] = lambda: False) -> Usage:
        argv = [str(PROGRAM), verb, str(self._folder), *words, "--json"]
        used = measured(argv, Command(self.lab.engine, self.lab).env, self._told, self._news, kill_when)
        lock = read_lock(self._folder / "lab.lock")
        self.torch_of.update({image.lab: str(image.torch) for image in lock.images} if lock else {})
        return used

    @property
    def _told(self) -> Path:
        return self.lab.folder / "told.json"

    @property
    def _news(self) -> Path:
        return self.lab.folder / "news.txt"

    def _said(self) -> str:
        return self._news.read_text()

    def _held(self, wanted: Mapping[str, int]) -> None:
        """So many nodes really run the image of this torch."""
        found = Counter(self.torch_of.get(image, image) for image in _on_all(served, self.lab.nodes))
        _expect("what the nodes run", found, Counter(wanted), self._said)


def _switches_second_wave(run: Path) -> bool:
    news = (entry.event for entry in events(run))
    return any(event.text.startswith("wave 2 of ") for event in news) and any(event.phase == "switch" for event in news)


def _on_all(act: Callable[[Node], Answer], nodes: Sequence[Node]) -> list[Answer]:
    with ThreadPoolExecutor(FORKS) as pool:
        return list(pool.map(act, nodes))


def _expect(what: str, found: object, wanted: object, said: Callable[[], str]) -> None:
    if found != wanted:
        raise RuntimeError(f"{what}: {found}, and not {wanted}\n{said()}")


def _row(title: str, used: Usage, states: Mapping[str, int]) -> None:
    memory = f"{used.own >> 20} | {used.tree >> 20}"
    nodes = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    print(f"| {title} | {used.code} | {used.seconds:.0f} | {used.cpu:.0f} | {memory} | {nodes} |", flush=True)


def main(count: int = NODES) -> None:
    engine = setup()
    lab = Lab("semester", engine=engine)
    lab.down()
    try:
        _semester(lab, count)
    finally:
        lab.down()
    print(f"\nLoad of the machine in the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


def _semester(lab: Lab, count: int) -> None:
    began = perf_counter()
    lab.up([PROFILE] * count)
    for torch in (BEFORE, AFTER):
        push_base(lab, torch)
    print(f"## A semester of {count} nodes, which came up in {perf_counter() - began:.0f} s\n")
    print("| step | exit | seconds | CPU seconds | MB, provision | MB, all its processes | nodes |")
    print("|:--|--:|--:|--:|--:|--:|:--|", flush=True)
    Semester(lab).pass_by()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
