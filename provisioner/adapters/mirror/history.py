"""What we saw of each mirror, a line at a time, below `$XDG_STATE_HOME/provisioner/mirrors/`."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from provisioner.adapters.state.files import state_home
from provisioner.domain.forecast.history import SIGHTING, Sighting, news
from provisioner.domain.values.problem import Problem, ProblemError

_READ = 8 << 20  # bytes from the end: years of one mirror; older habits are not its habits


class MirrorHistory:
    """Append-only, one file for each host. What says nothing new is not written."""

    def read(self, host: str) -> list[Sighting]:
        """In the order of writing. A line that cannot be read is cut off, or a newer release's: passed over."""
        try:
            with _file(host).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _READ))
                lines = file.read().splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ProblemError(_unusable(_file(host), error)) from error
        return [seen for line in lines if (seen := _sighting(line)) is not None]

    def add(self, host: str, known: Sequence[Sighting], seen: Iterable[Sighting]) -> None:
        """`known`: what was read before. Each line goes out in one write, so that two runs do not mix theirs."""
        fresh = news(known, seen)
        if not fresh:
            return
        path = _file(host)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab", buffering=0) as file:
                for one in fresh:
                    file.write(one.model_dump_json().encode() + b"\n")
        except OSError as error:
            raise ProblemError(_unusable(path, error)) from error


def _file(host: str) -> Path:
    return state_home() / "mirrors" / f"{re.sub(r'[^A-Za-z0-9.-]', '_', host)}.jsonl"


def _sighting(line: bytes) -> Sighting | None:
    try:
        return SIGHTING.validate_json(line)
    except ValidationError:
        return None


def _unusable(path: Path, error: OSError) -> Problem:
    return Problem(
        "history_unusable",
        f"{path}: {error.strerror or error}",
        "what was seen of a mirror is how its habits are learned",
        "make room there, or set XDG_STATE_HOME to a directory that can be written",
    )
