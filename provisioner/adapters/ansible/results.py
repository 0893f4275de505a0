"""What Ansible said of a node, as our own values: facts, record, event, or the problem that stands in their place."""

from datetime import datetime
from typing import Any, get_args

from pydantic import ValidationError

from provisioner.adapters.ansible.play import HostEvent
from provisioner.domain.rollout.report import NodeRecord
from provisioner.domain.values.event import Event, Phase
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem

_PHASES: tuple[str, ...] = get_args(Phase)


def facts_of(heard: HostEvent) -> NodeFacts | Problem:
    """Of the last word of a probe."""
    if heard.word != "ok":
        return problem_of(heard)
    try:
        facts = NodeFacts.model_validate({"name": heard.node, **heard.result["facts"]})
    except (KeyError, ValidationError) as error:
        return module_failed(f"the probe's answer cannot be read: {error}")
    return facts.model_copy(update={"clock_offset": _clock_offset(heard)})


def _clock_offset(heard: HostEvent) -> float | None:
    """Seconds, node minus control machine, as far as it is certain: the node's clock was read between start and end."""
    if heard.start is None or heard.end is None:
        return None
    clock = float(heard.result["clock"])
    start, end = (datetime.fromisoformat(text).timestamp() for text in (heard.start, heard.end))
    return round(clock - start if clock < start else max(clock - end, 0.0), 1)


def refusal(heard: HostEvent) -> Problem | None:
    """Of the last word on a claim: why the node was not taken, or not let go."""
    if heard.word == "ok":
        return None
    told = heard.result.get("problem")
    return Problem.model_validate(told) if told else problem_of(heard)


def record_of(heard: HostEvent, *, begun: bool) -> NodeRecord | None:
    """None where more is to come. `begun`: the node has a job, and ends on old or new whether we hear of it or not."""
    record = heard.result.get("record")
    if record and heard.word in {"ok", "failed"}:
        return _record(heard.node, record)
    if heard.word in {"failed", "unreachable"}:
        problem = problem_of(heard)
        if begun:
            return NodeRecord(node=heard.node, state="unknown", problems=(_lost_contact(problem),))
        state = "unreachable" if heard.word == "unreachable" else "failed"
        return NodeRecord(node=heard.node, state=state, problems=(problem,))
    return None


def _record(node: str, told: dict[str, Any]) -> NodeRecord:
    try:
        return NodeRecord.model_validate({**told, "node": node})
    except ValidationError as error:
        problem = module_failed(f"the node's record cannot be read: {error}")
        return NodeRecord(node=node, state="unknown", problems=(problem,))


def silent(node: str) -> NodeRecord:
    return NodeRecord(node=node, state="unknown", problems=(module_failed("the play ended without a word of it"),))


def progress(heard: HostEvent) -> Event:
    """Of a job that goes on."""
    told = heard.result
    return Event(
        phase=told["phase"] if told["phase"] in _PHASES else "switch",
        kind="progress",
        node=heard.node,
        text=told["text"],
        done=told["done"],
        total=told["total"],
        unit=told["unit"],
    )


def probed(node: str, answer: NodeFacts | Problem) -> Event:
    if isinstance(answer, Problem):
        return Event(phase="probe", kind="failed", node=node, text=answer.what)
    names = [gpu.name or "a GPU that does not answer" for gpu in answer.gpus]
    cards = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    text = cards or answer.absent_because.get("gpus", "no GPU")
    return Event(
        phase="probe", kind="done", node=node, text=f"{text}, driver {answer.driver}" if answer.driver else text
    )


def ended(phase: Phase, record: NodeRecord) -> Event:
    good = record.state in {"unchanged", "staged", "committed"}
    text = record.problems[0].what if record.problems else record.state
    return Event(phase=phase, kind="done" if good else "failed", node=record.node, text=text)


def problem_of(heard: HostEvent) -> Problem:
    return _unreachable(heard) if heard.word == "unreachable" else module_failed(_message(heard))


def _message(heard: HostEvent) -> str:
    """Ansible's own words, and what a module wrote where it broke."""
    told = heard.result
    words = (str(told.get(name) or "").strip() for name in ("msg", "module_stderr", "exception"))
    return "\n".join(word for word in words if word)[-2000:] or "no message"


def _unreachable(heard: HostEvent) -> Problem:
    said = str(heard.result.get("msg", "")).strip().removeprefix("Task failed: ")
    return Problem(
        "unreachable",
        said.splitlines()[0] if said else "Ansible cannot reach it",
        "so nothing is known of it",
        f"try `ssh` to it as Ansible does: ansible {heard.node} -m ping -i INVENTORY -vvv",
    )


def module_failed(said: str) -> Problem:
    return Problem(
        "module_failed",
        said,
        "our part on the node did not come to its end; it needs Python 3.8 or newer there, and root",
        "`-vvv` shows the whole of it; see ansible_python_interpreter and ansible_become in the inventory",
    )


def _lost_contact(problem: Problem) -> Problem:
    return Problem(
        "lost_contact",
        f"contact was lost while the node was at work: {problem.what}",
        "it works on by itself, and ends on its old or its new generation",
        "when it answers again: provision resume",
    )


def no_token(seat: str) -> Problem:
    return Problem(
        "no_token",
        f"the node has no token for {seat}, or it could not be fetched",
        "a seat has its token from the first time that it is staged",
        "see `provision status` for whether the seat is there",
    )
