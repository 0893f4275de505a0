"""A person's own seat on a node: how to reach it from this computer, and what is next."""

from collections.abc import Iterator
from datetime import datetime

from rich.console import Group
from rich.text import Text

from provisioner.console.text import safe_line
from provisioner.domain.rollout.own_seat import MeAnswer, SshEntry, tunnel_command

_LABEL = 9  # columns
_FORWARDED = "http://127.0.0.1:8888/lab"


def own_seat_view(answer: MeAnswer, entry: SshEntry, until: datetime) -> Group:
    """Render one screen. `until`: the end of the seat, in the time zone of the user."""
    head = Text.assemble((entry.alias, "bold"), f"  your seat on {safe_line(entry.node)} is {answer.state}")
    rows = [Text(f"  {label:{_LABEL}}{text}") for label, text in _rows(answer, entry, until)]
    on = f"--on {safe_line(entry.node)}"
    last = Text(f"Next: provision me renew {on} (more time), provision me down {on} (stop it; your files are kept)")
    return Group(head, *rows, last)


def _rows(answer: MeAnswer, entry: SshEntry, until: datetime) -> Iterator[tuple[str, str]]:
    seat = answer.seat
    minutes = round(seat.left_s / 60)
    yield "GPUs", f"{len(seat.gpus)}: {', '.join(seat.gpus)}" if seat.gpus else "none"
    yield "until", f"{until:%Y-%m-%d %H:%M} ({minutes // 60}:{minutes % 60:02} h left)"
    yield "image", f"{seat.environment} {seat.version}"
    yield "SSH", f"ssh {entry.alias}"
    yield "", f"editors, scp and rsync find it by the same name: {entry.alias}"
    yield "Jupyter", f"provision me --on {safe_line(entry.node)} --open"
    yield "", f"or by hand: {tunnel_command(entry.alias)}"
    yield "", f"and open {_FORWARDED}"
    yield "token", f"ssh {entry.alias} provision-url"
    yield "files", "your home ~ is kept; other files of the seat are lost when it is upgraded or gets another image"
