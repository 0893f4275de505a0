"""What starts the broker, now and at boot: systemd, a transient unit below systemd 246, cron, or nothing."""

import configparser
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.self_service_world import Site, daemons, installed, units

boot = module_util("transaction.boot")
UNIT = "provisioner-broker.service"
NAMES = {UNIT, f"multi-user.target.wants/{UNIT}"}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: FakeEngine) -> Site:
    return Site(tmp_path, monkeypatch, engine)


def unit_names(site: Site) -> set[str]:
    return {str(path.relative_to(site.units)) for path in site.units.rglob("*") if not path.is_dir()}


def argv(site: Site) -> list[str]:
    return [boot.python_path(), "-I", str(site.layout.main), site.state_root, site.socket]


def commands(site: Site) -> list[list[str]]:
    """The commands to systemd and to a shell."""
    return [call for call in site.calls if call[0] != "docker"]


def test_with_systemd_a_unit_runs_the_broker_and_there_is_no_reload(site: Site) -> None:
    assert site.publish()["checks"]["started_by"] == "systemd"
    assert commands(site) == [["systemctl", "start", UNIT]]
    assert unit_names(site) == NAMES
    text = configparser.ConfigParser(interpolation=None, strict=False)
    text.optionxform = str  # type: ignore[assignment, method-assign]
    text.read(site.units / UNIT)
    service = text["Service"]
    assert service["ExecStart"].split() == argv(site)
    assert (service["Type"], service["KillMode"], service["Restart"]) == ("simple", "process", "on-failure")
    assert not site.cron.exists()


def test_the_unit_gives_the_broker_no_view_of_its_own_of_the_file_systems(site: Site) -> None:
    """Homes that are mounted later would be missing for its jobs."""
    site.publish()
    options = {line.partition("=")[0] for line in (site.units / UNIT).read_text().splitlines()}
    assert options.isdisjoint({"PrivateTmp", "PrivateDevices", "ProtectSystem", "ProtectHome", "ReadWritePaths"})
    assert not [option for option in options if option.startswith("ProtectKernel")]


def test_systemd_accepts_the_unit(site: Site) -> None:
    if not Path("/usr/bin/systemd-analyze").exists():
        pytest.skip("systemd-analyze is not installed")
    site.publish()
    path = str(site.units / UNIT)
    ran = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_where_systemd_does_not_see_the_new_unit_a_transient_one_runs_until_the_next_boot(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.codes = {"systemctl": 5}
    assert site.publish()["checks"]["started_by"] == "systemd_run"
    started = commands(site)[-1]
    assert started[:3] == ["systemd-run", "--collect", "--unit=provisioner-broker-run.service"]
    assert {"--property=KillMode=process", "--property=Restart=on-failure"} <= set(started)
    assert started[-5:] == argv(site)
    assert unit_names(site) == NAMES
    assert installed.started_by(site.layout) == "systemd_run"
    monkeypatch.setattr(installed, "boot_id", lambda: "the next boot")
    assert installed.started_by(site.layout) == "systemd"


def test_a_broker_that_neither_of_them_starts_is_an_error(site: Site) -> None:
    site.codes = {"systemctl": 5, "systemd-run": 1}
    record = site.publish()
    assert (record["state"], record["problems"][0]["code"]) == ("failed", "broker_not_started")
    assert unit_names(site) == set()


@pytest.mark.parametrize("program", ["cron", "crond"])
def test_without_systemd_cron_starts_it_at_boot(site: Site, program: str) -> None:
    site.systemd.rmdir()
    site.programs = {program}
    record = site.publish()
    assert (record["checks"]["started_by"], record["problems"]) == ("cron", [])
    (line,) = [line for line in site.cron.read_text().splitlines() if not line.startswith("#")]
    assert line.startswith("@reboot root ")
    assert "%" not in line  # cron reads it as a newline
    assert site.cron.stat().st_mode & 0o777 == 0o644
    assert unit_names(site) == set()
    assert commands(site)[-1][-5:] == argv(site)


def test_without_both_nothing_starts_it_at_boot_which_is_said_each_time(site: Site) -> None:
    site.systemd.rmdir()
    site.programs = set()
    for state in ("committed", "unchanged"):
        record = site.publish()
        assert record["state"] == state
        assert [problem["code"] for problem in record["problems"]] == ["broker_not_at_boot"]
        assert record["checks"]["started_by"] == "none"
    assert not site.cron.exists()


def test_the_command_of_cron_runs_the_program_and_does_nothing_without_it(site: Site) -> None:
    site.systemd.rmdir()
    site.publish()
    shell = site.cron.read_text().splitlines()[1].partition(" root ")[2]
    site.layout.main.write_text(
        "import pathlib, sys; pathlib.Path(__file__).with_name('ran').write_text(str(sys.argv))"
    )
    subprocess.run(["sh", "-c", shell], check=True)
    assert f"{site.state_root}', '{site.socket}" in site.layout.main.with_name("ran").read_text()
    site.layout.main.unlink()
    subprocess.run(["sh", "-c", shell], check=True)


def test_unit_and_cron_file_of_another_state_root_stay(site: Site) -> None:
    site.publish()
    site.cron.write_text("of another one\n")
    units.remove(module_util("self_service.layout").Layout(f"{site.state_root}2"))
    assert unit_names(site) == NAMES
    units.remove(site.layout)
    assert unit_names(site) == set()
    assert site.cron.exists()


# --- stopping


def test_a_broker_that_does_not_end_is_killed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.systemd.rmdir()
    site.publish()
    numbers: list[int] = []

    def kill(_pid: int, number: int) -> None:
        numbers.append(int(number))
        site.pid = None if number == 9 else site.pid

    monkeypatch.setattr(daemons.os, "kill", kill)
    monkeypatch.setattr(daemons, "STOP_SECONDS", 0)
    daemons.stop(site.layout)
    assert numbers == [15, 9]


def test_a_broker_that_cannot_be_killed_is_not_joined_by_a_second_one(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.systemd.rmdir()
    site.publish()
    monkeypatch.setattr(daemons.os, "kill", lambda *_: None)
    for name in ("STOP_SECONDS", "KILL_SECONDS"):
        monkeypatch.setattr(daemons, name, 0)
    with pytest.raises(ProblemError, match="does not end"):
        daemons.start(site.layout, site.socket, "x")
    assert site.starts() == 1


@pytest.mark.parametrize("text", ["", "x", "-1", "999999999", "1"])
def test_a_pid_of_no_broker_counts_as_none(tmp_path: Path, text: str) -> None:
    layout = module_util("self_service.layout").Layout(str(tmp_path))
    layout.folder.mkdir()
    (layout.folder / "broker.lock").write_text(text)
    assert installed.broker_pid(layout) is None


def test_how_it_was_started_is_unknown_without_the_record(site: Site) -> None:
    assert installed.started_by(site.layout) == "none"
    site.publish()
    record: dict[str, Any] = json.loads((site.layout.folder / "started.json").read_text())
    assert record.keys() == {"by", "socket", "program", "boot_id"}
