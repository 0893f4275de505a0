"""Leases as values: who gets which GPU, and how a lease ends."""

import json
from typing import Any

import pytest

from tests.playbooks.node_code import module_util

states, queues, requests, ticks = (module_util(f"lease.{name}") for name in ("state", "queue", "requests", "tick"))
POOL = ("GPU-1", "GPU-2", "GPU-3")
TERMS = states.Terms(longest_s=24 * 3600.0, idle_s=3600.0, grace_s=600.0)
FREE = {gpu: states.Card("free") for gpu in POOL}


def a_wish(uid: int = 5001, gpus: int = 1, **over: Any) -> Any:
    named = {"lease": f"l-{uid}", "seat": f"ml_{uid}", "uid": uid, "gpus": gpus, "hours": 2.0, "terms": TERMS}
    return requests.Wish(**(named | over))


class Leases:
    """A state and the clock of its node; every job succeeds at once."""

    def __init__(self, cards: Any = None, pool: tuple[str, ...] = POOL) -> None:
        self.pool, self.now = pool, 1000.0
        self.state = states.LeaseState(tick=states.Moment("b1", self.now), sampled=self.now, cards=cards or FREE)
        self.actions: list[Any] = []
        self.jobs: list[tuple[str, str]] = []
        self.down: set[str] = set()

    def up(self, uid: int, gpus: int = 1, ends: str = "committed", **over: Any) -> bool:
        found = requests.grant(self.state, a_wish(uid, gpus, **over), self.pool)
        if found is None:
            return False
        self.state = found
        self.end_job(f"ml_{uid}", ends)
        return True

    def wait(self, uid: int, gpus: int = 1, wait_s: float = 7200.0) -> None:
        self.state = requests.wait(self.state, a_wish(uid, gpus, wait_s=wait_s), self.now)
        self.after(0)

    def end_job(self, seat: str, ends: str = "committed") -> None:
        self.jobs.append((self.state.jobs[seat].kind, seat))
        self.state = ticks.job_ended(self.state, seat, ends)

    def after(self, seconds: float, boot: str = "b1", idle: Any = None, ends: str = "committed") -> None:
        """Let time go by, with a look at the node at its end; jobs that begin then end at once."""
        self.now += seconds
        running = frozenset(lease.seat for lease in self.state.leases.values()) - self.down
        seen = ticks.Seen(self.state.cards, running, idle or {})
        moment = states.Moment(boot, self.now)
        self.state, actions = ticks.tick(self.state, moment, seen, self.pool)
        self.actions += actions
        for action in actions:
            if action.kind == "job":
                self.end_job(action.seat, ends)

    def lease(self, uid: int = 5001) -> Any:
        found = self.state.of_person(uid)
        return found[0] if found else None

    @property
    def notices(self) -> list[int]:
        return [action.minutes for action in self.actions if action.kind == "notice"]


@pytest.fixture
def leases() -> Leases:
    return Leases()


def test_a_lease_is_pending_until_its_seat_has_started(leases: Leases) -> None:
    leases.state = requests.grant(leases.state, a_wish(), POOL)
    assert (leases.lease().state, leases.lease().gpus, leases.lease().left_s) == ("pending", ("GPU-1",), 7200)
    leases.after(600)
    assert leases.lease().left_s == 7200
    leases.end_job("ml_5001")
    leases.after(600)
    assert (leases.lease().state, leases.lease().left_s) == ("active", 6600)


@pytest.mark.parametrize("ends", ["failed", "rolled_back", "deferred", "stale"])
def test_a_seat_that_did_not_start_frees_its_gpus(leases: Leases, ends: str) -> None:
    leases.up(5001, 3, ends=ends)
    assert leases.lease() is None
    assert queues.free_gpus(leases.state, POOL) == list(POOL)


def test_gpus_of_a_seat_that_may_run_partly_are_freed_by_a_stop_only(leases: Leases) -> None:
    leases.up(5001, 3, ends="needs_attention")
    assert queues.free_gpus(leases.state, POOL) == []
    leases.after(60, ends="failed")
    assert queues.free_gpus(leases.state, POOL) == []
    leases.after(60)
    assert leases.jobs[-1] == ("stop", "ml_5001")
    assert queues.free_gpus(leases.state, POOL) == list(POOL)


def test_a_killed_job_is_started_three_times_in_all(leases: Leases) -> None:
    leases.up(5001, ends="unknown")
    for tries in (1, 2):
        assert leases.state.jobs["ml_5001"].tries == tries
        leases.end_job("ml_5001", "unknown")
    assert "ml_5001" not in leases.state.jobs
    leases.after(60)
    assert leases.lease() is None


@pytest.mark.parametrize("state", ["foreign", "unhealthy", "unknown"])
def test_only_a_free_gpu_is_leased(state: str) -> None:
    leases = Leases({"GPU-1": states.Card(state), "GPU-2": states.Card("free")})
    assert not leases.up(5001, 2)
    assert leases.up(5001, 1)
    assert leases.lease().gpus == ("GPU-2",)


def test_a_seat_gets_the_gpus_that_it_had_before(leases: Leases) -> None:
    assert leases.up(5001, 2, kept=("GPU-3", "GPU-9"))
    assert leases.lease().gpus == ("GPU-3", "GPU-1")


def test_a_seat_without_gpus_has_a_lease_that_ends_too(leases: Leases) -> None:
    leases.up(5001, 0)
    leases.after(7200)
    leases.after(600)
    assert leases.jobs == [("up", "ml_5001"), ("stop", "ml_5001")]
    assert leases.lease() is None


def test_notices_come_60_and_10_minutes_before_the_end_and_once_at_it(leases: Leases) -> None:
    leases.up(5001)
    for _ in range(135):
        leases.after(60)
    assert leases.notices == [60, 10, 0]
    assert leases.lease() is None


def test_a_lease_ends_after_its_grace_and_not_before(leases: Leases) -> None:
    leases.up(5001)
    leases.after(7200 + 599)
    assert leases.lease().state == "ending"
    leases.after(1)
    assert leases.jobs[-1] == ("stop", "ml_5001")
    assert leases.lease() is None


def test_a_lease_whose_seat_cannot_be_stopped_keeps_its_gpus_and_is_stopped_again(leases: Leases) -> None:
    leases.up(5001, 3)
    for _ in range(4):
        leases.after(7800, ends="failed")
        assert queues.free_gpus(leases.state, POOL) == []
    assert not leases.up(5002)
    leases.after(60)
    assert leases.up(5002)


def test_a_stop_that_has_failed_is_not_repeated_before_the_next_look(leases: Leases) -> None:
    leases.up(5001)
    leases.state = requests.give_back(leases.state, 5001)
    leases.state, (begun,) = ticks.tick(leases.state, states.Moment("b1", leases.now), None, POOL)
    assert begun.kind == "job"
    leases.end_job("ml_5001", "failed")
    leases.state, actions = ticks.tick(leases.state, states.Moment("b1", leases.now), None, POOL)
    assert actions == ()
    leases.after(60)
    assert (leases.jobs[-1], leases.lease()) == (("stop", "ml_5001"), None)


def test_renew_sets_what_is_left_and_never_shortens_it(leases: Leases) -> None:
    leases.up(5001)
    leases.after(3600)
    assert (leases.lease().state, leases.notices) == ("ending", [60])
    leases.state = requests.renew(leases.state, 5001, 3)
    assert (leases.lease().state, leases.lease().left_s) == ("active", 3 * 3600)
    leases.state = requests.renew(leases.state, 5001, 1)
    assert leases.lease().left_s == 3 * 3600
    leases.state = requests.renew(leases.state, 5001, 9999)
    assert leases.lease().left_s == TERMS.longest_s
    leases.after(TERMS.longest_s - 3000)
    assert leases.notices == [60, 60]


def test_renew_is_refused_while_somebody_waits_and_to_a_lease_that_ends(leases: Leases) -> None:
    leases.up(5001, 3)
    leases.wait(5002)
    assert requests.renew(leases.state, 5001, 5) is None
    leases.state = queues.leave(leases.state, 5002)
    leases.state = requests.give_back(leases.state, 5001)
    assert requests.renew(leases.state, 5001, 5) == leases.state


def test_other_gpus_for_a_running_seat_keep_the_old_lease_until_it_has_changed(leases: Leases) -> None:
    leases.up(5001)
    leases.after(1800)
    leases.state = requests.grant(leases.state, a_wish(5001, 2, lease="l-new", hours=20.0), POOL)
    assert [lease.gpus for lease in leases.state.of_person(5001)] == [("GPU-1",), ("GPU-1", "GPU-2")]
    leases.end_job("ml_5001")
    assert [(lease.gpus, lease.left_s) for lease in leases.state.of_person(5001)] == [(("GPU-1", "GPU-2"), 5400.0)]


def test_a_seat_that_did_not_get_other_gpus_keeps_its_lease(leases: Leases) -> None:
    leases.up(5001)
    leases.up(5001, 2, lease="l-new", ends="rolled_back")
    assert [(lease.id, lease.gpus) for lease in leases.state.of_person(5001)] == [("l-5001", ("GPU-1",))]


def test_a_restart_in_the_grace_does_not_begin_another_grace(leases: Leases) -> None:
    leases.up(5001)
    leases.after(7200 + 500)
    leases.up(5001, 2, lease="l-new", hours=20.0)
    leases.after(100)
    assert leases.jobs[-1] == ("stop", "ml_5001")


def test_a_gpu_that_left_the_pool_is_drained(leases: Leases) -> None:
    leases.up(5001)
    leases.pool = POOL[1:]
    leases.after(60)
    assert leases.lease().gpus == ("GPU-1",)
    leases.state = requests.give_back(leases.state, 5001)
    leases.after(0)
    assert queues.free_gpus(leases.state, leases.pool) == ["GPU-2", "GPU-3"]


# --- idle


def test_a_seat_that_is_idle_for_its_hours_ends(leases: Leases) -> None:
    leases.up(5001)
    for _ in range(59):
        leases.after(60, idle={"ml_5001": True})
    assert leases.lease()
    leases.after(60, idle={"ml_5001": True})
    assert leases.jobs[-1] == ("stop", "ml_5001")


@pytest.mark.parametrize(("used", "ends"), [(3, True), (4, False)])
def test_a_twentieth_of_the_minutes_may_have_use(leases: Leases, used: int, ends: bool) -> None:
    leases.up(5001)
    for minute in range(60):
        leases.after(60, idle={"ml_5001": minute >= used})
    assert (leases.lease() is None) is ends


def test_a_missing_sample_counts_as_use(leases: Leases) -> None:
    leases.up(5001, hours=20)
    for _ in range(40):
        leases.after(60, idle={"ml_5001": True})
    leases.after(600, idle={"ml_5001": True})
    for _ in range(30):
        leases.after(60, idle={"ml_5001": True})
    assert leases.lease()


def test_keep_alive_keeps_an_idle_seat_for_its_hours(leases: Leases) -> None:
    leases.up(5001, hours=20)
    leases.state = requests.keep_alive(leases.state, 5001, 2)
    for _ in range(119):
        leases.after(60, idle={"ml_5001": True})
    assert leases.lease()
    leases.after(60, idle={"ml_5001": True})
    assert leases.lease() is None


# --- the queue


def test_a_freed_gpu_is_offered_to_the_first_who_waits_and_to_nobody_else(leases: Leases) -> None:
    leases.up(5001, 3)
    leases.wait(5002)
    leases.wait(5003)
    assert [queues.position(leases.state, uid) for uid in (5002, 5003)] == [1, 2]
    leases.state = requests.give_back(leases.state, 5001)
    leases.after(1)
    leases.after(1)
    assert {gpu: held.uid for gpu, held in leases.state.held.items()} == {"GPU-1": 5002, "GPU-2": 5003}
    assert not leases.up(5004, 2)
    assert leases.up(5004, 1)
    assert leases.lease(5004).gpus == ("GPU-3",)
    assert leases.up(5002)
    assert (leases.lease(5002).gpus, queues.position(leases.state, 5003)) == (("GPU-1",), 1)


def test_nobody_passes_the_first_who_waits_for_more_gpus(leases: Leases) -> None:
    leases.up(5001, 2)
    leases.wait(5002, 2)
    leases.wait(5003, 1)
    assert not leases.state.held
    assert not leases.up(5004, 1)
    assert not leases.up(5003, 1)


@pytest.mark.parametrize("polls", [True, False])
def test_an_offer_ends_after_15_minutes_or_when_it_is_not_asked_for(leases: Leases, polls: bool) -> None:
    leases.up(5001, 3)
    leases.wait(5002)
    leases.state = requests.give_back(leases.state, 5001)
    leases.after(0)
    leases.after(0)
    for _ in range(14 if polls else 1):
        leases.after(60)
        if polls:
            leases.wait(5002)
    assert leases.state.held
    leases.after(61)
    assert (leases.state.held, leases.state.queue) == ({}, ())


def test_a_place_ends_with_the_time_that_the_person_waits(leases: Leases) -> None:
    leases.up(5001, 3)
    leases.wait(5002, wait_s=50)
    leases.after(49)
    assert queues.position(leases.state, 5002) == 1
    leases.after(1)
    assert queues.position(leases.state, 5002) == 0


def test_places_survive_a_boot_for_as_long_as_it_takes_to_ask_again(leases: Leases) -> None:
    leases.up(5001, 3)
    leases.wait(5002)
    leases.now = 5.0
    leases.after(0, boot="b2")
    assert queues.position(leases.state, 5002) == 1
    leases.after(61, boot="b2")
    assert queues.position(leases.state, 5002) == 0


# --- the node


def test_a_seat_that_does_not_run_is_started_again_while_time_is_left(leases: Leases) -> None:
    leases.up(5001)
    leases.down = {"ml_5001"}
    leases.after(60)
    assert leases.jobs[-1] == ("resume", "ml_5001")
    leases.after(7200)
    assert leases.jobs[-1] == ("stop", "ml_5001")


def test_an_attempt_that_a_run_has_refused_does_not_count(leases: Leases) -> None:
    leases.up(5001)
    leases.down = {"ml_5001"}
    for _ in range(10):
        leases.after(60, ends="unchanged")
    assert leases.jobs[1:] == [("resume", "ml_5001")] * 10
    leases.down = set()
    leases.after(60)
    assert (leases.lease().state, leases.state.tries) == ("active", {})


def test_a_seat_that_cannot_be_started_again_ends_after_three_attempts(leases: Leases) -> None:
    leases.up(5001)
    leases.down = {"ml_5001"}
    for _ in range(3):
        leases.after(60, ends="failed")
    leases.after(60)
    assert [kind for kind, _ in leases.jobs] == ["up", "resume", "resume", "resume", "stop"]
    assert (leases.lease(), leases.state.tries) == (None, {})


def test_time_of_a_node_that_is_off_is_not_charged(leases: Leases) -> None:
    leases.up(5001)
    leases.after(600)
    leases.now = 20.0
    leases.after(0, boot="b2")
    assert leases.lease().left_s == 6600
    leases.after(60, boot="b2")
    assert leases.lease().left_s == 6540


def test_the_state_is_the_same_after_it_was_written_and_read(leases: Leases) -> None:
    leases.up(5001, 2)
    leases.wait(5002, 2)
    leases.after(60, idle={"ml_5001": True})
    leases.state = requests.start_job(leases.state, "ml_5001", "upgrade", "me-x", 5001)
    assert states.load(json.loads(json.dumps(states.dump(leases.state)))) == leases.state


@pytest.mark.parametrize(
    "damage",
    [
        lambda found: found.pop("seq"),
        lambda found: found.update(schema="provisioner/leases/9"),
        lambda found: found["leases"]["l-5001"].update(state="running"),
        lambda found: found["leases"]["l-5001"].pop("left_s"),
        lambda found: found["leases"]["l-5001"].update(more=1),
        lambda found: found.update(queue=[{"uid": 1}]),
        lambda found: found.update(leases=[]),
    ],
)
def test_what_is_no_state_is_refused(leases: Leases, damage: Any) -> None:
    leases.up(5001)
    found = states.dump(leases.state)
    damage(found)
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        states.load(found)
