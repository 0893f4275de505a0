"""The broker as it runs on a node: `python3 -I`, without Ansible and without this project, killed and started again."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.broker_world import DOCUMENT, ID, a_config, version_of
from tests.playbooks.node_code import module_util

programs, boot = module_util("broker.program"), module_util("transaction.boot")
NOBODY = 65534
WAIT_S = 40


class Daemon:
    """The installed program, and a folder that other accounts may enter with its socket."""

    def __init__(self, root: Path, entered: Path) -> None:
        self.program, self.state_root, self.path = root / "program", root / "state", entered / "run/broker.sock"
        programs.write_program(self.program, boot.own_code())
        self.process: subprocess.Popen[str] | None = None

    def configure(self, unix_group: str) -> None:
        document = self.state_root / "self_service/environments/default" / version_of(DOCUMENT) / "document.json"
        document.parent.mkdir(parents=True, exist_ok=True)
        document.write_text(json.dumps(DOCUMENT))
        config = a_config(unix_group=unix_group, pool=[])
        (self.state_root / "self_service/config.json").write_text(json.dumps(config))

    def start(self, umask: int = 0o022) -> "subprocess.Popen[str]":
        argv = ["/usr/bin/env", "-i", "DOCKER_HOST=unix:///nonexistent.sock", "PATH=/usr/bin:/bin", sys.executable]
        words = [str(self.program / "broker.py"), str(self.state_root), str(self.path)]
        self.process = subprocess.Popen([*argv, "-I", *words], stderr=subprocess.PIPE, text=True, cwd="/", umask=umask)
        until(self._answers)
        return self.process

    def _answers(self) -> bool:
        assert self.process
        assert self.process.poll() is None, self.process.communicate()[1]
        try:
            return bool(self.ask("environments", 0)["ok"])
        except OSError:
            return False

    def ask(self, verb: str, uid: int = NOBODY, **values: Any) -> Any:
        """Ask as an account of this machine."""
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                if uid:
                    os.setgroups([])
                    os.setgid(NOBODY)
                    os.setuid(uid)
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
                    link.connect(str(self.path))
                    link.sendall(json.dumps({"v": 1, "id": ID, "verb": verb, **values}).encode() + b"\n")
                    os.write(writer, link.makefile("rb").readline())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as answer:
            data = answer.read()
        os.waitpid(pid, 0)
        if not data:
            raise ConnectionError
        return json.loads(data)

    def end(self, number: int) -> int:
        assert self.process
        self.process.send_signal(number)
        self.process.communicate(timeout=WAIT_S)
        return self.process.returncode


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def daemon(tmp_path: Path, open_folder: Path) -> Iterator[Daemon]:
    if os.geteuid():
        pytest.skip("only root can become another account")
    made = Daemon(tmp_path, open_folder)
    made.configure("nogroup")
    yield made
    if made.process and made.process.poll() is None:
        made.end(signal.SIGKILL)


def test_the_program_answers_an_account_of_the_node_and_survives_a_kill(daemon: Daemon) -> None:
    daemon.start()
    assert daemon.ask("status")["state"] == "absent"
    answer = daemon.ask("up", gpus=0)
    assert (answer["state"], answer["seat"]["name"]) == ("starting", "ml_nobody")
    assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
    daemon.start()
    until(lambda: daemon.ask("status")["state"] == "absent")
    lines = [json.loads(line) for line in (daemon.state_root / "self_service/audit.jsonl").read_text().splitlines()]
    ended = [line for line in lines if "job" in line]
    assert [(line["uid"], line["job"], line["outcome"], line["problems"]) for line in ended] == [
        (NOBODY, "up", "failed", ["no_engine"])
    ]
    assert json.loads((daemon.state_root / "self_service/leases.json").read_text())["leases"] == {}
    assert not list((daemon.state_root / "self_service/orders").iterdir())


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_rights_of_files_do_not_depend_on_who_starts_the_program(daemon: Daemon, umask: int) -> None:
    daemon.start(umask)
    assert daemon.ask("up", gpus=0)["ok"]
    until(lambda: daemon.ask("status")["state"] == "absent")
    found = [path.lstat().st_mode for path in (daemon.path.parent, *daemon.state_root.rglob("*"))]
    assert not [mode for mode in found if mode & 0o022]


def test_the_program_is_of_root_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        programs.write_program(tmp_path / "program", boot.own_code())
    finally:
        os.umask(before)
    assert (tmp_path / "program").stat().st_mode & 0o077 == 0


def test_verbs_of_root_are_refused_to_another_account(daemon: Daemon) -> None:
    daemon.start()
    assert daemon.ask("seats", 0) == {"v": 1, "id": ID, "ok": True, "state": "ok", "seats": [], "waiting": []}
    assert daemon.ask("usage", 0)["rows"] == []
    for verb in ("seats", "usage"):
        assert daemon.ask(verb)["problem"]["code"] == "not_allowed"
    for verb in ("release", "stop", "upgrade_seat"):
        assert daemon.ask(verb, seat="ml_anna", reason="x")["problem"]["code"] == "not_allowed"
        assert daemon.ask(verb, 0, seat="ml_anna", reason="x")["problem"]["code"] == "no_seat"
    lines = [json.loads(line) for line in (daemon.state_root / "self_service/audit.jsonl").read_text().splitlines()]
    kept = [(line["uid"], line["outcome"], line["asked"]) for line in lines if line["verb"] == "stop"]
    asked = {"seat": "ml_anna", "reason": "x"}
    assert kept == [(NOBODY, "not_allowed", asked), (0, "no_seat", asked)]


def test_the_program_ends_at_once_at_sigterm(daemon: Daemon) -> None:
    daemon.start()
    begun = time.monotonic()
    assert daemon.end(signal.SIGTERM) == 0
    assert time.monotonic() - begun < 10


def test_a_second_broker_of_the_same_node_is_refused(daemon: Daemon) -> None:
    first = daemon.start()
    argv = [sys.executable, "-I", str(daemon.program / "broker.py"), str(daemon.state_root), f"{daemon.path}2"]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=WAIT_S)
    assert ran.returncode == 1
    assert "temporarily unavailable" in ran.stderr
    assert first.poll() is None
    assert daemon.ask("status")["ok"]


def test_an_account_outside_of_the_group_reaches_no_socket(daemon: Daemon) -> None:
    daemon.configure("root")
    daemon.start()
    with pytest.raises(ConnectionError):
        daemon.ask("status")
    assert daemon.ask("status", 0)["ok"]


def test_the_program_takes_two_words(daemon: Daemon) -> None:
    argv = [sys.executable, "-I", str(daemon.program / "broker.py")]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=WAIT_S)
    assert (ran.returncode, ran.stderr) == (2, "usage: broker.py STATE_ROOT SOCKET\n")


def test_a_broker_that_nobody_asks_takes_little_memory(daemon: Daemon) -> None:
    pages = int(Path(f"/proc/{daemon.start().pid}/statm").read_text().split()[1])
    assert pages * os.sysconf("SC_PAGE_SIZE") < 30 << 20
