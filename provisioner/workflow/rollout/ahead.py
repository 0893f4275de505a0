"""Stage the nodes of the next waves while a wave switches: pulls take most of the time of a rollout."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Generic, TypeVar

from provisioner.domain.rollout.order import Orders
from provisioner.domain.rollout.report import NodeRecord
from provisioner.workflow.protocols import StopRequested

OrderT = TypeVar("OrderT")
StageUntil = Callable[
    [Orders[OrderT], StopRequested], Mapping[str, NodeRecord]
]  # no pull begins once the second returns True


class StagedAhead(Generic[OrderT]):
    """The orders of the waves after the first, by number of the wave, staged one wave after the other in one thread.

    Nothing that runs on a node is stopped by it. No pull begins after `halt`.
    """

    def __init__(self, stage: StageUntil[OrderT], waves: Mapping[int, Orders[OrderT]], stop: StopRequested) -> None:
        """Store the orders; `stop` is asked before each pull."""
        self._stage, self._waves, self._stop = stage, waves, stop
        self._staged: dict[int, Future[Mapping[str, NodeRecord]]] = {number: Future() for number in waves}
        self._halted = threading.Event()
        # As a daemon: at a second ^C the program ends, and with it its plays; the nodes complete their jobs.
        self._thread = threading.Thread(target=self._work, name="staging", daemon=True)

    def begin(self) -> None:
        """Begin with the first of the waves, unless staging has begun, or was halted."""
        if self._thread.ident is None and not self._halted.is_set():
            self._thread.start()

    def take(self, number: int) -> Mapping[str, NodeRecord]:
        """Wait for the staging of a wave, if it has begun, and return the nodes that were reached.

        Raises what the staging of that wave has raised.
        """
        return self._staged[number].result() if number in self._staged and self._thread.ident is not None else {}

    def halt(self) -> None:
        """Let no further pull begin ahead of its wave."""
        self._halted.set()

    def end(self) -> None:
        """Let no further pull begin, and wait for those that have begun."""
        self.halt()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def is_working(self) -> bool:
        """Whether pulls run ahead of their wave."""
        return self._thread.is_alive()

    def _must_stop(self) -> bool:
        return self._halted.is_set() or self._stop()

    def _work(self) -> None:
        for number, orders in self._waves.items():
            staged = self._staged[number]
            try:
                staged.set_result({} if self._must_stop() else self._stage(orders, self._must_stop))
            except BaseException as error:  # noqa: BLE001  (raised again in the thread that takes the result)
                self._halted.set()
                staged.set_exception(error)
