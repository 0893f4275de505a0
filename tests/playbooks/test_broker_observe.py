"""What the broker sees of its GPUs and seats: another program on a GPU is named, and unknown use is use."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.fake_engine import FakeEngine, a_container, add_containers
from tests.playbooks.fake_nvml import a_gpu, a_process
from tests.playbooks.node_code import module_util
from tests.playbooks.people_seats import a_persons_seat

observes = module_util("broker.observe")
Sample = module_util("docker.activity").Sample
SEAT = "ml_anna"


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What NVML reports; a test may change it."""
    found = [a_gpu("GPU-1")]
    monkeypatch.setattr(observes, "query_nvml", lambda: {"gpus": found})
    monkeypatch.setattr(observes, "with_container_names", lambda listed: listed)
    return found


@pytest.fixture
def node(tmp_path: Path, engine: FakeEngine, gpus: list[Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    assert gpus
    monkeypatch.setattr(observes, "activity_by_seat", activity())
    a_persons_seat(tmp_path, SEAT, kind="self_service", uid=5001)
    containers = [{**a_container(name), "State": state(70)} for name in ("jupyter", "ssh")]
    add_containers(engine, *containers, seat=SEAT)
    return tmp_path


def state(pid: int, kernels: str = "0") -> dict[str, Any]:
    health = {"Status": "healthy", "Log": [{"Output": f"HTTP 200, busy kernels: {kernels}\n"}]}
    return {"Status": "running", "Pid": pid, "Health": health}


def activity(*lines: str, seconds: float | None = 12.0) -> Any:
    """Return a stand-in for what is seen of processes: lines of SSH sessions, and the processor time until now."""
    return lambda pids: ({seat: list(lines) for seat in pids}, Sample(300.0, dict.fromkeys(pids, seconds)))


EARLIER = [[0.0, {SEAT: 10.0}]]  # the samples of the look before


def look(root: Path, samples: Any = EARLIER, **holders: str) -> Any:
    held = {gpu.replace("_", "-"): seat for gpu, seat in holders.items()}
    return observes.parse_seen(json.loads(json.dumps(observes.observe(str(root / "state"), held, samples))))


MINE = {**a_process(4242, container="ml_anna-jupyter-1"), "seat": SEAT}
OTHER = {**a_process(4243, container="ml_bob-jupyter-1"), "seat": "ml_bob"}


@pytest.mark.parametrize(
    ("gpu", "holder", "state"),
    [
        (a_gpu("GPU-1"), None, "free"),
        (a_gpu("GPU-1"), SEAT, "free"),
        (a_gpu("GPU-1", processes=[MINE]), SEAT, "free"),
        (a_gpu("GPU-1", processes=[MINE]), None, "foreign"),
        (a_gpu("GPU-1", processes=[OTHER]), SEAT, "foreign"),
        (a_gpu("GPU-1", processes=[a_process(7)]), SEAT, "foreign"),
        (a_gpu("GPU-1", processes=[a_process(7, "graphics")]), None, "free"),
        (a_gpu("GPU-1", memory_used=4 << 30), None, "foreign"),
        (a_gpu("GPU-1", memory_used=4 << 30), SEAT, "free"),
        (a_gpu("GPU-1", processes=None), None, "unknown"),
        (a_gpu("GPU-1", problems=[{"what": "x"}]), SEAT, "unhealthy"),
    ],
)
def test_state_of_a_gpu(node: Path, gpus: list[Any], gpu: dict[str, Any], holder: str | None, state: str) -> None:
    gpus[:] = [gpu]
    assert look(node, **({"GPU_1": holder} if holder else {})).cards["GPU-1"].state == state


@pytest.mark.parametrize(
    ("gpu", "used"),
    [
        (a_gpu("GPU-1"), False),
        (a_gpu("GPU-1", utilization=1), True),
        (a_gpu("GPU-1", processes=[MINE]), True),
        (a_gpu("GPU-1", processes=[a_process(7, "graphics")]), False),
        (a_gpu("GPU-1", processes=None, utilization=None), False),
    ],
)
def test_a_gpu_is_used_that_computes_or_has_a_process(node: Path, gpus: list[Any], gpu: Any, used: bool) -> None:
    gpus[:] = [gpu]
    assert look(node, GPU_1=SEAT).used == ({"GPU-1"} if used else set())


def test_a_foreign_process_is_named(node: Path, gpus: list[Any]) -> None:
    gpus[:] = [a_gpu("GPU-1", processes=[a_process(812)])]
    card = look(node).cards["GPU-1"]
    assert (card.pid, card.user) == (812, "li")


def test_a_driver_that_does_not_answer_knows_no_gpu(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observes, "query_nvml", lambda: {"error": 9, "reason": "x"})
    seen = look(node)
    assert (seen.cards, seen.idle) == ({}, {SEAT: False})


def test_a_seat_that_a_person_has_started_is_seen_with_its_gpus(node: Path) -> None:
    a_persons_seat(node, "ml_roster")
    seen = look(node)
    assert (seen.running, seen.own, seen.idle) == (frozenset({SEAT}), {SEAT: (5001, ("GPU-1",))}, {SEAT: True})
    assert seen.others == frozenset()


@pytest.mark.parametrize("service", ["jupyter", "ssh"])
def test_a_seat_that_lacks_a_service_does_not_run_and_is_still_its_person_s(
    node: Path, engine: FakeEngine, service: str
) -> None:
    """The engine does not start a container of a leased seat again, so the broker has to."""
    for container in engine.containers:
        if container["Id"] == service:
            container["State"] = "exited"
    seen = look(node)
    assert (seen.running, seen.own) == (frozenset(), {SEAT: (5001, ("GPU-1",))})


def test_a_seat_of_the_control_machine_is_not_the_broker_s(node: Path, engine: FakeEngine) -> None:
    a_persons_seat(node, "ml_roster")
    add_containers(engine, a_container("jupyter", name="other"), seat="ml_roster")
    seen = look(node)
    assert (seen.others, set(seen.own), set(seen.idle)) == (frozenset({"ml_roster"}), {SEAT}, {SEAT})


@pytest.mark.parametrize(
    ("gpu", "idle"),
    [
        (a_gpu("GPU-1", processes=[MINE]), True),  # a kernel that holds memory
        (a_gpu("GPU-1", utilization=3), False),
        (a_gpu("GPU-1", utilization=None), False),
        (a_gpu("GPU-2"), False),
    ],
)
def test_use_of_the_gpus_of_a_seat(node: Path, gpus: list[Any], gpu: dict[str, Any], idle: bool) -> None:
    gpus[:] = [gpu]
    assert look(node).idle == {SEAT: idle}


@pytest.fixture(params=[["GPU-1"], []], ids=["with_gpus", "without"])
def either(node: Path, request: pytest.FixtureRequest) -> Path:
    """The node with a seat that has GPUs, and with one that has none."""
    a_persons_seat(node, SEAT, kind="self_service", uid=5001, gpus=request.param)
    return node


@pytest.mark.parametrize(
    ("found", "idle"),
    [
        ((activity(), "0"), True),
        ((activity("ssh: pid 7 vim in an SSH session"), "0"), False),
        ((activity(seconds=41.0), "0"), False),
        ((activity(seconds=None), "0"), False),
        ((activity(), "1"), False),
        ((activity(), "unknown"), False),
    ],
)
def test_use_of_a_seat_beside_its_gpus(
    either: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, found: tuple[Any, str], idle: bool
) -> None:
    seen, kernels = found
    engine.inspected["jupyter"]["State"] = state(70, kernels)
    monkeypatch.setattr(observes, "activity_by_seat", seen)
    assert look(either).idle == {SEAT: idle}


def test_a_seat_is_used_until_its_processor_time_is_known_for_five_minutes(node: Path) -> None:
    assert look(node, samples=[]).idle == {SEAT: False}
    found = observes.observe(str(node / "state"), {}, EARLIER)
    assert found["samples"] == [*map(tuple, EARLIER), (300.0, {SEAT: 12.0})]


MIGS = [f"MIG-5a3fbe51-0a55-4b7a-9c62-00000000000{number}" for number in (1, 2)]


def a_split_card(**of_first: Any) -> list[dict[str, Any]]:
    """Return a card and its MIG devices as the driver lists them: what they use is not measured."""
    devices = [a_gpu(uuid, instance=number, utilization=None) for number, uuid in enumerate(MIGS)]
    return [a_gpu("GPU-1", mig_enabled=True, utilization=None), {**devices[0], **of_first}, devices[1]]


@pytest.mark.parametrize(
    ("of_first", "states"),
    [
        ({}, ["free", "free"]),
        ({"processes": [MINE]}, ["free", "free"]),
        ({"processes": [OTHER]}, ["foreign", "free"]),
        ({"processes": None}, ["unknown", "free"]),
        ({"problems": [{"what": "x"}]}, ["unhealthy", "free"]),
    ],
)
def test_mig_devices_are_gpus_of_their_own_and_their_card_is_none(
    node: Path, gpus: list[Any], of_first: dict[str, Any], states: list[str]
) -> None:
    gpus[:] = a_split_card(**of_first)
    found = observes.parse_seen(observes.observe(str(node / "state"), {MIGS[0]: SEAT}, EARLIER)).cards
    assert [found[uuid].state for uuid in MIGS] == states
    assert found["GPU-1"].state == "unhealthy"


@pytest.mark.parametrize(
    ("of_first", "idle"),
    [
        ({}, True),
        ({"processes": [MINE]}, False),  # it may compute: that is not measured
        ({"memory_used": 4 << 30}, False),
        ({"processes": None}, False),
        ({"uuid": MIGS[0].replace("MIG", "GPU")}, False),  # the device was destroyed
    ],
)
def test_a_mig_device_is_idle_when_no_process_has_it(
    node: Path, gpus: list[Any], of_first: dict[str, Any], idle: bool
) -> None:
    gpus[:] = a_split_card(**of_first)
    a_persons_seat(node, SEAT, kind="self_service", uid=5001, gpus=[MIGS[0]])
    assert look(node).idle == {SEAT: idle}


KERNEL = "0c7a9b2e-1f64-4c43-9a55-6f2f0a6f8f10"


@pytest.mark.parametrize(
    "found",
    [
        (MINE, f"python\0-m\0ipykernel_launcher\0-f\0/tmp/jupyter-runtime/kernel-{KERNEL}.json\0", 2 << 30),
        ({**MINE, "used_memory": None}, f"python\0-f\0/tmp/kernel-{KERNEL}.json\0", 0),
        (MINE, "python\0train.py\0", 0),
        (MINE, "", 0),
        ({**OTHER, "pid": 4242}, f"python\0-f\0/tmp/kernel-{KERNEL}.json\0", 0),
    ],
)
def test_kernels_are_seen_with_the_gpu_memory_that_they_hold(
    node: Path, found: tuple[Any, str, int], engine: FakeEngine, gpus: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    process, command, memory = found
    row = [KERNEL, "a.ipynb", "idle", "2026-11-30T08:00:00Z"]
    engine.inspected["jupyter"]["State"] = state(70, f"0\n{json.dumps([1, [row]])}")
    gpus[:] = [a_gpu("GPU-1", processes=[process, a_process(7)])]
    monkeypatch.setattr(observes, "read", lambda path: {"/proc/4242/cmdline": command}[str(path)])
    shown = {"name": "a.ipynb", "state": "idle", "since": "2026-11-30T08:00:00Z", "gpu_bytes": memory}
    assert look(node).kernels == {SEAT: {"all": 1, "listed": [shown]}}


def test_without_an_engine_nothing_is_known_of_seats(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{node}/none.sock")
    seen = look(node)
    assert (seen.running, seen.own, seen.idle) == (None, {}, {})


def test_a_container_that_cannot_be_described_counts_as_used(
    node: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids: dict[str, dict[str, int]] = {}

    def noted(found: dict[str, dict[str, int]]) -> Any:
        pids.update(found)
        return activity(seconds=None)(found)

    monkeypatch.setattr(observes, "activity_by_seat", noted)
    engine.inspected = {name: {**one, "State": {}} for name, one in engine.inspected.items()}
    assert look(node).idle == {SEAT: False}
    assert pids == {SEAT: {"jupyter": -1, "ssh": -1}}
