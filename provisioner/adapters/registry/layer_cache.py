"""Layers that were seen whole a moment ago, so that the next look need not ask for each of them again.

Only the good verdict is kept, by digest, for one registry and repository, and not for long. Whatever cannot be read or
written here is as if it were not there: it is only a copy of what a look would find.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from pydantic import TypeAdapter, ValidationError

from provisioner.adapters.state.files import cache_home, write_text
from provisioner.domain.registry.image_problems import Fault
from provisioner.domain.registry.manifest import Blob
from provisioner.domain.values.problem import ProblemError

_MOST = 20_000  # verdicts of one registry; the newest stay
_LIMIT = 8 << 20
_LONGEST = 86_400  # seconds; what lab.yml can say at most
_SEEN = TypeAdapter(dict[str, float])


class Verdicts:
    """`base`: scheme and host of the registry. `seconds`: for how long a verdict is good; 0: none is believed or kept.

    Times are of `clock`. Whatever is not seen whole any more is forgotten, also by a look that believes nothing.
    """

    def __init__(self, base: str, seconds: float, clock: Callable[[], float] = time.time) -> None:
        self._place = cache_home() / "verdicts" / f"{hashlib.sha256(base.encode()).hexdigest()[:20]}.json"
        self._seconds, self._clock = seconds, clock
        self._seen = self._read() if seconds else {}
        self._whole, self._lost = dict[str, float](), set[str]()

    def knows(self, repository: str, blob: Blob) -> bool:
        """A time to come was written before the clock was set back: it says nothing."""
        at = self._seen.get(_key(repository, blob))
        return at is not None and 0 <= self._clock() - at < self._seconds

    def add(self, asked: Mapping[tuple[str, Blob], Fault | None]) -> None:
        """What was asked for just now. The time of a verdict is never prolonged without asking."""
        now = self._clock()
        self._lost |= {_key(*at) for at, fault in asked.items() if fault is not None}
        if self._seconds:
            self._whole |= {_key(*at): now for at, fault in asked.items() if fault is None}

    def keep(self) -> None:
        """Beside what others have written meanwhile."""
        before = self._read() if self._whole or self._lost else {}
        after = {key: at for key, at in (before | self._whole).items() if key not in self._lost}
        if after == before:
            return
        oldest = self._clock() - _LONGEST
        newest = sorted(((key, at) for key, at in after.items() if at > oldest), key=lambda one: one[1])
        with suppress(ProblemError):
            write_text(self._place, json.dumps(dict(newest[-_MOST:])) + "\n")

    def _read(self) -> dict[str, float]:
        try:
            with self._place.open("rb") as file:
                return _SEEN.validate_json(file.read(_LIMIT))
        except (OSError, ValidationError):
            return {}


def _key(repository: str, blob: Blob) -> str:
    return f"{repository}@{blob.digest}:{blob.size}"
