"""An error, SIGKILL of the job or a power cut at every boundary of a switch and of a rollback.

Before the commit a seat ends on old, after it on new; token, host key and ports stay; a second run does nothing.
"""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.crashes import CrashingWorld, ports, with_image
from tests.playbooks.fake_engine import FakeEngine

pytestmark = pytest.mark.usefixtures("idle")

FORWARD = [
    "before journal switching",
    "after journal switching",
    "up 2: nothing stopped yet",
    "up 2: old stopped, new not started",
    "up 2: started",
    "before journal verifying",
    "after journal verifying",
    "while it is verified",
    "before current 2",
]
COMMITTED = ["after current 2", "before journal committed", "after journal committed"]
BACK = [
    "before journal rolling_back",
    "after journal rolling_back",
    "up 1: nothing stopped yet",
    "up 1: old stopped, new not started",
    "up 1: started",
    "before journal rolled_back",
    "after journal rolled_back",
]


@pytest.fixture
def world(tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> CrashingWorld:
    with_image(engine)
    made = CrashingWorld(tmp_path, 1, monkeypatch)
    (made.seat.identity / "token").write_text("token")
    (made.seat.identity / "ssh_host_ed25519_key.pub").write_text("ssh-ed25519 AAAA x\n")
    return made


def check_ends(world: CrashingWorld, on: int, identity: dict[str, bytes]) -> None:
    """The seat runs generation `on` with the same identity and ports, and a further recovery changes nothing."""
    assert (world.seat.current(), world.compose.running) == (on, on)
    assert world.journal().open_switch() is None
    assert world.identity() == identity
    assert ports(world) == world.order["seat"]["ports"]
    disk = world.disk()
    assert world.recover_all()["state"] == "unchanged"
    assert world.disk() == disk


@pytest.mark.parametrize("how", ["kill", "cut"])
@pytest.mark.parametrize("boundary", [*FORWARD, *COMMITTED])
def test_a_switch_killed_at_any_boundary_ends_on_old_or_new(
    world: CrashingWorld, monkeypatch: pytest.MonkeyPatch, boundary: str, how: str
) -> None:
    identity, world.at.stop = world.identity(), boundary
    assert world.job("switch", "r1") is None
    if how == "cut":
        world.cut_power(monkeypatch)
    record = world.recover_all()
    assert record["state"] in {"rolled_back", "committed", "unchanged"}
    check_ends(world, 2 if boundary in COMMITTED else 1, identity)
    again = world.job("switch", "r1")
    assert again is not None
    assert (again["state"], again["generation"]) == ("committed", 2)
    check_ends(world, 2, identity)
    disk = world.disk()
    assert world.job("switch", "r1") == again
    assert world.disk() == disk


@pytest.mark.parametrize("how", ["kill", "cut"])
@pytest.mark.parametrize("boundary", BACK)
def test_an_undo_killed_at_any_boundary_ends_on_old(
    world: CrashingWorld, monkeypatch: pytest.MonkeyPatch, boundary: str, how: str
) -> None:
    world.failing_checks = {2}
    identity, world.at.stop = world.identity(), boundary
    assert world.job("switch", "r1") is None
    if how == "cut":
        world.cut_power(monkeypatch)
    assert world.recover_all()["state"] in {"rolled_back", "unchanged"}
    check_ends(world, 1, identity)


@pytest.mark.parametrize(
    ("boundary", "state", "on"),
    [
        ("before journal switching", "failed", 1),
        *((name, "rolled_back", 1) for name in FORWARD[2:] if name != "after journal verifying"),
        ("after current 2", "committed", 2),
        ("before journal committed", "committed", 2),
    ],
)
def test_an_error_at_any_boundary_of_a_switch_ends_on_old_or_new(
    world: CrashingWorld, boundary: str, state: str, on: int
) -> None:
    identity, world.at.stop, world.at.error = world.identity(), boundary, True
    record = world.job("switch", "r1")
    assert record is not None
    assert record["state"] == state
    world.recover_all()  # writes the journal line that the full disk refused
    check_ends(world, on, identity)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", folder], check=False).returncode:
        pytest.skip("only root can mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> None:
    """Write to the file system until it refuses another byte."""
    with contextlib.suppress(OSError), (folder / "filler").open("ab", buffering=0) as file:
        while True:
            file.write(b"x" * 512)


@pytest.mark.parametrize("ends", [({2}, "rolled_back", 1), (set(), "committed", 2)], ids=["fails", "verifies"])
def test_a_disk_that_fills_up_during_a_switch_prevents_neither_the_way_back_nor_the_record(
    small_disk: Path,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    ends: tuple[set[int], str, int],
) -> None:
    failing, state, on = ends
    with_image(engine)
    world = CrashingWorld(small_disk, 1, monkeypatch)
    (world.seat.identity / "token").write_text("token")
    world.failing_checks = failing
    up = world.compose.up

    def up_on_a_full_disk(number: int) -> None:
        up(number)
        fill(small_disk)
        with pytest.raises(OSError, match="No space left"):
            (small_disk / "more").write_text("x")

    monkeypatch.setattr(world.compose, "up", up_on_a_full_disk)
    record = world.job("switch", "r1")
    assert record is not None
    assert (record["state"], record["generation"]) == (state, on)
    assert world.states[-1] == state
    (small_disk / "filler").unlink()
    check_ends(world, on, world.identity())


@pytest.mark.parametrize("boundary", [name for name in BACK if not name.startswith("after")])
def test_an_undo_is_retried_after_one_error(world: CrashingWorld, boundary: str) -> None:
    world.failing_checks = {2}
    identity, world.at.stop, world.at.error = world.identity(), boundary, True
    record = world.job("switch", "r1")
    assert record is not None
    assert record["state"] == "rolled_back"
    world.recover_all()
    check_ends(world, 1, identity)


@pytest.mark.parametrize("boundary", BACK[:-2])
def test_a_killed_recovery_is_completed_by_the_next_one(
    world: CrashingWorld, monkeypatch: pytest.MonkeyPatch, boundary: str
) -> None:
    identity, world.at.stop = world.identity(), "after journal verifying"
    assert world.job("switch", "r1") is None
    world.cut_power(monkeypatch)
    world.at.stop = boundary
    assert world.job("switch", "r2") is None
    assert world.recover_all()["state"] == "rolled_back"
    check_ends(world, 1, identity)


@pytest.mark.parametrize("how", ["kill", "cut"])
@pytest.mark.parametrize("boundary", [name.replace("2", "1") for name in (*FORWARD, *COMMITTED)])
def test_a_rollback_killed_at_any_boundary_ends_on_old_or_new(
    world: CrashingWorld, monkeypatch: pytest.MonkeyPatch, boundary: str, how: str
) -> None:
    record = world.job("switch", "r1")
    assert record is not None
    identity, world.at.stop = world.identity(), boundary
    assert world.job("rollback", "back") is None
    if how == "cut":
        world.cut_power(monkeypatch)
    world.recover_all()
    old = boundary.replace("1", "2") not in COMMITTED
    check_ends(world, 2 if old else 1, identity)
    again = world.job("rollback", "back")
    assert again is not None
    assert (again["state"], again["generation"]) == ("committed", 1)
    check_ends(world, 1, identity)


@pytest.mark.parametrize("how", ["kill", "cut"])
@pytest.mark.parametrize("boundary", ["up 2: started", "while it is verified", "before current 2"])
def test_a_killed_first_switch_leaves_no_container_running(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, boundary: str, how: str
) -> None:
    with_image(engine)
    world: Any = CrashingWorld(tmp_path, 0, monkeypatch)
    world.at.stop = boundary
    assert world.job("switch", "r1") is None
    if how == "cut":
        world.cut_power(monkeypatch)
    assert world.recover_all()["state"] == "rolled_back"
    assert (world.seat.current(), world.compose.running) == (0, 0)
    assert world.job("switch", "r1")["state"] == "committed"
