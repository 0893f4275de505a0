"""Layers that were complete in a recent check, so that the next check does not ask for each of them again.

Only complete layers are kept, by registry, repository and digest, and for a limited time. A cache file that cannot be
read or written is ignored: a check finds the same again.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from pydantic import TypeAdapter

from provisioner.adapters.state.json_cache import JsonCache, hashed_name
from provisioner.domain.registry.image_problems import Fault
from provisioner.domain.registry.manifest import Blob
from provisioner.domain.values.problem import ProblemError

_MAX_LAYERS = 20_000  # of one registry; the newest are kept
_FILE_LIMIT = 8 << 20
_MAX_AGE = 86_400  # seconds; the longest time that lab.yml can set
_TIMES = TypeAdapter(dict[str, float])


class LayerCache:
    """The complete layers of the registry with the URL `base` (scheme and host).

    An entry is valid for `seconds` of `clock`; with 0 none is used and none is added. A layer that is found incomplete
    is removed in either case.
    """

    def __init__(self, base: str, seconds: float, clock: Callable[[], float] = time.time) -> None:
        """Read the file, if entries of it may be used."""
        self._file = JsonCache(hashed_name("verdicts", base), _TIMES, _FILE_LIMIT)
        self._seconds, self._clock = seconds, clock
        self._saved = (self._file.read() or {}) if seconds else {}
        self._complete, self._incomplete = dict[str, float](), set[str]()

    def has(self, repository: str, layer: Blob) -> bool:
        """Return whether a valid entry exists. An entry from the future (the clock was set back) is not valid."""
        at = self._saved.get(_key(repository, layer))
        return at is not None and 0 <= self._clock() - at < self._seconds

    def add(self, checked: Mapping[tuple[str, Blob], Fault | None]) -> None:
        """Add layers that were checked just now, each with its fault. The time of other entries stays."""
        now = self._clock()
        self._incomplete |= {_key(*at) for at, fault in checked.items() if fault is not None}
        if self._seconds:
            self._complete |= {_key(*at): now for at, fault in checked.items() if fault is None}

    def save(self) -> None:
        """Merge the changes into the file, which another run may have changed."""
        before = (self._file.read() or {}) if self._complete or self._incomplete else {}
        after = {key: at for key, at in (before | self._complete).items() if key not in self._incomplete}
        if after == before:
            return
        oldest = self._clock() - _MAX_AGE
        newest = sorted(((key, at) for key, at in after.items() if at > oldest), key=lambda entry: entry[1])
        with suppress(ProblemError):
            self._file.write(dict(newest[-_MAX_LAYERS:]))


def _key(repository: str, layer: Blob) -> str:
    return f"{repository}@{layer.digest}:{layer.size}"
