"""What would happen, seat by seat: the difference between what is rendered and what runs. Applying decides nothing."""

import difflib
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from provisioner.domain.rollout.busy import DEFER, WhenBusy, length_text
from provisioner.domain.seat.seat import SERVICES, SeatBundle
from provisioner.domain.values.model import Document, Value
from provisioner.domain.values.node import NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.size import human_size

PLAN_SCHEMA: Literal["provisioner/plan/1"] = "provisioner/plan/1"
Action = Literal["create", "update", "restart", "remove", "keep", "defer", "skip"]

# Bytes in the containers' own layers that are nobody's work: caches, sockets, logs, compiled Python.
LAYER_NOISE = 50 << 20

# Of a seat's last transaction: neither old nor new is certain. Whoever stages next ends it first.
_OPEN = frozenset({"switching", "verifying", "rolling_back"})


class Step(Value):
    """One node. `diff` is a unified diff of the rendered files; `bytes_to_pull` is compressed, 0 where the image is.

    `skip` leaves a node out and says why in `problems`; `keep` has nothing to do and says so in `why`; `defer` leaves
    whoever is named in `busy` alone. Where the plan's `when_busy` says wait or force, such a step stays what it is, and
    `problems` say whom it waits for or stops, and by whose word.
    """

    node: str
    seat: str | None
    action: Action
    why: str
    image: str | None = None  # with its tag, for people
    generation: int = 0  # the node's own number now; the plan is stale once the node has moved past it
    diff: str = ""
    bytes_to_pull: int = 0
    busy: tuple[str, ...] = ()  # whose work on the seat's GPUs a switch would end
    problems: tuple[Problem, ...] = ()


class Plan(Document):
    schema_: Literal["provisioner/plan/1"] = Field(default=PLAN_SCHEMA, alias="schema")
    lab: str
    image: str | None
    steps: tuple[Step, ...]
    when_busy: WhenBusy = WhenBusy()

    @property
    def pending(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.action in {"create", "update", "restart", "remove"})

    @property
    def deferred(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.action == "defer")

    @property
    def disturbing(self) -> tuple[Step, ...]:
        """What waits for somebody's work, or stops it."""
        return tuple(step for step in self.pending if step.busy)

    @property
    def skipped(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.action == "skip")


def step_for(bundle: SeatBundle, facts: NodeFacts, when_busy: WhenBusy = DEFER) -> Step:
    """What it takes to bring one node from what runs to what is rendered."""
    seat, running = bundle.seat, _running(bundle, facts)
    action, why = _decide(bundle, running)
    digest = bundle.image.lab.rpartition("@")[2]
    step = Step(
        node=seat.node,
        seat=seat.name,
        action=action,
        why=why,
        image=bundle.image.reference,
        generation=running.generation if running else 0,
        diff=files_diff(running.files if running else {}, bundle.files),
        bytes_to_pull=0 if digest in facts.images else bundle.image.bytes,
    )
    return step if running is None else minding(step, running, when_busy)


def minding(step: Step, running: RunningSeat, when_busy: WhenBusy = DEFER) -> Step:
    """The same step; where it stops a seat, with what becomes of whoever works there, and of what is kept there."""
    if step.action not in {"update", "restart", "remove"}:
        return step
    busy = running.at_work
    problems = (_busy_problem(step.node, busy, when_busy),) if busy else ()
    lost = _loses(running) and step.action != "remove"  # which is asked for to be rid of it
    losses = (_layer_problem(step.node, running.layer_bytes),) if lost else ()
    changes: dict[str, object] = {"busy": busy, "problems": (*step.problems, *problems, *losses)}
    if busy:
        changes["why"] = f"{step.why}; its GPUs are in use"
        changes["action"] = "defer" if when_busy.policy == "defer" else step.action
    return step.model_copy(update=changes)


def remarked(step: Step, problems: tuple[Problem, ...]) -> Step:
    """The same step, with faults of the node that do not keep it from its seat."""
    return step.model_copy(update={"problems": step.problems + problems})


def skipped(node: str, problems: tuple[Problem, ...]) -> Step:
    return Step(node=node, seat=None, action="skip", why=problems[0].what, problems=problems)


def files_diff(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """One unified diff over all files, in the order of their names; empty where nothing differs."""
    return "".join(_file_diff(name, old.get(name), new.get(name)) for name in sorted({*old, *new}))


def _file_diff(name: str, old: str | None, new: str | None) -> str:
    lines = difflib.unified_diff(
        (old or "").splitlines(keepends=True),
        (new or "").splitlines(keepends=True),
        "/dev/null" if old is None else name,
        "/dev/null" if new is None else name,
    )
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def _running(bundle: SeatBundle, facts: NodeFacts) -> RunningSeat | None:
    return next((seat for seat in facts.seats if seat.name == bundle.seat.name and seat.generation), None)


def _decide(bundle: SeatBundle, running: RunningSeat | None) -> tuple[Action, str]:
    if running is None:
        return "create", "no seat of this lab on the node yet"
    if running.image != bundle.image.lab:
        return "update", "the image changes"
    if running.files != bundle.files:
        return "update", "the rendered files change"
    if running.state in _OPEN:
        return "restart", f"its last change was cut off ({running.state})"
    down = [f"{name} is {state}" for name in SERVICES if (state := running.services.get(name, "missing")) != "healthy"]
    if down:
        return "restart", ", ".join(down)
    return "keep", "runs the locked image, unchanged and healthy"


def _busy_problem(node: str, busy: tuple[str, ...], when_busy: WhenBusy) -> Problem:
    """What becomes of whoever is there, in the words of the consent that was given."""
    code, why, fix = _CONSENTS[when_busy.policy]
    return Problem(
        code,
        f"{node}: {'; '.join(busy)}",
        why.format(reason=when_busy.reason, length=length_text(when_busy.seconds) if when_busy.seconds else ""),
        fix,
    )


_CONSENTS = {
    "defer": (
        "busy",
        "the seat's containers would have to stop, and this work with them; what is not known counts as work",
        "run again when it has ended, or ask its owner to stop it",
    ),
    "wait": (
        "waits_for_work",
        "--when-busy wait: the node waits up to {length} for its end, and leaves the seat alone if there is none",
        "nothing; whoever works there may be told: provision notify LAB TEXT",
    ),
    "force": (
        "stops_work",
        "--when-busy force: this work ends, because: {reason}",
        "tell whoever works there beforehand: provision notify LAB TEXT; without force the seat is left alone",
    ),
}


def _loses(running: RunningSeat) -> bool:
    return (running.layer_bytes or 0) > LAYER_NOISE


def _layer_problem(node: str, layer_bytes: int | None) -> Problem:
    return Problem(
        "layer_is_lost",
        f"{node}: {human_size(layer_bytes or 0)} were written into the seat's containers, outside of its home",
        "a switch makes the containers anew: what apt, conda or a build has put there is gone then",
        "what is needed belongs below the home: pip install --user, or conda create -p ~/envs/NAME",
    )
