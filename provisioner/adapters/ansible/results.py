"""Parse the results of Ansible tasks into our own values: facts, records, events and problems.

A result is what a node chose to send. One that is too large or malformed becomes a problem of that node; no function
here raises an exception for it, because that would end the run on all other nodes.
"""

import math
import re
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from provisioner.adapters.ansible.packed import PACKED, unpack_facts
from provisioner.adapters.ansible.play import HostEvent
from provisioner.domain.rollout.report import NodeRecord, NodeState, SeatRecord, build_node_record
from provisioner.domain.values.event import Event, Phase
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import UNREACHED, Problem

# What OpenSSH (and paramiko) print about the key of a host.
_HOST_KEY_CHANGED = ("HOST IDENTIFICATION HAS CHANGED", "REVOKED HOST KEY DETECTED", "host key mismatch for")
_HOST_KEY_UNKNOWN = ("Host key verification failed", "host key is known for", "The authenticity of host")
_NO_BECOME_PASSWORD = re.compile(r"\b(?:Missing|Incorrect) [\w.]+ password\b|\ba password is required\b")
_MOST = 4000  # characters kept of what ssh says
# ansible-runner replaces a result of more than 700 000 characters by an empty one.
_NO_MESSAGE = "Ansible gave no message: the node printed nothing, or more than any valid result has"
_NO_TRACE = "(traceback unavailable)"  # Ansible writes this where a task failed without an exception
_PHASES: tuple[str, ...] = get_args(Phase)

# What the code that reads a malformed result raises. ValidationError is a ValueError.
UNREADABLE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
# No result of ours is half as large: the largest part is the texts of the files of seats, about 30 kB each. The result
# of a probe holds each different text once, and compressed; it is checked before and after this is undone.
_MAX_TEXT = 64 << 10
_MAX_ALL_TEXT = 16 << 20
_MAX_VALUES = 100_000
_MAX_UNPACKED_VALUES = 1 << 19  # 2 MB of accounts and their groups have fewer
_MAX_DEPTH = 32
_MAX_NUMBER = 1 << 63
_MAX_REASON = 500
# One half of a pair: JSON can hold it, and no file or terminal can be written with it.
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_facts(event: HostEvent) -> NodeFacts | Problem:
    """Parse the final event of a probe."""
    if event.status != "ok":
        return host_problem(event)
    try:
        sent = event.result["facts"]
        check_bounds({**event.result, "facts": {name: sent[name] for name in sent.keys() - PACKED}})
        unpacked = unpack_facts(sent)
        check_bounds(unpacked, _MAX_UNPACKED_VALUES)
        facts = NodeFacts.model_validate({**unpacked, "name": event.node})
        return facts.model_copy(update={"clock_offset": _clock_offset(event)})
    except UNREADABLE as error:
        return unreadable("the result of the probe", error)


def check_bounds(result: Any, most_values: int = _MAX_VALUES) -> None:
    """Raise ValueError where a result is larger, deeper or holds greater numbers than any result of our modules."""
    values, characters, level = 0, 0, [result]
    for _ in range(_MAX_DEPTH):
        values += len(level)
        texts = [part for part in level if isinstance(part, str)]
        characters += sum(map(len, texts))
        if values > most_values or characters > _MAX_ALL_TEXT or any(len(text) > _MAX_TEXT for text in texts):
            raise ValueError("it is larger than any valid result")
        if any(_SURROGATE.search(text) for text in texts):
            raise ValueError("a text in it is not valid Unicode")
        if any(isinstance(part, int | float) and not -_MAX_NUMBER < part < _MAX_NUMBER for part in level):
            raise ValueError("it holds a number that is too large")
        level = [below for part in level for below in _parts(part)]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def _parts(part: Any) -> list[Any]:
    if isinstance(part, Mapping):
        return [*part.keys(), *part.values()]
    return list(part) if isinstance(part, list | tuple) else []


def unreadable(what: str, error: Exception) -> Problem:
    """Return the problem of a result that cannot be read. `what` names the result."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    else:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    return module_failed(f"{what} cannot be read: {_SURROGATE.sub('?', reason[:_MAX_REASON])}")


def _clock_offset(event: HostEvent) -> float | None:
    """Return the smallest certain offset in seconds, node minus control machine.

    The node read its clock at some moment between `start` and `end`, so an offset within that interval counts as 0.
    """
    if event.start is None or event.end is None:
        return None
    clock = float(event.result["clock"])
    if not math.isfinite(clock):
        raise ValueError("the clock is no time")
    start, end = (datetime.fromisoformat(text).timestamp() for text in (event.start, event.end))
    return round(clock - start if clock < start else max(clock - end, 0.0), 1)


def parse_claim_problem(event: HostEvent) -> Problem | None:
    """Parse the final event of a claim or release: None where it succeeded, else why not."""
    if event.status == "ok":
        return None
    problem = event.result.get("problem")
    try:
        check_bounds(problem)
        return Problem.model_validate(problem) if problem else host_problem(event)
    except UNREADABLE as error:
        return unreadable("the answer to the claim", error)


def parse_record(event: HostEvent, seats: Sequence[str], *, started: bool) -> NodeRecord | None:
    """Return the record of a node with one for each of the ordered `seats`, None while its job goes on.

    `started`: the node has a job, which ends on the old or the new generation even if the connection is lost.
    """
    record = event.result.get("record")
    if record and event.status in {"ok", "failed"}:
        return _parse_node_record(event.node, seats, record)
    if event.status not in {"failed", "unreachable"}:
        return None
    problem = host_problem(event)
    if started:
        lost = problem if problem.code == "job_overdue" else _lost_contact(problem)
        return same_record(event.node, seats, "unknown", lost)
    return same_record(event.node, seats, "unreachable" if problem.code in UNREACHED else "failed", problem)


def same_record(node: str, seats: Sequence[str], state: NodeState, problem: Problem) -> NodeRecord:
    """Return the record of a node on which all `seats` have the same state, because of `problem`."""
    return build_node_record(node, [SeatRecord(seat=seat, state=state, problems=(problem,)) for seat in seats])


def _parse_node_record(node: str, seats: Sequence[str], record: Any) -> NodeRecord:
    """Parse the record of a batch; or one without `seats`, which is about all of them.

    Such a record is that of a node that refused a batch, or of a job that is about no seat.
    """
    try:
        check_bounds(record)
        released = record.get("released") is True
        refusal = {name: record[name] for name in ("state", "problems", "checks", "seconds") if name in record}
        found = dict(record["seats"]) if "seats" in record else dict.fromkeys(seats, refusal)
    except UNREADABLE as error:
        return same_record(node, seats, "unknown", unreadable("the record of the node", error))
    return build_node_record(node, [_parse_seat_record(seat, found.get(seat)) for seat in seats], released=released)


def _parse_seat_record(seat: str, record: Any) -> SeatRecord:
    if record is None:
        return SeatRecord(seat=seat, state="unknown", problems=(result_missing(),))
    try:
        return SeatRecord.model_validate({**record, "seat": seat})
    except UNREADABLE as error:
        return SeatRecord(seat=seat, state="unknown", problems=(unreadable(f"the record of {seat}", error),))


def parse_progress(event: HostEvent) -> Event:
    """Return the progress of a running job. A phase that this release does not know is shown as `switch`."""
    result = event.result
    try:
        check_bounds(result)
        return Event(
            phase=result["phase"] if result["phase"] in _PHASES else "switch",
            kind="progress",
            node=event.node,
            text=result["text"],
            done=result["done"],
            total=result["total"],
            unit=result["unit"],
        )
    except UNREADABLE:
        return Event(phase="switch", kind="progress", node=event.node, text="a report that cannot be read")


def probe_event(node: str, answer: NodeFacts | Problem) -> Event:
    """Return the event of a finished probe: its text lists the GPUs and the driver, or says what failed."""
    if isinstance(answer, Problem):
        return Event(phase="probe", kind="failed", node=node, text=_in_one_line(answer))
    names = [gpu.name or "unreadable GPU" for gpu in answer.gpus]
    cards = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    text = cards or answer.absent_because.get("gpus", "no GPU")
    driver = f", driver {answer.driver}" if answer.driver else ""
    return Event(phase="probe", kind="done", node=node, text=text + driver)


def record_event(phase: Phase, record: NodeRecord) -> Event:
    """Return the final event of a job: `failed` also where the node was rolled back."""
    succeeded = record.state in {"unchanged", "staged", "committed"}
    text = _in_one_line(record.problems[0]) if record.problems else record.state
    if len(record.seats) > 1:
        text = _counts(record) if succeeded else f"{_counts(record)}; {text}"
    return Event(phase=phase, kind="done" if succeeded else "failed", node=record.node, text=text)


def _counts(record: NodeRecord) -> str:
    """Return how many seats have each state."""
    counts = Counter(seat.state for seat in record.seats)
    return ", ".join(f"{number} {state}" for state, number in counts.items())


def _in_one_line(problem: Problem) -> str:
    """Return what was seen, for a log; of what ssh says the last line, which is the reason."""
    return problem.what.splitlines()[-1] if problem.code in UNREACHED else problem.what


def host_problem(event: HostEvent) -> Problem:
    """Return why a task failed on a node, with the whole text that Ansible, ssh or the module printed."""
    if event.result.get("finished") is False:
        return _overdue(_text(event, "text"))
    return _unreached(event) if event.status == "unreachable" else _failed(event)


def _failed(event: HostEvent) -> Problem:
    texts = (_text(event, name) for name in ("msg", "module_stderr", "exception"))
    text = "\n".join(text for text in texts if text and text != _NO_TRACE)
    if event.result.get("timedout"):
        return _timed_out(text)
    if _NO_BECOME_PASSWORD.search(text):
        return _become_password(text)
    return module_failed(text[-2000:] or _NO_MESSAGE)


def _unreached(event: HostEvent) -> Problem:
    message = _text(event, "msg").removeprefix("Task failed: ").replace("\r", "")
    what = _bounded(message) or "Ansible cannot reach the node"
    lab = event.inventory.parent if event.inventory else "LAB"
    if any(sign in message for sign in _HOST_KEY_CHANGED):
        return _host_key_changed(event.node, what, lab)
    if any(sign in message for sign in _HOST_KEY_UNKNOWN):
        return _host_key_unknown(what, lab)
    test = f"ansible {event.node} -m ping -i {event.inventory or 'INVENTORY'} -vvv"
    why = "so the state of the node is not known"
    return Problem("unreachable", what, why, f"test the connection as Ansible makes it: {test}")


def _host_key_changed(node: str, what: str, lab: Path | str) -> Problem:
    return Problem(
        "host_key_changed",
        what,
        "the key of this host is not the one in known_hosts: the node was installed anew, or another machine answers "
        "in its place. Nothing was sent to it",
        f"ask the admin of {node}. Only where a new key is expected, remove the old one, as ssh says above, and "
        f"accept the new one: provision probe {lab} --accept-new-host-keys",
    )


def _host_key_unknown(what: str, lab: Path | str) -> Problem:
    return Problem(
        "host_key_unknown",
        what,
        "known_hosts has no key of this host, or of a jump host on the way to it: it might be any machine",
        f"compare its fingerprint and accept it: provision probe {lab} --accept-new-host-keys",
    )


def _bounded(text: str) -> str:
    """Return the text, or the beginning and the end of a long one: ssh names the reason last, after any banner."""
    return text if len(text) <= _MOST else f"{text[: _MOST // 4]}\n[…]\n{text[-_MOST * 3 // 4 :]}"


def _overdue(last: str) -> Problem:
    return Problem(
        "job_overdue",
        f"the job on the node has not ended for longer than its deadlines add up to; its last report: {last or 'none'}",
        "it is no longer followed; whether it ends, and how, is not known",
        "look at the node: a disk or an engine that hangs? When it is well again: provision resume",
    )


def _timed_out(what: str) -> Problem:
    return Problem(
        "timed_out",
        what,
        "the node accepts connections and does not finish what it is asked, so its state is not known",
        "look at the node: a disk, an engine or a driver that hangs? `dmesg` and `docker info` on it often show it",
    )


def _become_password(what: str) -> Problem:
    return Problem(
        "become_password",
        what,
        "sudo on the node wants a password, and got none or a wrong one",
        "give it with --ask-become-pass (-K) or as ansible_become_password in a vault; or let sudo ask for none",
    )


def _text(event: HostEvent, name: str) -> str:
    """Return a field of a result as text; a value that is not text is abbreviated."""
    value = event.result.get(name) or ""
    return _SURROGATE.sub("?", value if isinstance(value, str) else reprlib.repr(value)).strip()


def module_failed(what: str) -> Problem:
    """Return the problem of a module that did not return a valid result; `what` says what was seen instead."""
    return Problem(
        "module_failed",
        what,
        "a module of provision did not finish on the node; it needs Python 3.8 or newer there, and root",
        "`-vvv` shows the full output; check ansible_python_interpreter and ansible_become in the inventory",
    )


def result_missing() -> Problem:
    """Return the problem of a node for which a play ended without a final event."""
    return module_failed("no result for this host")


def _lost_contact(problem: Problem) -> Problem:
    return Problem(
        "lost_contact",
        f"contact was lost while a job was running on the node: {problem.what}",
        "the node finishes its job on its own, and ends on its old or its new generation",
        "when the node can be reached again: provision resume",
    )
