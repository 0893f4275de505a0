"""The measurement of a node: real homes, a fake engine, and the installed program itself."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.fake_engine import FakeEngine, a_container, add_containers
from tests.playbooks.node_code import module_util
from tests.playbooks.orders import an_order
from tests.playbooks.people_seats import a_persons_seat

measure, limits, seats, usage = (
    module_util(name) for name in ("disk.measure", "disk.limit", "seat.seat", "disk.usage")
)
MIB = 1 << 20


@pytest.fixture(autouse=True)
def _accounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests of the walk change accounts; here each home is that of the account that runs the tests."""
    monkeypatch.setattr(usage, "become", lambda *_: None)
    (tmp_path / "state").mkdir()


def seat_containers(engine: FakeEngine, name: str, *sizes: int) -> None:
    for service, size in zip(("ssh", "jupyter"), sizes, strict=False):
        add_containers(engine, a_container(service, name=f"{name}-{service}"), seat=name)
        engine.containers[-1]["SizeRw"] = size


def record(seat: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((seat.folder / "disk.json").read_text())
    return found


def test_the_record_has_home_and_layers_of_each_seat(tmp_path: Path, engine: FakeEngine) -> None:
    anna, bob = (a_persons_seat(tmp_path, name) for name in ("ml_anna", "ml_bob"))
    (tmp_path / "homes/ml_anna/data").write_bytes(os.urandom(3 * MIB))
    seat_containers(engine, "ml_anna", 5 * MIB, 2 * MIB)
    seat_containers(engine, "ml_bob", 100)
    measure.measure_seats(str(tmp_path / "state"))
    found = record(anna)
    assert 3 * MIB <= found["home_bytes"] < 4 * MIB
    assert (found["layer_bytes"], found["complete"], found["measured_at"][10]) == (7 * MIB, True, "T")
    assert record(bob)["layer_bytes"] == 100
    assert (anna.folder / "disk.json").stat().st_mode & 0o777 == 0o600
    assert len([line for line in engine.requests if "size=1" in line]) == 1


def test_self_service_seats_are_measured_whether_they_run_or_are_stopped(tmp_path: Path, engine: FakeEngine) -> None:
    running, stopped = (a_persons_seat(tmp_path, name, kind="self_service") for name in ("ml_anna", "ml_bob"))
    seat_containers(engine, "ml_anna", 5 * MIB, 2 * MIB)
    seat_containers(engine, "ml_bob", 4 * MIB)
    engine.containers[-1]["State"] = "exited"  # stopped by the broker: what was changed in it stays, and takes room
    for seat in (running, stopped):
        limits.limit_seat(seat, 3 * MIB)
    measure.measure_seats(str(tmp_path / "state"))
    assert (record(running)["layer_bytes"], record(stopped)["layer_bytes"]) == (7 * MIB, 4 * MIB)
    assert len([line for line in engine.requests if "size=1" in line]) == 1
    assert all("Disk: " in (seat.folder / "notice/disk.txt").read_text() for seat in (running, stopped))


def test_without_an_answer_of_the_engine_the_record_is_incomplete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    seat = a_persons_seat(tmp_path)
    measure.measure_seats(str(tmp_path / "state"))
    assert (record(seat)["layer_bytes"], record(seat)["complete"]) == (None, False)


@pytest.mark.usefixtures("engine")
def test_the_warning_comes_and_goes_with_the_measurements(tmp_path: Path) -> None:
    seat = a_persons_seat(tmp_path)
    large = tmp_path / "homes/ml_anna/data"
    large.write_bytes(os.urandom(3 * MIB))
    (seat.folder / "disk_limit").write_text(str(2 * MIB))
    measure.measure_seats(str(tmp_path / "state"))
    assert "Disk: 3" in (seat.folder / "notice/disk.txt").read_text()
    large.unlink()
    measure.measure_seats(str(tmp_path / "state"))
    assert (seat.folder / "notice/disk.txt").read_text() == ""


@pytest.mark.usefixtures("engine")
def test_a_damaged_seat_stops_no_other_one_and_the_seat_of_a_node_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged, whole = a_persons_seat(tmp_path, "ml_a"), a_persons_seat(tmp_path, "ml_b")
    (damaged.generation(1) / "order.json").write_text("{")
    node_seat = a_persons_seat(tmp_path, "ml-lab", person="")
    stopped = seats.seat_of(an_order(tmp_path))
    stopped.make_folders()
    measure.measure_seats(str(tmp_path / "state"))
    assert record(whole)["complete"]
    assert not [seat.name for seat in (damaged, node_seat, stopped) if (seat.folder / "disk.json").exists()]
    assert capsys.readouterr().err.startswith("ml_a: ")


@pytest.mark.usefixtures("engine")
def test_seats_are_measured_in_the_order_of_their_last_measurement_until_the_night_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = {"ml_a": "2026-11-30T03:00:00+00:00", "ml_b": "2026-11-28T03:00:00+00:00", "ml_c": ""}
    for name, day in days.items():
        seat = a_persons_seat(tmp_path, name)
        if day:
            (seat.folder / "disk.json").write_text(
                json.dumps(dict.fromkeys(("home_bytes", "layer_bytes", "complete"), 0) | {"measured_at": day})
            )
    order: list[str] = []
    monkeypatch.setattr(measure, "measure_seat", lambda seat, _: order.append(seat.name))
    measure.measure_seats(str(tmp_path / "state"))
    assert order == ["ml_c", "ml_b", "ml_a"]
    monkeypatch.setattr(measure, "NIGHT_SECONDS", -1)
    measure.measure_seats(str(tmp_path / "state"))
    assert len(order) == 3


def test_only_one_measurement_runs_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []
    monkeypatch.setattr(measure, "_lower_priority", lambda: None)

    def measure_within(state_root: str) -> None:
        measured.append(state_root)
        assert measure.measure_node(state_root) == 0

    monkeypatch.setattr(measure, "measure_seats", measure_within)
    for _ in range(2):
        assert measure.measure_node(str(tmp_path / "state")) == 0
    assert measured == [str(tmp_path / "state")] * 2


PRIORITY = """\
import os, sys
from tests.playbooks.node_code import module_util
measure = module_util("disk.measure")
measure.measure_seats = lambda _: print(os.nice(0), end=" ", flush=True) or os.system(f"ionice -p {os.getpid()}")
sys.exit(measure.measure_node(sys.argv[1]))
"""


def test_the_measurement_has_the_lowest_priority(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", PRIORITY, str(tmp_path / "state")]
    ran = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("19 idle")
