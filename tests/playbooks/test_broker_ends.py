"""How leases end, whatever happens to the node, its clock, the account or the home: a table of ends.

Ends by a kill of the broker, a reboot or a full disk are in test_broker_crashes.py and test_broker_seat_job.py, those
of time alone in test_broker_leases.py.
"""

import ctypes
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.broker_world import GPUS, PEOPLE, Node, callers, orders, verbs
from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import REFERENCE
from tests.playbooks.test_broker_seat_job import SEAT, BrokerWorld, Job, seat_jobs

pytestmark = pytest.mark.usefixtures("wall", "engine")
hosts, prechecks, journals = (module_util(name) for name in ("base.host", "seat.precheck", "seat.journal"))
HOUR = 3600
YEAR = timedelta(days=365)


class Wall:
    """The clock on the wall, which is `ahead` of the right time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead, self.is_synchronised = timedelta(0), True
        wall = self

        class Clock(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Any:
                return datetime.now(tz) + wall.ahead

        for module in (hosts, verbs):
            monkeypatch.setattr(module, "datetime", Clock)
        for module in (orders, verbs):
            monkeypatch.setattr(module, "is_clock_synchronised", lambda: self.is_synchronised)


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    return Wall(monkeypatch)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    """A node with seats of Anna (one GPU, two hours, of which one is over) and Bob (one GPU, the whole day)."""
    monkeypatch.setattr(orders, "routes", list)
    made = Node(tmp_path)
    made.ask("bob", "up", gpus=1)
    made.ask("anna", "up", gpus=1, hours=2)
    made.after(HOUR)
    return made


def left(node: Node, person: str = "anna") -> float:
    return float(sum(lease.left_s for lease in node.keeper.state.of_person(PEOPLE[person])))


def boot(node: Node, *, engine_starts: bool = False) -> None:
    """Take the power away for a while. `engine_starts`: the engine starts what ran by itself."""
    node.boot, node.now = "b2", 30.0
    if not engine_starts:
        node.running.clear()
    node.start()


# --- what happens in the middle of Anna's two hours; she has an hour left after it


def a_year_ahead(_node: Node, wall: Wall) -> None:
    wall.ahead += YEAR


def a_year_back(_node: Node, wall: Wall) -> None:
    wall.ahead -= YEAR


def ahead_and_back(node: Node, wall: Wall) -> None:
    a_year_ahead(node, wall)
    node.look()
    a_year_back(node, wall)


def a_clock_that_is_not_right(_node: Node, wall: Wall) -> None:
    wall.is_synchronised = False


def a_boottime_that_goes_back(node: Node, _wall: Wall) -> None:
    node.now -= 500


def another_broker(node: Node, _wall: Wall) -> None:
    node.start()


def a_reboot(node: Node, _wall: Wall) -> None:
    boot(node)


def a_reboot_in_which_the_engine_starts_the_seat(node: Node, _wall: Wall) -> None:
    boot(node, engine_starts=True)


def a_reboot_after_a_year(node: Node, wall: Wall) -> None:
    wall.ahead += YEAR
    boot(node)


def a_reboot_with_a_dead_battery(node: Node, wall: Wall) -> None:
    wall.ahead -= 50 * YEAR
    boot(node)


def no_configuration(node: Node, _wall: Wall) -> None:
    (node.folder / "config.json").unlink()


def a_deleted_account(_node: Node, _wall: Wall) -> None:
    """The broker looks accounts up when they ask. A deleted one does not ask."""


Event = Callable[[Node, Wall], None]
EVENTS: list[Event] = [
    a_year_ahead,
    a_year_back,
    ahead_and_back,
    a_clock_that_is_not_right,
    a_boottime_that_goes_back,
    another_broker,
    a_reboot,
    a_reboot_in_which_the_engine_starts_the_seat,
    a_reboot_after_a_year,
    a_reboot_with_a_dead_battery,
    no_configuration,
    a_deleted_account,
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_a_lease_has_the_same_end_whatever_happens_meanwhile(node: Node, wall: Wall, event: Event) -> None:
    event(node, wall)
    node.look()
    assert (left(node), node.running) == (HOUR, {"ml_anna", "ml_bob"})
    node.after(HOUR - 1)
    assert node.running == {"ml_anna", "ml_bob"}
    node.after(601)  # and the grace
    assert node.running == {"ml_bob"}
    assert not node.keeper.state.of_person(PEOPLE["anna"])
    assert json.loads((node.seat("ml_anna").folder / "intent.json").read_text()) == {"wanted": "down", "by": "expired"}
    assert len(node.keeper.state.of_seat("ml_bob")) == 1


# --- ends while the node is off


@pytest.mark.parametrize("engine_starts", [True, False])
def test_a_lease_that_was_over_when_the_node_went_off_starts_no_seat(node: Node, engine_starts: bool) -> None:
    node.after(HOUR + 60)
    assert (left(node), "ml_anna" in node.running) == (0, True)  # in its grace
    boot(node, engine_starts=engine_starts)
    node.after(600)
    assert "ml_anna" not in node.running
    assert not node.keeper.state.of_person(PEOPLE["anna"])
    assert [kind for kind, _, seat in node.launched if seat == "ml_anna"] == ["up", "stop"]


def test_what_was_left_is_announced_again_after_a_boot(node: Node) -> None:
    node.after(HOUR - 300)
    notice = node.seat("ml_anna").folder / "notice/lease.txt"
    assert "10 minutes" in notice.read_text()
    boot(node)
    assert (left(node), node.running) == (300, {"ml_anna", "ml_bob"})
    assert "10 minutes" in notice.read_text()


# --- accounts


def test_after_a_boot_four_seats_at_a_time_are_started_again_and_ends_are_not_delayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "routes", list)
    people = {f"p{number:02}": 6000 + number for number in range(30)}
    for name, uid in people.items():
        monkeypatch.setitem(PEOPLE, name, uid)
    node = Node(tmp_path)
    for name in people:
        node.ask(name, "up", gpus=0, hours=2 if name == "p29" else 24)
    node.after(2 * HOUR + 300)  # the lease of p29 is in its grace
    node.holds = True
    begun = len(node.launched)
    boot(node)
    resumed = [1]
    while resumed:
        jobs = node.keeper.state.jobs
        resumed = [seat for seat, job in jobs.items() if job.kind == "resume"]
        assert len(resumed) <= 4
        if "ml_p10" not in node.running and len(node.running) == 8:
            assert node.ask("p10", "status")["state"] == "starting"
            assert node.ask("p28", "down")["state"] == "stopping"
            assert node.keeper.state.jobs["ml_p28"].kind == "stop"
        node.finish()
    kinds = [kind for kind, _, _ in node.launched[begun:]]
    assert node.running == {f"ml_{name}" for name in people if name < "p28"}
    assert kinds.count("resume") == 28
    assert kinds.count("stop") == 2


def test_the_lease_of_a_deleted_account_is_shown_with_its_number(node: Node) -> None:
    shown = node.ask("root", "status")["leases"]["leases"].values()
    assert {(lease["seat"], lease["uid"]) for lease in shown} == {("ml_anna", 5001), ("ml_bob", 5002)}
    caller = callers.Caller(PEOPLE["anna"], 100, "", ())
    with pytest.raises(ProblemError):  # it is in no group any more
        callers.check_member(caller, "lab-students")


def test_an_account_with_the_number_of_a_deleted_one_gets_neither_its_seat_nor_its_gpus(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PEOPLE, "fritz", PEOPLE["anna"])
    assert node.refused("fritz", "renew", hours=4)["code"] == "no_seat"
    assert node.ask("fritz", "status")["seat"] is None
    answer = node.ask("fritz", "up", gpus=1)
    assert (answer["seat"]["name"], answer["seat"]["gpus"]) == ("ml_fritz", [GPUS[2]])
    assert node.order("ml_fritz")["seat"]["home"] != node.order()["seat"]["home"]
    node.after(HOUR + 600)
    assert node.running == {"ml_bob", "ml_fritz"}


# --- the clock on the wall is for people


def test_the_end_is_shown_by_the_clock_on_the_wall_where_that_is_right(node: Node, wall: Wall) -> None:
    until = node.ask("anna", "renew", hours=2)["until"]
    assert abs(datetime.fromisoformat(until).timestamp() - datetime.now(UTC).timestamp() - 2 * HOUR) < 60
    wall.is_synchronised = False
    answer = node.ask("anna", "renew", hours=2)
    assert (answer["until"], answer["left_s"]) == (None, 2 * HOUR)
    assert node.ask("anna", "status")["lease"]["until"] is None
    holders = node.ask("cem", "up", gpus=2, wait_s=60)["holders"]
    assert {holder["until"] for holder in holders} == {None}


def test_no_term_is_over_where_the_clock_may_be_wrong(node: Node, wall: Wall) -> None:
    node.configure(term_ends=(datetime.now(UTC) + timedelta(days=30)).date().isoformat())
    node.ask("anna", "down")
    journals.Journal(node.seat("ml_anna").folder, "me-1").append("stopped")  # which the job of a real node writes
    wall.ahead, wall.is_synchronised = YEAR, False
    assert node.ask("cem", "up", gpus=0)["seat"]["ssh"]["port"] == 24004
    wall.is_synchronised = True
    assert node.ask("dora", "up", gpus=0)["seat"]["ssh"]["port"] == 24002  # that of Anna


@pytest.mark.parametrize(("state", "is_right"), [(0, True), (1, True), (4, True), (5, False), (-1, False)])
def test_the_kernel_says_whether_the_clock_is_right(
    monkeypatch: pytest.MonkeyPatch, state: int, is_right: bool
) -> None:
    class Library:
        def __init__(self, _: None) -> None:
            self.adjtimex = lambda _: state

    monkeypatch.setattr(hosts.ctypes, "CDLL", Library)
    assert hosts.is_clock_synchronised() is is_right


def test_the_question_to_the_kernel_changes_nothing_on_this_machine() -> None:
    assert hosts.is_clock_synchronised() in {True, False}
    assert ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)) in range(6)


# --- a hostile home, at `up` of a seat that was stopped


def a_link_to_nothing(home: Path) -> None:
    home.symlink_to("nothing")


def a_link_to_itself(home: Path) -> None:
    home.symlink_to(home.name)


def a_fifo(home: Path) -> None:
    os.mkfifo(home)


def a_file(home: Path) -> None:
    home.write_text("x")


HOMES: list[Callable[[Path], None]] = [a_link_to_nothing, a_link_to_itself, a_fifo, a_file]


@pytest.mark.parametrize("make", HOMES, ids=lambda make: make.__name__)
def test_what_is_no_home_is_refused_and_stays_as_it_is(tmp_path: Path, make: Callable[[Path], None]) -> None:
    home = tmp_path / "homes/home"
    home.parent.mkdir()
    make(home)
    before = home.lstat()
    with pytest.raises(ProblemError) as caught:
        prechecks.ensure_home(home, os.getuid(), os.getgid())
    assert vars(caught.value)["problem"]["code"] == "home_unreadable"
    assert (home.lstat().st_ino, home.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert [path.name for path in home.parent.iterdir()] == ["home"]


def test_a_link_to_the_folder_of_another_person_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "homes/home"
    home.parent.mkdir()
    home.symlink_to(tmp_path)
    with pytest.raises(ProblemError, match="belongs to uid"):
        prechecks.ensure_home(home, os.getuid() + 1, os.getgid())


@pytest.mark.parametrize("mode", [0o000, 0o500])
def test_a_home_that_cannot_be_written_is_left_as_it_is(tmp_path: Path, mode: int) -> None:
    home = tmp_path / "homes/home"
    home.parent.mkdir()
    home.mkdir(mode=0o700)
    home.chmod(mode)
    prechecks.ensure_home(home, os.getuid(), os.getgid())
    assert home.stat().st_mode & 0o777 == mode
    home.chmod(0o700)


@pytest.mark.parametrize("kind", ["up", "resume"])
def test_a_full_home_harms_its_person_alone(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, idle: list[Any], kind: str
) -> None:
    """Jupyter does not start with it: as with one that is immutable, or has a fifo in the place of a file."""
    assert idle
    engine.images[REFERENCE] = {"RootFS": {"Layers": []}}
    world = BrokerWorld(tmp_path, monkeypatch, running=False)
    (tmp_path / "homes/student").mkdir(parents=True)
    (tmp_path / "homes/student/full").touch()
    world.compose.bad_home = True
    order = world.of_current() if kind == "up" else world.named()
    record = seat_jobs.carry_out(order, Job(kind), 0)
    assert (record["state"], [problem["code"] for problem in record["problems"]]) == ("committed", ["home_fault"])
    assert world.journal().last_step()["detail"]["home_fault"] == record["problems"][0]
    assert SEAT in record["problems"][0]["what"]
