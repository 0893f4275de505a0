"""A node with five seats: its batch, and the jobs of its seats, can be killed at any boundary. See crashes.py."""

import json
import os
import signal
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from provisioner.adapters.ansible.batch import dump_batch
from provisioner.domain.rollout.order import AnyOrder, Order, RemovalOrder, SeatName
from provisioner.domain.values.claim import Claim
from tests.playbooks.crashes import WAIT_SECONDS, Boundaries, OfSeat, StoredCompose, StoredWorld, mark, wait_for_end
from tests.playbooks.node_code import module_util
from tests.playbooks.orders import an_order, with_seat
from tests.playbooks.world import FakeCompose

switches, stages, removals, recovery, verification, begins = (
    module_util(f"transaction.{name}") for name in ("switch", "stage", "remove", "recover_node", "verify", "expected")
)
batches, jobs, files, claims, hosts = (
    module_util(name) for name in ("jobs.batch", "jobs.job", "jobs.jobfile", "jobs.claims", "base.host")
)
journals, seats, busy = (module_util(f"seat.{name}") for name in ("journal", "seat", "busy"))

NAMES = ("ml_a", "ml_b", "ml_c", "ml_d", "ml_e")
Gpus = Mapping[str, str]  # seat -> its GPU, empty for none


def ordered(root: Path, name: str, gpu: str, **over: Any) -> dict[str, Any]:
    """Return the order of a seat. Each name has ports and a subnet of its own."""
    number = NAMES.index(name)
    ports = {"ssh": 22000 + 2 * number, "jupyter": 22001 + 2 * number}
    seat = {"ports": ports, "subnet": f"10.213.0.{16 * number}/28", "gpus": [gpu] if gpu else []}
    order = with_seat(an_order(root, **over), name=name, person=name, home=str(root / "homes" / name), **seat)
    made = Order.model_validate(order)
    return made.model_dump(mode="json") | {"files": made.files, "document": {"files": {}}}


class CrashingNode:
    """Five seats run generation 1, with the GPUs `before`; generation 2, with the GPUs `after`, is staged.

    A seat that `after` does not name is stopped.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, before: Gpus, after: Gpus) -> None:
        self.root, self.at, self.after = root, Boundaries(root), after
        self.conflicts = root / "conflicts"
        self.worlds = {name: self._world(name, before[name], after.get(name, "")) for name in NAMES}
        self._patch(monkeypatch)
        self._boot = monkeypatch

    def _world(self, name: str, before: str, after: str) -> StoredWorld:
        folder = self.root / name
        folder.mkdir()
        orders = ordered(self.root, name, after), ordered(self.root, name, before, files={"compose.yaml": "old"})
        world = StoredWorld(self.root, 1, OfSeat(self.at, name), folder, orders)
        (world.seat.identity / "token").write_text(f"token of {name}")
        for suffix in ("", ".pub"):
            (world.seat.identity / f"ssh_host_ed25519_key{suffix}").write_text(f"ssh-ed25519 AAAA {name}\n")
        return world

    def _patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def compose(seat: Any, *_: Any) -> FakeCompose:
            return self.worlds[seat.name].compose

        for module in (begins, recovery, removals, busy):
            monkeypatch.setattr(module, "Compose", compose)
        monkeypatch.setattr(verification, "verify", lambda made, *rest: self.worlds[made.seat.name].verify(made, *rest))

        def of_journal(journal: Any, *_: Any) -> OfSeat:
            return OfSeat(self.at, journal._path.parent.name)

        mark(monkeypatch, journals.Journal, "append", of_journal, "journal {}")
        mark(monkeypatch, seats.Seat, "commit", lambda seat, *_: OfSeat(self.at, seat.name), "current {}")
        mark(monkeypatch, seats.Seat, "write", lambda seat, *_: OfSeat(self.at, seat.name), "generation {}")
        mark(monkeypatch, batches, "with_release", lambda *_: self.at, "the release")
        up = StoredCompose.up

        def checked_up(made: StoredCompose, number: int) -> None:
            up(made, number)
            self._note_conflicts()

        monkeypatch.setattr(StoredCompose, "up", checked_up)

    def _note_conflicts(self) -> None:
        """Note each GPU that two running seats have."""
        having = [gpu for name in NAMES for gpu in self.running_gpus(name)]
        if twice := {gpu for gpu in having if having.count(gpu) > 1}:
            self.conflicts.write_text(f"{twice} of {having}")

    def running_gpus(self, name: str) -> list[str]:
        world = self.worlds[name]
        number = world.compose.running
        return list(world.seat.order(number)["seat"]["gpus"]) if number else []

    @property
    def state_root(self) -> str:
        return str(self.root / "state")

    # ---- runs

    def start(self, kind: str, run: str, fence: int, names: Collection[str] = NAMES) -> Path:
        """Claim the node and start a batch for these seats, as the modules do. Return its file."""
        # Seats are stopped first.
        names = sorted(names, key=lambda name: name in self.after)
        claim = Claim(run=run, lab="ml", holder="ann@one", since="2026-11-26T21:00:00Z", fence=fence)
        claims.take_claim(self.state_root, claim.model_dump(), "r1")
        batch = json.loads(dump_batch({name: self._order(kind, name, run, claim) for name in names}))
        path: Path = batches.start_batch(batch, kind, lambda order: self._begin(kind, order))
        return path

    def _order(self, kind: str, name: str, run: str, claim: Claim) -> AnyOrder:
        world, common = self.worlds[name], {"run": run, "claim": claim, "state_root": self.state_root}
        common["held"] = {"gpus": world.seat.order(1)["seat"]["gpus"]}
        if name not in self.after and kind == "switch":
            return RemovalOrder.model_validate({**common, "act": "stop", "seat": SeatName(name=name)})
        expects = 1 if run == "r1" else world.seat.current()
        return Order.model_validate({**world.order, **common, "expects": expects})

    def _begin(self, kind: str, order: dict[str, Any]) -> Path:
        at, seat, run = OfSeat(self.at, order["seat"]["name"]), seats.seat_of(order), order["run"]
        at.reach(f"before the job {kind}")
        if order.get("act") == "stop":
            path: Path = jobs.start(seat, run, "stop", lambda job, lock: removals.stop(order, job, lock))
        elif kind == "stage":
            path = jobs.start(seat, run, kind, lambda job, lock: stages.stage(order, job, lock, {}))
        else:
            path = jobs.start_once(seat, run, kind, lambda job, lock: switches.switch(order, job, lock))
        at.reach(f"after the job {kind} began")
        return path

    def carry_out(self, kind: str, run: str, fence: int, names: Collection[str] = NAMES) -> dict[str, Any]:
        return self.finish(self.start(kind, run, fence, names))

    def finish(self, path: Path) -> dict[str, Any]:
        job = files.follow(path, WAIT_SECONDS)
        assert job["finished"], job
        return dict(job["record"])

    # ---- faults

    def kill(self, path: Path, whom: str) -> dict[str, Any]:
        """Wait for the boundary, then kill the `batch`, the jobs of the `seats`, or `all`. Return the batch's job."""
        batch = self._reached(path)
        if whom in ("batch", "all"):
            end(batch)
        if whom in ("seats", "all"):
            for _ in range(3 if whom == "all" else 1):  # a job that was just started has no file yet
                for job in map(jobs.running_job, [world.seat for world in self.worlds.values()]):
                    if job:
                        end(job)
                time.sleep(0.03)
        self.at.let_go()
        self.at.stop = ""
        return batch

    def _reached(self, path: Path) -> dict[str, Any]:
        deadline = time.monotonic() + WAIT_SECONDS
        while not self.at.reached():
            assert time.monotonic() < deadline, files.read_job(path)
            time.sleep(0.005)
        return dict(files.read_job(path))

    def restart(self) -> None:
        """Boot again after a power cut: running containers start again, and unfinished seats are recovered."""
        for module in (hosts, files, journals):
            self._boot.setattr(module, "boot_id", lambda: "another-boot")
        recovery.recover_seats({"run": "boot", "state_root": self.state_root}, lambda *_, **__: None)

    # ---- laws

    def identities(self) -> dict[str, dict[str, bytes]]:
        return {name: world.identity() for name, world in self.worlds.items()}

    def generations(self) -> dict[str, int]:
        """Return the generation that each seat runs, 0 for one that is stopped. It is the current one, and complete."""
        for name, world in self.worlds.items():
            assert world.journal().open_switch() is None
            stopped = world.compose.running == 0 and name not in self.after
            assert stopped or world.compose.running == world.seat.current(), name
        return {name: world.compose.running for name, world in self.worlds.items()}

    def claim(self) -> Any:
        return next(iter(claims.read_claims(self.state_root).active), None)

    def disk(self) -> dict[str, str]:
        return {path: text for world in self.worlds.values() for path, text in world.disk().items()}


def end(job: dict[str, Any]) -> None:
    if files.is_alive(job):
        os.kill(job["pid"], signal.SIGKILL)
        wait_for_end(job)
