"""Making nodes ready for seats, and the host of the lab's registry, through Ansible."""

from collections.abc import Mapping
from typing import Any, Generic, TypeVar, get_args

from pydantic import ValidationError

from provisioner.adapters.ansible.play import HostEvent, play, scratch, this_machine
from provisioner.adapters.ansible.results import module_failed, problem_of, progress
from provisioner.adapters.ansible.settings import Settings
from provisioner.domain.rollout.preparation import (
    READY,
    NodePreparation,
    PrepareOrder,
    PrepareState,
    RegistryOrder,
    RegistryPreparation,
    SweepOrder,
)
from provisioner.domain.values.event import Event, OnEvent

Answer = TypeVar("Answer", bound=NodePreparation)
PreparesOrder = PrepareOrder | RegistryOrder | SweepOrder


class Preparer(Generic[Answer]):
    """Each machine that is asked is in the result. Methods raise ProblemError where Ansible did not run the play."""

    def __init__(self, settings: Settings, on_event: OnEvent, answer: type[Answer]) -> None:
        self._settings = settings
        self._on_event = on_event
        self._answer = answer

    def survey(self, orders: Mapping[str, PreparesOrder]) -> Mapping[str, Answer]:
        """What each lacks; nothing is changed."""
        return self._ask("survey", orders)

    def do(self, orders: Mapping[str, PreparesOrder]) -> Mapping[str, Answer]:
        return self._ask("prepare", orders)

    def _ask(self, playbook: str, orders: Mapping[str, PreparesOrder]) -> Mapping[str, Answer]:
        answers: dict[str, Answer] = {}
        begun: set[str] = set()

        def hear(heard: HostEvent) -> None:
            if answer := self._of(heard, begun=heard.node in begun):
                answers[heard.node] = answer
                self._on_event(_ended(answer))
            elif heard.word == "ok":
                begun.add(heard.node)
                self._on_event(Event(phase="prepare", kind="started", node=heard.node))
            elif heard.word == "retry":
                self._on_event(progress(heard).model_copy(update={"phase": "prepare"}))

        if orders:
            with scratch({node: order.model_dump_json() for node, order in orders.items()}) as folder:
                play(self._settings, folder, playbook, hear)
        silent = module_failed("the play ended without a word of it").model_dump()
        return {node: answers.get(node) or self._made(node, "unknown", [silent]) for node in orders}

    def _of(self, heard: HostEvent, *, begun: bool) -> Answer | None:
        """None where more is to come."""
        record = heard.result.get("record")
        if record and heard.word in {"ok", "failed"}:
            return self._read(heard.node, record)
        if heard.word not in {"failed", "unreachable"}:
            return None
        state: PrepareState = "unknown" if begun else "unreachable" if heard.word == "unreachable" else "failed"
        return self._made(heard.node, state, [problem_of(heard).model_dump()])

    def _read(self, node: str, record: Mapping[str, Any]) -> Answer:
        """A job that broke ends in a state of seats: here that is a failure."""
        state = record.get("state") if record.get("state") in get_args(PrepareState) else "failed"
        try:
            return self._answer.model_validate({**record, "node": node, "state": state})
        except ValidationError as error:
            return self._made(node, "unknown", [module_failed(f"its answer cannot be read: {error}").model_dump()])

    def _made(self, node: str, state: PrepareState, problems: list[dict[str, str]]) -> Answer:
        return self._answer.model_validate({"node": node, "state": state, "problems": problems})


def nodes_preparer(settings: Settings, on_event: OnEvent) -> Preparer[NodePreparation]:
    return Preparer(settings, on_event, NodePreparation)


def registry_preparer(settings: Settings, on_event: OnEvent) -> Preparer[RegistryPreparation]:
    return Preparer(settings, on_event, RegistryPreparation)


def local(settings: Settings) -> tuple[str, Settings]:
    """The control machine alone: its name, and how it is asked."""
    return this_machine(), Settings(inventory=None, verbosity=settings.verbosity)


def _ended(answer: NodePreparation) -> Event:
    good = answer.state in READY or answer.state in {"lacking", "deferred"}
    text = answer.problems[0].what if answer.problems else answer.state
    return Event(phase="prepare", kind="done" if good else "failed", node=answer.node, text=text)
