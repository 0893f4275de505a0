"""A seat that can be switched, with containers that are one number, and a journal that can kill the process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import NoJob, an_order

rollbacks, verification = module_util("transaction.rollback"), module_util("transaction.verify")
begins = module_util("transaction.expected")
switches, seats, journals = module_util("transaction.switch"), module_util("seat.seat"), module_util("seat.journal")


class Killed(BaseException):
    """Stands for SIGKILL or a power cut: no code after it runs."""


class FakeCompose:
    """Containers as one number: the running generation, 0 for none. `broken` are generations that do not start.

    `bad_home`: what lies in the home of the user stops every generation.
    """

    def __init__(self, seat: Any, running: int = 0) -> None:
        self.seat = seat
        self.running = running
        self.broken: set[int] = set()
        self.bad_home, self._empty_home = False, False
        self.calls: list[str] = []
        self.pids = {"jupyter": 0, "ssh": 0}  # the first process of each container

    def check_ours(self) -> None:
        """No other project has the name of the seat."""

    def ours(self) -> list[dict[str, Any]]:
        return self.containers()

    def check(self, number: int) -> None:
        if not (self.seat.generation(number) / "compose.yaml").exists():
            raise a_problem("compose_refused")

    def up(self, number: int) -> None:
        self.calls.append(f"up {number}")
        self.running, self._empty_home = number, False
        if number in self.broken:
            raise a_problem("start_failed")

    @contextmanager
    def empty_home(self, number: int, _wanted: dict[str, Any]) -> Iterator[None]:
        self.up(number)
        self._empty_home = True
        yield
        self.up(number)

    @property
    def fails_by_its_home(self) -> bool:
        return self.bad_home and not self._empty_home

    def down(self) -> None:
        self.calls.append("down")
        if -1 in self.broken:
            raise a_problem("stop_failed")
        self.running = 0

    def stop(self) -> None:
        self.calls.append("stop")
        if -1 in self.broken:
            raise a_problem("stop_failed")
        self.running = 0

    def restart(self, service: str) -> None:
        self.calls.append(f"restart {service}")

    def remove_unused_networks(self) -> None:
        self.calls.append("remove unused networks")

    def containers(self) -> list[dict[str, Any]]:
        return [{"State": "running"}] if self.running else []

    def container(self, service: str) -> dict[str, Any] | None:
        return {"Id": service, "State": {"Pid": self.pids[service]}} if self.running else None

    def services(self) -> dict[str, str]:
        healthy = self.running and self.running not in self.broken
        return dict.fromkeys(("jupyter", "ssh"), "healthy" if healthy else "exited")

    def wait_healthy(self, _deadline: float, _report: Callable[..., None]) -> None:
        self.calls.append("healthy?")
        if self.running in self.broken or self.fails_by_its_home:
            raise a_problem("not_healthy")

    def logs(self) -> str:
        return "logs of the containers"


def a_problem(code: str) -> Exception:
    return ProblemError(code, code, "why", "fix")


def kill_at(journal: Any, state: str, when: str) -> Any:
    """Make the process die before or after the journal writes this state."""
    append = journal.append

    def dying(written: str, **detail: Any) -> None:
        if written == state and when == "before":
            raise Killed
        append(written, **detail)
        if written == state:
            raise Killed

    journal.append = dying
    return journal


class World:
    """A seat whose current generation is `old` (0: none), with generation 2 staged.

    `orders` are those of generation 2 and of generation 1.
    """

    def __init__(self, root: Path, old: int, orders: tuple[dict[str, Any], dict[str, Any]] | None = None) -> None:
        self.order, before = orders or (an_order(root), an_order(root, files={"compose.yaml": "old"}))
        self.old = old
        self.seat = seats.seat_of(self.order)
        self.seat.make_folders()
        if old:
            self.seat.write(1, before, {})
            self.seat.commit(1)
        self.seat.write(2, self.order, {})
        self.compose = FakeCompose(self.seat, old)
        self.failing_checks: set[int] = set()  # generations that start but fail verification
        self.killed_checks = 0  # how many of the next verifications fail because the containers are killed

    def patch_node_code(self, monkeypatch: pytest.MonkeyPatch) -> "World":
        """Replace compose and the checks of the node code."""
        for module in (begins, rollbacks):
            monkeypatch.setattr(module, "Compose", lambda *_: self.compose)
        monkeypatch.setattr(verification, "verify", self.verify)
        return self

    def verify(self, _compose: Any, number: int, *_: Any) -> dict[str, Any]:
        if self.killed_checks:
            self.killed_checks -= 1
            raise a_problem("not_healthy")
        if number in self.failing_checks or self.compose.fails_by_its_home:
            raise a_problem("jupyter_fails")
        return {"checks": {"ssh": "ok"}, "gpu": {}}

    def switch(self, run: str = "r1", **order: Any) -> dict[str, Any]:
        record: dict[str, Any] = switches.switch(self.order | order | {"run": run}, NoJob(), 0)
        return record

    def roll_back(self, to: int = 0, run: str = "back", **over: Any) -> dict[str, Any]:
        named = {"state_root": self.order["state_root"], "seat": {"name": self.seat.name}}
        record: dict[str, Any] = rollbacks.roll_back({**named, "run": run, "to": to, **over}, NoJob(), 0)
        return record

    def journal(self, run: str = "r1") -> Any:
        return journals.Journal(self.seat.folder, run)

    def report(self, text: str, **_: Any) -> None:
        """Discard the progress."""

    def transact(self, journal: Any = None) -> dict[str, Any]:
        record: dict[str, Any] = switches.transact(self.compose, journal or self.journal(), 2, self.order, self.report)
        return record

    def recover(self, run: str = "r2") -> None:
        module_util("transaction.recover").recover_seat(self.compose, self.journal(run), self.order, self.report)

    @property
    def states(self) -> list[str]:
        return [line["state"] for line in self.journal().lines()]
