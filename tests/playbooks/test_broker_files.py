"""The files of the broker: configuration, orders, audit; and who a caller is."""

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
