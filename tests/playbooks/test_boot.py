"""Recovery at boot. A temporary folder stands for systemd: the code writes one unit and one link there."""

import configparser
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.node_code import module_util
from tests.playbooks.orders import NoJob, an_order, with_seat

boot, removals, seats, journals = (
    module_util(name) for name in ("transaction.boot", "transaction.remove", "seat.seat", "seat.journal")
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state root of the system, on a node that runs systemd."""
    for name in ("RUNNING", "UNITS"):
        monkeypatch.setattr(boot, name, tmp_path / name)
        (tmp_path / name).mkdir()
    monkeypatch.setattr(boot, "SYSTEM", f"{tmp_path}/")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path / "state"


def unit(root: Path) -> Path:
    return root.parent / "UNITS/provisioner-recover.service"


def link(root: Path) -> Path:
    return root.parent / "UNITS/multi-user.target.wants/provisioner-recover.service"


def test_the_unit_runs_the_recovery_program_once_after_the_engine(root: Path) -> None:
    boot.install(str(root), boot.own_code())
    text = configparser.ConfigParser(interpolation=None)
    text.optionxform = str  # type: ignore[assignment, method-assign]
    text.read(unit(root))
    assert text["Service"]["ExecStart"].split() == [boot.python_path(), "-I", str(root / "node/program/recover.py")]
    assert text["Service"]["Type"] == "oneshot"
    assert {"docker.service", "remote-fs.target", "nvidia-persistenced.service", "nvidia-cdi-refresh.service"} == set(
        text["Unit"]["After"].split()
    )
    assert int(text["Service"]["TimeoutStartSec"]) > 0
    assert link(root).resolve() == unit(root)
    assert (boot.UNITS / "docker.service.wants" / unit(root).name).resolve() == unit(root)


@pytest.mark.lab
@pytest.mark.usefixtures("testbed")
def test_systemd_analyze_accepts_the_unit(root: Path) -> None:
    boot.install(str(root), boot.own_code())
    ran = subprocess.run(["systemd-analyze", "verify", unit(root)], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_the_installed_copy_runs_without_ansible_and_the_project(
    root: Path, engine: FakeEngine, tmp_path: Path
) -> None:
    boot.install(str(root), boot.own_code())
    seat = seats.seat_of(an_order(tmp_path))
    seat.make_folders()
    journals.Journal(seat.folder, "r1").append("switching", to=1, back=0)
    seat.write(1, an_order(tmp_path), {})
    seat.commit(1)  # a power cut before the journal recorded the commit
    argv = ["/usr/bin/env", "-i", f"DOCKER_HOST={os.environ['DOCKER_HOST']}", sys.executable, "-I"]
    ran = subprocess.run(
        [*argv, root / "node/program/recover.py"], capture_output=True, text=True, check=False, cwd="/"
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert '"demo-student": "committed; generation 1"' in ran.stdout
    assert engine.requests


def stamps(root: Path) -> dict[str, int]:
    folders = [root / "node/program", root.parent / "UNITS"]
    return {str(p): p.lstat().st_mtime_ns for folder in folders for p in [folder, *folder.rglob("*")]}


def test_a_second_installation_writes_only_what_has_changed(root: Path) -> None:
    code = boot.own_code()
    boot.install(str(root), code)
    before = stamps(root)
    boot.install(str(root), code)
    assert stamps(root) == before
    boot.install(str(root), code | {"provisioner/base/host.py": "changed = True\n"})
    assert (root / "node/program/ansible/module_utils/provisioner/base/host.py").read_text() == "changed = True\n"
    unit(root).write_text("edited")
    link(root).unlink()
    boot.install(str(root), code)
    assert "ExecStart" in unit(root).read_text()
    assert link(root).is_symlink()


def test_program_and_unit_of_the_flat_layout_are_replaced(root: Path) -> None:
    flat = root / "node/program/ansible/module_utils/provisioner_host.py"
    flat.parent.mkdir(parents=True)
    flat.write_text("old = True\n")
    (root / "node/program/recover.py").write_text("from ansible.module_utils.provisioner_recovering import at_boot\n")
    unit(root).write_text("of the previous version")
    boot.install(str(root), boot.own_code())
    assert not flat.exists()
    assert "provisioner_recovering" not in (root / "node/program/recover.py").read_text()
    assert str(root / "node/program/recover.py") in unit(root).read_text()


@pytest.mark.parametrize(
    "what", ["no systemd", "not root", "a user's own state root", "a name with systemd specifiers"]
)
def test_nothing_is_installed_where_boot_recovery_does_not_apply(
    root: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    state_root = str(root)
    if what == "no systemd":
        boot.RUNNING.rmdir()
    elif what == "not root":
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
    elif what == "a user's own state root":
        state_root = "/home/li/.local/share/provisioner"
    else:
        state_root = f"{root}/%h; rm"
    boot.install(state_root, boot.own_code())
    assert list(boot.UNITS.iterdir()) == []
    assert not Path(state_root).exists()


@pytest.mark.usefixtures("ran", "engine")
def test_removing_the_last_seat_removes_program_and_unit(root: Path, tmp_path: Path) -> None:
    orders: list[dict[str, Any]] = [with_seat(an_order(tmp_path), name=name) for name in ("demo-a", "demo-b")]
    for order in orders:
        seat = seats.seat_of(order)
        seat.make_folders()
        seat.write(1, order, {})
    boot.install(str(root), boot.own_code())
    removals.remove(orders[0], NoJob(), 0)
    assert unit(root).exists()
    removals.remove(orders[1], NoJob(), 0)
    assert not unit(root).exists()
    assert not list(boot.UNITS.glob("*/*"))
    assert not (root / "node/program").exists()


def test_uninstall_keeps_the_unit_of_another_state_root(root: Path) -> None:
    unit(root).write_text("ExecStart=/usr/bin/python3 -I /var/lib/elsewhere/node/program/recover.py\n")
    boot.uninstall(str(root))
    assert unit(root).exists()
