"""The installed client as a process, on the socket of a real broker, and of one that answers anything."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import spawn
from tests.domain.rollout.test_own_seat import HOST_KEY, a_login, an_own_seat
from tests.playbooks.broker_world import GPUS, PEOPLE, Node, orders
from tests.playbooks.node_code import module_util
from tests.playbooks.test_broker_program import NOBODY, Daemon, until
from tests.playbooks.test_broker_server import SEEN, Broker

installs, me, boot = module_util("client.install"), module_util("client.me"), module_util("transaction.boot")
servers, callers = module_util("broker.server"), module_util("broker.callers")
ANNA = PEOPLE["anna"]


class Program:
    """The client in a folder that other accounts may enter, and the home of who calls it."""

    def __init__(self, folder: Path, path: Path) -> None:
        self.path, self.home = folder / "bin/provision", folder / "home"
        # Other accounts cannot run the Python of the tests, which may be in the home of root.
        installs.install_client(self.path, installs.client_text(boot.own_code(), str(path), boot.PYTHON))
        self.home.mkdir(mode=0o777)
        self.home.chmod(0o777)

    def start(self, *words: str, uid: int | None = None) -> "subprocess.Popen[str]":
        argv = ["env", "--default-signal=INT", str(self.path), *words]
        environment = {"HOME": str(self.home), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            text=True,
            cwd="/",
            env=environment,
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
        )

    def run(self, *words: str, uid: int | None = None) -> tuple[int, str, str]:
        with self.start(*words, uid=uid) as process:
            stdout, stderr = process.communicate(timeout=60)
            return process.returncode, stdout, stderr


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Any) -> Iterator[Broker]:  # noqa: ARG001  (it is there)
    """A broker whose jobs are carried out at once; every connection is Anna's."""
    account = {"name": "anna", "uid": ANNA, "gid": 100, "home": "/x", "groups": ["lab-students"]}
    monkeypatch.setattr(orders, "routes", list)
    monkeypatch.setattr(servers, "observe", lambda *_: SEEN)
    monkeypatch.setattr(callers, "account_by_uid", lambda _: account)
    monkeypatch.setattr(servers, "peer_of", lambda _: (4242, ANNA))
    made = Broker(Node(tmp_path), tmp_path)
    yield made
    made.close()


@pytest.fixture
def program(broker: Broker, tmp_path: Path) -> Program:
    return Program(tmp_path, Path(broker.path))


def results(broker: Broker, *processes: "subprocess.Popen[str]") -> list[tuple[int, str, str]]:
    """Let the broker serve until these processes have ended."""
    broker.until(lambda: all(process.poll() is not None for process in processes), 60)
    outputs = [process.communicate() for process in processes]
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


def test_one_command_gives_a_seat_and_the_same_one_again(broker: Broker, program: Program) -> None:
    ((code, screen, stderr),) = results(broker, program.start("me", "--gpus", "1"))
    assert code == 0, stderr
    assert screen.startswith("Your seat ml_anna on ")
    assert GPUS[0] in screen
    public = " ".join((program.home / ".ssh/id_ed25519.pub").read_text().split()[:2])
    assert broker.node.order()["seat"]["authorized_keys"] == [public]
    assert stderr == f"{me.say('made_key', path=program.home / '.ssh/id_ed25519')}\n"
    ((code, again, stderr),) = results(broker, program.start("me"))
    assert (code, stderr) == (0, "")
    assert re.sub(r"until .*", "", again) == re.sub(r"until .*", "", screen)


def test_two_at_once_give_one_seat_and_one_answer(broker: Broker, program: Program) -> None:
    found = results(broker, *(program.start("me", "--gpus", "1", "--json") for _ in range(2)))
    assert [code for code, _, _ in found] == [0, 0], found
    seats = [json.loads(stdout)["seat"] for _, stdout, _ in found]
    assert {**seats[0], "left_s": 0} == {**seats[1], "left_s": 0}
    assert broker.node.kinds().count("up") == 1
    assert len(broker.node.keeper.state.leases) == 1


def test_the_document_of_each_act_has_one_schema(broker: Broker, program: Program) -> None:
    for words in (["up"], ["status"], ["renew"], ["environments"], ["down"]):
        ((code, stdout, _),) = results(broker, program.start("me", *words, "--json"))
        document = json.loads(stdout)
        assert (code, document["schema"], document["act"]) == (0, "provisioner/me/1", words[0])
        assert document["node"] == socket.gethostname()
        assert document["problems"] == []
        assert not {"ok", "v", "id"} & document.keys()


def test_a_refusal_is_exit_1_with_its_document(broker: Broker, program: Program) -> None:
    ((code, stdout, stderr),) = results(broker, program.start("me", "renew", "--hours", "1", "--json"))
    document = json.loads(stdout)
    assert (code, document["schema"], document["problems"][0]["code"]) == (1, "provisioner/problems/1", "no_seat")
    assert stderr.startswith("no_seat: ")


def test_an_interrupted_wait_is_exit_130(broker: Broker, program: Program) -> None:
    broker.node.ask("bob", "up", gpus=2)
    broker.node.ask("cem", "up", gpus=1)
    process = program.start("me", "--gpus", "1", "--wait", "2h")
    broker.until(lambda: bool(broker.node.keeper.state.queue))
    process.send_signal(signal.SIGINT)
    ((code, stdout, stderr),) = results(broker, process)
    assert (code, stdout) == (130, "")
    assert stderr.splitlines()[1:] == [me.TEXTS["en"]["interrupted"]]


@pytest.mark.parametrize(
    "words", [["plan", "ai-lab"], ["me", "--gpus", "x"], ["me", "status", "--wait", "2h"]], ids=str
)
def test_a_wrong_command_line_is_exit_2(tmp_path: Path, words: list[str]) -> None:
    program = Program(tmp_path, tmp_path / "none")
    code, stdout, stderr = program.run(*words)
    assert (code, stdout) == (2, "")
    assert stderr.startswith("usage: ")
    code, stdout, _ = program.run(*words, "--json")
    assert (code, json.loads(stdout)["problems"][0]["code"]) == (2, "usage")


def test_a_closed_pipe_ends_it_without_a_traceback(broker: Broker, program: Program) -> None:
    process = program.start("me", "status")
    assert process.stdout
    process.stdout.close()
    broker.until(lambda: process.poll() is not None)
    assert process.stderr
    assert process.stderr.read() == ""
    process.stderr.close()


def test_from_another_computer_one_command_starts_a_seat_and_twice_at_once_it_is_the_same(
    broker: Broker, program: Program, tmp_path: Path
) -> None:
    identity = broker.node.seat("ml_anna").identity
    identity.mkdir(parents=True)
    (identity / f"{module_util('seat.identity').HOST_KEY}.pub").write_text(f"{HOST_KEY} ml_anna\n")
    ssh = program.path.with_name("ssh")  # to this machine
    ssh.write_text(f'#!/bin/sh\nfor last; do :; done\nHOME={program.home} exec sh -c "$last"\n')
    ssh.chmod(0o755)
    laptop = tmp_path / "laptop"
    laptop.mkdir()
    path = f"{program.path.parent}:{os.environ['PATH']}"
    words = ("me", "--on", "gpu1", "--gpus", "1", "--yes", "--json")
    found = results(broker, *(spawn(*words, HOME=str(laptop), PATH=path) for _ in range(2)))
    assert [code for code, _, _ in found] == [0, 0], found
    documents = [json.loads(stdout) for _, stdout, _ in found]
    assert {item["alias"] for item in documents} == {"gpu1-ml"}
    assert broker.node.kinds().count("up") == 1
    key = " ".join((laptop / ".ssh/id_ed25519.pub").read_text().split()[:2])
    assert broker.node.order()["seat"]["authorized_keys"] == [key]
    stanza = (laptop / ".ssh/config.d/provisioner-gpu1-ml.conf").read_text()
    assert "  HostName 127.0.0.22\n  Port 24000\n" in stanza
    assert "  ProxyJump gpu1\n" in stanza
    assert (laptop / ".ssh/provisioner_known_hosts").read_text() == f"gpu1-ml {HOST_KEY}\n"
    assert not (program.home / ".ssh").exists()


# --- the broker as it runs on a node, and accounts of this machine


@pytest.fixture
def daemon(tmp_path: Path, open_folder: Path) -> Iterator[Daemon]:
    if os.geteuid():
        pytest.skip("only root can become another account")
    made = Daemon(tmp_path, open_folder)
    made.configure("nogroup")
    yield made
    if made.process and made.process.poll() is None:
        made.end(signal.SIGKILL)


def test_a_person_without_docker_is_answered_and_sees_why_a_start_failed(daemon: Daemon, open_folder: Path) -> None:
    program = Program(open_folder, daemon.path)
    code, _, stderr = program.run("me", uid=NOBODY)
    assert (code, stderr.partition(":")[0]) == (1, "no_broker")
    assert not (program.home / ".ssh").exists()
    daemon.start()
    code, stdout, _ = program.run("me", "status", uid=NOBODY)
    assert (code, stdout.partition(".")[0]) == (0, f"You have no seat on {socket.gethostname()}")
    code, stdout, stderr = program.run("me", "up", "--gpus", "0", "--json", uid=NOBODY)
    assert (code, [problem["code"] for problem in json.loads(stdout)["problems"]]) == (1, ["no_engine"])
    assert "no_engine: " in stderr
    until(lambda: daemon.ask("status")["state"] == "absent")


def test_who_is_not_in_the_group_sees_its_name(daemon: Daemon, open_folder: Path) -> None:
    daemon.configure("daemon")
    daemon.start()
    code, stdout, _ = Program(open_folder, daemon.path).run("me", "status", "--json", uid=NOBODY)
    (problem,) = json.loads(stdout)["problems"]
    assert (code, problem["code"]) == (1, "not_in_group")
    assert "usermod -aG daemon nobody" in problem["fix"]


# --- answers of something else


def serve(path: Path, answers: Callable[[Any], bytes | None]) -> "threading.Thread":
    """Answer one connection; None leaves it open without an answer."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()

    def answer() -> None:
        with listener, listener.accept()[0] as link:
            data = answers(json.loads(link.makefile("rb").readline()))
            if data is None:
                link.recv(1)
            else:
                with contextlib.suppress(BrokenPipeError):  # the client has given up
                    link.sendall(data)

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


def line(request: Any, **words: Any) -> bytes:
    return json.dumps({"v": 1, "id": request["id"], **words}).encode() + b"\n"


A_SEAT = {**an_own_seat(), "ssh": a_login()}
AN_ANSWER = {"state": "running", "seat": A_SEAT, "job": None, "ended": None, "disk": None}
ESCAPES = "\x1b]0;owned\x07\x9b2J\u202e\r\n"
PROBLEM = dict.fromkeys(("code", "what", "why", "fix"), ESCAPES)


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        (lambda _: b"\xff\xfe\n", "bad_answer"),
        (lambda _: b"[" * 100_000 + b"\n", "bad_answer"),
        (lambda _: b"[]\n", "bad_answer"),
        (lambda _: b'{"v": 1, "id": "another", "ok": true, "state": "running"}\n', "bad_answer"),
        (lambda r: line(r, ok=True), "bad_answer"),
        (lambda r: line(r, ok=True, state="on fire", seat=None), "bad_answer"),
        (lambda r: line(r, ok=True, state=["running"], seat=None), "bad_answer"),
        (lambda r: line(r, ok=True, state="running", seat="x"), "bad_answer"),
        (lambda r: line(r, ok=True, state="running", seat={"gpus": 1}), "bad_answer"),
        (lambda r: line(r, ok=True, **{**AN_ANSWER, "seat": {**A_SEAT, "left_s": 1e300}}), "bad_answer"),
        (lambda r: line(r, ok=True, **{**AN_ANSWER, "seat": {**A_SEAT, "left_s": float("nan")}}), "bad_answer"),
        (lambda r: line(r, ok=True, **{**AN_ANSWER, "seat": {**A_SEAT, "ssh": {"host": 1}}}), "bad_answer"),
        (lambda r: line(r, ok=True, **{**AN_ANSWER, "disk": {"use": 1, "limit": 1}}), "bad_answer"),
        (lambda r: line(r, ok=True, **{**AN_ANSWER, "kernels": {"all": 1, "listed": [ESCAPES]}}), "bad_answer"),
        (lambda r: line(r, ok=False), "bad_answer"),
        (lambda r: line(r, ok=1), "bad_answer"),
        (lambda r: line(r, ok=False, problem=ESCAPES), "bad_answer"),
        (lambda r: line(r, ok=False, problem=PROBLEM), ESCAPES),
        (lambda _: b"", "no_answer"),
        (lambda _: b'{"v": 1', "no_answer"),
        (lambda _: b"x" * ((1 << 20) + 70_000), "no_answer"),
        (lambda _: None, "no_answer"),
    ],
)
def test_what_is_no_answer_is_a_problem_and_reaches_no_terminal(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answers: Callable[[Any], bytes | None],
    code: str,
) -> None:
    monkeypatch.setattr(me, "TIMEOUT_S", 0.3)
    thread = serve(tmp_path / "socket", answers)
    assert me.main(["me", "status", "--json"], str(tmp_path / "socket")) == 1
    thread.join()
    captured = capsys.readouterr()
    assert json.loads(captured.out)["problems"][0]["code"] == code
    assert all(character.isprintable() for character in (captured.out + captured.err).replace("\n", ""))


def test_output_that_cannot_be_written_is_a_problem(broker: Broker, program: Program) -> None:
    process = subprocess.Popen(
        ["sh", "-c", f"exec {program.path} me status > /dev/full"], stderr=subprocess.PIPE, text=True
    )
    broker.until(lambda: process.poll() is not None)
    assert process.stderr
    with process.stderr as stderr:
        assert (process.returncode, stderr.readline().partition(":")[0]) == (1, "io_error")


def test_a_socket_that_nothing_listens_on_is_no_broker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.bind(str(tmp_path / "socket"))
    for path in (tmp_path / "socket", tmp_path / "none", tmp_path):
        assert me.main(["me", "status"], str(path)) == 1
        assert capsys.readouterr().err.startswith("no_broker: ")
