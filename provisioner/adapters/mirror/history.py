"""What past checks saw of each mirror, one line each, below `$XDG_STATE_HOME/provisioner/mirrors/`."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from provisioner.adapters.state.files import make_private_folder, state_home
from provisioner.domain.forecast.history import OBSERVATION, Observation, new_observations
from provisioner.domain.values.problem import Problem, ProblemError

_MAX_READ = 8 << 20  # bytes from the end: years of one mirror; older lines do not show its present schedule


class MirrorHistory:
    """Append-only files, one for each host. A sighting that says nothing new is not written."""

    def read(self, host: str) -> list[Observation]:
        """Return sightings in the order of writing, without lines that are cut off or of a newer release.

        Raises ProblemError (`history_unusable`).
        """
        try:
            with _file(host).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _MAX_READ))
                lines = file.read().splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unusable(_file(host), error) from error
        return [sighting for line in lines if (sighting := _parse(line)) is not None]

    def add(self, host: str, known: Sequence[Observation], seen: Iterable[Observation]) -> None:
        """Append what `seen` adds to `known`, the sightings that were read before.

        Each line is written at once, so that lines of two runs do not mix. Raises ProblemError (`history_unusable`).
        """
        fresh = new_observations(known, seen)
        if not fresh:
            return
        path = _file(host)
        try:
            make_private_folder(path.parent)
            with path.open("ab", buffering=0) as file:
                for sighting in fresh:
                    file.write(sighting.model_dump_json().encode() + b"\n")
        except OSError as error:
            raise _unusable(path, error) from error


def _file(host: str) -> Path:
    return state_home() / "mirrors" / f"{re.sub(r'[^A-Za-z0-9.-]', '_', host)}.jsonl"


def _parse(line: bytes) -> Observation | None:
    try:
        return OBSERVATION.validate_json(line)
    except ValidationError:
        return None


def _unusable(path: Path, error: OSError) -> ProblemError:
    what = f"{path}: {error.strerror or error}"
    why = "the schedule of a mirror is learned from what past checks saw of it"
    fix = "free space there, or set XDG_STATE_HOME to a directory that can be written"
    return ProblemError(Problem("history_unusable", what, why, fix))
