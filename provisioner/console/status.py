"""What runs on each node, compared with the lock."""

from collections.abc import Iterable, Mapping
from urllib.parse import urlencode

from rich.console import Group, RenderableType
from rich.text import Text

from provisioner.console.problems import problems
from provisioner.console.report import access_text
from provisioner.console.tables import group_rows
from provisioner.console.text import count, fold_names, human_duration, safe_line
from provisioner.domain.lab.environments import is_default_environment
from provisioner.domain.rollout.report import Access
from provisioner.domain.rollout.status import LabStatus, SeatStatus, SelfServiceStatus
from provisioner.domain.values.node import Lease
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.size import human_size

_FEW = 3  # seats of a node with the same drift are named up to this number, and counted above it


def status_view(status: LabStatus) -> Group:
    """Render each running seat, then nodes without one, the problems and the summary.

    Of a node with several seats those that are as locked are counted, and the others have a line each.
    """
    many = _nodes_with_many(status)
    running = [seat for seat in status.seats if seat.image is not None and seat.node not in many]
    absent = [seat for seat in status.seats if seat.image is None and seat.node not in many]
    parts: list[RenderableType] = [_seat(seat) for seat in running]
    parts += [_many(names, text) for names, text in group_rows((node, _counted(s)) for node, s in many.items())]
    parts += [_absent(names, why) for names, why in group_rows((seat.node, _why(seat)) for seat in absent)]
    parts += [_self_service(found) for found in status.self_service]
    people = problems(status.unplaced.items(), noun="PERSON")
    return Group(*parts, problems(_problems(status)), people, Text(f"\n{summary(status)}"), *_images(status))


def _images(status: LabStatus) -> list[RenderableType]:
    """Return how many nodes have the images of the lock, and which lack some; nothing where none does."""
    if not status.to_fetch:
        return []
    nodes = {seat.node for seat in status.seats if seat.seat is not None}  # the others did not answer
    size = sum(status.to_fetch.values())
    names, verb = fold_names(status.to_fetch), "lack" if len(status.to_fetch) > 1 else "lacks"
    lack = f"{names} {verb} {human_size(size) if size else 'some'}"
    have = f"{len(nodes - status.to_fetch.keys())} of {count(len(nodes), 'node')}"
    return [Text(f"Images of the lock are on {have}; {lack}. Before a rollout: provision fetch")]


def _self_service(found: SelfServiceStatus) -> Text:
    """Return how many GPUs of the pool are without a lease, who waits, and a line for each lease."""
    waiting = f", {found.waiting} waiting" if found.waiting else ""
    drift = f"  drift: {safe_line(found.drift.removeprefix(f'{found.node}: '))}" if found.drift else ""
    head = f"  self-service  {len(found.free)} of {count(len(found.pool), 'GPU')} without a lease{waiting}{drift}"
    lines = "".join(f"\n  {_lease(lease)}" for lease in sorted(found.leases, key=lambda lease: lease.left_s or 0))
    return Text.assemble((safe_line(found.node), "bold"), head, lines)


def _lease(lease: Lease) -> str:
    left = "" if lease.left_s is None else f"  {human_duration(lease.left_s)} left"
    gpus = count(len(lease.gpus), "GPU") if lease.gpus else "no GPU"
    person, environment, state = map(safe_line, (lease.person or lease.seat, lease.environment, lease.state))
    return f"{person}  {gpus}  {environment}  {state}{left}"


def summary(status: LabStatus) -> str:
    """Return one line: no drift, or how many nodes differ from the lock."""
    total = count(len(status.seats), "seat" if _nodes_with_many(status) else "node")
    unknown = sum(seat.seat is None for seat in status.seats)
    drifted = sum(bool(seat.drift) for seat in status.seats) - unknown
    pending = sum(bool(found.drift) for found in status.self_service)
    if not drifted and not unknown and not status.unplaced and not pending:
        return f"No drift: {total} as locked."
    parts = [f"{drifted} not as locked"] if drifted else []
    parts += [f"{unknown} without a known seat"] if unknown else []
    seats = f"Of {total} {' and '.join(parts)}." if parts else f"{total} as locked."
    people = f" Of the roster {len(status.unplaced)} without a node." if status.unplaced else ""
    own = f" Self-service of {count(pending, 'node')} not as published." if pending else ""
    return f"{seats}{people}{own} `provision plan` shows the difference."


def _nodes_with_many(status: LabStatus) -> dict[str, list[SeatStatus]]:
    by_node: dict[str, list[SeatStatus]] = {}
    for seat in status.seats:
        by_node.setdefault(seat.node, []).append(seat)
    return {node: seats for node, seats in by_node.items() if len(seats) > 1}


def _counted(seats: list[SeatStatus]) -> str:
    """Return how many seats of a node are as locked, a line for each reason why others are not, and the remarks."""
    whys: dict[str, list[str]] = {}
    for seat in seats:
        if seat.drift or seat.seat is None:
            whys.setdefault(_why(seat), []).append(seat.seat or "")
    lines = "".join(f"\n  {_names(names)}  {why}" for why, names in whys.items())
    remarks = dict.fromkeys(remark for seat in seats for remark in seat.remarks)
    lines += "".join(f"\n  {safe_line(remark)}" for remark in remarks)
    return f"{len(seats) - sum(map(len, whys.values()))} of {count(len(seats), 'seat')} as locked{lines}"


def _names(seats: list[str]) -> str:
    return " ".join(map(safe_line, seats)) if len(seats) <= _FEW else count(len(seats), "seat")


def _many(names: str, text: str) -> Text:
    return Text.assemble((names, "bold"), f"  {text}")


def _seat(seat: SeatStatus) -> Text:
    word, style = ("drift", "yellow") if seat.drift else ("as locked", "green")
    head = Text.assemble((safe_line(seat.node), "bold"), "  ", (word, style), f"  generation {seat.generation}")
    drift = f"  {safe_line(seat.drift)}" if seat.drift else ""
    services = ", ".join(f"{safe_line(name)} {safe_line(state)}" for name, state in seat.services.items())
    remarks = "".join(f"\n  {safe_line(remark)}" for remark in seat.remarks)
    named = "" if is_default_environment(seat.environment) else f" (environment {safe_line(seat.environment)})"
    head.append(f"{drift}{remarks}\n  image     {safe_line(seat.image or '')}{named}\n  services  {services}")
    return head if seat.access is None else head.append(access_text(seat.access))


def _why(seat: SeatStatus) -> str:
    return safe_line(seat.drift.removeprefix(f"{seat.node}: "))


def _absent(names: str, why: str) -> Text:
    return Text.assemble((names, "bold"), "  ", ("no seat", "red"), f"  {why}")


def _problems(status: LabStatus) -> Iterable[tuple[str, Problem]]:
    yield from ((seat.node, problem) for seat in status.seats for problem in seat.problems)
    yield from ((found.node, problem) for found in status.self_service for problem in found.problems)
    yield from (("registry", problem) for problem in status.problems)


def with_token(way: Access, token: str) -> str:
    """Return the URL that grants access to a seat. It is a secret: print it only on request, and never store it."""
    return f"{way.jupyter}?{urlencode({'token': token})}"


def urls_view(ways: Mapping[str, str], tokens: Mapping[str, str | Problem]) -> Group:
    """Render the URL of each node in `ways`, then the problems among `tokens`."""
    lines = (Text.assemble((safe_line(node), "bold"), f"  {safe_line(url)}") for node, url in ways.items())
    return Group(*lines, problems((node, found) for node, found in tokens.items() if isinstance(found, Problem)))
