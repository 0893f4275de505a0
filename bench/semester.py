"""Measure the commands of a semester in a lab that runs on this machine.

    python -m bench.semester [NODES]

The steps: a rollout; an upgrade while two nodes are in use and three are off, killed in the middle and resumed; a
rollout to the other nodes; a rollback. After every step the report and what really runs on each node are checked.
Needs root: nodes are containers of the test bed, each with its own engine. The output of a run is in bench/semester.md.
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
from provisioner.workflow.rollout.resume import final_records
from tests.journeys.small_lab import image_of_seat
from tests.lab.bed import Lab
from tests.lab.demo import PROGRAM, Command, write_lab
from tests.lab.gpus import profile_text
from tests.lab.node import Node
from tests.lab.steps import setup
from tests.playbooks.on_nodes import push_base

Result = TypeVar("Result")

NODES = 50
BEFORE, AFTER = "2.9.1", TORCH
GPU_PROCESS = "proc = 4242:1024:python train.py\n"
KILLED = -9
# All nodes share this machine, so containers become healthy slowly.
SLOW = {"healthy_deadline_seconds": 900}


@dataclass(frozen=True)
class Semester:
    """Runs the steps. `torch_of`: the torch version of each image that was locked, by its name."""

    lab: Lab
    torch_of: dict[str, str] = field(default_factory=dict)

    @property
    def _folder(self) -> Path:
        return self.lab.folder / "lab"

    @property
    def _busy(self) -> Sequence[Node]:
        return self.lab.nodes[1 : 1 + min(2, len(self.lab.nodes) // 4)]

    @property
    def _off(self) -> Sequence[Node]:
        return self.lab.nodes[-min(3, len(self.lab.nodes) // 4) :]

    def run_all(self) -> None:
        """Run all steps and print a row for each. Raises RuntimeError where a result is not as expected."""
        total, absent = len(self.lab.nodes), len(self._busy) + len(self._off)
        reached = total - absent
        write_lab(self.lab, self._folder, image={"complete": True, "torch": BEFORE}, rollout=SLOW)
        self._step("lock", "lock")
        self._step("rollout", "rollout", "--yes", states={"committed": total})
        self._check_torch({BEFORE: total})
        self._set_gpu_processes(GPU_PROCESS)
        _on_all(Node.stop, self._off)
        self._upgrade_until_killed()
        left = {"committed": reached, "deferred": len(self._busy), "unreachable": len(self._off)}
        self._step("resume", "resume", code=1, states=left)
        self._set_gpu_processes("")
        _on_all(Node.start, self._off)
        self._check_torch({AFTER: reached, BEFORE: absent})
        self._step("rollout, the others", "rollout", "--yes", states={"committed": absent, "unchanged": reached})
        self._check_torch({AFTER: total})
        self._step("rollout, nothing to do", "rollout", "--yes", states={"unchanged": total})
        self._step("rollback", "rollback", "--yes", states={"committed": total})
        self._check_torch({BEFORE: total})

    def _set_gpu_processes(self, process: str) -> None:
        for node in self._busy:
            node.set_profile(f"{profile_text(PROFILE)}\n{process}")

    def _upgrade_until_killed(self) -> None:
        """Kill all processes of an upgrade, as if the control machine had failed."""
        before = self._newest_run
        options = ("--yes", "--leave-behind", "--allow-unreachable", str(len(self._off)))

        def is_in_second_wave() -> bool:
            return self._newest_run > before and _switches_second_wave(self._newest_run)

        used = self._run("upgrade", "--torch", AFTER, *options, kill_when=is_in_second_wave)
        _expect("the end of the upgrade", used.code, KILLED, self._read_messages)
        states = Counter[str](record.state for record in final_records(events(self._newest_run)).values())
        _row("upgrade, killed in its second wave", used, states)

    @property
    def _newest_run(self) -> Path:
        return max(self.lab.folder.glob("xdg_state_home/provisioner/*/runs/*"))

    def _step(self, title: str, *words: str, code: int = 0, states: Mapping[str, int] | None = None) -> None:
        used = self._run(*words)
        _expect(f"the exit code of {title}", used.code, code, self._read_messages)
        document = json.loads(self._output.read_text())
        found = Counter[str](record["state"] for record in document["nodes"]) if states else Counter[str]()
        _expect(f"the nodes after {title}", found, Counter(states or {}), self._read_messages)
        _row(title, used, found)

    def _run(self, verb: str, *words: str, kill_when: Callable[[], bool] = lambda: False) -> Usage:
        argv = [str(PROGRAM), verb, str(self._folder), *words, "--json"]
        used = measured(argv, Command(self.lab.engine, self.lab).env, self._output, self._messages, kill_when)
        lock = read_lock(self._folder / "lab.lock")
        self.torch_of.update({image.lab: str(image.torch) for image in lock.images} if lock else {})
        return used

    @property
    def _output(self) -> Path:
        return self.lab.folder / "output.json"

    @property
    def _messages(self) -> Path:
        return self.lab.folder / "messages.txt"

    def _read_messages(self) -> str:
        return self._messages.read_text()

    def _check_torch(self, expected: Mapping[str, int]) -> None:
        """Check how many nodes really run the image of each torch version."""
        found = Counter(self.torch_of.get(image, image) for image in _on_all(image_of_seat, self.lab.nodes))
        _expect("what the nodes run", found, Counter(expected), self._read_messages)


def _switches_second_wave(run: Path) -> bool:
    run_events = (entry.event for entry in events(run))
    has_started = any(event.text.startswith("wave 2 of ") for event in run_events)
    return has_started and any(event.phase == "switch" for event in run_events)  # only events after that start


def _on_all(action: Callable[[Node], Result], nodes: Sequence[Node]) -> list[Result]:
    with ThreadPoolExecutor(FORKS) as pool:
        return list(pool.map(action, nodes))


def _expect(what: str, found: object, expected: object, read_messages: Callable[[], str]) -> None:
    if found != expected:
        raise RuntimeError(f"{what}: {found}, and not {expected}\n{read_messages()}")


def _row(title: str, used: Usage, states: Mapping[str, int]) -> None:
    memory = f"{used.own >> 20} | {used.tree >> 20}"
    nodes = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    print(f"| {title} | {used.code} | {used.seconds:.0f} | {used.cpu:.0f} | {memory} | {nodes} |", flush=True)


def main(count: int = NODES) -> None:
    """Run a semester of a lab of `count` nodes."""
    engine = setup()
    lab = Lab("semester", engine=engine)
    lab.down()
    try:
        _run_semester(lab, count)
    finally:
        lab.down()
    print(f"\nLoad of the machine in the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


def _run_semester(lab: Lab, count: int) -> None:
    start = perf_counter()
    lab.up([PROFILE] * count)
    for torch in (BEFORE, AFTER):
        push_base(lab, torch)
    print(f"## A semester of {count} nodes, which came up in {perf_counter() - start:.0f} s\n")
    print("| step | exit | seconds | CPU seconds | MB, provision | MB, all its processes | nodes |")
    print("|:--|--:|--:|--:|--:|--:|:--|", flush=True)
    Semester(lab).run_all()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
