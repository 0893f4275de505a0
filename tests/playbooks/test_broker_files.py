"""The files of the broker: configuration, orders, audit; and who a caller is."""

import contextlib
import errno
import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.broker_world import DOCUMENT, a_config, a_group, an_environment, version_of
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.world import Killed

configs, stores, callers, children, states = (
    module_util(name) for name in ("broker.config", "broker.store", "broker.callers", "base.child", "lease.state")
)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    return stores.Store(str(tmp_path))


def damaged(**over: Any) -> dict[str, Any]:
    return a_config(**over)


@pytest.mark.parametrize(
    "found",
    [
        damaged(lab="a_b"),
        damaged(lab="../x"),
        damaged(pool=7),
        damaged(ports={"first": 1}),
        damaged(groups={"student": {}}),
        damaged(groups={"student": a_group(hours="x")}),
        damaged(binds={}),
        damaged(environments={"../x": an_environment()}),
        damaged(environments={"default": an_environment(version="../../x")}),
        damaged(environments={"default": {}}),
        {},
        [],
        None,
    ],
    ids=lambda found: ascii(found)[:40],
)
def test_a_configuration_that_is_not_whole_is_refused(found: Any) -> None:
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        configs.parse_config(found)


def test_a_configuration_is_read_again_when_it_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "self_service/config.json"
    path.parent.mkdir()
    file = configs.ConfigFile(str(tmp_path))
    assert file.pool() == ()
    for lab in ("ml", "cv"):
        new = path.with_name("new")
        new.write_text(json.dumps(a_config(lab=lab)))
        new.replace(path)
        assert file.read().lab == lab
        assert file.read() is file.read()
    path.unlink()
    with pytest.raises(ProblemError):
        file.read()


@pytest.mark.parametrize("idle_hours", [0, None])
def test_idle_time_ends_no_lease_of_a_group_without_it(idle_hours: Any) -> None:
    config = configs.parse_config(a_config(groups={"student": a_group(idle_hours=idle_hours)}))
    assert config.groups[0].terms.idle_s == 0


def test_files_of_the_broker_are_of_root_only(store: Any) -> None:
    store.write_leases(states.LeaseState())
    store.write_order("me-1", {"run": "me-1"})
    store.audit(uid=1)
    modes = {path.name: path.stat().st_mode & 0o077 for path in store.folder.rglob("*")}
    assert set(modes) == {"leases.json", "orders", "me-1.json", "audit.jsonl", "reserve"}
    assert set(modes.values()) == {0}


def test_lines_of_the_audit_are_added_and_each_is_one_line(store: Any) -> None:
    store.audit(uid=5001, verb=None, asked='{"v":1}\n\x1b[2J 训练', outcome="bad_request")
    store.audit(uid=5002, verb="up", asked={"gpus": 1}, outcome="starting")
    lines = (store.folder / "audit.jsonl").read_text().splitlines()
    assert [json.loads(line)["uid"] for line in lines] == [5001, 5002]
    assert all(json.loads(line)["at"] for line in lines)


def test_long_texts_are_cut_in_the_audit(store: Any) -> None:
    keys = ["ssh-rsa " + "A" * 900] * 4
    store.audit(uid=5001, verb="up", asked={"keys": keys, "hours": 8, "switch": True}, outcome="starting")
    (line,) = (store.folder / "audit.jsonl").read_text().splitlines()
    asked = json.loads(line)["asked"]
    assert asked == {"keys": ["ssh-rsa " + "A" * 120] * 4, "hours": 8, "switch": True}
    assert len(line) < 1024


class Audit:
    """An audit whose files have room for ten lines, each with its number."""

    def __init__(self, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store, self.written = store, 0
        self.line()
        monkeypatch.setattr(stores, "AUDIT_BYTES", 10 * (store.folder / "audit.jsonl").stat().st_size)

    def line(self, lines: int = 1) -> None:
        for _ in range(lines):
            self.written += 1
            self.store.audit(number=f"{self.written:05}")

    def numbers(self) -> list[int]:
        """Return the numbers of all lines, the oldest first."""
        return [number for name in self.files()[::-1] for number in self.of(name)]

    def of(self, name: str) -> list[int]:
        lines = (self.store.folder / name).read_text().splitlines()
        return [int(json.loads(line)["number"]) for line in lines]

    def files(self) -> list[str]:
        """Return the names of the files, the latest first."""
        order = ["audit.jsonl", *(f"audit.{number}.jsonl" for number in range(1, 20))]
        return [name for name in order if (self.store.folder / name).exists()]


@pytest.fixture
def audit(store: Any, monkeypatch: pytest.MonkeyPatch) -> Audit:
    return Audit(store, monkeypatch)


def test_ten_files_of_the_audit_are_kept_with_the_latest_lines(audit: Audit) -> None:
    audit.line(9)
    assert audit.files() == ["audit.jsonl"]
    audit.line()
    assert (audit.files(), audit.of("audit.jsonl")) == (["audit.jsonl", "audit.1.jsonl"], [11])
    audit.line(489)
    assert audit.files() == ["audit.jsonl", *(f"audit.{number}.jsonl" for number in range(1, 10))]
    assert audit.numbers() == list(range(401, 501))


@pytest.mark.parametrize("renamed", range(10))
def test_a_rotation_that_is_interrupted_loses_no_line(
    audit: Audit, monkeypatch: pytest.MonkeyPatch, renamed: int
) -> None:
    audit.line(99)
    rename, left = Path.replace, iter(range(renamed))

    def replace(path: Path, target: Path) -> Path:
        if next(left, None) is None and renamed < 9:
            raise Killed
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replace)
        with contextlib.suppress(Killed):
            audit.line()
    oldest = 11 if renamed else 1  # the file of number 9 is replaced by the first rename
    lost = [] if renamed == 9 else [101]  # the line that was being written
    expected = [number for number in range(oldest, 102) if number not in lost]
    assert audit.numbers() == expected
    audit.line(2)
    assert audit.numbers() == [*(number for number in expected if number > 10), 102, 103]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_where_files_cannot_be_renamed_lines_are_added_to_the_full_one(
    audit: Audit, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "replace", fail)
    audit.line(30)
    assert (audit.files(), audit.numbers()) == (["audit.jsonl"], list(range(1, 32)))


def test_a_folder_in_the_place_of_an_earlier_file_stops_nothing(audit: Audit) -> None:
    (audit.store.folder / "audit.9.jsonl" / "x").mkdir(parents=True)
    audit.line(130)
    assert audit.of("audit.jsonl")[-1] == 131


def test_orders_of_jobs_that_are_not_known_are_removed(store: Any) -> None:
    for run in ("me-1", "me-10"):
        store.write_order(run, {"run": run, "seat": {}})
        stores.fault_path(store.order_path(run)).write_text("{}")
    store.forget_other_orders({"me-1"})
    assert sorted(path.name for path in store.orders.iterdir()) == ["me-1.fault", "me-1.json"]
    assert store.read_orders() == [{"run": "me-1", "seat": {}}]
    store.order_path("me-1").write_text("{")
    assert store.read_orders() == []


def test_the_version_of_a_document_is_the_beginning_of_its_digest(tmp_path: Path) -> None:
    file = configs.ConfigFile(str(tmp_path))
    environment = configs.parse_config(a_config()).environments["default"]
    path = tmp_path / "self_service/environments/default" / version_of(DOCUMENT) / "document.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(DOCUMENT))
    assert file.document(environment) == DOCUMENT
    path.write_text(json.dumps({**DOCUMENT, "environment": "other"}))
    with pytest.raises(ProblemError, match="not that of its version"):
        file.document(environment)


# --- callers and children


def test_the_kernel_says_which_process_has_connected() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert callers.peer_of(one) == (os.getpid(), os.geteuid())


def test_a_child_is_read_while_the_caller_goes_on() -> None:
    child = children.Child(lambda: {"a": 1}, 20)
    while not child.read():
        pass
    assert child.result() == {"a": 1}


def test_a_child_that_hangs_is_ended() -> None:
    child = children.Child(signal.pause, 0.0)
    assert child.deadline <= time.monotonic()
    with pytest.raises(TimeoutError):
        child.result()


def test_children_that_hang_leave_no_process_behind() -> None:
    before = _children()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            children.Child(signal.pause, 0.0).result()
    deadline = time.monotonic() + 20
    while _children() - before:
        assert time.monotonic() < deadline
        child = children.Child(lambda: 1, 20)
        while not child.read():
            pass
        child.result()


def _children() -> set[str]:
    """Return the numbers of the children of this process, also of those that have ended and were not waited for."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_a_child_for_which_there_is_no_memory_leaves_no_file_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory() -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", no_memory)
    before = sorted(Path("/proc/self/fd").iterdir())
    with pytest.raises(BlockingIOError):
        children.Child(signal.pause, 0.0)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_a_child_that_is_killed_while_it_writes_has_no_result() -> None:
    child = children.Child(lambda: "x" * (1 << 20), 20)
    child.read()
    os.kill(child._pid, signal.SIGKILL)
    while not child.read():
        pass
    with pytest.raises(ChildProcessError, match="crashed"):
        child.result()


@pytest.mark.parametrize("work", [lambda: 1 / 0, lambda: os._exit(1)], ids=["an error", "a crash"])
def test_a_child_without_a_result_says_why(work: Any) -> None:
    child = children.Child(work, 20)
    while not child.read():
        pass
    with pytest.raises(ChildProcessError):
        child.result()


def test_an_account_is_found_by_its_number() -> None:
    found = module_util("seat.account_lookup").account_by_uid(0)
    assert (found["name"], found["uid"], found["gid"]) == ("root", 0, 0)
    assert module_util("seat.account_lookup").account_by_uid(4_000_000_000) is None
