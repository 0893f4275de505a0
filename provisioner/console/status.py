"""What runs where, held against the lock."""

from collections.abc import Iterable, Mapping
from urllib.parse import urlencode

from rich.console import Group, RenderableType
from rich.text import Text

from provisioner.console.problems import problems
from provisioner.console.report import access
from provisioner.console.tables import folded
from provisioner.console.text import count, line
from provisioner.domain.rollout.report import Access
from provisioner.domain.rollout.status import LabStatus, SeatStatus
from provisioner.domain.values.problem import Problem


def status_view(status: LabStatus) -> Group:
    running = [seat for seat in status.seats if seat.image is not None]
    absent = [seat for seat in status.seats if seat.image is None]
    parts: list[RenderableType] = [_seat(seat) for seat in running]
    parts += [_absent(names, why) for names, why in folded((seat.node, _why(seat)) for seat in absent)]
    return Group(*parts, problems(_problems(status.seats)), Text(f"\n{summary(status)}"))


def summary(status: LabStatus) -> str:
    total = count(len(status.seats), "node")
    unknown = sum(seat.seat is None for seat in status.seats)
    drifted = sum(bool(seat.drift) for seat in status.seats) - unknown
    if not drifted and not unknown:
        return f"No drift: {total} as locked."
    parts = [f"{drifted} not as locked"] if drifted else []
    parts += [f"{unknown} without a seat to judge"] if unknown else []
    return f"Of {total} {' and '.join(parts)}. `provision plan` shows the difference."


def _seat(seat: SeatStatus) -> Text:
    word, style = ("drift", "yellow") if seat.drift else ("as locked", "green")
    head = Text.assemble((line(seat.node), "bold"), "  ", (word, style), f"  generation {seat.generation}")
    drift = f"  {line(seat.drift)}" if seat.drift else ""
    services = ", ".join(f"{line(name)} {line(state)}" for name, state in seat.services.items())
    remarks = "".join(f"\n  {line(remark)}" for remark in seat.remarks)
    head.append(f"{drift}{remarks}\n  image     {line(seat.image or '')}\n  services  {services}")
    return head if seat.access is None else head.append(access(seat.access))


def _why(seat: SeatStatus) -> str:
    return line(seat.drift.removeprefix(f"{seat.node}: "))


def _absent(names: str, why: str) -> Text:
    return Text.assemble((names, "bold"), "  ", ("no seat", "red"), f"  {why}")


def _problems(seats: Iterable[SeatStatus]) -> Iterable[tuple[str, Problem]]:
    return ((seat.node, problem) for seat in seats for problem in seat.problems)


def with_token(way: Access, token: str) -> str:
    """The URL that lets its holder in. A secret: made for a person who asked, kept nowhere."""
    return f"{way.jupyter}?{urlencode({'token': token})}"


def urls_view(ways: Mapping[str, str], tokens: Mapping[str, str | Problem]) -> Group:
    lines = (Text.assemble((line(node), "bold"), f"  {line(url)}") for node, url in ways.items())
    return Group(*lines, problems((node, found) for node, found in tokens.items() if isinstance(found, Problem)))
