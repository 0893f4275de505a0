"""The plan of a rollout: for each seat the difference between the rendered files and what runs on the node."""

import difflib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Literal

from pydantic import Field

from provisioner.domain.lab.environments import DEFAULT_ENVIRONMENT, is_default_environment
from provisioner.domain.lab.lock import Placement
from provisioner.domain.rollout.busy import DEFER, WhenBusy
from provisioner.domain.seat.document import SeatBundle
from provisioner.domain.seat.render import STATIC_FILES
from provisioner.domain.seat.seat import SERVICES
from provisioner.domain.self_service.publication import SELF_SERVICE_NAME, Publication
from provisioner.domain.values.claim import Claim
from provisioner.domain.values.duration import format_duration
from provisioner.domain.values.limits import SeatLimits
from provisioner.domain.values.model import Document, Value
from provisioner.domain.values.node import NodeFacts, RunningSeat
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.size import human_size

PLAN_SCHEMA: Literal["provisioner/plan/2"] = "provisioner/plan/2"
Action = Literal["create", "update", "restart", "assign", "stop", "remove", "keep", "defer", "skip"]

_STARTS: frozenset[Action] = frozenset({"create", "update", "restart"})
_CHANGES: frozenset[Action] = _STARTS | {"assign", "stop", "remove"}
_INTERRUPTS = _CHANGES - {"create", "assign"}  # running work
_KEYS = "authorized_keys"

# Bytes in the containers' own layers that are not user data: caches, sockets, logs, compiled Python.
LAYER_NOISE = 50 << 20

# States of an interrupted transaction, in which either the old or the new files are in force; stage ends it first.
_INTERRUPTED = frozenset({"switching", "verifying", "rolling_back"})
# States of a container that the engine starts by itself: with the same home, another start by a run ends the same way.
_STARTED = frozenset({"running", "restarting", "unhealthy"})
_MAX_DIFF_LINES = 1000


class Step(Value):
    """The step of one seat. `bytes_to_pull`: compressed, 0 if present.

    `diff`: a unified diff of the rendered files; of a new seat without the files that are the same in every seat.

    `skip`: the seat is left out, or the whole node (`seat` None); `problems` has the reason. `stop`: the seat is no
    longer in the lab; its home and its generations stay. `keep`: no change is needed. `assign`: who may log in, or
    whether others use its GPUs, changes while the seat runs. `defer`: the seat is in use by the work in `busy`. With
    the policy wait or force such a step keeps its action, and `problems` names the work that it waits for or stops.
    `gpus`: those that the seat runs with now; `shared`: others use them, too. `remarks`: of a node with seats of
    people, on its first step; else they are among its `problems`. `environment`: the one that the seat is to run.
    """

    node: str
    seat: str | None
    person: str = ""  # the id in the roster; empty in a lab without one
    action: Action
    why: str
    image: str | None = None  # with its tag, for people
    generation: int = 0  # the node's current generation; a plan is stale if the node has another one
    gpus: tuple[str, ...] = ()
    shared: bool = False
    diff: str = ""
    bytes_to_pull: int = 0
    busy: tuple[str, ...] = ()  # work on the seat's GPUs that a switch would end
    problems: tuple[Problem, ...] = ()
    remarks: tuple[Problem, ...] = ()
    environment: str = Field(default=DEFAULT_ENVIRONMENT, exclude_if=is_default_environment)

    @property
    def starts(self) -> bool:
        """Whether the seat is started with an image, which the node may have to pull."""
        return self.action in _STARTS


class Plan(Document):
    """The steps of all seats, in the order of the inventory. `image`: with its tag, for display.

    `places`: of the people of a roster, by id; `unplaced`: why others of them have none. `publications`: what happens
    to self-service on the nodes that have it or are to have it. `cautions`: what may be a mistake in lab.yml.
    """

    schema_: Literal["provisioner/plan/2", "provisioner/plan/1"] = Field(default=PLAN_SCHEMA, alias="schema")
    lab: str
    image: str | None
    steps: tuple[Step, ...]
    when_busy: WhenBusy = WhenBusy()
    places: dict[str, Placement] = {}
    unplaced: dict[str, Problem] = {}
    publications: tuple[Publication, ...] = ()
    cautions: tuple[Problem, ...] = ()

    @property
    def pending(self) -> tuple[Step, ...]:
        """The steps that change a seat."""
        return tuple(step for step in self.steps if step.action in _CHANGES)

    @property
    def published(self) -> tuple[Publication, ...]:
        """The publications that change a node."""
        return tuple(publication for publication in self.publications if publication.changes_node)

    @property
    def changed_nodes(self) -> tuple[str, ...]:
        """The nodes that the plan changes, each once, in its order."""
        changed = {*(step.node for step in self.pending), *(publication.node for publication in self.published)}
        return tuple(node for node in self.nodes if node in changed)

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes of the plan, each once, in the order of the inventory."""
        return _merge_names((step.node for step in self.steps), (one.node for one in self.publications))

    @property
    def changed_names(self) -> dict[str, tuple[str, ...]]:
        """What changes on each node: the names of its seats, and SELF_SERVICE_NAME."""
        found: dict[str, list[str]] = {}
        for step in self.pending:
            found.setdefault(step.node, []).append(step.seat or "")
        for publication in self.published:
            found.setdefault(publication.node, []).append(SELF_SERVICE_NAME)
        return {node: tuple(names) for node, names in found.items()}

    def claims(self, claim: Claim) -> dict[str, Claim]:
        """Return the claim of a run on each node that the plan changes: for what it changes there."""
        return {node: claim.of_seats(names) for node, names in self.changed_names.items()}

    @property
    def has_many_seats(self) -> bool:
        """Whether a node has more than one step."""
        return len({step.node for step in self.steps}) < len(self.steps)

    @property
    def deferred(self) -> tuple[Step, ...]:
        """The steps of seats that are deferred because they are in use."""
        return tuple(step for step in self.steps if step.action == "defer")

    @property
    def interrupting(self) -> tuple[Step, ...]:
        """The steps that wait for running work or stop it."""
        return tuple(step for step in self.pending if step.busy)

    @property
    def skipped(self) -> tuple[Step, ...]:
        """The steps of seats and nodes that are left out."""
        return tuple(step for step in self.steps if step.action == "skip")

    @property
    def is_incomplete(self) -> bool:
        """Whether a node, a seat, a person or self-service of a node is left out."""
        left_out = any(publication.action == "skip" for publication in self.publications)
        return bool(self.skipped or self.unplaced or left_out)


def _merge_names(first: Iterable[str], second: Iterable[str]) -> tuple[str, ...]:
    """Return all names once. Those of `second` alone stand behind the one that they follow there."""
    merged, place = list(dict.fromkeys(first)), 0
    known = {*merged}
    for name in second:
        if name in known:
            place = merged.index(name) + 1
        else:
            merged.insert(place, name)
            place += 1
    return tuple(merged)


def build_step(bundle: SeatBundle, facts: NodeFacts, when_busy: WhenBusy = DEFER) -> Step:
    """Build the step that brings one node from what runs to the rendered seat."""
    seat = bundle.seat
    found = facts.seat(seat.name)
    if found and found.unreadable:
        return skipped(seat.node, found.unreadable, seat.name if seat.person else None, seat.person)
    running = found if found and found.generation else None  # 0: no generation is in force
    action, why = _choose_action(bundle, running)
    digest = bundle.image.lab.rpartition("@")[2]
    step = Step(
        node=seat.node,
        seat=seat.name,
        person=seat.person,
        action=action,
        why=why,
        image=bundle.image.reference,
        environment=seat.environment,
        generation=running.generation if running else 0,
        gpus=running.gpus if running and running.runs else (),
        shared=running.shared if running else False,
        diff=files_diff(running.files, bundle.files) if running else _first_diff(bundle.files),
        bytes_to_pull=0 if digest in facts.images else bundle.image.bytes,
        problems=(running.home_fault,) if running and running.home_fault else (),
    )
    return step if running is None else with_busy_policy(step, running, when_busy)


def is_in_force(bundle: SeatBundle, running: RunningSeat | None) -> bool:
    """Whether the node's current generation has exactly this image and these files."""
    return running is not None and running.image == bundle.image.lab and running.files == bundle.files


def differs_in_assignment(bundle: SeatBundle, running: RunningSeat | None) -> bool:
    """Whether the node's current generation differs in the public keys alone, and in whether its GPUs are shared."""
    if running is None:
        return False
    files = {**running.files, _KEYS: bundle.files.get(_KEYS, "")}
    is_same = running.image == bundle.image.lab and files == bundle.files
    return is_same and (running.files != bundle.files or running.shared != bundle.seat.shared)


def with_busy_policy(step: Step, running: RunningSeat, when_busy: WhenBusy = DEFER) -> Step:
    """Apply the policy to a step that stops a running seat, and add the problems of running work and lost data."""
    if step.action not in _INTERRUPTS:
        return step
    busy = running.at_work
    problems = (busy_problem(step.node, busy, when_busy),) if busy else ()
    is_removal = step.action in {"stop", "remove"}  # what its containers hold is meant to go
    losses = () if is_removal else _losses(step.node, running)
    changes: dict[str, object] = {"busy": busy, "problems": (*step.problems, *problems, *losses)}
    if busy:
        changes["why"] = f"{step.why}; its GPUs are in use"
        changes["action"] = "defer" if when_busy.policy == "defer" else step.action
    return step.model_copy(update=changes)


def with_problems(step: Step, problems: tuple[Problem, ...]) -> Step:
    """Add problems that do not prevent the seat."""
    return step.model_copy(update={"problems": step.problems + problems})


def with_remarks(step: Step, remarks: tuple[Problem, ...]) -> Step:
    """Add problems of the node that do not prevent its seats."""
    return step.model_copy(update={"remarks": remarks}) if step.person else with_problems(step, remarks)


def skipped(node: str, problems: tuple[Problem, ...], seat: str | None = None, person: str = "") -> Step:
    """Build the step of a node, or of one seat, that is left out. `problems` has at least one reason."""
    return Step(node=node, seat=seat, person=person, action="skip", why=problems[0].what, problems=problems)


def _first_diff(files: Mapping[str, str]) -> str:
    """Return the diff of a new seat, without the files that are the same in every seat: a lab may have thousands."""
    return files_diff({}, {name: text for name, text in files.items() if name not in STATIC_FILES})


def files_diff(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """Return one unified diff of all files, sorted by name; empty if nothing differs."""
    return "".join(_file_diff(name, old.get(name), new.get(name)) for name in sorted({*old, *new}))


@lru_cache(maxsize=256)  # for the files that are the same in every seat
def _file_diff(name: str, old: str | None, new: str | None) -> str:
    if old == new:
        return ""
    lines = difflib.unified_diff(
        _lines(old or ""),
        _lines(new or ""),
        "/dev/null" if old is None else name,
        "/dev/null" if new is None else name,
    )
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def _lines(text: str) -> list[str]:
    """Return the lines of a file. The time of a diff grows with their square, so a longer file counts as one line."""
    lines = text.split("\n", _MAX_DIFF_LINES)
    if len(lines) > _MAX_DIFF_LINES:
        return [f"({len(text)} characters in more than {_MAX_DIFF_LINES} lines)\n"]
    return [f"{line}\n" for line in lines[:-1]] + [line for line in lines[-1:] if line]


def _choose_action(bundle: SeatBundle, running: RunningSeat | None) -> tuple[Action, str]:
    if running is None:
        return "create", "no seat of this lab on the node yet"
    if differs_in_assignment(bundle, running) and running.state not in _INTERRUPTED:
        action, why = _choose_by_health(running)
        return ("assign", _assigned_text(bundle, running)) if action == "keep" else (action, why)
    if not is_in_force(bundle, running):
        changed = "the image changes" if running.image != bundle.image.lab else "the rendered files change"
        return "update", changed + _first_limits(bundle.seat.limits, running.limits or SeatLimits())
    if running.state in _INTERRUPTED:
        return "restart", f"its last change was interrupted ({running.state})"
    return _choose_by_health(running)


def _assigned_text(bundle: SeatBundle, running: RunningSeat) -> str:
    if running.shared == bundle.seat.shared:
        return "its public keys change, nothing restarts"
    return f"others {'may use its GPUs, too' if bundle.seat.shared else 'no longer use its GPUs'}; nothing restarts"


def _choose_by_health(running: RunningSeat) -> tuple[Action, str]:
    down = {name: state for name in SERVICES if (state := running.services.get(name, "missing")) != "healthy"}
    text = ", ".join(f"{name} is {state}" for name, state in down.items())
    if down and running.home_fault and _STARTED.issuperset(down.values()):
        return "keep", f"runs the locked image, unchanged; because of files in its home {text}"
    if down:
        return "restart", text
    return "keep", "runs the locked image, unchanged and healthy"


def _first_limits(limits: SeatLimits, before: SeatLimits) -> str:
    """Return what is limited now and was not before, for people who find their programs stopped at it."""
    found = (
        f"{limits.memory} of memory" if limits.memory and not before.memory else "",
        f"{limits.cpus:g} CPUs" if limits.cpus and not before.cpus else "",
        f"{limits.nofile.soft} open files" if limits.nofile and not before.nofile else "",
    )
    text = ", ".join(filter(None, found))
    return f"; each of its containers is limited for the first time, to {text} (seat.limits in lab.yml)" if text else ""


def busy_problem(node: str, busy: tuple[str, ...], when_busy: WhenBusy) -> Problem:
    """Return the problem of running work, and what the policy does with it."""
    code, why, fix = _BUSY_PROBLEMS[when_busy.policy]
    why = why.format(reason=when_busy.reason, duration=format_duration(when_busy.seconds))
    return Problem(code, f"{node}: {'; '.join(busy)}", why, fix, node)


_BUSY_PROBLEMS = {
    "defer": (
        "busy",
        "the seat's containers would have to stop, and this work with them; unknown use counts as work",
        "run again when it has ended, or ask its owner to stop it",
    ),
    "wait": (
        "waits_for_work",
        "--when-busy wait: the node waits up to {duration} for its end, and else does not change the seat",
        "nothing; to inform the users: provision notify LAB TEXT",
    ),
    "force": (
        "stops_work",
        "--when-busy force: this work ends, because: {reason}",
        "inform the users beforehand: provision notify LAB TEXT; without force the seat is not changed",
    ),
}


def _losses(node: str, running: RunningSeat) -> tuple[Problem, ...]:
    """Return what a switch loses, or that it is not known."""
    if running.layer_bytes is not None:
        return (_layer_problem(node, running.layer_bytes),) if running.layer_bytes > LAYER_NOISE else ()
    if all(state == "missing" for state in running.services.values()):
        return ()
    return (
        Problem(
            "layer_unknown",
            f"{node}: the engine did not report in time what was written into the seat's containers, outside the home",
            "a switch recreates the containers: files from apt, conda or a build that are stored there are lost",
            f"look on the node before: docker ps -s --filter label=com.docker.compose.project={running.name}",
            node,
        ),
    )


def _layer_problem(node: str, layer_bytes: int) -> Problem:
    return Problem(
        "layer_is_lost",
        f"{node}: {human_size(layer_bytes)} were written into the seat's containers, outside the home",
        "a switch recreates the containers: files from apt, conda or a build that are stored there are lost",
        "store what is needed below the home: pip install --user, or conda create -p ~/envs/NAME",
        node,
    )
