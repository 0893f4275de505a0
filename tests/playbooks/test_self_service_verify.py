"""The broker as it is published on this machine: real processes, a real socket and its rights. Docker is a fake."""

import contextlib
import grp
import importlib.util
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provisioner.adapters import resources
from tests.playbooks.broker_world import a_config, an_environment
from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import REFERENCE, NoJob
from tests.playbooks.self_service_world import PASSWD, a_document

publishes, removals, daemons, verifications, units, images, layouts, installed = (
    module_util(f"self_service.{name}")
    for name in ("publish", "removal", "daemon", "verify", "units", "image_check", "layout", "installed")
)
clients = module_util("self_service.client")
boot, trials, precheck, command, jobfiles = (
    module_util(name) for name in ("transaction.boot", "docker.trial", "seat.precheck", "base.command", "jobs.jobfile")
)
GROUPS = [grp.getgrgid(gid).gr_name for gid in (65534, 1)]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")


class Machine:
    """This machine without systemd and cron, with a state root and a socket of its own."""

    def __init__(self, root: Path, entered: Path) -> None:
        self.layout = layouts.Layout(str(root / "state"))
        self.path = entered / "run/broker.sock"
        self.code = boot.own_code()

    def order(self, **over: Any) -> dict[str, Any]:
        document = a_document("1")
        environments = {"default": an_environment(document)}
        config = a_config(unix_group=GROUPS[0], pool=[], environments=environments)
        head = {"run": "r1", "state_root": self.layout.state_root, "claim": None, "socket": str(self.path)}
        documents = {"default": document}
        return {**head, "act": "publish", "version": "0.2.0", "config": {**config, **over}, "documents": documents}

    def publish(self, **over: Any) -> dict[str, Any]:
        record: dict[str, Any] = publishes.publish(self.order(**over), NoJob(), self.code)
        return record

    @property
    def pid(self) -> int | None:
        found: int | None = installed.broker_pid(self.layout)
        return found

    @property
    def rights(self) -> tuple[int, str]:
        found = self.path.stat()
        return found.st_mode & 0o777, grp.getgrgid(found.st_gid).gr_name


@pytest.fixture
def machine(
    tmp_path: Path, open_folder: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machine]:
    engine.images[REFERENCE] = {"RootFS": {"Layers": []}}
    for name in ("RUNNING", "CRON"):
        monkeypatch.setattr(units, name, tmp_path / "none" / name)
    for module in (images, trials):
        monkeypatch.setattr(module, "run", lambda *_, **__: command.CommandResult(0, PASSWD + trials.MARK, ""))
    monkeypatch.setattr(precheck, "compose_version", lambda: "2.26.1")
    monkeypatch.setattr(clients, "CLIENT", tmp_path / "bin/provision")
    monkeypatch.setattr(clients, "python_path", lambda: boot.PYTHON)
    made = Machine(tmp_path, open_folder)
    yield made
    daemons.stop(made.layout)


def test_a_published_broker_answers_and_follows_another_group_without_a_restart(machine: Machine) -> None:
    record = machine.publish()
    assert (record["state"], record["checks"]["started_by"]) == ("committed", "none")
    assert [problem["code"] for problem in record["problems"]] == ["broker_not_at_boot"]
    assert machine.rights == (0o660, GROUPS[0])
    pid = machine.pid
    assert machine.publish()["state"] == "unchanged"
    assert machine.publish(unix_group=GROUPS[1])["state"] == "committed"
    assert (machine.rights, machine.pid) == ((0o660, GROUPS[1]), pid)
    assert pid


def test_a_new_program_replaces_the_running_one(machine: Machine) -> None:
    machine.publish()
    pid = machine.pid
    machine.code = {**machine.code, "provisioner/broker/new.py": "x = 1\n"}
    assert machine.publish()["state"] == "committed"
    assert machine.pid not in {None, pid}


def test_a_program_that_does_not_start_is_replaced_by_the_one_before(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.publish()
    monkeypatch.setattr(verifications, "SECONDS", 3)
    machine.code = {**machine.code, "provisioner/broker/server.py": "raise SystemExit('broken')\n"}
    record = machine.publish()
    assert (record["state"], [problem["code"] for problem in record["problems"]]) == ("rolled_back", ["broker_silent"])
    assert machine.pid
    assert "broken" in machine.layout.log.read_text()
    assert "broken" not in (machine.layout.program / "ansible/module_utils/provisioner/broker/server.py").read_text()


def test_rights_that_somebody_has_changed_are_set_again(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.publish()
    machine.path.chmod(0o666)
    monkeypatch.setattr(verifications, "SECONDS", 3)
    assert machine.publish()["state"] == "committed"
    assert machine.rights == (0o660, GROUPS[0])


def test_a_broker_whose_socket_was_removed_is_started_again(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.publish()
    machine.path.unlink()
    monkeypatch.setattr(verifications, "SECONDS", 3)
    assert machine.publish()["state"] == "committed"
    assert machine.rights == (0o660, GROUPS[0])


def test_a_removal_stops_the_broker(machine: Machine) -> None:
    machine.publish()
    removed = removals.remove({**machine.order(), "act": "remove"}, NoJob())
    assert removed["state"] == "committed"
    assert (machine.pid, machine.path.exists()) == (None, False)


def test_the_module_starts_a_job_that_publishes(machine: Machine) -> None:
    path = resources.playbooks() / "library/provisioner_self_service.py"
    spec = importlib.util.spec_from_file_location("provisioner_self_service", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for act in ("publish", "remove"):
        job = jobfiles.follow(module.begin(machine.code, {**machine.order(), "act": act}), 60)
        assert (job["finished"], job["kind"], job["record"]["state"]) == (True, act, "committed")
    assert machine.pid is None


# --- what is looked at


@contextlib.contextmanager
def a_socket(path: Path, mode: int, gid: int) -> Iterator[None]:
    """A socket that accepts connections and answers nothing."""
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        os.chown(path, 0, gid)
        path.chmod(mode)
        listener.listen(8)
        yield


@pytest.mark.parametrize(
    ("rights", "folder", "what"),
    [
        ((0o660, 65534), 0o755, ""),
        ((0o660, 1), 0o755, "group 1 "),
        ((0o600, 65534), 0o755, "mode 600"),
        ((0o666, 65534), 0o755, "mode 666"),
        ((0o660, 65534), 0o700, "cannot connect: refused"),
    ],
)
def test_a_socket_with_other_rights_is_not_verified(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch, rights: tuple[int, int], folder: int, what: str
) -> None:
    path = open_folder / "run/broker.sock"
    monkeypatch.setattr(verifications, "ask", lambda *_: {"environments": []})
    monkeypatch.setattr(verifications, "SECONDS", 0)
    with a_socket(path, *rights):
        path.parent.chmod(folder)
        if not what:
            assert "refuses other accounts" in verifications.verify(str(path), 65534, {})
            return
        with pytest.raises(ProblemError, match=what) as caught:
            verifications.verify(str(path), 65534, {})
    assert vars(caught.value)["problem"]["code"] == "broker_socket_rights"


def test_a_broker_that_everybody_reaches_is_not_verified(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the rights of the file look right, as behind an access list."""
    path = open_folder / "run/broker.sock"
    monkeypatch.setattr(verifications, "_check_rights", lambda *_: None)
    monkeypatch.setattr(verifications, "ask", lambda *_: {"environments": []})
    monkeypatch.setattr(verifications, "SECONDS", 0)
    with a_socket(path, 0o666, 65534), pytest.raises(ProblemError, match="outside of the unix group can connect"):
        verifications.verify(str(path), 65534, {})


def test_a_broker_with_other_versions_is_not_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [{"name": "default", "version": "0123456789ab"}]
    monkeypatch.setattr(verifications, "ask", lambda *_: {"environments": found})
    monkeypatch.setattr(verifications, "SECONDS", 0)
    with pytest.raises(ProblemError, match="offers default 0123456789ab; published are default ba9876543210"):
        verifications.verify("x", 0, {"default": "ba9876543210"})


@pytest.mark.parametrize("answer", [b"", b"{", b"[]\n", b'{"ok": false}\n'])
def test_a_broker_that_answers_nonsense_is_silent(open_folder: Path, answer: bytes) -> None:
    path = open_folder / "broker.sock"
    pid = _answer_once(path, answer)
    with pytest.raises(ProblemError) as caught:
        verifications.ask(str(path), "environments")
    os.waitpid(pid, 0)
    assert vars(caught.value)["problem"]["code"] == "broker_silent"


def _answer_once(path: Path, answer: bytes) -> int:
    """Answer one connection in a process of its own; return its pid."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(1)
    pid = os.fork()
    if not pid:
        with contextlib.suppress(OSError):
            link, _ = listener.accept()
            link.makefile("rb").readline()
            link.sendall(answer)
        os._exit(0)
    listener.close()
    return pid


def test_the_refusal_of_a_broker_is_passed_on(open_folder: Path) -> None:
    path = open_folder / "broker.sock"
    problem = {"code": "self_service_config", "what": "w", "why": "y", "fix": "f"}
    pid = _answer_once(path, json.dumps({"ok": False, "problem": problem}).encode() + b"\n")
    with pytest.raises(ProblemError) as caught:
        verifications.ask(str(path), "environments")
    os.waitpid(pid, 0)
    assert vars(caught.value)["problem"] == problem
