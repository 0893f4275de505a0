"""Laws of claims: several runs take, break and release claims of a node, are killed between two files, and one of an
earlier release takes part.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.test_claims import a_claim

claims = module_util("jobs.claims")
SEATS = ("a", "b", "c")
runs = st.sampled_from(["r1", "r2", "r3"])
scopes = st.sampled_from([(), ("a",), ("b",), ("a", "b"), ("b", "c"), ("a", "b", "c")])


class KilledError(BaseException):
    """The process ends here."""


def covered(claim: dict[str, Any]) -> tuple[str, ...]:
    return SEATS if claim.get("scope", "node") == "node" else tuple(claim["seats"])


def one_seat(claim: dict[str, Any], seat: str) -> dict[str, Any]:
    """The claim as the order of a seat has it."""
    return claim if claim.get("scope", "node") == "node" else {**claim, "seats": [seat]}


def passes(act: Callable[..., None], *given: Any) -> bool:
    try:
        act(*given)
    except ProblemError:
        return False
    return True


class ClaimsOfANode(RuleBasedStateMachine):
    """`held`: the active claim of each run. `taken`: all claims so far. `latest`: the last claim of each seat."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.root = Path(self._folder.name)
        self.held: dict[str, dict[str, Any]] = {}
        self.taken: list[dict[str, Any]] = []
        self.latest: dict[str, dict[str, Any]] = {}
        self.highest, self.was_killed = 0, False
        self._no_sync = mock.patch("os.fsync")  # a test of a power cut would need a disk that loses data
        self._no_sync.start()

    def teardown(self) -> None:
        self._no_sync.stop()
        self._folder.cleanup()

    def note_taken(self, claim: dict[str, Any], breaks: str) -> None:
        in_the_way = [other for other in self.held.values() if not set(covered(other)).isdisjoint(covered(claim))]
        assert {other["run"] for other in in_the_way} <= {claim["run"], breaks}
        gone = {other["run"] for other in in_the_way} | {claim["run"]}
        for run in gone & set(self.held):  # it has ended as a whole
            self.latest |= dict.fromkeys(covered(self.held[run]), claim)
        self.held = {run: other for run, other in self.held.items() if run not in gone} | {claim["run"]: claim}
        self.taken.append(claim)
        self.latest |= dict.fromkeys(covered(claim), claim)

    @rule(run=runs, seats=scopes, fence=st.integers(1, 12), breaks=st.sampled_from(["", "r1", "r2", "r3"]))
    def take(self, run: str, seats: tuple[str, ...], fence: int, breaks: str) -> None:
        claim = a_claim(run, fence, *seats)
        if passes(claims.take_claim, str(self.root), claim, breaks):
            self.note_taken(claim, breaks)

    @rule(run=runs, seats=scopes)
    def take_over(self, run: str, seats: tuple[str, ...]) -> None:
        """A run that has just probed the node gets what is free, and what one other run holds."""
        claim = a_claim(run, claims.read_claims(str(self.root)).fences.highest + 1, *seats)
        others = {other["run"] for other in self.held.values() if not set(covered(other)).isdisjoint(covered(claim))}
        breaks = next(iter(others - {run}), "")
        assert passes(claims.take_claim, str(self.root), claim, breaks) is (len(others - {run}) <= 1)
        if len(others - {run}) <= 1:
            self.note_taken(claim, breaks)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(sorted(self.held)))
        claims.release_claim(str(self.root), self.held.pop(run))
        assert (claims.last_claim(str(self.root)) or {})["run"] == run

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def release_an_earlier_claim(self, data: st.DataObject) -> None:
        """Of a controller that continues after another took over: nothing changes."""
        claim = data.draw(st.sampled_from(self.taken))
        now = self.held.get(claim["run"])
        if now is None or now["fence"] > claim["fence"]:
            claims.release_claim(str(self.root), claim)

    @rule(run=runs, seats=scopes, breaks=st.sampled_from(["", "r1", "r2"]), files=st.integers(0, 3))
    def take_and_be_killed(self, run: str, seats: tuple[str, ...], breaks: str, files: int) -> None:
        claim = a_claim(run, claims.read_claims(str(self.root)).fences.highest + 1, *seats)
        if self.killed_after(files, claims.take_claim, str(self.root), claim, breaks):
            self.was_killed = True
        elif claim in claims.read_claims(str(self.root)).active:
            self.note_taken(claim, breaks)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), files=st.integers(0, 1))
    def release_and_be_killed(self, data: st.DataObject, files: int) -> None:
        run = data.draw(st.sampled_from(sorted(self.held)))
        if not self.killed_after(files, claims.release_claim, str(self.root), self.held[run]):
            del self.held[run]

    def killed_after(self, files: int, act: Callable[..., None], *given: Any) -> bool:
        """Whether the process was killed before it wrote the file of this number. Else it ended, or was refused."""
        left = [files]
        real = claims.write_atomic

        def write(*arguments: Any) -> None:
            if not left[0]:
                raise KilledError
            left[0] -= 1
            real(*arguments)

        with mock.patch.object(claims, "write_atomic", write):
            try:
                passes(act, *given)
            except KilledError:
                return True
        return False

    @rule(breaks=st.sampled_from(["", "r1", "r2", "r3"]))
    def take_as_an_earlier_release(self, breaks: str) -> None:
        """It reads and writes one claim and one fence."""
        fence = int(self.text("fence") or 0) + 1
        alive = json.loads(self.text("claim.json") or "null")
        if alive and alive["run"] not in ("old", breaks):
            return
        claim = {name: word for name, word in a_claim("old", fence).items() if name not in {"scope", "seats"}}
        (self.root / "fence").write_text(str(fence))
        (self.root / "claim.json").write_text(json.dumps(claim))
        self.note_taken(claim, breaks)

    @precondition(lambda self: "old" in self.held)
    @rule()
    def release_as_an_earlier_release(self) -> None:
        (self.root / "claim.json").replace(self.root / "last_claim.json")
        del self.held["old"]

    def text(self, name: str) -> str:
        return (self.root / name).read_text() if (self.root / name).exists() else ""

    @invariant()
    def no_two_runs_hold_the_same_seat(self) -> None:
        active = claims.read_claims(str(self.root)).active
        seats = [seat for claim in active for seat in covered(claim)]
        assert len(seats) == len(set(seats))

    @invariant()
    def every_claim_is_released_or_taken_over(self) -> None:
        active = claims.read_claims(str(self.root)).active
        assert {claim["run"]: claim for claim in active} == self.held
        assert len(active) == len(self.held)

    @invariant()
    def only_the_last_claim_of_a_seat_may_change_it(self) -> None:
        """A run that repeats its claim for fewer seats has the same fence, and is the same run."""
        for claim in self.taken:
            for seat in covered(claim):
                if passes(claims.check_claim, str(self.root), one_seat(claim, seat)):
                    assert [self.latest[seat][name] for name in ("run", "fence")] == [claim["run"], claim["fence"]]

    @invariant()
    def a_run_may_change_what_it_holds(self) -> None:
        """Unless another one was killed while it was taking it over: then the run is fenced already."""
        for claim in self.held.values():
            assert self.was_killed or passes(claims.check_claim, str(self.root), claim)

    @invariant()
    def no_fence_decreases(self) -> None:
        now = claims.read_claims(str(self.root)).fences.highest
        assert now >= self.highest
        self.highest = now

    @invariant()
    def an_earlier_release_takes_no_claims_for_none(self) -> None:
        assert bool(self.held) is (self.root / "claim.json").exists()


TestClaims = ClaimsOfANode.TestCase
TestClaims.settings = settings(stateful_step_count=20)
