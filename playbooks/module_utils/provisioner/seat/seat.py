"""A seat on disk: its generations, and which of them is the current one.

seats/NAME/identity/          token and host key, generated once
seats/NAME/gens/N/            compose.yaml and the files it mounts; order.json; meta.json is written last
seats/NAME/current            -> gens/N; a switch is committed by renaming this link
seats/NAME/journal.jsonl      every step, written before it begins
seats/NAME/intent.json         whether the broker wants the seat up or down; no file: it has no part in it
seats/NAME/disk_limit         bytes that home and containers should stay below; no file: no limit
seats/NAME/disk.json          what they use, see disk/measure.py
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.provisioner.base.files import read, sync_folder, write_atomic, write_in_place
from ansible.module_utils.provisioner.base.fill import fill
from ansible.module_utils.provisioner.base.host import now
from ansible.module_utils.provisioner.base.problem import ProblemError

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
FILE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
# Keys of an order that say who sent it and under which conditions, not what the seat is.
CONDITIONS = {"run", "by", "deadlines", "claim", "expects", "held", "when_busy", "disk_limit"}
BROKER = "broker"  # who an order is `by`, if it is not from the control machine
SELF_SERVICE = "self_service"  # the kind of a seat that its person starts through the broker
KEYS = "authorized_keys"  # a file of a seat, and the key of its lines
# What a seat has that is not part of a generation: see `inherit` and `assign`.
NOTHING_ASSIGNED: dict[str, Any] = {"gpus": [], "gpu_driver": "nvidia", "shared": False, KEYS: []}
ASSIGNED = tuple(NOTHING_ASSIGNED)
# Files of a generation that are made on the node; all others are rendered by the control machine.
MADE_HERE = {"passwd", "group", "order.json", "meta.json", "failure.log"}
INTENT = "intent.json"
DISK_LIMIT, DISK_USE = "disk_limit", "disk.json"
DISK_FIELDS = {"measured_at", "home_bytes", "layer_bytes", "complete"}


class Seat:
    """The folder of a seat. A seat has a number of generations, one of which is the current one."""

    pattern = "*.json"

    def __init__(self, state_root: str, name: str) -> None:
        """Raise ValueError when `name` could lead out of the folder of seats."""
        if not NAME.fullmatch(name):
            raise ValueError(f"invalid seat name: {name!r}")
        self.name = name
        self.folder = Path(state_root) / "seats" / name
        self.generations = self.folder / "gens"
        self.identity = self.folder / "identity"
        self.jobs = self.folder / "jobs"

    def make_folders(self) -> None:
        """Make the folders of the seat that are missing."""
        for folder in (self.folder, self.generations, self.identity, self.jobs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def generation(self, number: int) -> Path:
        """Return the folder of a generation."""
        return self.generations / str(number)

    def numbers(self) -> list[int]:
        """Return the numbers of all complete generations, oldest first."""
        found = [path.name for path in self.generations.glob("*") if (path / "meta.json").exists()]
        return sorted(int(name) for name in found if name.isdigit())

    def current(self) -> int:
        """Return the number of the current generation, 0 when there is none.

        Raises ProblemError `seat_damaged` when that cannot be read: "none" would mean a seat to be set up anew.
        """
        path = self.folder / "current"
        try:
            return int(Path(os.readlink(str(path))).name)
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from None

    def commit(self, number: int) -> None:
        """Make a generation the current one, atomically."""
        temporary = self.folder / ".current.new"
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        temporary.symlink_to(Path("gens") / str(number))
        temporary.replace(self.folder / "current")
        sync_folder(self.folder)

    def clear_current(self) -> None:
        """Leave the seat without a current generation."""
        with contextlib.suppress(FileNotFoundError):
            (self.folder / "current").unlink()
        sync_folder(self.folder)

    def order(self, number: int) -> dict[str, Any]:
        """Return the order of a generation. Raises ProblemError `seat_damaged` when it cannot be read."""
        path = self.generation(number) / "order.json"
        try:
            order = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from None
        if not (isinstance(order, dict) and {"seat", "image"} <= order.keys()):
            raise _damaged(path, ValueError("it is not an order"))
        return order

    def staged(self, order: dict[str, Any]) -> int:
        """Return the newest generation after the current one that was made from this order, 0 when there is none."""
        wanted, current = _content(order), self.current()
        fitting = [n for n in self.numbers() if n > current and _content(self.order(n)) == wanted]
        return fitting[-1] if fitting else 0

    def is_made_from(self, number: int, order: dict[str, Any]) -> bool:
        """Return whether a generation has what this order says. Raises ProblemError `seat_damaged`."""
        return bool(number) and _content(self.order(number)) == _content(order)

    def is_wanted_down(self) -> bool:
        """Return whether the broker has stopped the seat, or is about to: then nothing else starts it again."""
        return self.intent()["wanted"] == "down"

    def intent(self) -> dict[str, str]:
        """Return whether the broker wants the seat `up` or `down`, and `by` whom; both empty where it has no part."""
        with contextlib.suppress(ValueError, TypeError, KeyError):
            found = json.loads(read(self.folder / INTENT))
            return {"wanted": str(found["wanted"]), "by": str(found["by"])}
        return {"wanted": "", "by": ""}

    def write_intent(self, wanted: str, by: str) -> None:
        """Record whether the seat is meant to be `up` or `down`, and by whom. Raises OSError."""
        write_atomic(self.folder / INTENT, json.dumps({"wanted": wanted, "by": by}))

    def previous(self) -> int:
        """Return the newest generation before the current one with another image or other files.

        GPUs and keys do not count. If all earlier generations are the same, return the newest of these. Return 0 if
        there is no earlier generation. A repair makes a generation with the same image and files: a rollback to it
        changes nothing.
        """
        current = self.current()
        before = [number for number in self.numbers() if number < current]
        others = [number for number in before if not self.is_same(number, current)]
        return max(others or before, default=0)

    def is_same(self, one: int, other: int) -> bool:
        """Return whether two generations have the same image and files, GPUs and keys aside; False if unreadable."""
        try:
            orders = [with_assigned(self.order(number), NOTHING_ASSIGNED) for number in (one, other)]
        except ProblemError:
            return False
        return all(orders[0].get(key) == orders[1].get(key) for key in ("image", "files"))

    def inherit(self, number: int) -> None:
        """Give a generation the GPUs and keys of the current one: since it was made, others may have got its GPUs.

        One of an earlier release, which has no document, keeps its own. So it does if the current one is damaged.
        """
        order = self.order(number)
        try:
            assigned = with_assigned(order, self.order(self.current())["seat"])
        except ProblemError:
            return
        for name, text in assigned["files"].items():
            if text != order["files"].get(name):
                write_atomic(self.generation(number) / name, text, 0o644)
        if assigned != order:
            write_atomic(self.generation(number) / "order.json", json.dumps(assigned, sort_keys=True))

    def assign(self, keys: list[str], *, shared: bool) -> None:
        """Set the public keys of the current generation, and whether its GPUs are shared, while it runs.

        The file keeps its inode, which is mounted into the containers: they would not see another file.
        """
        number, text = self.current(), "".join(f"{key}\n" for key in keys)
        order = self.order(number)
        write_in_place(self.generation(number) / KEYS, text)
        order["seat"] = {**order["seat"], KEYS: keys, "shared": shared}
        order["files"][KEYS] = text
        write_atomic(self.generation(number) / "order.json", json.dumps(order, sort_keys=True))

    def next_number(self) -> int:
        """Return the number of the next generation; numbers are not reused."""
        taken = [int(path.name) for path in self.generations.glob("*") if path.name.isdigit()]
        return max([self.current(), *taken], default=0) + 1

    def write(self, number: int, order: dict[str, Any], made: dict[str, str]) -> None:
        """Write a generation, atomically. `made` are the files that only the node can make."""
        half = self.generations / f".{number}"
        shutil.rmtree(str(half), ignore_errors=True)
        half.mkdir(mode=0o700)
        for name, text in {"verify_keys": "", **order["files"], **made}.items():
            write_atomic(half / name, text, 0o755 if text.startswith("#!") else 0o644)
        write_atomic(half / "order.json", json.dumps(order, sort_keys=True))
        write_atomic(half / "meta.json", json.dumps({"made_at": now(), "run": order["run"]}))
        shutil.rmtree(
            str(self.generation(number)), ignore_errors=True
        )  # an incomplete one, which `numbers` does not list
        half.replace(self.generation(number))
        sync_folder(self.generations)

    def files(self, number: int) -> dict[str, str]:
        """Return the rendered files of a generation as they are on disk now."""
        found = [path for path in self.generation(number).glob("*") if path.is_file() and path.name not in MADE_HERE]
        return {path.name: read(path) for path in sorted(found)}

    def disk_limit(self) -> int | None:
        """Return the bytes that home and containers should stay below, None where there is no limit."""
        text = read(self.folder / DISK_LIMIT)
        return int(text) if text.isdecimal() else None

    def disk_use(self) -> dict[str, Any] | None:
        """Return the last measurement of the disk, None where there is none that is whole."""
        with contextlib.suppress(ValueError):
            found = json.loads(read(self.folder / DISK_USE))
            return found if isinstance(found, dict) and found.keys() >= DISK_FIELDS else None
        return None

    def delete_generation(self, number: int) -> None:
        """Delete the folder of a generation."""
        shutil.rmtree(str(self.generation(number)), ignore_errors=True)

    def tag(self, number: int) -> str:
        """Return the tag that protects a generation's image from `docker image prune`."""
        return f"{self.name}-g{number}"


def with_assigned(order: dict[str, Any], assigned: dict[str, Any]) -> dict[str, Any]:
    """Return an order with what `assigned` has of ASSIGNED. An order without a document stays as it is."""
    document = order.get("document")
    if not document:
        return order
    seat = {**order["seat"], **{key: assigned[key] for key in ASSIGNED if key in assigned}}
    return {**order, "seat": seat, "files": {**order["files"], **fill(document, seat)}}


def _content(order: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of an order that say what the seat is."""
    return {name: value for name, value in order.items() if name not in CONDITIONS}


def seats_of(state_root: str) -> list[Seat]:
    """Return all recorded seats, sorted by name. Other files, and folders with other names, are ignored."""
    try:
        with os.scandir(str(Path(state_root) / "seats")) as found:
            names = sorted(entry.name for entry in found if NAME.fullmatch(entry.name) and entry.is_dir())
    except FileNotFoundError:
        return []
    return [Seat(state_root, name) for name in names]


def ordered_cas(state_root: str, address: str) -> set[str]:
    """Return the CAs (PEM) that the kept orders of all seats name for the registry at `address`."""
    found = set()
    for seat in seats_of(state_root):
        with contextlib.suppress(ProblemError, OSError):  # a damaged seat must not stop another one
            registries = [seat.order(number).get("registry") or {} for number in seat.numbers()]
            found |= {str(one["ca"]) for one in registries if one.get("address") == address and one.get("ca")}
    return found


def seat_of(order: dict[str, Any]) -> Seat:
    """Return the seat of an order. Raises ProblemError `bad_order` when a name in it could lead out of its folder."""
    try:
        seat = Seat(order["state_root"], order["seat"]["name"])
    except ValueError as error:
        raise _bad_order(str(error)) from None
    if not RUN.fullmatch(order.get("run", "")):
        raise _bad_order(f"invalid run name: {order.get('run')!r}")
    for name in order.get("files", {}):
        if not FILE_NAME.fullmatch(name) or name in MADE_HERE:
            raise _bad_order(f"invalid file name: {name!r}")
    return seat


def _damaged(path: Path, error: Exception) -> ProblemError:
    return ProblemError(
        "seat_damaged",
        f"{path} cannot be read: {error}",
        "the file says what the seat runs",
        f"check the node's disk (dmesg); if only this file is damaged: move {path.parent} away, then roll out again",
    )


def _bad_order(what: str) -> ProblemError:
    return ProblemError(
        "bad_order",
        what,
        "names become paths on the node, so only letters, digits and a few other characters are allowed",
        "this is a bug in the program that sent the order: report it",
    )
