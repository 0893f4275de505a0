"""When a node measures its seats. Temporary folders stand for systemd and cron."""

import configparser
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import NoJob, an_order, with_seat
from tests.playbooks.people_seats import a_persons_seat

boot, schedules, removals, command = (
    module_util(name) for name in ("transaction.boot", "disk.schedule", "transaction.remove", "base.command")
)
TIMER, SERVICE = "provisioner-disk.timer", "provisioner-disk.service"


class Node:
    """A node of which systemd runs or not, starts new units or not, and has cron or not."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root / "state"
        self.units, self.running, self.cron = root / "units", root / "systemd", root / "cron.d/provisioner-disk"
        self.starts = True
        self.calls: list[list[str]] = []
        self.started: list[list[str]] = []
        self.programs: set[str] = set()
        for folder in (self.units, self.running, self.cron.parent):
            folder.mkdir()
        for name, value in (("RUNNING", self.running), ("UNITS", self.units), ("SYSTEM", f"{root}/")):
            monkeypatch.setattr(boot, name, value)
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(schedules, "CRON", self.cron)
        monkeypatch.setattr(schedules, "run", self._run)
        which = SimpleNamespace(which=lambda name: name if name in self.programs else None)
        monkeypatch.setattr(schedules, "shutil", which)
        start = SimpleNamespace(Popen=lambda argv, **_: self.started.append(argv), DEVNULL=subprocess.DEVNULL)
        monkeypatch.setattr(schedules, "subprocess", start)

    def _run(self, argv: list[str], _: float) -> Any:
        self.calls.append(argv)
        if not self.running.is_dir():
            raise ProblemError("tool_missing", "no systemctl", "why", "fix")
        return command.CommandResult(0 if self.starts else 5, "", "Unit provisioner-disk.timer not found.")

    def install(self) -> None:
        boot.install(str(self.root), boot.own_code(), measures=True)

    def unit_names(self) -> set[str]:
        names = {str(path.relative_to(self.units)) for path in self.units.rglob("*") if not path.is_dir()}
        return {name for name in names if "disk" in name}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch)


UNITS = {SERVICE, TIMER, f"timers.target.wants/{TIMER}"}


def test_with_systemd_a_timer_starts_without_a_reload(node: Node) -> None:
    node.programs = {"cron"}
    node.install()
    assert node.unit_names() == UNITS
    assert (node.units / "timers.target.wants" / TIMER).resolve() == node.units / TIMER
    assert node.calls == [["systemctl", "start", TIMER]]
    assert not node.cron.exists()
    assert node.started == []
    service, timer = configparser.ConfigParser(interpolation=None), configparser.ConfigParser(interpolation=None)
    service.read(node.units / SERVICE)
    timer.read(node.units / TIMER)
    assert service["Service"]["ExecStart"].split() == [
        boot.python_path(),
        "-I",
        str(node.root / "node/program/measure.py"),
    ]
    assert timer["Timer"]["OnCalendar"] == "*-*-* 03:00:00"


def test_the_units_are_accepted_by_systemd(node: Node) -> None:
    if not Path("/usr/bin/systemd-analyze").exists():
        pytest.skip("systemd-analyze is not installed")
    node.install()
    paths = [str(node.units / name) for name in (SERVICE, TIMER)]
    ran = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_where_systemd_does_not_start_the_new_timer_cron_measures_and_no_unit_stays(node: Node) -> None:
    node.programs, node.starts = {"cron"}, False
    node.install()
    assert node.unit_names() == set()
    assert str(node.root / "node/program/measure.py") in node.cron.read_text()
    assert node.started == []
    node.starts = True  # a later release of systemd
    node.install()
    assert node.unit_names() == UNITS
    assert not node.cron.exists()


@pytest.mark.parametrize("program", ["cron", "crond"])
def test_without_systemd_cron_measures_each_night(node: Node, program: str) -> None:
    node.running.rmdir()
    node.programs = {program}
    node.install()
    (line,) = [line for line in node.cron.read_text().splitlines() if not line.startswith("#")]
    minute, hour, *days, user, _ = line.split(None, 6)
    assert (0 <= int(minute) < 60, hour, days, user) == (True, "3", ["*", "*", "*"], "root")
    assert "%" not in line  # cron reads it as a newline
    assert node.cron.read_text().endswith("\n")
    assert node.cron.stat().st_mode & 0o777 == 0o644
    assert node.calls == []


def test_the_command_of_cron_runs_the_program_and_does_nothing_without_it(node: Node) -> None:
    node.running.rmdir()
    node.programs = {"cron"}
    node.install()
    shell = node.cron.read_text().splitlines()[1].split(None, 6)[6]
    main = node.root / "node/program/measure.py"
    main.write_text("import pathlib; pathlib.Path(__file__).with_name('ran').touch()")
    subprocess.run(["sh", "-c", shell], check=True)
    assert main.with_name("ran").exists()
    main.unlink()
    subprocess.run(["sh", "-c", shell], check=True)


@pytest.mark.parametrize("has_systemd", [False, True])
def test_without_timer_and_cron_a_rollout_measures_unless_one_has_of_late(node: Node, has_systemd: bool) -> None:
    node.starts = False
    if not has_systemd:
        node.running.rmdir()
    node.install()
    assert node.started == []  # no seat is set up
    assert node.unit_names() == (UNITS if has_systemd else set())  # the next boot starts the timer
    record = a_persons_seat(node.root.parent).folder / "disk.json"
    node.install()
    started = [boot.python_path(), "-I", str(node.root / "node/program/measure.py")]
    assert node.started == [started]
    record.write_text("{}")
    node.install()
    assert node.started == [started]
    os.utime(record, (0, 0))
    node.install()
    assert node.started == [started] * 2


def test_a_lab_without_a_roster_gets_no_measurement(node: Node) -> None:
    node.programs = {"cron"}
    boot.install(str(node.root), boot.own_code())
    assert (node.unit_names(), node.cron.exists(), node.calls, node.started) == (set(), False, [], [])


@pytest.mark.usefixtures("ran", "engine")
@pytest.mark.parametrize("has_systemd", [False, True])
def test_removing_the_last_seat_removes_the_measurement(node: Node, has_systemd: bool) -> None:
    if not has_systemd:
        node.running.rmdir()
    node.programs = {"cron"}
    a_persons_seat(node.root.parent)
    node.install()
    node.calls.clear()
    removals.remove(with_seat(an_order(node.root.parent), name="ml_anna"), NoJob(), 0)
    assert (node.unit_names(), node.cron.exists()) == (set(), False)
    assert node.calls == ([["systemctl", "stop", TIMER]] if has_systemd else [])
    assert not (node.root / "node/program").exists()


def test_the_measurement_of_another_state_root_stays(node: Node) -> None:
    node.install()
    node.cron.write_text("of another one\n")
    boot.uninstall(f"{node.root}/other")
    assert node.unit_names() == UNITS
    assert node.cron.exists()


def test_the_installed_copy_measures_without_ansible_and_the_project(
    node: Node, engine: FakeEngine, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.install()
    monkeypatch.undo()
    home, uid = open_folder / "home", os.getuid() or 70001
    seat = a_persons_seat(node.root.parent, uid=uid, gid=os.getgid() or uid, home=str(home))
    home.mkdir()
    os.chown(home, uid, os.getgid() or uid)
    (home / "data").write_bytes(os.urandom(1 << 20))
    argv = ["/usr/bin/env", "-i", f"DOCKER_HOST=unix://{node.root.parent}/engine.sock", sys.executable, "-I"]
    main = node.root / "node/program/measure.py"
    ran = subprocess.run([*argv, main], capture_output=True, text=True, check=False, cwd="/")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert seat.disk_use()["home_bytes"] >= 1 << 20
    assert seat.disk_use()["complete"]
    assert engine.requests
