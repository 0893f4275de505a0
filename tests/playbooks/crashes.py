"""A seat whose job is a separate process that can be killed at any boundary; its containers are files.

At the boundary where a test wants it to die, the job writes a file and waits. The node code has no such hooks: the
boundaries are those of the journal, of starting and stopping containers, and of rename(2).
"""

import errno
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.node_code import module_util
from tests.playbooks.orders import REFERENCE
from tests.playbooks.world import FakeCompose, World

switches, rollbacks, recovery, journals, seats, files, jobs, hosts = (
    module_util(name)
    for name in (
        "transaction.switch",
        "transaction.rollback",
        "transaction.recover_node",
        "seat.journal",
        "seat.seat",
        "jobs.jobfile",
        "jobs.job",
        "base.host",
    )
)

WAIT_SECONDS = 60


class Boundaries:
    """`reach` is called at every boundary. At `stop`, reached for the `nth` time, the process waits or fails.

    Who waits goes on after `let_go`, if it is still alive.
    """

    def __init__(self, folder: Path) -> None:
        self._reached, self._go = folder / "reached", folder / "go"
        self.stop, self.nth, self.error = "", 1, False

    def reach(self, name: str) -> None:
        if name != self.stop:
            return
        self.nth -= 1
        if self.nth:
            return
        if self.error:
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
            raise module_util("base.problem").io_problem(full) if "journal" in name else full
        self._reached.touch()
        while not self._go.exists():
            time.sleep(0.02)

    def reached(self) -> bool:
        return self._reached.exists()

    def let_go(self) -> None:
        self._go.touch()

    def clear(self) -> None:
        self.stop = ""
        self._reached.unlink(missing_ok=True)


class OfSeat:
    """The boundaries of one of several seats."""

    def __init__(self, at: Boundaries, seat: str) -> None:
        self._at, self._seat = at, seat

    def reach(self, name: str) -> None:
        self._at.reach(f"{name}, {self._seat}")


class StoredCompose(FakeCompose):
    """The running generation is stored in a file, so it outlives the process that started it."""

    def __init__(self, seat: Any, at: Boundaries | OfSeat, folder: Path) -> None:
        self._at, self._file = at, folder / "running"
        super().__init__(seat)

    @property
    def running(self) -> int:
        return int(self._file.read_text())

    @running.setter
    def running(self, number: int) -> None:
        # Not truncated first: the jobs of other seats read it meanwhile, and the disk may be full.
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, str(number).encode())
        os.close(descriptor)

    def up(self, number: int) -> None:
        self._at.reach(f"up {number}: nothing stopped yet")
        self.running = 0
        self._at.reach(f"up {number}: old stopped, new not started")
        super().up(number)
        self._at.reach(f"up {number}: started")

    def down(self) -> None:
        self._at.reach("down: nothing stopped yet")
        super().down()
        self._at.reach("down: stopped")


class StoredWorld(World):
    """Generation `old` is committed and runs, generation 2 is staged; the containers are files in `folder`."""

    def __init__(
        self,
        root: Path,
        old: int,
        at: Boundaries | OfSeat,
        folder: Path,
        orders: tuple[dict[str, Any], dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(root, old, orders)
        self._at = at
        self.compose = StoredCompose(self.seat, at, folder)
        self.compose.running = old

    def verify(self, *arguments: Any) -> dict[str, Any]:
        self._at.reach("while it is verified")
        return super().verify(*arguments)

    def identity(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.seat.identity.iterdir()}

    def disk(self) -> dict[str, str]:
        """Return all files of the seat except its jobs and its lock."""
        found = [path for path in self.seat.folder.rglob("*") if path.is_file() and path.parent != self.seat.jobs]
        return {str(path): path.read_text() for path in found if path.name != "lock"}


def mark(
    monkeypatch: pytest.MonkeyPatch, kind: Any, name: str, at: Callable[..., Boundaries | OfSeat], label: str
) -> None:
    """Make a call two boundaries, one before and one after it.

    `at` returns the boundaries for the arguments of a call; `label` is filled with the second argument.
    """
    inner = getattr(kind, name)

    def marked(*arguments: Any, **words: Any) -> Any:
        text = label.format(*arguments[1:2])
        at(*arguments).reach(f"before {text}")
        result = inner(*arguments, **words)
        at(*arguments).reach(f"after {text}")
        return result

    monkeypatch.setattr(kind, name, marked)


class CrashingWorld(StoredWorld):
    """One seat whose actions are jobs, as on a node."""

    def __init__(self, root: Path, old: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = Boundaries(root)
        super().__init__(root, old, self.at, root)
        self.patch_node_code(monkeypatch)
        monkeypatch.setattr(recovery, "Compose", lambda *_: self.compose)
        mark(monkeypatch, journals.Journal, "append", lambda *_: self.at, "journal {}")
        mark(monkeypatch, seats.Seat, "commit", lambda *_: self.at, "current {}")

    def job(self, act: str, run: str) -> dict[str, Any] | None:
        """Return the record, None if the process was killed at the wanted boundary."""
        path = jobs.start_once(self.seat, run, act, self._work(act, run))
        deadline = time.monotonic() + WAIT_SECONDS
        while not (self.at.reached() or ((job := files.read_job(path)) and job["finished"])):
            assert time.monotonic() < deadline, self.states
            time.sleep(0.005)
        job = files.read_job(path)
        assert job
        if not self.at.reached():
            wait_for_end(job)
            self.at.clear()
            return dict(job["record"])
        os.kill(job["pid"], signal.SIGKILL)
        wait_for_end(job)
        self.at.clear()
        return None

    def _work(self, act: str, run: str) -> Callable[..., dict[str, Any]]:
        if act == "switch":
            return lambda job, lock: switches.switch({**self.order, "run": run, "expects": self.old}, job, lock)
        order = {"run": run, "state_root": self.order["state_root"], "seat": {"name": self.seat.name}, "to": 1}
        return lambda job, lock: rollbacks.roll_back(order, job, lock)

    def cut_power(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Simulate another boot with an incomplete last line in the journal; running containers start again."""
        path = self.seat.folder / "journal.jsonl"
        path.write_text(module_util("base.files").read(path) + '\n{"seq": 99, "state": "comm')
        for module in (hosts, files, journals):
            monkeypatch.setattr(module, "boot_id", lambda: "another-boot")

    def recover_all(self) -> dict[str, Any]:
        order = {"run": "r-recover", "state_root": self.order["state_root"]}
        record: dict[str, Any] = recovery.recover_seats(order, self.report)
        return record


def wait_for_end(job: dict[str, Any]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while files.is_alive({**job, "finished": False}):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def with_image(engine: Any) -> None:
    engine.images[REFERENCE] = {"RootFS": {"Layers": []}}


def ports(world: World) -> dict[str, int]:
    order = json.loads((world.seat.folder / "current/order.json").read_text())
    return dict(order["seat"]["ports"])
