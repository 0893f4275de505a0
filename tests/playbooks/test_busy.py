"""Running work is not stopped without consent; unknown use of a GPU counts as use."""

import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.fake_engine import FakeEngine, a_container, add_containers
from tests.playbooks.fake_nvml import a_gpu, a_process
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import REFERENCE, NoJob, an_order, with_seat
from tests.playbooks.world import World

busy, switches, nvml = module_util("seat.busy"), module_util("transaction.switch"), module_util("gpu.nvml")
claims, removals, recovery = (module_util(n) for n in ("jobs.claims", "transaction.remove", "transaction.recover"))

GIB = 1 << 30
MINE = {"run": "r1", "lab": "demo", "holder": "ann@one", "since": "2026-11-26T09:00:00+00:00", "fence": 1}
IN_SEAT = a_process(4242, container="lab-student-jupyter-1")


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        (a_gpu("GPU-1"), []),
        (a_gpu("GPU-1", memory_used=None, utilization=None), []),  # unified memory: the driver does not report it
        (a_gpu("GPU-1", processes=[IN_SEAT]), ["GPU 0: pid 4242 python of li in lab-student-jupyter-1"]),
        (
            a_gpu("GPU-1", processes=[a_process(7, user=None, command=None), a_process(8)]),
            ["GPU 0: pid 7", "GPU 0: pid 8 python of li"],
        ),
        (
            a_gpu("GPU-1", memory_used=6 * GIB, utilization=9, processes=[a_process(9, "graphics")]),
            ["4.3 GB are in use"],
        ),
        (a_gpu("GPU-1", memory_used=2 * GIB, utilization=9, processes=[a_process(9, "graphics")]), []),
        (a_gpu("GPU-1", memory_used=2 * GIB), ["2.1 GB are in use by a process"]),
        (a_gpu("GPU-1", utilization=35), ["35 % utilization by a process"]),
        (a_gpu("GPU-1", processes=None), ["its use is unknown"]),
        (a_gpu("GPU-1", problems=[{"what": "GPU 0: NVML answers X"}]), ["is unknown (GPU 0: NVML answers X)"]),
        (a_gpu("GPU-2", processes=[IN_SEAT]), ["the driver does not list GPU-1"]),
    ],
)
def test_each_use_of_a_gpu_is_reported_in_one_line(idle: list[Any], gpu: dict[str, Any], expected: list[str]) -> None:
    idle[:] = [gpu]
    found = busy.gpu_users(["GPU-1"])
    assert len(found) == len(expected)
    assert all(part in line for part, line in zip(expected, found, strict=True)), found


OURS = a_process(11, container="demo_li-jupyter-1", seat="demo_li")
OTHERS = a_process(12, container="demo_mei-ssh-1", seat="demo_mei")


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        (a_gpu("GPU-1", processes=[OTHERS]), []),
        (a_gpu("GPU-1", processes=[OURS, OTHERS]), ["pid 11 python of li in demo_li-jupyter-1"]),
        (a_gpu("GPU-1", processes=[a_process(13, container="mining-1", seat=None)]), []),
        (a_gpu("GPU-1", processes=[a_process(14, container="demo_mei-ssh-1")]), ["pid 14"]),  # the engine is silent
        (a_gpu("GPU-1", processes=[a_process(15)]), []),
        (a_gpu("GPU-1", processes=[a_process(16, user=None, command=None)]), ["pid 16"]),  # not in /proc
        (a_gpu("GPU-1", memory_used=2 * GIB + (400 << 20), utilization=99, processes=[OTHERS]), []),
        (a_gpu("GPU-1", memory_used=6 * GIB, processes=[OTHERS]), ["4.3 GB are in use by a process that"]),
        (a_gpu("GPU-1", utilization=35), ["35 % utilization by a process that"]),
        (a_gpu("GPU-1", processes=None), ["its use is unknown"]),
        (a_gpu("GPU-2", processes=[OTHERS]), ["the driver does not list GPU-1"]),
    ],
)
def test_on_a_shared_gpu_only_what_may_be_of_the_seat_counts(
    idle: list[Any], gpu: dict[str, Any], expected: list[str]
) -> None:
    idle[:] = [gpu]
    found = busy.gpu_users(["GPU-1"], "demo_li", {"GPU-1"})
    assert len(found) == len(expected)
    assert all(part in line for part, line in zip(expected, found, strict=True)), found


def test_one_shared_gpu_does_not_make_another_gpu_shared(idle: list[Any]) -> None:
    idle[:] = [a_gpu("GPU-1", processes=[OTHERS]), a_gpu("GPU-2", 1, processes=[OTHERS])]
    assert busy.gpu_users(["GPU-1", "GPU-2"], "demo_li", {"GPU-1"}) == ["GPU 1: pid 12 python of li in demo_mei-ssh-1"]


def test_a_lost_gpu_without_uuid_does_not_count_as_use_of_another_gpu(idle: list[Any]) -> None:
    idle.append({"index": 1, "problems": [{"what": "GPU 1 is lost"}]})
    assert busy.gpu_users(["GPU-1"]) == []


def test_nvml_is_not_queried_for_a_seat_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy, "query_nvml", lambda: pytest.fail("queried"))
    assert busy.gpu_users([]) == []


@pytest.mark.parametrize("work", [lambda: time.sleep(60), lambda: 1 / 0, lambda: {"error": 18, "reason": "NVML: 18"}])
def test_a_driver_that_hangs_or_fails_counts_as_use(monkeypatch: pytest.MonkeyPatch, work: Callable[[], Any]) -> None:
    monkeypatch.setattr(nvml, "SECONDS", 0.2)
    monkeypatch.setattr(nvml, "_query", work)
    (line,) = busy.gpu_users(["GPU-1"])
    assert line.startswith("the use of the GPUs is unknown: ")
    assert "NVML" in line


@pytest.fixture
def world(tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> World:
    engine.images[REFERENCE] = {"RootFS": {}}
    return World(tmp_path, 1).patch_node_code(monkeypatch)


def switched(world: World, **when_busy: Any) -> dict[str, Any]:
    return world.switch(when_busy=when_busy or None)


@pytest.fixture
def persons(tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> World:
    """The seat of a person of a roster."""
    engine.images[REFERENCE] = {"RootFS": {}}
    before = an_order(tmp_path, files={"compose.yaml": "old"})
    orders = with_seat(an_order(tmp_path), person="li"), with_seat(before, person="li")
    return World(tmp_path, 1, orders).patch_node_code(monkeypatch)


@pytest.fixture
def neighbour(tmp_path: Path, engine: FakeEngine) -> Callable[..., Any]:
    """Function that adds a seat which has GPU-1, and whose containers have this state."""

    def neighbour(state: str, **seat: Any) -> Any:
        order = with_seat(an_order(tmp_path), name="demo_mei", **seat)
        made = module_util("seat.seat").seat_of(order)
        made.make_folders()
        made.write(1, order, {})
        made.commit(1)
        add_containers(engine, a_container("jupyter", Status=state), seat="demo_mei")
        return made

    return neighbour


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(
    ("seat", "held"),
    [
        ({}, True),
        ({"shared": True}, True),  # the other one is to have it alone
        ({"gpus": ["GPU-2"]}, False),
        ({"gpus": []}, False),
        ({"lab": "another"}, False),
    ],
)
def test_a_gpu_that_another_running_seat_of_the_lab_has_is_not_given_away(
    persons: World, neighbour: Callable[..., Any], seat: dict[str, Any], held: bool
) -> None:
    neighbour("running", **seat)
    if not held:
        assert switched(persons)["state"] == "committed"
        return
    with pytest.raises(busy.GpuHeldError, match="demo_mei still has GPUs that demo-student gets") as caught:
        switched(persons)
    assert (caught.value.state, persons.compose.calls) == ("deferred", [])


@pytest.mark.usefixtures("idle")
def test_a_rollback_takes_no_gpu_that_another_seat_got_meanwhile(persons: World, neighbour: Callable[..., Any]) -> None:
    assert switched(persons)["state"] == "committed"
    neighbour("running")
    with pytest.raises(busy.GpuHeldError):
        persons.roll_back()
    assert persons.compose.running == 2


def test_two_seats_that_share_a_gpu_have_it_at_once(persons: World, neighbour: Callable[..., Any]) -> None:
    neighbour("running", shared=True)
    order = with_seat(persons.order, shared=True)
    busy.check_gpus_free(persons.seat, order)


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(("back", "held"), [(None, False), (1, True), (0, False)])
def test_a_stopped_seat_has_no_gpu_unless_its_switch_is_unfinished_and_may_go_back(
    persons: World, neighbour: Callable[..., Any], back: int | None, held: bool
) -> None:
    """An undo may start it again, with the GPUs of the generation before; that of the broker leaves it stopped (0)."""
    other = neighbour("exited")
    if back is not None:
        module_util("seat.journal").Journal(other.folder, "r0").append("switching", to=2, back=back)
    if held:
        with pytest.raises(busy.GpuHeldError):
            switched(persons)
    else:
        assert switched(persons)["state"] == "committed"


@pytest.mark.usefixtures("idle")
def test_a_damaged_seat_keeps_no_gpu_from_others(persons: World, neighbour: Callable[..., Any]) -> None:
    (neighbour("running").generation(1) / "order.json").write_text("{")
    assert switched(persons)["state"] == "committed"


@pytest.mark.usefixtures("idle")
def test_without_a_roster_the_seats_of_a_node_may_have_the_same_gpus(
    world: World, neighbour: Callable[..., Any]
) -> None:
    neighbour("running")
    assert switched(world)["state"] == "committed"


def test_a_seat_in_use_is_deferred_and_not_stopped(world: World, idle: list[Any]) -> None:
    idle[0]["processes"] = [IN_SEAT]
    with pytest.raises(busy.BusyError, match="demo-student: GPU 0: pid 4242 python of li in lab-student") as caught:
        switched(world)
    assert (caught.value.state, caught.value.problem["code"]) == ("deferred", "busy")
    assert (world.compose.calls, world.states) == ([], [])


def test_a_seat_without_running_containers_switches_whatever_uses_its_gpus(world: World, idle: list[Any]) -> None:
    idle[0]["processes"] = [IN_SEAT]
    world.compose.running = 0
    assert switched(world)["state"] == "committed"


@pytest.fixture
def sharing(world: World) -> World:
    """The world with a seat whose GPU other seats use, too."""
    shared = an_order(world.seat.folder, seat=world.order["seat"] | {"shared": True})
    world.seat.write(1, shared, {})
    return world


def test_the_work_of_another_seat_on_a_shared_gpu_does_not_defer_a_switch(sharing: World, idle: list[Any]) -> None:
    idle[0]["processes"] = [a_process(12, container="demo_mei-ssh-1", seat="demo_mei")]
    assert busy.affected_users(sharing.seat, idle) == []
    assert switched(sharing)["state"] == "committed"


def test_its_own_work_on_a_shared_gpu_defers_a_switch(sharing: World, idle: list[Any]) -> None:
    idle[0]["processes"] = [OTHERS, IN_SEAT | {"seat": "demo-student"}]
    assert busy.affected_users(sharing.seat, idle) == ["GPU 0: pid 4242 python of li in lab-student-jupyter-1"]
    with pytest.raises(busy.BusyError, match="pid 4242"):
        switched(sharing)
    assert sharing.compose.calls == []


@pytest.fixture
def without_gpus(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The world with a seat without GPUs, on a machine without NVML."""
    monkeypatch.setattr(busy, "query_nvml", lambda: pytest.fail("queried"))
    world.seat.write(1, an_order(world.seat.folder, seat=world.order["seat"] | {"gpus": []}), {})
    return world


def test_activity_in_the_containers_of_a_seat_without_gpus_defers_a_switch(
    without_gpus: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_gpus.compose.pids = {"jupyter": 70, "ssh": 80}
    looks: list[dict[str, int]] = []

    def active(pids: dict[str, int]) -> list[str]:
        looks.append(pids)
        return ["ssh: pid 81 bash in an SSH session"]

    monkeypatch.setattr(busy, "container_activity", active)
    with pytest.raises(busy.BusyError, match="pid 81 bash in an SSH session"):
        switched(without_gpus)
    assert (looks, without_gpus.compose.calls) == ([{"jupyter": 70, "ssh": 80}], [])
    monkeypatch.setattr(busy, "container_activity", lambda _: [])
    assert switched(without_gpus)["state"] == "committed"


@pytest.fixture(params=[[], ["GPU-1"]], ids=["without_gpus", "with_gpus"])
def self_service(world: World, idle: list[Any], request: pytest.FixtureRequest) -> World:
    """The world with a seat that its person has started, whose GPUs are idle if it has any."""
    assert idle
    seat = world.order["seat"] | {"gpus": request.param, "kind": "self_service"}
    world.seat.write(1, an_order(world.seat.folder, seat=seat), {})
    return world


@pytest.mark.parametrize(
    ("kernels", "lines", "shown"),
    [
        ("2", [], "jupyter: 2 kernels run code"),
        ("unknown", [], "unknown whether kernels run code"),
        ("0", ["ssh: pid 81 bash in an SSH session"], "pid 81 bash"),
        ("0", [], None),
    ],
)
def test_kernels_sessions_and_processors_are_use_of_a_self_service_seat(
    self_service: World, monkeypatch: pytest.MonkeyPatch, kernels: str, lines: list[str], shown: str | None
) -> None:
    world = self_service
    health = {"Log": [{"Output": f"HTTP 200, busy kernels: {kernels}"}]}
    monkeypatch.setattr(world.compose, "container", lambda _: {"State": {"Pid": 70, "Health": health}})
    monkeypatch.setattr(busy, "container_activity", lambda _: lines)
    if shown is None:
        assert switched(world)["state"] == "committed"
        return
    with pytest.raises(busy.BusyError, match=shown):
        switched(world)
    assert world.compose.calls == []


def test_without_an_engine_the_use_of_a_seat_without_gpus_is_unknown(
    without_gpus: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(_: str) -> None:
        raise ProblemError("no_engine", "no engine answers", "why", "fix")

    monkeypatch.setattr(without_gpus.compose, "container", silent)
    with pytest.raises(busy.BusyError, match="unknown: no engine answers"):
        switched(without_gpus)


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("reason", ["", "  \n"])
def test_force_without_a_reason_is_refused_even_on_an_idle_seat(world: World, reason: str) -> None:
    with pytest.raises(ProblemError, match="needs a reason"):
        switched(world, policy="force", reason=reason)
    assert world.compose.calls == []


def test_force_is_recorded_in_the_journal_before_containers_stop(world: World, idle: list[Any]) -> None:
    idle[0]["processes"] = [IN_SEAT]
    when_busy = {"policy": "force", "reason": "exam at noon"}
    assert world.switch(when_busy=when_busy, claim={**MINE, "holder": "ann@control1"})["state"] == "committed"
    assert world.states == ["forced", "switching", "verifying", "committed"]
    assert world.journal().lines()[0]["detail"] == {
        "by": "ann@control1",
        "reason": "exam at noon",
        "stopped": ["GPU 0: pid 4242 python of li in lab-student-jupyter-1"],
    }


@pytest.mark.usefixtures("idle")
def test_force_on_an_idle_seat_is_not_recorded(world: World) -> None:
    assert switched(world, policy="force", reason="exam")["state"] == "committed"
    assert "forced" not in world.states


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only sleep advances; the list of sleeps in seconds."""
    slept: list[float] = []

    class Time:
        sleep = staticmethod(slept.append)

        @staticmethod
        def monotonic() -> float:
            return sum(slept)

    monkeypatch.setattr(busy, "time", Time)
    return slept


def test_wait_reports_the_users_and_switches_once_the_gpu_is_idle(
    world: World, idle: list[Any], clock: list[float]
) -> None:
    idle[0]["processes"] = [IN_SEAT]
    reports: list[str] = []

    class Listener(NoJob):
        def report(self, text: str, **_: Any) -> None:
            reports.append(text)
            if len(clock) == 3:
                idle[0]["processes"] = []

    order = world.order | {"when_busy": {"policy": "wait", "seconds": 900}}
    assert switches.switch(order, Listener(), 0)["state"] == "committed"
    assert reports[0] == "waiting for GPU 0: pid 4242 python of li in lab-student-jupyter-1"
    assert clock == [2, 4, 8, 16]


def test_wait_ends_with_busy_error_at_its_time_limit(world: World, idle: list[Any], clock: list[float]) -> None:
    idle[0]["processes"] = [IN_SEAT]
    with pytest.raises(busy.BusyError):
        switched(world, policy="wait", seconds=100)
    assert clock == [2, 4, 8, 16, 32, 38]
    assert world.compose.calls == []


def test_the_staged_image_is_checked_again_after_the_wait(
    world: World, idle: list[Any], clock: list[float], engine: FakeEngine
) -> None:
    idle[0]["processes"] = [IN_SEAT]

    class Listener(NoJob):
        def report(self, *_: Any, **__: Any) -> None:
            engine.images.clear()
            idle[0]["processes"] = []

    with pytest.raises(ProblemError, match="to switch to is not on the node"):
        switches.switch(world.order | {"when_busy": {"policy": "wait", "seconds": 9}}, Listener(), 0)
    assert clock == [2]


class Overtaken(NoJob):
    """A job that waits for the GPUs; another run takes the node over meanwhile. `ends`: the work ends then, too."""

    def __init__(self, root: str, gpu: dict[str, Any], *, ends: bool) -> None:
        self._root, self._gpu, self._ends = root, gpu, ends

    def report(self, *_: Any, **__: Any) -> None:
        claims.take_claim(self._root, {**MINE, "run": "r2", "holder": "bob@two", "fence": 2}, "r1")
        if self._ends:
            self._gpu["processes"] = []


@pytest.mark.parametrize("case", [*product(["switch", "roll_back", "remove", "recover"], [True, False])], ids=str)
def test_a_node_taken_over_during_a_wait_is_not_changed(
    world: World, idle: list[Any], monkeypatch: pytest.MonkeyPatch, clock: list[float], case: tuple[str, bool]
) -> None:
    act, ends = case
    monkeypatch.setattr(removals, "Compose", lambda *_: world.compose)
    root = world.order["state_root"]
    claims.take_claim(root, MINE, "")
    idle[0]["processes"] = [IN_SEAT]
    job = Overtaken(root, idle[0], ends=ends)
    order = world.order | {"claim": MINE, "when_busy": {"policy": "wait", "seconds": 9000}}
    if act == "recover":
        world.journal().append("switching", to=2, back=1)
    acts: dict[str, Callable[[], Any]] = {
        "switch": lambda: switches.switch(order, job, 0),
        "roll_back": lambda: module_util("transaction.rollback").roll_back(order | {"to": 2}, job, 0),
        "remove": lambda: removals.remove(order, job, 0),
        "recover": lambda: recovery.recover_seat(world.compose, world.journal(), order, job.report),
    }
    with pytest.raises(ProblemError, match="has taken over from run r1 on this node"):
        acts[act]()
    assert (clock, world.compose.calls, world.seat.numbers()) == ([2], [], [1, 2])


@pytest.mark.parametrize("act", [removals.stop, removals.remove])
def test_a_fenced_run_that_waited_for_the_lock_removes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, act: Callable[..., Any]
) -> None:
    monkeypatch.setattr(removals, "Compose", lambda *_: world.compose)
    claims.take_claim(world.order["state_root"], {**MINE, "run": "r2", "fence": 2}, "")
    with pytest.raises(ProblemError, match="has taken over from run r1 on this node"):
        act(world.order | {"claim": MINE}, NoJob(), 0)
    assert (world.compose.calls, world.seat.numbers()) == ([], [1, 2])


@pytest.mark.parametrize("act", [removals.stop, removals.remove])
@pytest.mark.parametrize(
    ("policy", "stops"), [(None, True), ({"policy": "defer"}, False), ({"policy": "force", "reason": "exam"}, True)]
)
def test_a_seat_in_use_is_stopped_or_removed_only_with_consent(  # noqa: PLR0913, PLR0917  (fixtures and cases)
    world: World,
    idle: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[..., Any],
    policy: dict[str, Any] | None,
    stops: bool,
) -> None:
    """None: the user's own machine."""
    monkeypatch.setattr(removals, "Compose", lambda *_: world.compose)
    world.compose.running, idle[0]["processes"] = 1, [IN_SEAT]
    order = world.order | {"when_busy": policy}
    if stops:
        assert act(order, NoJob(), 0)["state"] == "committed"
    else:
        with pytest.raises(busy.BusyError):
            act(order, NoJob(), 0)
    assert ("down" in world.compose.calls) is stops


def test_recovery_of_a_seat_in_use_is_deferred(world: World, idle: list[Any], clock: list[float]) -> None:
    world.journal().append("switching", to=2, back=1)
    world.compose.running = 2
    idle[0]["processes"] = [IN_SEAT]
    with pytest.raises(busy.BusyError):
        world.recover()
    # A GPU check of the killed job counts as use until it ends, so the recovery waits for it.
    assert sum(clock) == module_util("transaction.recover").CHECK_SECONDS
    assert (world.compose.calls, world.states) == ([], ["switching"])
    idle[0]["processes"] = []
    world.recover()
    assert world.states == ["switching", "rolling_back", "rolled_back"]


@pytest.mark.usefixtures("idle")
def test_a_forced_line_does_not_close_an_open_switch(world: World) -> None:
    world.journal().append("switching", to=2, back=1)
    world.journal().append("forced", reason="r", stopped=[])
    assert world.journal().open_switch()["detail"]["to"] == 2
    world.compose.broken = {1, -1}
    with pytest.raises(ProblemError, match="could not be restored"):
        world.recover()


def test_gpus_of_an_unfinished_switch_count_as_gpus_of_the_seat(world: World) -> None:
    world.seat.write(3, an_order(world.seat.folder, seat=world.order["seat"] | {"gpus": ["GPU-9"]}), {})
    assert busy.seat_gpus(world.seat, world.journal()) == ["GPU-1"]
    world.journal().append("switching", to=3, back=1)
    assert busy.seat_gpus(world.seat, world.journal()) == ["GPU-1", "GPU-9"]
    world.journal().append("switching", to=3, back=0)
    assert busy.seat_gpus(world.seat, world.journal()) == ["GPU-9"]


@pytest.mark.parametrize(
    ("current", "to", "shared"), [(True, True, {"GPU-1"}), (True, False, set()), (False, True, set())]
)
def test_a_gpu_is_shared_only_if_it_is_so_in_each_generation_that_may_run(
    world: World, current: bool, to: bool, shared: set[str]
) -> None:
    for number, kind in ((1, current), (3, to)):
        order = an_order(world.seat.folder, seat=world.order["seat"] | {"shared": kind})
        world.seat.write(number, order, {})
    world.journal().append("switching", to=3, back=1)
    assert busy.shared_gpus(world.seat, world.journal()) == shared
