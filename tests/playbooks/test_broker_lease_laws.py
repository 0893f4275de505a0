"""Laws of leases: whatever people, time, jobs and GPUs do, a GPU has one holder, and every lease ends."""

import json
import random
from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.playbooks.node_code import module_util
from tests.playbooks.test_broker_leases import a_wish

states, queues, requests, ticks = (module_util(f"lease.{name}") for name in ("state", "queue", "requests", "tick"))
GPUS = ("GPU-1", "GPU-2", "GPU-3", "GPU-4")
TERMS = states.Terms(longest_s=12 * 3600.0, idle_s=1800.0, grace_s=600.0)
people = st.sampled_from([5001, 5002, 5003])
seats = st.sampled_from(["ml_5001", "ml_5002", "ml_5003"])
hours = st.sampled_from([0.5, 1.0, 4.0, 99.0])
YEAR_S = 365 * 86400.0


class LeasesOfANode(RuleBasedStateMachine):
    """`state` is what the broker has in memory; after each step it is what a broker that starts then would read."""

    def __init__(self) -> None:
        super().__init__()
        self.boot, self.now, self.number = "b0", 100.0, 0
        self.pool: tuple[str, ...] = GPUS[:3]
        self.down = set[str]()
        self.cards = {gpu: states.Card("free") for gpu in GPUS}
        self.state = states.LeaseState(tick=states.Moment(self.boot, self.now), sampled=self.now, cards=self.cards)

    def change(self, new: Any, *, may_grow: bool = False) -> None:
        """Take the next state: only GPUs of the pool that were free are new in it, and no lease has grown."""
        old = self.state
        before = {gpu: lease.seat for lease in old.leases.values() for gpu in lease.gpus}
        for lease in new.leases.values():
            for gpu in lease.gpus:
                if before.get(gpu) != lease.seat:
                    assert gpu in self.pool
                    assert gpu not in before
                    assert old.cards[gpu].state == "free"
            if lease.id in old.leases and not may_grow:
                assert lease.left_s <= old.leases[lease.id].left_s
                assert lease.grace_s <= old.leases[lease.id].grace_s
        self.state = states.load(json.loads(json.dumps(states.dump(new))))

    @invariant()
    def every_gpu_has_one_seat(self) -> None:
        holders = {(gpu, lease.seat) for lease in self.state.leases.values() for gpu in lease.gpus}
        assert max(Counter(gpu for gpu, _ in holders).values(), default=1) == 1
        for gpu, held in self.state.held.items():
            holder = self.state.holder(gpu)
            assert holder is None
            assert self.state.place(held.uid)

    @invariant()
    def every_person_has_one_place_and_a_seat_at_most_two_leases(self) -> None:
        assert max(Counter(place.uid for place in self.state.queue).values(), default=1) == 1
        for seat in {lease.seat for lease in self.state.leases.values()}:
            leases = self.state.of_seat(seat)
            assert len([lease for lease in leases if lease.state in ("active", "ending") and not lease.why]) <= 1
            assert len(leases) <= 2

    @rule(uid=people, gpus=st.integers(0, 3), wanted=hours, wait_s=st.sampled_from([0.0, 300.0]))
    def up(self, uid: int, gpus: int, wanted: float, wait_s: float) -> None:
        """As the verb: not while a job changes the seat, nor while its lease ends."""
        seat, self.number = f"ml_{uid}", self.number + 1
        if seat in self.state.jobs or any(map(requests.is_over, self.state.of_seat(seat))):
            return
        name = f"l-{self.number}"
        wish = a_wish(uid, gpus, hours=wanted, lease=name, terms=TERMS, wait_s=wait_s)
        found = requests.grant(self.state, wish, self.pool)
        if found is not None:
            self.change(found)
        elif wait_s:
            self.change(requests.wait(self.state, wish, self.now))

    @rule(uid=people, wanted=hours)
    def renew(self, uid: int, wanted: float) -> None:
        found = requests.renew(self.state, uid, wanted)
        if found is not None:
            self.change(found, may_grow=True)
            assert all(lease.left_s <= lease.terms.longest_s for lease in found.of_person(uid))

    @rule(uid=people, wanted=hours)
    def keep_alive(self, uid: int, wanted: float) -> None:
        self.change(requests.keep_alive(self.state, uid, wanted))

    @rule(uid=people)
    def give_back(self, uid: int) -> None:
        self.change(requests.give_back(self.state, uid))

    @rule(uid=people)
    def cancel(self, uid: int) -> None:
        self.change(queues.leave(self.state, uid))

    @rule(seat=seats, kind=st.sampled_from(["upgrade", "keys", "rotate_token"]))
    def other_job(self, seat: str, kind: str) -> None:
        active = [lease for lease in self.state.of_seat(seat) if lease.state in ("active", "ending") and not lease.why]
        if active and seat not in self.state.jobs:
            self.number += 1
            self.change(requests.start_job(self.state, seat, kind, f"r{self.number}", active[0].uid))

    @precondition(lambda self: self.state.jobs)
    @rule(
        data=st.data(),
        ends=st.sampled_from(["committed", "committed", "failed", "rolled_back", "needs_attention", "unknown"]),
    )
    def job_ends(self, data: st.DataObject, ends: str) -> None:
        seat = data.draw(st.sampled_from(sorted(self.state.jobs)))
        self.change(ticks.job_ended(self.state, seat, ends))

    @rule(seconds=st.sampled_from([0.0, 1.0, 60.0, 600.0, 4000.0]), looks=st.booleans(), idle=st.sets(seats))
    def time_passes(self, seconds: float, looks: bool, idle: set[str]) -> None:
        self.now += seconds
        running = frozenset(lease.seat for lease in self.state.leases.values()) - self.down
        seen = ticks.Seen(self.cards, running, dict.fromkeys(idle, True)) if looks else None
        self.change(ticks.tick(self.state, states.Moment(self.boot, self.now), seen, self.pool)[0])

    @rule(to=st.sampled_from([0.0, 1.0, YEAR_S]))
    def reboot(self, to: float) -> None:
        """CLOCK_BOOTTIME begins anew, and could have any value; the time between is not charged."""
        before = {name: lease.left_s for name, lease in self.state.leases.items()}
        self.boot, self.now = f"b{int(self.boot[1:]) + 1}", to
        self.change(ticks.tick(self.state, states.Moment(self.boot, self.now), None, self.pool)[0])
        assert all(before[name] == lease.left_s for name, lease in self.state.leases.items())

    @rule(back=st.sampled_from([1.0, 3600.0, YEAR_S]))
    def clock_goes_back(self, back: float) -> None:
        before = {name: lease.left_s for name, lease in self.state.leases.items()}
        self.now -= back
        self.change(ticks.tick(self.state, states.Moment(self.boot, self.now), None, self.pool)[0])
        assert all(before[name] == lease.left_s for name, lease in self.state.leases.items())

    @rule(gpu=st.sampled_from(GPUS), card=st.sampled_from(["free", "foreign", "unhealthy", "unknown"]))
    def card_changes(self, gpu: str, card: str) -> None:
        self.cards = {**self.cards, gpu: states.Card(card)}
        self.time_passes(0.0, looks=True, idle=set())

    @rule(size=st.integers(0, 4))
    def pool_changes(self, size: int) -> None:
        self.pool = GPUS[:size]

    @rule(uid=people, gpus=st.sets(st.sampled_from(GPUS), max_size=2))
    def a_seat_without_a_lease_runs(self, uid: int, gpus: set[str]) -> None:
        """It gets a lease of its GPUs, unless others have them, and no lease of more."""
        seat = f"ml_{uid}"
        if seat in self.state.jobs or self.state.of_seat(seat):
            return
        seen = ticks.Seen(self.cards, None, {}, {seat: (uid, tuple(gpus))})
        before = {gpu for lease in self.state.leases.values() for gpu in lease.gpus}
        moment = states.Moment(self.boot, self.now)
        new = ticks.tick(self.state, moment, seen, self.pool)[0]
        assert [lease.gpus for lease in new.of_seat(seat)] == [() if before & gpus else tuple(gpus)]
        assert bool(before & gpus) is (seat in new.jobs)
        self.state = new

    @rule(seat=seats)
    def seat_stops_or_runs(self, seat: str) -> None:
        self.down ^= {seat}

    def teardown(self) -> None:
        """From any state, every lease ends once jobs end and no request comes, and all GPUs are free then."""
        longest = max([TERMS.longest_s, *(lease.left_s for lease in self.state.leases.values())])
        for _ in range(12):
            for seat in list(self.state.jobs):
                self.change(ticks.job_ended(self.state, seat, "committed"))
            self.now += longest / 4
            running = frozenset(lease.seat for lease in self.state.leases.values())
            moment = states.Moment(self.boot, self.now)
            self.change(ticks.tick(self.state, moment, ticks.Seen(self.cards, running, {}), self.pool)[0])
        assert not self.state.leases
        assert not self.state.jobs
        assert not self.state.queue


LeasesOfANode.TestCase.settings = settings(stateful_step_count=40)
TestLeasesOfANode = LeasesOfANode.TestCase


def test_of_1000_races_for_the_last_gpu_each_has_one_winner_and_the_others_wait_in_their_order() -> None:
    chance = random.Random(7)
    for _ in range(1000):
        asking = chance.sample(range(5001, 5011), 4)
        state = states.LeaseState(tick=states.Moment("b", 0.0), cards={"GPU-1": states.Card("free")})
        for uid in asking:
            found = requests.grant(state, a_wish(uid, wait_s=600.0), ("GPU-1",))
            state = found or requests.wait(state, a_wish(uid, wait_s=600.0), 0.0)
        assert [lease.uid for lease in state.leases.values()] == asking[:1]
        assert [place.uid for place in state.queue] == asking[1:]
        state = ticks.job_ended(state, f"ml_{asking[0]}", chance.choice(["failed", "rolled_back"]))
        state, _ = ticks.tick(state, states.Moment("b", 1.0), None, ("GPU-1",))
        assert [held.uid for held in state.held.values()] == asking[1:2]
