"""The socket of the broker: who asks, how much, how fast, and what a hostile client can do to others: nothing."""

import contextlib
import json
import os
import random
import signal
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.playbooks.broker_world import GPUS, ID, PEOPLE, Node, orders
from tests.playbooks.node_code import module_util

servers, callers, observes = (module_util(f"broker.{name}") for name in ("server", "callers", "observe"))
pytestmark = pytest.mark.usefixtures("engine")
STATUS = {"v": 1, "id": ID, "verb": "status"}
ANNA, BOB = PEOPLE["anna"], PEOPLE["bob"]
FREE = {gpu: {"state": "free", "pid": 0, "user": ""} for gpu in GPUS}
SEEN = {"cards": FREE, "running": [], "idle": {}, "own": {}, "others": [], "used": [], "samples": [], "kernels": {}}


class Client:
    """A connection to the broker, and what came back on it."""

    def __init__(self, path: str) -> None:
        self.link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.link.connect(path)
        self.link.setblocking(False)
        self.data, self.is_closed = b"", False

    def send(self, request: Any) -> "Client":
        self.link.send(request if isinstance(request, bytes) else json.dumps(request).encode() + b"\n")
        return self

    def read(self) -> bool:
        """Read what there is; return whether the broker has closed the connection."""
        with contextlib.suppress(BlockingIOError):
            while chunk := self.link.recv(65536):
                self.data += chunk
            self.is_closed = True
        return self.is_closed

    def close(self) -> None:
        self.link.close()

    @property
    def answer(self) -> Any:
        return json.loads(self.data)

    @property
    def code(self) -> str:
        return str(self.answer["problem"]["code"])


class Broker:
    """A broker that serves whenever a test waits. `uids`: who the next connections are from."""

    def __init__(self, node: Node, root: Path) -> None:
        self.node, self.path, self.uids = node, str(root / "broker.sock"), list[int]()
        self.clients: list[Client] = []
        self.listener = servers.listen(self.path, node.keeper)
        self.server = servers.Server(node.keeper, self.listener)
        self.server._patience = lambda: 0.01

    def connect(self, uid: int = ANNA) -> Client:
        self.uids.append(uid)
        self.clients.append(Client(self.path))
        self.server.step()
        return self.clients[-1]

    def ask(self, request: Any = STATUS, uid: int = ANNA) -> Any:
        client = self.connect(uid).send(request)
        self.until(client.read)
        return client.answer

    def until(self, is_so: Callable[[], bool], seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline
            self.server.step()

    def give_up_lookups(self) -> None:
        for child in self.server._lookups.values():
            child.deadline = 0.0

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.give_up_lookups()
        self.until(lambda: not (self.server._connections or self.server._look or self.server._lookups))
        self.listener.close()
        self.server._selector.close()


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    monkeypatch.setattr(orders, "routes", list)
    monkeypatch.setattr(servers, "observe", lambda *_: SEEN)
    names = {uid: name for name, uid in PEOPLE.items()}

    def account(uid: int) -> dict[str, Any] | None:
        known = {"uid": uid, "gid": 100, "home": "/x", "groups": ["lab-students"] if uid != PEOPLE["eve"] else []}
        return {"name": names[uid], **known} if uid in names else None

    monkeypatch.setattr(callers, "account_by_uid", account)
    made = Broker(Node(tmp_path), tmp_path)
    monkeypatch.setattr(servers, "peer_of", lambda _: (4242, made.uids.pop(0)))
    yield made
    made.close()


def test_an_answer_has_the_id_of_its_request(broker: Broker) -> None:
    answer = broker.ask()
    assert (answer["v"], answer["id"], answer["ok"], answer["state"]) == (1, ID, True, "absent")
    answer = broker.ask({**STATUS, "verb": "renew", "hours": 3})
    assert (answer["id"], answer["ok"], answer["problem"]["code"]) == (ID, False, "no_seat")
    assert set(answer) == {"v", "id", "ok", "problem"}


def test_the_kernel_says_who_asks_and_not_the_request(broker: Broker) -> None:
    assert broker.ask({**STATUS, "verb": "up"}, ANNA)["seat"]["name"] == "ml_anna"
    assert broker.ask({**STATUS, "verb": "up"}, BOB)["seat"]["name"] == "ml_bob"
    for field in ("uid", "user", "seat", "name"):
        assert broker.ask({**STATUS, field: "ml_anna"}, BOB)["problem"]["code"] == "bad_request"


def test_two_accounts_are_known_by_their_processes(
    broker: Broker, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid():
        pytest.skip("only root can become another account")
    monkeypatch.setattr(servers, "peer_of", callers.peer_of)
    reachable = Broker(broker.node, open_folder)
    Path(reachable.path).chmod(0o666)
    for name, uid in (("anna", ANNA), ("bob", BOB)):
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            os.setgroups([])
            os.setgid(100)
            os.setuid(uid)
            client = Client(reachable.path).send({**STATUS, "verb": "up"})
            client.link.setblocking(True)
            while not client.read():
                pass
            os.write(writer, client.data)
            os._exit(0)
        os.close(writer)
        reachable.until(lambda child=pid: os.waitpid(child, os.WNOHANG)[0] == child)  # type: ignore[misc]
        assert json.loads(os.read(reader, 65536))["seat"]["name"] == f"ml_{name}"
        os.close(reader)
    reachable.close()
    assert [line["uid"] for line in broker.node.audit() if line.get("verb") == "up"] == [ANNA, BOB]


@pytest.mark.parametrize(("group", "mode"), [("root", 0o660), ("no-such-group", 0o600)])
def test_the_socket_belongs_to_root_and_the_unix_group(tmp_path: Path, broker: Broker, group: str, mode: int) -> None:
    broker.node.configure(unix_group=group)
    path = str(tmp_path / "run/other.sock")
    with servers.listen(path, broker.node.keeper):
        found = Path(path).stat()
        assert stat.S_ISSOCK(found.st_mode)
        assert (stat.S_IMODE(found.st_mode), found.st_uid) == (mode, os.geteuid())
    with servers.listen(path, broker.node.keeper) as again:  # the socket of a broker that was killed
        assert again.getsockname() == f"{path}.new"


def test_a_state_root_that_the_broker_makes_shows_the_names_of_seats_to_root_alone(tmp_path: Path) -> None:
    os.close(servers._lock(str(tmp_path / "lib/state")))
    assert stat.S_IMODE((tmp_path / "lib/state").stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another group")
def test_the_rights_of_the_socket_follow_the_configuration(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {"one": 101, "two": 102}
    monkeypatch.setattr(servers, "grp", SimpleNamespace(getgrnam=lambda name: SimpleNamespace(gr_gid=numbers[name])))
    now = [100.0]
    monkeypatch.setattr(servers, "time", SimpleNamespace(monotonic=lambda: now[0]))
    path = Path(broker.path)
    rights = servers.SocketRights(str(path), broker.node.keeper)
    for group in ("one", "two"):
        broker.node.configure(unix_group=group)
        rights.follow()
        assert (path.stat().st_gid, path.stat().st_mode & 0o777) == (numbers[group], 0o660)
    broker.node.configure(unix_group="three")  # a directory service that does not answer yet
    rights.follow()
    numbers["three"] = 103
    rights.follow()
    assert path.stat().st_gid == 102
    now[0] += 60
    rights.follow()
    assert path.stat().st_gid == 103
    (broker.node.folder / "config.json").write_text("{")
    rights.follow()
    assert path.stat().st_gid == 103


def test_accounts_reach_the_socket_whatever_the_umask_is(tmp_path: Path, broker: Broker) -> None:
    before = os.umask(0o077)
    try:
        with servers.listen(str(tmp_path / "run/other.sock"), broker.node.keeper):
            assert (tmp_path / "run").stat().st_mode & 0o777 == 0o755
    finally:
        os.umask(before)


def test_a_stranger_is_refused(broker: Broker) -> None:
    assert broker.ask(uid=PEOPLE["eve"])["problem"]["code"] == "not_allowed"
    assert broker.ask(uid=7777)["problem"]["code"] == "account_unknown"
    assert [line["outcome"] for line in broker.node.audit()] == ["not_allowed", "account_unknown"]


# --- hostile clients


def test_a_request_may_come_in_parts(broker: Broker) -> None:
    client = broker.connect()
    for byte in json.dumps(STATUS).encode() + b"\n":
        client.send(bytes([byte]))
        broker.server.step()
    broker.until(client.read)
    assert client.answer["ok"]


@pytest.mark.parametrize("sent", [b"", b"{", b'{"v":1,', b" " * 100])
def test_a_slow_client_is_closed_and_others_are_answered_meanwhile(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(servers, "TIMEOUT_S", 0.2)
    slow = broker.connect()
    if sent:
        slow.send(sent)
    monkeypatch.setattr(servers, "TIMEOUT_S", 5.0)
    assert broker.ask(uid=BOB)["ok"]
    broker.until(slow.read)
    assert slow.data == b""
    assert not broker.server._connections


def test_a_request_that_is_too_long_is_refused_without_reading_it(broker: Broker) -> None:
    client = broker.connect()
    sent = 0
    with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
        while sent < 10 << 20:
            sent += client.link.send(b"x" * 4000)
            broker.server.step()
    assert sent < 1 << 20
    with contextlib.suppress(ConnectionResetError):
        broker.until(client.read)
    assert b"more than 4096 bytes" in client.data
    assert broker.ask(uid=BOB)["ok"]


def test_a_client_that_does_not_read_its_answer_is_closed(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker.server._verbs, "answer", lambda *_: {"state": "x" * (8 << 20)})
    client = broker.connect().send(STATUS)
    (connection,) = broker.server._connections
    broker.until(lambda: bool(connection.rest))
    broker.server.step()
    connection.deadline = 0.0
    broker.until(lambda: not broker.server._connections)
    assert client.link.recv(10)


@contextlib.contextmanager
def lingering() -> Iterator[socket.socket]:
    """Make a socket whose last copy takes a minute to close: the other end does not read what was sent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = socket.create_connection(listener.getsockname())
        with listener.accept()[0]:
            made.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    made.send(b"x" * 65536)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
            yield made


REQUEST = json.dumps(STATUS).encode() + b"\n"


@pytest.mark.parametrize(
    ("before", "sent", "flags"),
    [
        (b"", REQUEST, 0),
        (b"{", b"}", 0),
        (REQUEST, b"more", 0),
        (REQUEST, b"m", socket.MSG_OOB),
        (b"", b"{", socket.MSG_OOB),
    ],
)
@pytest.mark.usefixtures("_quick")
def test_open_files_that_a_client_sends_stop_nobody_else(
    broker: Broker, before: bytes, sent: bytes, flags: int
) -> None:
    with lingering() as held:
        broker.uids.append(ANNA)
        client = Client(broker.path)
        if before:
            client.send(before)
        socket.send_fds(client.link, [sent], [held.fileno()], flags)
        held.close()
        assert broker.ask(uid=BOB)["ok"]
        client.close()
        broker.until(lambda: not broker.server._connections)


@pytest.mark.usefixtures("_quick")
def test_open_files_on_a_connection_that_is_refused_stop_nobody_else(broker: Broker) -> None:
    with lingering() as held:
        broker.connect()
        broker.connect()
        broker.uids.append(ANNA)
        client = Client(broker.path)
        socket.send_fds(client.link, [REQUEST], [held.fileno()])
        held.close()
        assert broker.ask(uid=BOB)["ok"]
        with pytest.raises(ConnectionResetError):
            broker.until(client.read)
        client.close()


@pytest.fixture
def _quick() -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("sent", [b"", b"{", json.dumps(STATUS).encode() + b"\n"])
def test_a_client_that_goes_away_leaves_nothing_behind(broker: Broker, sent: bytes) -> None:
    client = broker.connect()
    if sent:
        client.send(sent)
    client.close()
    broker.until(lambda: not broker.server._connections)
    assert broker.server._open._open == {}


def test_a_person_has_two_connections_at_once(broker: Broker) -> None:
    first = [broker.connect(), broker.connect()]
    third = broker.connect()
    broker.until(third.read)
    assert third.code == "too_many_connections"
    assert broker.ask(uid=BOB)["ok"]
    first[0].close()
    broker.until(lambda: len(broker.server._connections) == 1)
    assert broker.ask()["ok"]


def test_root_gets_an_answer_when_all_others_have_used_up_their_connections(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = module_util("lease.rates")
    monkeypatch.setattr(rates, "CONNECTIONS", 4)
    broker.ask({**STATUS, "verb": "up"})
    monkeypatch.setattr(module_util("seat.compose").Compose, "logs", lambda *_: signal.pause())
    logs = {**STATUS, "verb": "logs", "service": "ssh"}
    for client in [broker.connect().send(logs), broker.connect().send(logs)]:
        broker.until(lambda: all(one.later for one in broker.server._connections))
        assert not client.data
    broker.server._accounts._known.clear()  # as after the time for which they are kept
    refused = broker.connect(BOB)
    broker.until(refused.read)
    assert refused.code == "too_many_connections"
    assert broker.ask(uid=0)["ok"]
    for connection in broker.server._connections:
        connection.later.child.deadline = connection.deadline = 0.0


@pytest.mark.parametrize("sent", [b"", b"{", REQUEST])
def test_connections_of_numbers_without_an_account_keep_nobody_out(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    account = callers.account_by_uid
    monkeypatch.setattr(callers, "account_by_uid", lambda uid: signal.pause() if uid > 6000 else account(uid))
    monkeypatch.setattr(callers, "SECONDS", 60)
    monkeypatch.setattr(servers, "TIMEOUT_S", 60)
    clients = [broker.connect(100000 + number) for number in range(30)]
    for client in clients:
        if sent:
            client.send(sent)
    broker.server.step()
    for uid in (ANNA, BOB):
        assert broker.ask(uid=uid)["ok"]


def test_only_so_many_accounts_are_looked_up_at_once(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    account = callers.account_by_uid
    assert broker.ask()["ok"]
    monkeypatch.setattr(callers, "account_by_uid", lambda uid: signal.pause() if uid > 6000 else account(uid))
    monkeypatch.setattr(callers, "SECONDS", 60)
    monkeypatch.setattr(servers, "TIMEOUT_S", 60)
    clients = [broker.connect(100000 + number).send(STATUS) for number in range(40)]
    broker.until(lambda: not any(one.request is None and not one.rest for one in broker.server._connections))
    assert len(broker.server._lookups) == 32
    assert broker.ask()["ok"]  # it is known already
    broker.give_up_lookups()
    broker.until(lambda: all(client.read() for client in clients))
    assert broker.ask(uid=BOB)["ok"]


def test_numbers_without_an_account_have_the_lines_of_one_person_in_the_audit(broker: Broker) -> None:
    for uid in range(100000, 100040):
        assert broker.ask(uid=uid)["problem"]["code"] == "account_unknown"
        assert broker.ask(b"{\n", uid=uid)["problem"]["code"] == "bad_request"
    assert broker.ask()["ok"]
    assert [line["uid"] == ANNA for line in broker.node.audit()] == [*[False] * 30, True]


def test_thirty_requests_a_minute(broker: Broker) -> None:
    for _ in range(30):
        broker.ask(b"x\n")
    assert broker.ask()["problem"]["code"] == "too_often"
    assert broker.ask(uid=BOB)["ok"]
    assert all(broker.ask(uid=0)["ok"] for _ in range(40))


def test_malformed_requests_are_refused_and_in_the_audit(broker: Broker) -> None:
    chance = random.Random(3)
    for _ in range(200):
        noise = bytes(chance.randrange(256) for _ in range(chance.randint(1, 60))).replace(b"\n", b"")
        assert broker.ask(noise + b"\n", uid=0)["problem"]["code"] == "bad_request"
    lines = broker.node.audit()
    assert [line["outcome"] for line in lines] == ["bad_request"] * 200
    assert {line["pid"] for line in lines} == {4242}


def test_what_a_client_sends_begins_no_line_in_the_audit(broker: Broker) -> None:
    for separator in ("\u2028", "\u0085", "\u009b", "\x7f"):
        broker.ask(f"x{separator}y\n".encode())
    text = (broker.node.folder / "audit.jsonl").read_text()
    assert [json.loads(line)["asked"] for line in text.splitlines()] == ["x?y"] * 4


def test_an_error_in_a_verb_ends_neither_the_broker_nor_the_connection(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker.server._verbs, "_status", lambda _: 1 / 0)
    assert broker.ask()["problem"]["code"] == "node_bug"
    assert broker.ask({**STATUS, "verb": "environments"})["ok"]


# --- what takes long


def test_a_directory_service_that_hangs_delays_nobody_else(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    account = callers.account_by_uid
    monkeypatch.setattr(callers, "account_by_uid", lambda uid: signal.pause() if uid == BOB else account(uid))
    monkeypatch.setattr(callers, "SECONDS", 0.4)
    slow = broker.connect(BOB).send(STATUS)
    assert broker.ask(uid=ANNA)["ok"]
    assert not slow.data
    broker.until(slow.read)
    assert slow.code == "account_unknown"


def test_an_account_is_looked_up_once_for_requests_at_the_same_time(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    account = callers.account_by_uid

    def noted(uid: int) -> Any:
        with (tmp_path / "lookups").open("a") as file:
            file.write("x")
        return account(uid)

    monkeypatch.setattr(callers, "account_by_uid", noted)
    clients = [broker.connect().send(STATUS), broker.connect().send(STATUS)]
    for client in clients:
        broker.until(client.read)
        assert client.answer["ok"]
    assert broker.ask()["ok"]
    assert (tmp_path / "lookups").read_text() == "x"


def test_logs_come_later_and_others_are_answered_meanwhile(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    broker.ask({**STATUS, "verb": "up"})
    go = Path(broker.path).parent / "go"

    def logs(_: Any, lines: int, service: str) -> str:
        while not go.exists():
            pass
        return f"{lines} lines of {service}"

    monkeypatch.setattr(module_util("seat.compose").Compose, "logs", logs)
    client = broker.connect().send({**STATUS, "verb": "logs", "service": "ssh", "lines": 7})
    assert broker.ask(uid=BOB)["ok"]
    assert not client.data
    go.touch()
    broker.until(client.read)
    assert (client.answer["ok"], client.answer["text"]) == (True, "7 lines of ssh")


def test_logs_that_do_not_come_are_given_up(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    broker.ask({**STATUS, "verb": "up"})
    monkeypatch.setattr(module_util("broker.verbs"), "LOG_SECONDS", 0.2)
    monkeypatch.setattr(module_util("seat.compose").Compose, "logs", lambda *_: signal.pause())
    assert broker.ask({**STATUS, "verb": "logs", "service": "ssh"})["problem"]["code"] == "io_error"


@pytest.mark.usefixtures("_quick")
def test_an_engine_that_hangs_delays_no_answer(broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broker.until(lambda: broker.server._look is None)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/silent.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.bind(str(tmp_path / "silent.sock"))
        silent.listen()
        assert broker.ask({**STATUS, "verb": "up", "gpus": 1})["state"] == "starting"
        assert broker.ask({**STATUS, "verb": "up", "gpus": 2, "restart": True})["ok"]


def test_a_look_that_hangs_is_given_up_and_the_next_one_counts(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    broker.until(lambda: broker.server._look is None)
    monkeypatch.setattr(servers, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(servers, "observe", lambda *_: signal.pause())
    broker.server._next_look = 0.0
    seq = broker.node.keeper.state.seq
    broker.until(lambda: broker.node.keeper.state.seq > seq)
    assert broker.ask()["ok"]


def test_each_look_gets_the_samples_of_the_one_before(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    broker.until(lambda: broker.server._look is None)

    def observe(_root: str, _holders: Any, samples: list[Any]) -> dict[str, Any]:
        return {**SEEN, "samples": [*samples, [float(len(samples)), {}]]}

    monkeypatch.setattr(servers, "observe", observe)

    def has_looked_often() -> bool:
        broker.server._next_look = 0.0
        return len(broker.server._samples) >= 3

    broker.until(has_looked_often)
    broker.until(lambda: broker.server._look is None)
    monkeypatch.setattr(servers, "observe", lambda *_: signal.pause())  # a look that is given up loses none
    monkeypatch.setattr(servers, "LOOK_SECONDS", 0.1)
    broker.server._next_look = 0.0
    seq = broker.node.keeper.state.seq
    broker.until(lambda: broker.node.keeper.state.seq > seq)
    found = [sample[0] for sample in broker.server._samples]
    assert found == [float(number) for number in range(len(found))]
    assert len(found) >= 3


def test_what_was_seen_while_a_job_changed_a_seat_starts_nothing(broker: Broker) -> None:
    broker.until(lambda: broker.server._look is None)
    broker.ask({**STATUS, "verb": "up"})
    broker.server._next_look = 0.0
    broker.server.step()  # the look, which sees no seat that runs, has begun
    broker.node.keeper.changes += 1
    broker.until(lambda: broker.server._look is None)
    assert broker.node.kinds() == ["up"]
    broker.server._next_look = 0.0
    broker.until(lambda: "resume" in broker.node.kinds())


def test_a_job_that_changes_one_seat_keeps_no_other_one_down(broker: Broker) -> None:
    node = broker.node
    broker.until(lambda: broker.server._look is None)
    broker.ask({**STATUS, "verb": "up"}, BOB)
    broker.until(lambda: not node.keeper.state.jobs)
    node.holds = True
    broker.ask({**STATUS, "verb": "up"}, ANNA)  # a start of which the pull takes an hour
    broker.server._next_look = 0.0  # the look sees no seat that runs
    broker.until(lambda: "ml_bob" in node.keeper.state.jobs)
    assert node.kinds() == ["up", "up", "resume"]


def test_the_configuration_of_another_lab_group_counts_at_once(broker: Broker) -> None:
    assert broker.ask()["ok"]
    broker.node.configure(unix_group="others")
    assert broker.ask()["problem"]["code"] == "not_allowed"


def test_of_two_people_who_ask_for_the_last_gpus_at_once_one_gets_them(broker: Broker) -> None:
    broker.until(lambda: broker.server._look is None)
    for number in range(10):
        up = {**STATUS, "verb": "up", "gpus": 2}
        clients = [broker.connect(uid).send(up) for uid in (ANNA, BOB)]
        for client in clients:
            broker.until(client.read)
        assert sorted(client.answer["ok"] for client in clients) == [False, True]
        winner = ANNA if clients[0].answer["ok"] else BOB
        assert {lease.uid for lease in broker.node.keeper.state.leases.values()} == {winner}
        broker.ask({**STATUS, "verb": "down"}, winner)
        broker.until(lambda: not broker.node.keeper.state.leases)
        broker.node.now += 3600 * (number + 1)  # of ten changes an hour
