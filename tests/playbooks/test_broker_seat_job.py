"""The jobs of the broker: they start a seat with its GPUs, stop it whatever the disk and other runs do, and go back."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.fake_nvml import a_gpu, a_process
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import REFERENCE, NoJob
from tests.playbooks.test_claims import a_claim
from tests.playbooks.world import Killed, World, kill_at

seat_jobs, orders, jobs, files, journals, identities, claims, fills = (
    module_util(name)
    for name in (
        "broker.seat_job",
        "broker.orders",
        "jobs.job",
        "jobs.jobfile",
        "seat.journal",
        "seat.identity",
        "jobs.claims",
        "base.fill",
    )
)
SEAT = "demo-student"


class Job(NoJob):
    def __init__(self, kind: str) -> None:
        self.kind = kind


class BrokerWorld(World):
    """Generation 1 is current (it runs if `running`), and the order of the broker is that of generation 2."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, running: bool) -> None:
        super().__init__(root, 1)
        self.compose.running = int(running)
        self.patch_node_code(monkeypatch)
        monkeypatch.setattr(seat_jobs, "Compose", lambda *_: self.compose)
        monkeypatch.setattr(seat_jobs, "stage", self._stage)
        head = orders.order_head("me-1", self.order["state_root"], self.order["seat"])
        self.order = {**self.order, **head, "when_busy": {"policy": "force", "seconds": 0, "reason": "asked for"}}
        self.staged: list[dict[str, str]] = []

    def _stage(self, order: dict[str, Any], _job: Any, _lock: int, code: dict[str, str]) -> None:
        self.staged.append(code)
        assert self.seat.staged(order)

    def do(self, kind: str = "up", **over: Any) -> dict[str, Any]:
        record: dict[str, Any] = seat_jobs.carry_out({**self.order, **over}, Job(kind), 0)
        return record

    def named(self) -> dict[str, Any]:
        """The order of a job that needs no more than the seat."""
        found: dict[str, Any] = orders.order_head("me-2", self.order["state_root"], {"name": SEAT})
        return found

    def with_keys(self, order: dict[str, Any], *keys: str) -> dict[str, Any]:
        """The order with these lines of authorized_keys, in the seat and in its file."""
        document = {"files": {"authorized_keys": ["", "authorized_keys", ""]}}
        order = {**order, "document": document, "seat": {**order["seat"], "authorized_keys": list(keys)}}
        return {**order, "files": {**order["files"], **fills.fill(document, order["seat"])}}

    def of_current(self) -> dict[str, Any]:
        """The order of the current generation, as the broker sends it again."""
        return {**self.order, **{key: self.seat.order(1)[key] for key in ("seat", "image", "files")}}


@pytest.fixture(params=[False, True], ids=["stopped", "runs"])
def running(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def made(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, idle: list[Any]
) -> Callable[[bool], BrokerWorld]:
    engine.images[REFERENCE] = {"RootFS": {"Layers": []}}
    assert idle
    return lambda running: BrokerWorld(tmp_path, monkeypatch, running)


@pytest.fixture
def world(made: Callable[[bool], BrokerWorld], running: bool) -> BrokerWorld:
    return made(running)


@pytest.fixture
def stopped(made: Callable[[bool], BrokerWorld]) -> BrokerWorld:
    return made(False)


def test_up_switches_to_a_new_generation_and_installs_no_program(world: BrokerWorld) -> None:
    assert world.do()["state"] == "committed"
    assert (world.seat.current(), world.compose.running) == (2, 2)
    assert world.staged == [{}]


def test_the_job_asks_which_driver_the_gpus_have(world: BrokerWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def driver(gpus: list[str]) -> str:
        asked.append(gpus)
        return "cdi"

    monkeypatch.setattr(orders, "gpu_driver", driver)
    document = {"files": {"driver": ["", "gpu_driver", ""]}}
    monkeypatch.setitem(vars(module_util("base.fill"))["_VALUES"], "gpu_driver", lambda seat: seat["gpu_driver"])
    order = orders.with_driver({**world.order, "document": document})
    assert asked == [world.order["seat"]["gpus"]]
    assert (order["seat"]["gpu_driver"], order["files"]["driver"]) == ("cdi", "cdi")
    world.do()
    assert len(asked) > 1


def test_a_seat_that_was_stopped_goes_back_to_stopped_when_it_fails(world: BrokerWorld, running: bool) -> None:
    """Its GPUs of before may be somebody else's; a seat that ran has its lease still."""
    world.compose.broken = {2}
    assert world.do()["state"] == "rolled_back"
    assert (world.compose.running, world.seat.current()) == (int(running), 1)
    assert ("down" in world.compose.calls) is not running


def test_a_job_that_was_killed_leaves_a_stopped_seat_stopped(world: BrokerWorld, running: bool) -> None:
    with pytest.raises(Killed):
        world.transact(kill_at(world.journal("me-1"), "verifying", "after"))
    world.recover("me-9")
    assert world.compose.running == int(running)


def test_recovery_starts_no_seat_that_is_meant_to_be_down(made: Callable[[bool], BrokerWorld]) -> None:
    world = made(True)
    with pytest.raises(Killed):
        world.transact(kill_at(world.journal("me-1"), "verifying", "after"))
    world.seat.write_intent("down", "expired")
    world.recover("boot")
    assert (world.compose.running, world.states[-1]) == (0, "rolled_back")


def test_a_seat_that_ran_like_this_before_is_started_as_it_is(stopped: BrokerWorld) -> None:
    record = stopped.do(**stopped.of_current())
    assert (record["state"], record["generation"]) == ("committed", 1)
    assert stopped.compose.calls == ["up 1"]
    assert (stopped.staged, stopped.states) == ([], ["committed"])


def test_a_seat_with_other_keys_than_before_keeps_its_containers(stopped: BrokerWorld) -> None:
    """A new generation would mean new containers: what was installed in the old ones would be lost."""
    first = stopped.with_keys(stopped.of_current(), "ssh-ed25519 AAAA laptop")
    stopped.seat.write(1, first, {})
    record = stopped.do(**stopped.with_keys(first, "ssh-ed25519 BBBB desktop", "ssh-ed25519 AAAA laptop"))
    assert (record["state"], record["generation"]) == ("committed", 1)
    assert stopped.compose.calls == ["up 1"]
    keys = "ssh-ed25519 BBBB desktop\nssh-ed25519 AAAA laptop\n"
    assert (stopped.seat.generation(1) / "authorized_keys").read_text() == keys


def test_other_keys_do_not_hide_another_difference(stopped: BrokerWorld) -> None:
    first = stopped.with_keys(stopped.of_current(), "ssh-ed25519 AAAA laptop")
    stopped.seat.write(1, first, {})
    other = stopped.with_keys(first, "ssh-ed25519 BBBB desktop")
    other["seat"] = {**other["seat"], "home": "/srv/other/home"}
    stopped.seat.write(2, other, {})
    assert stopped.do(**other)["generation"] == 2
    assert "up 2" in stopped.compose.calls


@pytest.mark.parametrize("kind", ["up", "resume"])
def test_a_seat_that_does_not_start_again_is_stopped_again(stopped: BrokerWorld, kind: str) -> None:
    stopped.failing_checks = {1}
    order = stopped.of_current() if kind == "up" else stopped.named()
    with pytest.raises(ProblemError):
        seat_jobs.carry_out(order, Job(kind), 0)
    assert (stopped.compose.running, stopped.compose.calls[-1], stopped.states) == (0, "stop", [])


def test_resume_starts_the_current_generation(stopped: BrokerWorld) -> None:
    record = seat_jobs.carry_out(stopped.named(), Job("resume"), 0)
    assert (record["state"], stopped.compose.running) == ("committed", 1)


def test_a_seat_whose_image_was_removed_is_not_resumed(stopped: BrokerWorld, engine: FakeEngine) -> None:
    engine.images.clear()
    with pytest.raises(ProblemError, match="image"):
        seat_jobs.carry_out(stopped.named(), Job("resume"), 0)
    assert stopped.compose.calls == []


@pytest.mark.parametrize("kind", ["new", "same"])
def test_a_gpu_that_another_program_uses_is_not_given_to_a_seat(
    world: BrokerWorld, idle: list[Any], running: bool, kind: str
) -> None:
    idle[:] = [a_gpu("GPU-1", processes=[a_process(4242)])]
    order = world.order if kind == "new" else world.of_current()
    if running:  # it is in use by the seat itself
        assert world.do(**order)["state"] == "committed"
        return
    with pytest.raises(ProblemError, match="pid 4242") as caught:
        world.do(**order)
    assert vars(caught.value)["problem"]["code"] == "gpu_in_use"
    assert (world.compose.running, world.seat.current()) == (0, 1)


def a_program_on_the_gpu(idle: list[Any], _monkeypatch: pytest.MonkeyPatch) -> None:
    idle[:] = [a_gpu("GPU-1", processes=[a_process(4242)])]


def a_program_on_the_port(_idle: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat_jobs, "check_ports", refuses("port_taken"))


def another_network(_idle: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat_jobs, "check_subnet", refuses("subnet_taken"))


def another_seat(_idle: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat_jobs, "check_gpus_free", refuses("gpu_held"))


def a_server_that_is_down(_idle: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat_jobs, "check_mounts", refuses("mount_hangs"))


def refuses(code: str) -> Callable[..., None]:
    def check(*_: Any) -> None:
        raise ProblemError(code, "who", "why", "fix")

    return check


@pytest.mark.parametrize(
    ("begin", "code"),
    [
        (a_program_on_the_gpu, "gpu_in_use"),
        (a_program_on_the_port, "port_taken"),
        (another_network, "subnet_taken"),
        (another_seat, "gpu_held"),
        (a_server_that_is_down, "mount_hangs"),
    ],
)
def test_what_others_do_is_no_attempt_to_start_a_seat_again(
    stopped: BrokerWorld, idle: list[Any], monkeypatch: pytest.MonkeyPatch, begin: Callable[..., None], code: str
) -> None:
    """Three attempts end the lease: a program of somebody else on its GPU or port would do so after three minutes."""
    begin(idle, monkeypatch)
    with pytest.raises(seat_jobs.HeldError) as caught:
        seat_jobs.carry_out(stopped.named(), Job("resume"), 0)
    problem = vars(caught.value)["problem"]
    assert (caught.value.state, problem["code"], "me down" in problem["fix"]) == ("unchanged", code, True)
    assert stopped.compose.running == 0
    with pytest.raises(ProblemError) as caught:
        stopped.do(**stopped.of_current())
    assert not isinstance(caught.value, seat_jobs.HeldError)


# --- claims


@pytest.mark.parametrize(("seats", "is_refused"), [((), True), ((SEAT,), True), (("demo-other",), False)])
@pytest.mark.parametrize("kind", ["up", "resume", "rotate_token"])
def test_a_run_that_holds_the_seat_refuses_an_order_of_the_broker(
    stopped: BrokerWorld, kind: str, seats: tuple[str, ...], is_refused: bool
) -> None:
    claims.take_claim(stopped.order["state_root"], a_claim("r7", 7, *seats), "")
    order = stopped.order if kind == "up" else stopped.named()
    if not is_refused:
        assert seat_jobs.carry_out(order, Job(kind), 0)["state"] == "committed"
        return
    with pytest.raises(ProblemError, match="claimed by run r7") as caught:
        seat_jobs.carry_out(order, Job(kind), 0)
    assert vars(type(caught.value)).get("state") == ("unchanged" if kind == "resume" else "failed")
    assert stopped.compose.running == 0


def test_a_run_that_has_ended_refuses_nothing(stopped: BrokerWorld) -> None:
    claim = a_claim("r7", 7)
    claims.take_claim(stopped.order["state_root"], claim, "")
    claims.release_claim(stopped.order["state_root"], claim)
    assert stopped.do()["state"] == "committed"


def test_no_claim_keeps_a_seat_running(made: Callable[[bool], BrokerWorld]) -> None:
    world = made(True)
    claims.take_claim(world.order["state_root"], a_claim("r7", 7), "")
    assert seat_jobs.carry_out(world.named(), Job("stop"), 0)["state"] == "committed"
    assert world.compose.calls == ["stop"]


# --- stop


def test_stop_keeps_the_containers(world: BrokerWorld) -> None:
    assert seat_jobs.carry_out(world.named(), Job("stop"), 0)["state"] == "committed"
    assert (world.compose.calls, world.states, world.seat.current()) == (["stop"], ["stopping", "stopped"], 1)


def test_a_person_who_starts_and_stops_again_and_again_fills_no_disk(
    world: BrokerWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "LONGEST", 5_000)
    monkeypatch.setattr(journals, "KEPT_LINES", 20)
    for _ in range(60):
        seat_jobs.carry_out(world.named(), Job("stop"), 0)
    assert (world.seat.folder / "journal.jsonl").stat().st_size < 6_000
    assert world.states[-2:] == ["stopping", "stopped"]


def test_a_stop_ends_a_switch_that_was_left_open(made: Callable[[bool], BrokerWorld]) -> None:
    world = made(True)
    with pytest.raises(Killed):
        world.transact(kill_at(world.journal("me-1"), "verifying", "after"))
    seat_jobs.carry_out(world.named(), Job("stop"), 0)
    assert world.journal().open_switch() is None
    world.recover("boot")
    assert world.compose.running == 0


def full_disk(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_does_not_keep_a_seat_running(world: BrokerWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "write_all", full_disk)
    assert seat_jobs.carry_out(world.named(), Job("stop"), 0)["state"] == "committed"
    assert world.compose.running == 0


def run_job(world: BrokerWorld, kind: str, order: dict[str, Any] | None = None) -> tuple[int, Path]:
    path = Path(world.order["state_root"]) / "me-5.json"
    path.write_text(json.dumps(order or world.order))
    return seat_jobs.run_job([world.order["state_root"], kind, "me-5", SEAT, str(path)]), path


def test_a_stop_without_room_for_a_job_file_stops_the_seat_all_the_same(
    world: BrokerWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    (world.seat.folder / "lock").touch()
    monkeypatch.setattr(files, "write_atomic", full_disk)
    code, _ = run_job(world, "stop")
    assert (code, world.compose.running) == (seat_jobs.STOPPED, 0)


def test_a_job_runs_in_a_process_of_its_own(world: BrokerWorld) -> None:
    order = {**world.order, "run": "me-5"}
    code, _ = run_job(world, "up", order)
    path = files.job_path(world.seat, "me-5", "up")
    assert code == seat_jobs.STARTED
    assert files.follow(path, 20)["record"]["state"] == "committed"
    assert files.read_job(path)["pid"] != os.getpid()


def test_why_a_job_could_not_begin_is_written_beside_its_order(
    world: BrokerWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "write_atomic", full_disk)
    code, path = run_job(world, "up")
    assert code == seat_jobs.REFUSED
    assert json.loads(path.with_suffix(".fault").read_text())["problems"][0]["code"] == "job_not_started"


def test_a_job_without_its_order_is_refused(world: BrokerWorld, tmp_path: Path) -> None:
    path = tmp_path / "me-6.json"
    assert seat_jobs.run_job([world.order["state_root"], "up", "me-6", SEAT, str(path)]) == seat_jobs.REFUSED
    assert json.loads(path.with_suffix(".fault").read_text())["problems"][0]["code"] == "io_error"


# --- token, disk


def test_a_new_token_takes_effect_with_a_restart_of_jupyter_alone(world: BrokerWorld, running: bool) -> None:
    identities.make_identity(world.seat, os.getuid(), os.getgid())
    before = identities.host_key(world.seat)
    old = (world.seat.identity / "token").read_text()
    mounted = (world.seat.identity / "token").stat().st_ino  # the SSH service is not started again
    seat_jobs.carry_out(world.named(), Job("rotate_token"), 0)
    path = world.seat.identity / "token"
    assert path.read_text() != old
    assert len(path.read_text()) == len(old) == 64
    assert (path.stat().st_mode & 0o777, path.stat().st_ino) == (0o400, mounted)
    assert identities.host_key(world.seat) == before
    assert world.compose.calls == (["restart jupyter"] if running else [])
    assert list(world.seat.identity.glob("tmp*")) == []


class Tokens:
    """The token of a seat, and the one that it had when its containers were started."""

    def __init__(self, world: BrokerWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        identities.make_identity(world.seat, os.getuid(), os.getgid())
        self.path, self.host_key, self._world = world.seat.identity / "token", identities.host_key(world.seat), world
        self.before, self._inode = self.now, self.path.stat().st_ino
        self.at_start = ""
        up = world.compose.up
        monkeypatch.setattr(world.compose, "up", lambda number: self._start(up, number))

    @property
    def now(self) -> str:
        return str(self.path.read_text())

    def _start(self, up: Callable[[int], None], number: int) -> None:
        self.at_start = self.at_start or self.now
        up(number)

    def has_only_a_new_token(self) -> bool:
        """The file is mounted into containers that are started again, and `ssh` knows the host key."""
        is_same_file = self.path.stat().st_ino == self._inode
        return self.now != self.before and is_same_file and identities.host_key(self._world.seat) == self.host_key


@pytest.mark.parametrize("kind", ["new", "same"])
def test_a_seat_that_is_started_after_a_stop_has_a_new_token_before_its_containers_start(
    stopped: BrokerWorld, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """While it was stopped, any account of the node could listen on its ports, and read the token of a bookmark."""
    tokens = Tokens(stopped, monkeypatch)
    assert stopped.do(**(stopped.order if kind == "new" else stopped.of_current()))["state"] == "committed"
    assert tokens.has_only_a_new_token()
    assert tokens.at_start == tokens.now


@pytest.mark.parametrize("kind", ["up", "upgrade"])
def test_a_switch_of_a_running_seat_keeps_its_token(
    made: Callable[[bool], BrokerWorld], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    world = made(True)
    tokens = Tokens(world, monkeypatch)
    assert world.do(kind)["state"] == "committed"
    assert tokens.at_start == tokens.now == tokens.before


def test_a_seat_that_is_started_again_after_a_crash_keeps_its_token(
    stopped: BrokerWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = Tokens(stopped, monkeypatch)
    seat_jobs.carry_out(stopped.named(), Job("resume"), 0)
    assert tokens.at_start == tokens.now == tokens.before


@pytest.mark.parametrize("kind", ["new", "same"])
def test_a_start_that_is_refused_changes_no_token(
    stopped: BrokerWorld, monkeypatch: pytest.MonkeyPatch, idle: list[Any], kind: str
) -> None:
    tokens = Tokens(stopped, monkeypatch)
    idle[:] = [a_gpu("GPU-1", processes=[a_process(4242)])]
    with pytest.raises(ProblemError):
        stopped.do(**(stopped.order if kind == "new" else stopped.of_current()))
    assert tokens.now == tokens.before


def test_the_limit_of_the_disk_is_set_with_the_seat(world: BrokerWorld) -> None:
    world.do(disk_limit=5 << 30)
    assert world.seat.disk_limit() == 5 << 30


def test_another_limit_of_the_disk_counts_from_the_next_start(stopped: BrokerWorld) -> None:
    assert stopped.do(**{**stopped.of_current(), "disk_limit": 5 << 30})["generation"] == 1
    assert stopped.seat.disk_limit() == 5 << 30


def test_a_resumed_seat_keeps_its_limit_of_the_disk(stopped: BrokerWorld) -> None:
    (stopped.seat.folder / "disk_limit").write_text("7")
    seat_jobs.carry_out(stopped.named(), Job("resume"), 0)
    assert stopped.seat.disk_limit() == 7
