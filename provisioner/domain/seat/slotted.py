"""Make the document of an image: render a seat of known values, and put slots where they stand in its files.

To render and prove a seat takes 12 ms, to fill a document 0.1 ms, and a lab with 200 nodes has thousands of seats.
"""

import re
from collections.abc import Iterator, Mapping

from provisioner.domain.lab.lock import LockedImage
from provisioner.domain.seat.document import SeatBundle, SeatDocument
from provisioner.domain.seat.fill import slot_values
from provisioner.domain.seat.render import check_keys, render
from provisioner.domain.seat.seat import SERVICES, Seat, SeatKind, ServiceName
from provisioner.domain.values.limits import Capacity, OpenFiles, SeatLimits
from provisioner.domain.values.problem import Problem, ProblemError

_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "{0}" * 42
_GPU = "GPU-{0}{0}{0}{0}{0}{0}{0}{0}-0000-4000-8000-0000000000{0}{0}"
_LOOPBACK = "127.0.0.1"

# In these all seats of a document are the same: lab, kind, environment, start_interval, services on the loopback
# interface, options as JSON.
_Variant = tuple[str, SeatKind, str, bool, frozenset[ServiceName], str]


class Documents:
    """The documents of a lab by image, each made and proved once."""

    def __init__(self, templates: Mapping[str, str]) -> None:
        """`templates`: text by file name."""
        self._templates = templates
        self._made: dict[tuple[str, str, int, _Variant], SeatDocument] = {}  # by the image's digest, tag and format

    def bundle(self, seat: Seat, image: LockedImage) -> SeatBundle:
        """Return the seat with its document. Raises ProblemError if the proof of a file fails.

        Raises ProblemError `template_not_slotted` where the files of seats differ in more than the values of slots.
        """
        document = self.document(seat, image)
        check_keys(seat.authorized_keys)
        bundle = SeatBundle(seat=seat, image=image, document=document)
        try:
            bundle.files  # noqa: B018  (it is kept)
        except ValueError as error:
            render(seat, image, self._templates)  # which names the place in the file
            raise ProblemError(_unfit(seat, error)) from None
        return bundle

    def document(self, seat: Seat, image: LockedImage) -> SeatDocument:
        """Return the document of a seat and of all that differ from it in values of slots alone.

        Raises ProblemError as `bundle` does.
        """
        key = (image.lab, image.reference, image.format, _variant(seat))
        if key not in self._made:
            render(seat, image, self._templates)  # what is wrong is said with the values of a real seat
            self._made[key] = make_document(seat, image, self._templates)
        return self._made[key]


def _variant(seat: Seat) -> _Variant:
    on_loopback = frozenset(name for name in SERVICES if seat.binds[name] == _LOOPBACK)
    options = seat.options.model_dump_json()
    return seat.lab, seat.kind, seat.environment, seat.start_interval, on_loopback, options


def make_document(seat: Seat, image: LockedImage, templates: Mapping[str, str]) -> SeatDocument:
    """Make the document for `seat` and the seats that differ from it in the values of slots.

    Raises ProblemError `template_not_slotted` where one of three samples, filled, is not what the templates render.
    """
    known = _known_seat(seat, image, templates)
    slots = _slots(known)
    document = SeatDocument(
        environment=seat.environment,
        files={name: tuple(_parts(text, slots)) for name, text in render(known, image, templates).files.items()},
    )
    for sample in _samples(seat):
        if different := _difference(render(sample, image, templates).files, document.fill(sample)):
            raise ProblemError(_not_slotted(*different))
    return document


def _slots(known: Seat) -> dict[str, str]:
    """Return the slots by the text that they have in the files of the known seat."""
    values = slot_values(known.model_dump(mode="json"))
    return {text: name for name, text in values.items() if text != _LOOPBACK}


def _parts(text: str, slots: Mapping[str, str]) -> Iterator[str]:
    """Yield the parts of a file: texts, and between them the names of slots."""
    longest_first = sorted(slots, key=len, reverse=True)
    pattern = "|".join(re.escape(value) for value in longest_first)
    for number, part in enumerate(re.split(f"({pattern})", text)):
        yield slots[part] if number % 2 else part


def _known_seat(seat: Seat, image: LockedImage, templates: Mapping[str, str]) -> Seat:
    """Return a seat whose values are unlike each other and any text of its files."""
    texts = "\n".join((image.model_dump_json(), seat.options.model_dump_json(), *templates.values()))
    ports = iter(port for port in range(90001, 99999) if str(port) not in texts)
    return seat.model_copy(
        update={
            "name": "known_seat_of_slots",
            "node": "known node of slots",
            "person": "known-person-of-slots",
            "user": "known_user_of_slots",
            "uid": 1999999001,
            "gid": 1999999002,
            "home": "/known-home/of-slots",
            "gpus": (_GPU.format("a"), _GPU.format("b")),
            "gpu_driver": "cdi",
            "ports": {name: next(ports) for name in SERVICES},
            "binds": _binds(seat, ssh="192.0.2.201", jupyter="192.0.2.202"),
            "subnet": "198.18.201.0/28",
            "authorized_keys": (_KEY.format("K"),),
            "cull_s": 199999007,
            "limits": SeatLimits(
                memory="199999001m",
                cpus=999001.25,
                pids=199999003,
                shm="199999004m",
                nofile=OpenFiles(soft=199999005, hard=199999006),
            ),
        }
    )


def _binds(seat: Seat, **others: str) -> dict[ServiceName, str]:
    """Return addresses for the services; a service on the loopback interface stays there."""
    return {name: _LOOPBACK if seat.binds[name] == _LOOPBACK else others[name] for name in SERVICES}


def _samples(seat: Seat) -> Iterator[Seat]:
    """Yield three seats that differ from the known one and from each other in each value of a seat."""
    base = seat.model_copy(
        update={
            "name": "sample-1",
            "node": "sample-node-1.example",
            "person": "",
            "user": "s1",
            "uid": 10001,
            "gid": 10002,
            "home": "/srv/sample/s1",
            "gpus": (_GPU.format("c"),),
            "gpu_driver": "nvidia",
            "shared": False,
            "ports": {"ssh": 30001, "jupyter": 30002},
            "binds": _binds(seat, ssh="10.9.8.7", jupyter="10.9.8.7"),
            "subnet": "10.200.0.16/28",
            "authorized_keys": (),
            "cull_s": 0,
            "limits": SeatLimits(pids=11, shm="1g"),
            "capacity": Capacity(),
        }
    )
    yield base
    yield base.model_copy(
        update={
            "name": "sample_2",
            "node": "-",
            "person": "2024012345@example.edu",
            "user": "2",
            "uid": 20001,
            "gid": 20001,
            "gpus": (),
            "authorized_keys": (_KEY.format("L"), _KEY.format("M")),
            "cull_s": 3600,
            "limits": SeatLimits(memory="2g", pids=22, shm="2g"),
            "capacity": Capacity(memory=1 << 40, cpus=3),
        }
    )
    yield base.model_copy(
        update={
            "name": "sample-3",
            "home": "/srv/sample/s3",
            "gpus": (_GPU.format("d"), _GPU.format("e"), _GPU.format("f")),
            "gpu_driver": "cdi",
            "shared": True,
            "limits": SeatLimits(memory="3g", cpus=3, pids=33, shm="3g", nofile=OpenFiles(soft=3, hard=4)),
        }
    )


def _difference(rendered: Mapping[str, str], filled: Mapping[str, str]) -> tuple[str, int, str, str] | None:
    """Return the first line that differs: its file, its number, and the line as rendered and as filled."""
    for name, text in rendered.items():
        lines, others = text.split("\n"), filled[name].split("\n")
        length = max(len(lines), len(others))
        for number in range(length):
            line, other = ("".join(found[number : number + 1]) for found in (lines, others))
            if line != other:
                return name, number + 1, line, other
    return None


def _not_slotted(name: str, number: int, rendered: str, filled: str) -> Problem:
    return Problem(
        "template_not_slotted",
        f"{name}: line {number} of a seat is {rendered.strip()!r}; made from another seat, it would be"
        f" {filled.strip()!r}",
        "a file is rendered once and then filled with the values of each seat, so a template may write values, but not"
        " compute with them or choose lines by them",
        "write that place of the lab's template as the shipped one does, with the plain values of the seat",
    )


def _unfit(seat: Seat, error: ValueError) -> Problem:
    return Problem(
        "compose_refused",
        f"the seat {seat.name}: {error}",
        "a value of a seat stands in its compose file, which may contain only what the seat is entitled to",
        "correct the value in lab.yml or in the inventory that it comes from",
        seat.node,
    )
