"""Prepare nodes for seats, and the host of the lab's registry, through Ansible."""

from collections.abc import Mapping
from typing import Any, Generic, TypeVar, get_args

from provisioner.adapters.ansible.play import HostEvent, local_hostname, play_folder, run_playbook
from provisioner.adapters.ansible.results import (
    UNREADABLE,
    check_bounds,
    host_problem,
    parse_progress,
    result_missing,
    unreadable,
)
from provisioner.adapters.ansible.settings import Settings
from provisioner.domain.rollout.preparation import (
    READY,
    GcOrder,
    NodePreparation,
    PrepareOrder,
    PrepareState,
    RegistryOrder,
    RegistryPreparation,
)
from provisioner.domain.values.event import Event, OnEvent
from provisioner.domain.values.problem import UNREACHED, Problem

Result = TypeVar("Result", bound=NodePreparation)
AnyPrepareOrder = PrepareOrder | RegistryOrder | GcOrder


class Preparer(Generic[Result]):
    """Survey and prepare machines. Each result holds every machine that has an order.

    Methods raise ProblemError where Ansible did not run the play.
    """

    def __init__(self, settings: Settings, on_event: OnEvent, result_type: type[Result]) -> None:
        """Store the settings. `result_type` is the model of what a machine returns."""
        self._settings = settings
        self._on_event = on_event
        self._result_type = result_type

    def survey(self, orders: Mapping[str, AnyPrepareOrder]) -> Mapping[str, Result]:
        """Return what each machine lacks. Nothing is changed."""
        return self._run("survey", orders)

    def prepare(self, orders: Mapping[str, AnyPrepareOrder]) -> Mapping[str, Result]:
        """Bring each machine to the state that its order describes."""
        return self._run("prepare", orders)

    def _run(self, playbook: str, orders: Mapping[str, AnyPrepareOrder]) -> Mapping[str, Result]:
        results: dict[str, Result] = {}
        started: set[str] = set()

        def on_host_event(event: HostEvent) -> None:
            if result := self._parse(event, started=event.node in started):
                results[event.node] = result
                self._on_event(_result_event(result))
            elif event.status == "ok":
                started.add(event.node)
                self._on_event(Event(phase="prepare", kind="started", node=event.node))
            elif event.status == "retry":
                self._on_event(parse_progress(event).model_copy(update={"phase": "prepare"}))

        if orders:
            with play_folder({node: order.model_dump_json() for node, order in orders.items()}) as folder:
                run_playbook(self._settings, folder, playbook, on_host_event)
        return {node: results.get(node) or self._without_record(node, "unknown", result_missing()) for node in orders}

    def _parse(self, event: HostEvent, *, started: bool) -> Result | None:
        """Return the result of a machine, None while its job goes on."""
        record = event.result.get("record")
        if record and event.status in {"ok", "failed"}:
            return self._parse_record(event.node, record)
        if event.status not in {"failed", "unreachable"}:
            return None
        problem = host_problem(event)
        unreached = problem.code in UNREACHED
        state: PrepareState = "unknown" if started else "unreachable" if unreached else "failed"
        return self._without_record(event.node, state, problem)

    def _parse_record(self, node: str, record: Mapping[str, Any]) -> Result:
        """Parse a record. A job that broke ends in a state of a rollout, which is a failure here."""
        try:
            check_bounds(record)
            state = record.get("state") if record.get("state") in get_args(PrepareState) else "failed"
            return self._result_type.model_validate({**record, "node": node, "state": state})
        except UNREADABLE as error:
            return self._without_record(node, "unknown", unreadable("the record of the node", error))

    def _without_record(self, node: str, state: PrepareState, problem: Problem) -> Result:
        return self._result_type.model_validate({"node": node, "state": state, "problems": [problem.model_dump()]})


def nodes_preparer(settings: Settings, on_event: OnEvent) -> Preparer[NodePreparation]:
    """Return what surveys and prepares nodes."""
    return Preparer(settings, on_event, NodePreparation)


def registry_preparer(settings: Settings, on_event: OnEvent) -> Preparer[RegistryPreparation]:
    """Return what surveys, prepares and sweeps the host of the lab's registry."""
    return Preparer(settings, on_event, RegistryPreparation)


def local(settings: Settings) -> tuple[str, Settings]:
    """Return the name of the control machine, and the settings of a play on it alone."""
    return local_hostname(), Settings(inventory=None, verbosity=settings.verbosity)


def _result_event(result: NodePreparation) -> Event:
    succeeded = result.state in READY or result.state in {"lacking", "deferred"}
    text = result.problems[0].what if result.problems else result.state
    return Event(phase="prepare", kind="done" if succeeded else "failed", node=result.node, text=text)
