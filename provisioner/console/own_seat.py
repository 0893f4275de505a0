"""A person's own seat on a node: how to reach it from this computer, and what is next."""

from collections.abc import Iterator
from datetime import datetime

from rich.console import Group
from rich.text import Text

from provisioner.console.text import safe_line
from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.rollout.own_seat import MeAnswer, SshEntry, tunnel_command

_LABEL = 9  # columns
_USED = "; your seat has it"
_FORWARDED = "http://127.0.0.1:8888/lab"


def own_seat_view(answer: MeAnswer, entry: SshEntry, until: datetime) -> Group:
    """Render one screen. `until`: the end of the seat, in the time zone of the user."""
    head = Text.assemble((entry.alias, "bold"), f"  your seat on {safe_line(entry.node)} is {answer.state}")
    rows = [Text(f"  {label:{_LABEL}}{text}") for label, text in _rows(answer, entry, until)]
    on = f"--on {safe_line(entry.node)}"
    last = Text(f"Next: provision me renew {on} (more time), provision me down {on} (stop it; your files are kept)")
    return Group(head, *rows, last)


def environments_view(lock: Lockfile, used: str) -> Group:
    """Render the environments of a lock, and which one the seat on this machine has; `used` empty: there is none."""
    rows = [(name, f"PyTorch {torch}{_USED if name == used else ''}") for name, torch in _torch(lock)]
    if used and used not in lock.all_environments:
        rows.append((safe_line(used), f"not in the lock any more{_USED}"))
    return Group(*(Text(f"{name}  {text}") for name, text in rows), Text("Next: provision me --env NAME"))


def _torch(lock: Lockfile) -> Iterator[tuple[str, str]]:
    """Yield the name of each environment, and the versions of torch of its images."""
    for name, environment in lock.all_environments.items():
        versions = dict.fromkeys(image.torch or "of an unknown version" for image in environment.images)
        if versions:
            yield safe_line(name), safe_line(", ".join(versions))


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
