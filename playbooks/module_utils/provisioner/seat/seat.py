"""A seat on disk: what was agreed, generation by generation, and which of them is in force.

seats/NAME/identity/          token and host key, made once
seats/NAME/gens/N/            compose.yaml and all it mounts; order.json; meta.json comes last, so it is whole
seats/NAME/current            -> gens/N, moved by rename: the moment at which a switch is committed
seats/NAME/journal.jsonl      every step, before it is taken
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.provisioner.base.files import read, sync_folder, write_atomic
from ansible.module_utils.provisioner.base.host import now
from ansible.module_utils.provisioner.base.problem import ProblemError

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
FILE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
CONDITIONS = {"run", "deadlines", "claim", "expects", "when_busy"}
# Made on the node, beside the rendered ones.
OURS = {"passwd", "group", "order.json", "meta.json", "failure.log"}


class Seat:
    def __init__(self, state_root: str, name: str) -> None:
        """Raises ValueError where `name` could lead out of the folder of seats."""
        if not NAME.fullmatch(name):
            raise ValueError(f"not a seat's name: {name!r}")
        self.name = name
        self.folder = Path(state_root) / "seats" / name
        self.generations = self.folder / "gens"
        self.identity = self.folder / "identity"
        self.jobs = self.folder / "jobs"

    def make_folders(self) -> None:
        for folder in (self.folder, self.generations, self.identity, self.jobs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def generation(self, number: int) -> Path:
        return self.generations / str(number)

    def numbers(self) -> list[int]:
        """Generations that are whole, oldest first."""
        found = [path.name for path in self.generations.glob("*") if (path / "meta.json").exists()]
        return sorted(int(name) for name in found if name.isdigit())

    def current(self) -> int:
        """The generation in force, 0 where there is none."""
        try:
            return int(Path(os.readlink(str(self.folder / "current"))).name)
        except (OSError, ValueError):
            return 0

    def commit(self, number: int) -> None:
        beside = self.folder / ".current.new"
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()
        beside.symlink_to(Path("gens") / str(number))
        beside.replace(self.folder / "current")
        sync_folder(self.folder)

    def clear_current(self) -> None:
        """From now on no generation is in force."""
        with contextlib.suppress(FileNotFoundError):
            (self.folder / "current").unlink()
        sync_folder(self.folder)

    def order(self, number: int) -> dict[str, Any]:
        """Raises ProblemError where it cannot be read."""
        path = self.generation(number) / "order.json"
        try:
            return dict(json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from None

    def staged(self, order: dict[str, Any]) -> int:
        """The newest generation after the current one that was made from this order; 0 where there is none."""
        wanted, current = _substance(order), self.current()
        fitting = [n for n in self.numbers() if n > current and _substance(self.order(n)) == wanted]
        return fitting[-1] if fitting else 0

    def previous(self) -> int:
        """The generation to go back to, 0 where there is none."""
        current = self.current()
        return max((number for number in self.numbers() if number < current), default=0)

    def next_number(self) -> int:
        taken = [int(path.name) for path in self.generations.glob("*") if path.name.isdigit()]
        return max([self.current(), *taken], default=0) + 1

    def write(self, number: int, order: dict[str, Any], made: dict[str, str]) -> None:
        """A whole generation or none. `made` are the files that only the node can make."""
        half = self.generations / f".{number}"
        shutil.rmtree(str(half), ignore_errors=True)
        half.mkdir(mode=0o700)
        for name, text in {"verify_keys": "", **order["files"], **made}.items():
            write_atomic(half / name, text, 0o644)
        write_atomic(half / "order.json", json.dumps(order, sort_keys=True))
        write_atomic(half / "meta.json", json.dumps({"made_at": now(), "run": order["run"]}))
        shutil.rmtree(str(self.generation(number)), ignore_errors=True)  # a broken one, or it would be in `numbers`
        half.replace(self.generation(number))
        sync_folder(self.generations)

    def files(self, number: int) -> dict[str, str]:
        """The rendered files as they lie there now, whoever may have changed them."""
        found = [path for path in self.generation(number).glob("*") if path.is_file() and path.name not in OURS]
        return {path.name: read(path) for path in sorted(found)}

    def delete_generation(self, number: int) -> None:
        shutil.rmtree(str(self.generation(number)), ignore_errors=True)

    def tag(self, number: int) -> str:
        """A name that keeps the generation's image where `docker image prune` would take one without a tag."""
        return f"{self.name}-g{number}"


def _substance(order: dict[str, Any]) -> dict[str, Any]:
    """What an order makes of a seat: not who sent it, and under which conditions."""
    return {name: value for name, value in order.items() if name not in CONDITIONS}


def seats_of(state_root: str) -> list[Seat]:
    """All that are recorded here, in the order of their names."""
    names = sorted(path.name for path in (Path(state_root) / "seats").glob("*") if NAME.fullmatch(path.name))
    return [Seat(state_root, name) for name in names]


def seat_of(order: dict[str, Any]) -> Seat:
    """Raises ProblemError where the order's names could lead out of the seat's folder."""
    try:
        seat = Seat(order["state_root"], order["seat"]["name"])
    except ValueError as error:
        raise _bad_order(str(error)) from None
    if not RUN.fullmatch(order.get("run", "")):
        raise _bad_order(f"not a run's name: {order.get('run')!r}")
    for name in order.get("files", {}):
        if not FILE_NAME.fullmatch(name) or name in OURS:
            raise _bad_order(f"not a name for a seat's file: {name!r}")
    return seat


def _damaged(path: Path, error: Exception) -> ProblemError:
    return ProblemError(
        "seat_damaged",
        f"{path} cannot be read: {error}",
        "it says what this generation of the seat was made from",
        f"remove {path.parent} on the node, then run the rollout again",
    )


def _bad_order(what: str) -> ProblemError:
    return ProblemError(
        "bad_order",
        what,
        "names become paths on the node, so only plain ones are taken",
        "this is a mistake in the program that sent the order: report it",
    )
