"""How often and how much at once people may ask: pure counting, the time is given."""

from __future__ import annotations

from collections import deque

MINUTE_S, HOUR_S = 60.0, 3600.0
OPEN_PER_PERSON = 2  # connections
REQUESTS_A_MINUTE = 30
CHANGES_AN_HOUR = 10
CONNECTIONS = 32  # of all people
FOR_ROOT = 2  # of these


class Window:
    """Counts what each person has done in the last `seconds`, up to `most` times."""

    def __init__(self, seconds: float, most: int) -> None:
        """Nothing has been done yet."""
        self._seconds, self._most = seconds, most
        self._done: dict[int, deque[float]] = {}

    def is_full(self, uid: int, now: float) -> bool:
        """Return whether a person has to wait. `now`: a clock that never goes back."""
        done = self._done.get(uid, deque())
        while done and now - done[0] >= self._seconds:
            done.popleft()
        return len(done) >= self._most

    def count(self, uid: int, now: float) -> None:
        """Count one more, and forget people who have done nothing for so long."""
        gone = [other for other, done in self._done.items() if not done or now - done[-1] >= self._seconds]
        for other in gone:
            del self._done[other]
        self._done.setdefault(uid, deque(maxlen=self._most)).append(now)


class Connections:
    """The open connections of all people."""

    def __init__(self) -> None:
        """None is open yet."""
        self._open: dict[int, int] = {}

    def has_room(self, uid: int) -> bool:
        """Return whether one more may be opened: FOR_ROOT of all are kept for root, which has no limit of its own."""
        total = sum(self._open.values())
        if uid == 0:
            return total < CONNECTIONS
        return total < CONNECTIONS - FOR_ROOT and not self.has_own(uid)

    def has_own(self, uid: int) -> bool:
        """Return whether a person has opened as many as one may have."""
        return uid != 0 and self._open.get(uid, 0) >= OPEN_PER_PERSON

    def opened(self, uid: int) -> None:
        """Count a connection."""
        self._open[uid] = self._open.get(uid, 0) + 1

    def closed(self, uid: int) -> None:
        """Count one less."""
        self._open[uid] -= 1
        if not self._open[uid]:
            del self._open[uid]
