"""The batch of a node: each order in a job of its own, which `begin` starts as the modules do."""

import contextlib
import errno
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from provisioner.adapters.ansible.batch import dump_batch
from provisioner.domain.rollout.order import Order, RollbackOrder, SeatName
from provisioner.domain.rollout.report import BAD
from provisioner.domain.values.claim import Claim
from tests.builders import a_locked_image
from tests.domain.seats import DOCUMENTS, a_seat
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import an_order, with_seat

batches, jobs, files, claims, seats = (
    module_util(name) for name in ("jobs.batch", "jobs.job", "jobs.jobfile", "jobs.claims", "seat.seat")
)
NodeJobs = module_util("jobs.node_jobs").NodeJobs
Work = Callable[[str, Any], dict[str, Any]]  # (name of the seat, its job) -> record

pytestmark = pytest.mark.usefixtures("_short_waits")
WAIT_SECONDS = 20
NAMES = ("ml_a", "ml_b", "ml_c", "ml_d", "ml_e")


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return value


class Node:
    """A node with `cores`, whose seats are switched by `work`. What happens is appended to a file, in its order."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.log = root, root / "log"
        self.log.touch()
        self.claim = Claim(run="r1", lab="ml", holder="ann@one", since="2026-11-26T21:00:00Z", fence=1).model_dump(
            mode="json"
        )
        self.cores = 16
        monkeypatch.setattr(os, "cpu_count", lambda: self.cores)

    @property
    def state_root(self) -> str:
        return str(self.root / "state")

    def note(self, text: str) -> None:
        with self.log.open("a") as file:
            file.write(f"{text}\n")

    def begin(self, work: Work, kind: str = "switch") -> Callable[[dict[str, Any]], Path]:
        def run(order: dict[str, Any], job: Any) -> dict[str, Any]:
            name = order["seat"]["name"]
            self.note(f"begin {name}")
            record = work(name, job)
            self.note(f"end {name}")
            return record

        def begin(order: dict[str, Any]) -> Path:
            seat = seats.seat_of(order)
            path: Path = jobs.start_once(seat, order["run"], kind, lambda job, _: run(order, job))
            return path

        return begin

    def batch(self, *names: str, run: str = "r1") -> dict[str, Any]:
        orders = [with_seat(an_order(self.root, run, files={}), name=name) for name in names]
        return {"run": run, "claim": self.claim, "state_root": self.state_root, "orders": orders, "documents": {}}

    def start(self, work: Work, *names: str, run: str = "r1", kind: str = "switch") -> Path:
        path: Path = batches.start_batch(self.batch(*names, run=run), kind, self.begin(work, kind))
        return path

    def carry_out(self, work: Work, *names: str, kind: str = "switch") -> dict[str, Any]:
        return finished(self.start(work, *names, kind=kind))["record"]  # type: ignore[no-any-return]

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def seat_job(self, name: str, run: str = "r1", kind: str = "switch") -> dict[str, Any]:
        seat = seats.Seat(self.state_root, name)
        found: dict[str, Any] = files.read_job(files.job_path(seat, run, kind)) or {}
        return found

    def most_at_once(self) -> int:
        running, most = 0, 0
        for line in self.lines():
            running += 1 if line.startswith("begin") else -1
            most = max(most, running)
        return most


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    made = Node(tmp_path, monkeypatch)
    yield made
    for path in (tmp_path / "state").rglob("jobs/*.json"):
        job = files.read_job(path)
        if job and files.is_alive(job):
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(job["pid"], signal.SIGKILL)


def finished(path: Path) -> dict[str, Any]:
    job: dict[str, Any] = files.follow(path, WAIT_SECONDS)
    assert job["finished"], job
    return job


def ends(**states: str) -> Work:
    """Return work that ends each seat in its state; a seat that is not named is committed."""
    return lambda name, _: {"state": states.get(name, "committed"), "generation": 3}


def states(record: dict[str, Any]) -> dict[str, str]:
    return {name: one["state"] for name, one in record["seats"].items()}


def kill(job: dict[str, Any]) -> None:
    os.kill(job["pid"], signal.SIGKILL)
    until(lambda: not files.is_alive(job))


def test_a_seat_counts_as_failed_as_on_the_control_machine() -> None:
    assert {*batches.FAILURES, "unreachable"} == BAD


def test_a_batch_has_each_document_once_and_the_node_fills_it_as_the_control_machine(tmp_path: Path) -> None:
    document = DOCUMENTS.bundle(a_seat(), a_locked_image()).document
    anna, bob = (
        Order.model_validate(an_order(tmp_path)).model_copy(update={"seat": a_seat(name=name), "document": document})
        for name in ("ml_anna", "ml_bob")
    )
    sent = json.loads(dump_batch({"ml_anna": anna, "ml_bob": bob}))
    assert list(sent["documents"]) == [document.digest]
    assert (sent["run"], sent["claim"], sent["state_root"]) == ("r1", None, anna.state_root)
    found = batches.expand(sent)
    assert [order["files"] for order in found] == [anna.files, bob.files]
    assert found[0]["files"]["compose.yaml"] != found[1]["files"]["compose.yaml"]
    with_slots = {"compose.yaml", "sshd_config", "authorized_keys"}
    assert [set(order["document"]["files"]) for order in found] == [with_slots, with_slots]
    same = {key: value for key, value in anna.model_dump(mode="json").items() if key != "document"}
    assert {key: value for key, value in found[0].items() if key not in {"files", "document"}} == same


def test_orders_without_files_are_sent_as_they_are() -> None:
    order = RollbackOrder(run="r1", seat=SeatName(name="ml_a"), to=2)
    assert batches.expand(json.loads(dump_batch({"ml_a": order}))) == [order.model_dump(mode="json")]


def test_every_seat_has_the_record_of_its_own_job(node: Node) -> None:
    record = node.carry_out(ends(ml_c="rolled_back"), *NAMES)
    assert states(record) == {**dict.fromkeys(NAMES, "committed"), "ml_c": "rolled_back"}
    assert record["seats"]["ml_a"]["generation"] == 3
    assert all(one["seconds"] >= 0 for one in (record, *record["seats"].values()))
    assert node.seat_job("ml_c")["record"] == record["seats"]["ml_c"]


@pytest.mark.parametrize(("cores", "most"), [(1, 1), (8, 2), (64, 4)])
def test_seats_run_one_at_a_time_until_one_has_succeeded(node: Node, cores: int, most: int) -> None:
    """`ml_a` fails and `ml_b` succeeds; then as many run at once as the cores allow, each until all of them run."""
    node.cores = cores
    names = [*NAMES, "ml_f"]

    def work(name: str, _: Any) -> dict[str, Any]:
        if name not in ("ml_a", "ml_b"):
            until(lambda: node.most_at_once() >= most)
        return {"state": "failed" if name == "ml_a" else "committed"}

    assert states(node.carry_out(work, *names)) == {**dict.fromkeys(names, "committed"), "ml_a": "failed"}
    assert node.lines()[:4] == ["begin ml_a", "end ml_a", "begin ml_b", "end ml_b"]
    assert node.most_at_once() == most


@pytest.mark.parametrize(
    ("ended", "begun"),
    [
        (("failed", "rolled_back", "needs_attention"), 3),
        (("failed", "deferred", "failed", "stale", "failed"), 5),
        (("deferred", "deferred", "deferred"), 6),
        (("failed", "unchanged", "failed"), 6),
    ],
)
def test_three_failures_before_any_success_keep_the_other_seats_running(
    node: Node, ended: tuple[str, ...], begun: int
) -> None:
    names = [*NAMES, "ml_f"]
    given = dict(zip(names, ended, strict=False))
    record = node.carry_out(ends(**given), *names)
    kept = names[begun:]
    assert states(record) == {name: "not_started" if name in kept else given.get(name, "committed") for name in names}
    assert {line for line in node.lines() if line.startswith("begin")} == {f"begin {name}" for name in names[:begun]}
    for name in kept:
        assert [problem["code"] for problem in record["seats"][name]["problems"]] == ["first_seats_failed"]


def test_a_seat_that_cannot_be_begun_does_not_stop_the_others(node: Node) -> None:
    inner = node.begin(ends())

    def begin(order: dict[str, Any]) -> Path:
        if order["seat"]["name"] == "ml_b":
            raise ProblemError("seat_locked", "what", "why", "fix")
        if order["seat"]["name"] == "ml_c":
            raise KeyError("missing")
        return inner(order)

    record = finished(batches.start_batch(node.batch(*NAMES), "switch", begin))["record"]
    assert states(record) == {**dict.fromkeys(NAMES, "committed"), "ml_b": "failed", "ml_c": "failed"}
    codes = [record["seats"][name]["problems"][0]["code"] for name in ("ml_b", "ml_c")]
    assert codes == ["seat_locked", "node_bug"]


def test_a_killed_batch_leaves_running_seats_alone_and_the_same_batch_goes_on(node: Node) -> None:
    claims.take_claim(node.state_root, node.claim, "")
    node.cores = 8

    def work(name: str, job: Any) -> dict[str, Any]:
        if name != "ml_a":
            job.report("waiting")
            until((node.root / "go").exists)
        return {"state": "committed"}

    first = node.start(work, *NAMES)
    until(lambda: len(node.lines()) == 4)  # ml_a has ended, ml_b and ml_c run
    kill(files.read_job(first))
    assert files.follow(first, 0)["record"]["problems"][0]["code"] == "job_died"
    pids = [node.seat_job(name)["pid"] for name in ("ml_b", "ml_c")]
    assert all(files.is_alive(node.seat_job(name)) for name in ("ml_b", "ml_c"))
    assert claims.read_claims(node.state_root).active == [node.claim]

    again = node.start(work, *NAMES)
    assert again == first
    until(lambda: (files.read_job(again) or {}).get("text"))
    (node.root / "go").touch()
    record = finished(again)["record"]
    assert states(record) == dict.fromkeys(NAMES, "committed")
    assert [node.seat_job(name)["pid"] for name in ("ml_b", "ml_c")] == pids
    assert sorted(node.lines()) == sorted(f"{what} {name}" for what in ("begin", "end") for name in NAMES)
    assert claims.read_claims(node.state_root).active == []


def test_another_run_meets_only_the_seats_that_a_killed_batch_left_running(node: Node) -> None:
    """The jobs of seats do not hold the lock of the batch."""

    def work(_: str, job: Any) -> dict[str, Any]:
        job.report("waiting")
        until((node.root / "go").exists)
        return {"state": "committed"}

    first = node.start(work, "ml_a", "ml_b")
    until(lambda: node.seat_job("ml_a").get("text"))
    kill(files.read_job(first))
    record = finished(node.start(ends(), "ml_a", "ml_b", run="r2"))["record"]
    (node.root / "go").touch()
    assert states(record) == {"ml_a": "failed", "ml_b": "committed"}
    assert "by run r1" in record["seats"]["ml_a"]["problems"][0]["what"]


@pytest.mark.parametrize("run", ["r1", "r2"], ids=["resumed", "taken over"])
def test_a_batch_with_a_newer_claim_ends_the_one_with_the_older_claim(node: Node, run: str) -> None:
    """The orders that the older one has not begun would be refused: they have the older claim."""

    def work(_: str, job: Any) -> dict[str, Any]:
        job.report("waiting")
        until((node.root / "go").exists)
        return {"state": "committed"}

    claims.take_claim(node.state_root, node.claim, "")
    node.start(work, "ml_a", "ml_b")
    pid = until(lambda: node.seat_job("ml_a").get("text") and node.seat_job("ml_a")["pid"])
    older = jobs.running_job(NodeJobs(node.state_root, "batch"))
    node.claim = {**node.claim, "run": run, "fence": 2}
    claims.take_claim(node.state_root, node.claim, "r1")
    path = node.start(work, "ml_a", "ml_b", run=run)
    assert not files.is_alive(older)
    until(lambda: node.seat_job("ml_b", run).get("text") or (run == "r1" and files.read_job(path)["text"]))
    assert files.is_alive(node.seat_job("ml_a"))
    (node.root / "go").touch()
    record = finished(path)["record"]
    assert states(record) == {"ml_a": "committed" if run == "r1" else "failed", "ml_b": "committed"}
    assert node.seat_job("ml_a")["pid"] == pid
    assert claims.read_claims(node.state_root) == ([], (2, {}))


def test_a_seat_whose_job_has_an_older_claim_of_the_run_is_carried_out_by_the_newer_one(node: Node) -> None:
    """A resumption finds jobs that still pull an image, or wait for running work: their claim is outdated by then."""

    def work(_: str, job: Any) -> dict[str, Any]:
        job.report("waiting")
        until((node.root / "go").exists)
        claims.check_claim(node.state_root, node.claim)  # as it was when the job began
        return {"state": "committed"}

    claims.take_claim(node.state_root, node.claim, "")
    node.cores = 8
    path = node.start(work, "ml_a", "ml_b")
    until(node.lines)
    kill(files.read_job(path))
    node.claim = {**node.claim, "fence": 2}
    claims.take_claim(node.state_root, node.claim, "")
    path = node.start(work, "ml_a", "ml_b")
    until(lambda: files.read_job(path)["text"])
    (node.root / "go").touch()
    assert states(finished(path)["record"]) == {"ml_a": "committed", "ml_b": "committed"}
    assert node.lines() == ["begin ml_a", "begin ml_a", "end ml_a", "begin ml_b", "end ml_b"]


def test_a_seat_of_a_run_that_was_overtaken_is_begun_twice_at_most(node: Node) -> None:
    def work(*_: Any) -> dict[str, Any]:
        raise ProblemError("fenced", "what", "why", "fix")

    assert states(node.carry_out(work, "ml_a")) == {"ml_a": "failed"}
    assert node.lines() == ["begin ml_a"] * 2


def waits(node: Node) -> Work:
    """Return work that waits for the file `go`."""

    def work(_: str, job: Any) -> dict[str, Any]:
        job.report("waiting")
        until((node.root / "go").exists)
        return {"state": "committed"}

    return work


def test_the_same_batch_runs_once_and_another_kind_of_the_same_run_is_refused(node: Node) -> None:
    path = node.start(waits(node), "ml_a")
    until(lambda: files.read_job(path)["text"])
    assert node.start(waits(node), "ml_a") == path
    with pytest.raises(ProblemError, match="the node is being changed: by run r1"):
        node.start(ends(), "ml_b", kind="rollback")
    (node.root / "go").touch()
    assert states(finished(path)["record"]) == {"ml_a": "committed"}


def a_claim_of(node: Node, run: str, fence: int, *seats: str) -> dict[str, Any]:
    return {**node.claim, "run": run, "fence": fence, "scope": "seats", "seats": list(seats)}


def test_two_runs_have_batches_at_the_same_time_and_each_releases_its_own_claim(node: Node) -> None:
    first, second = a_claim_of(node, "r1", 1, "ml_a"), a_claim_of(node, "r2", 2, "ml_b")
    for claim in (first, second):
        claims.take_claim(node.state_root, claim, "")
    node.claim = first
    path = node.start(waits(node), "ml_a")
    until(lambda: files.read_job(path)["text"])
    node.claim = second
    assert states(finished(node.start(ends(), "ml_b", run="r2"))["record"]) == {"ml_b": "committed"}
    assert claims.read_claims(node.state_root).active == [first]
    assert files.is_alive(files.read_job(path))
    (node.root / "go").touch()
    assert finished(path)["record"]["released"]
    assert claims.read_claims(node.state_root).active == []


def test_a_batch_of_an_earlier_release_that_was_taken_over_is_ended(node: Node) -> None:
    """It records its fence alone, and its file and lock have another place."""
    folder = NodeJobs(node.state_root, "batch")
    path = jobs.start(folder, "r0", "switch", lambda job, _: waits(node)("ml_a", job))
    until(lambda: files.read_job(path)["text"])
    older = files.read_job(path)
    path.write_text(json.dumps({name: word for name, word in older.items() if name != "claim"} | {"fence": 1}))
    node.claim = a_claim_of(node, "r2", 2, "ml_b")
    claims.take_claim(node.state_root, node.claim, "")
    finished(node.start(ends(), "ml_b", run="r2"))
    assert not files.is_alive(older)


def test_the_folders_of_the_last_runs_are_kept_and_those_of_running_ones(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "KEEP_JOBS", 2)
    paths = [node.start(waits(node), "ml_a", run="r0")]
    until(lambda: files.read_job(paths[0])["text"])
    for number in range(1, 5):
        finished(node.start(ends(), "ml_b", run=f"r{number}"))
    assert {path.name for path in (node.root / "state/batch/runs").iterdir()} == {"r0", "r2", "r3", "r4"}
    (node.root / "go").touch()
    finished(paths[0])


def test_the_deadline_of_a_run_is_not_set_anew_by_a_batch_that_is_started_again(tmp_path: Path) -> None:
    path = tmp_path / "switch.begun"
    first = batches.begun_at(path)
    assert batches.begun_at(path) == first
    path.write_text(json.dumps({"boot_id": "before", "at": first - 9000}))
    assert first <= batches.begun_at(path) <= time.monotonic()
    path.write_text("{")
    assert batches.begun_at(path) >= first


def test_seats_of_a_batch_that_was_killed_wait_for_what_is_left_of_their_time(node: Node) -> None:
    given = node.root / "given"

    def begin(order: dict[str, Any]) -> Path:
        given.write_text(json.dumps(order["when_busy"]))
        return node.begin(ends())(order)

    batch = node.batch("ml_a")
    batch["orders"][0]["when_busy"] = {"policy": "wait", "seconds": 60}
    (node.root / "state/batch/runs/r1").mkdir(parents=True)
    begun = {"boot_id": files.boot_id(), "at": time.monotonic() - 45}
    (node.root / "state/batch/runs/r1/switch.begun").write_text(json.dumps(begun))
    finished(batches.start_batch(batch, "switch", begin))
    assert json.loads(given.read_text())["seconds"] <= 15


def open_files(pid: int) -> set[str]:
    """Return what a process has open, without a file of a job that it is reading."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # it has just been closed
            found.add(str(link.readlink()))
    return {name for name in found if not name.endswith(".json")}


def test_a_job_of_a_seat_holds_neither_the_lock_of_the_batch_nor_a_connection(node: Node) -> None:
    def work(name: str, job: Any) -> dict[str, Any]:
        job.report("waiting")
        until(lambda: name == "ml_a" or (node.root / "go").exists())
        return {"state": "committed"}

    path = node.start(work, "ml_a", "ml_b")
    job = until(lambda: node.seat_job("ml_b").get("text") and node.seat_job("ml_b"))
    assert open_files(job["pid"]) == {"/dev/null", f"{node.state_root}/seats/ml_b/lock"}
    batch = files.read_job(path)["pid"]
    until(lambda: open_files(batch) == {"/dev/null", f"{node.state_root}/batch/runs/r1/lock"})
    (node.root / "go").touch()
    finished(path)


def test_a_killed_job_of_a_seat_is_unknown_and_the_other_seats_go_on(node: Node) -> None:
    def work(name: str, _: Any) -> dict[str, Any]:
        if name == "ml_a":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"state": "committed"}

    record = node.carry_out(work, "ml_a", "ml_b")
    assert states(record) == {"ml_a": "unknown", "ml_b": "committed"}
    assert record["seats"]["ml_a"]["problems"][0]["code"] == "job_died"


@pytest.mark.parametrize(("kind", "released"), [("switch", True), ("rollback", True), ("stage", False)])
def test_the_claim_is_released_once_after_the_last_seat(node: Node, kind: str, released: bool) -> None:
    claims.take_claim(node.state_root, node.claim, "")

    def work(name: str, _: Any) -> dict[str, Any]:
        assert claims.read_claims(node.state_root).active == [node.claim]
        return {"state": "failed" if name == "ml_e" else "committed"}

    record = node.carry_out(work, *NAMES, kind=kind)
    assert states(record) == {**dict.fromkeys(NAMES, "committed"), "ml_e": "failed"}
    assert record["released"] is released
    assert (claims.read_claims(node.state_root).active == []) is released
    assert not any("released" in one for one in record["seats"].values())


def shown(node: Node, *names: str) -> list[tuple[Any, ...]]:
    """Return the different reports of a batch whose seats all pull, then verify."""

    def work(_: str, job: Any) -> dict[str, Any]:
        for number, report in enumerate([("pulling", 5, 10, None), ("verifying", None, None, "verify")]):
            job.report(*report)
            until((node.root / f"{job.path.parts[-3]}.{number}").exists)
        return {"state": "committed"}

    found: list[tuple[Any, ...]] = []
    path = node.start(work, *names)
    for name in names:
        for number in (0, 1):
            until(lambda: progress(path)[1] and [progress(path)] != found[-1:])
            found.append(progress(path))
            (node.root / f"{name}.{number}").touch()
    finished(path)
    return found


def progress(path: Path) -> tuple[Any, ...]:
    job = files.read_job(path)
    return tuple(job[name] for name in ("phase", "text", "done", "total", "unit"))


def with_gpus(order: dict[str, Any], *gpus: str) -> dict[str, Any]:
    return {**order, "seat": {**order["seat"], "gpus": list(gpus)}}


@pytest.mark.parametrize(
    ("ended", "kept", "others"),
    [
        ("deferred", ["GPU-1"], "deferred"),
        ("failed", ["GPU-1"], "deferred"),
        ("committed", ["GPU-1"], "committed"),
        ("unchanged", ["GPU-1"], "committed"),
        ("deferred", ["GPU-9"], "committed"),
        ("deferred", [], "committed"),
    ],
)
def test_the_gpus_of_a_seat_that_could_not_be_stopped_go_to_nobody(
    node: Node, ended: str, kept: list[str], others: str
) -> None:
    batch = node.batch("ml_old", "ml_a", "ml_b")
    stop, first, second = batch["orders"]
    stop = {**stop, "act": "stop", "held": {"gpus": kept, "shared": False}}
    batch["orders"] = [stop, with_gpus(first, "GPU-1", "GPU-2"), with_gpus(second, "GPU-3")]
    record = finished(batches.start_batch(batch, "switch", node.begin(ends(ml_old=ended))))["record"]
    assert states(record) == {"ml_old": ended, "ml_a": others, "ml_b": "committed"}
    assert ("begin ml_a" in node.lines()) is (others == "committed")
    problems = record["seats"]["ml_a"].get("problems", [])
    assert [problem["code"] for problem in problems] == (["gpu_held"] if others == "deferred" else [])


def gpu_batch(node: Node, *seats: tuple[str, str, str]) -> dict[str, Any]:
    """Return a batch of seats, each with a letter for each GPU that it has and gets; `*` in front: it shares them."""
    batch = node.batch(*(name for name, _, _ in seats))
    for order, (_, before, after) in zip(batch["orders"], seats, strict=True):
        order["held"] = {"gpus": list(before.strip("*")), "shared": before.startswith("*")}
        order["seat"] |= {"gpus": list(after.strip("*")), "shared": after.startswith("*")}
    return batch


def carried_out(node: Node, batch: dict[str, Any], **states_: str) -> dict[str, str]:
    return states(finished(batches.start_batch(batch, "switch", node.begin(ends(**states_))))["record"])


CHAIN = (("ml_a", "", "1"), ("ml_b", "1", "2"), ("ml_c", "2", "3"), ("ml_d", "3", ""), ("ml_e", "9", "9"))


def test_a_seat_gets_the_gpu_of_another_one_after_that_one_has_changed(node: Node) -> None:
    node.cores = 64
    assert set(carried_out(node, gpu_batch(node, *CHAIN)).values()) == {"committed"}
    lines = node.lines()
    for giver, taker in (("ml_d", "ml_c"), ("ml_c", "ml_b"), ("ml_b", "ml_a")):
        assert lines.index(f"end {giver}") < lines.index(f"begin {taker}")


@pytest.mark.parametrize("state", ["failed", "rolled_back", "deferred", "needs_attention", "unknown"])
def test_the_gpus_of_a_seat_that_was_not_changed_stay_its_own_along_a_chain(node: Node, state: str) -> None:
    batch = gpu_batch(node, *CHAIN)
    found = carried_out(node, batch, ml_c=state)
    assert found == {
        "ml_a": "deferred",
        "ml_b": "deferred",
        "ml_c": state,
        "ml_d": "committed",
        "ml_e": "committed",
    }
    assert {line for line in node.lines() if line.startswith("begin")} == {f"begin ml_{name}" for name in "cde"}


@pytest.mark.parametrize(
    ("giver", "taker", "is_ordered"),
    [
        (("*12", "*2"), ("", "1"), True),
        (("*12", "*2"), ("*2", "*1"), False),
        (("12", "2"), ("*3", "*1"), True),
        (("12", "2"), ("", "3"), False),
    ],
)
def test_seats_that_share_a_gpu_before_and_after_need_no_order(
    node: Node, giver: tuple[str, str], taker: tuple[str, str], is_ordered: bool
) -> None:
    batch = gpu_batch(node, ("ml_a", *taker), ("ml_b", *giver))
    found = carried_out(node, batch, ml_b="rolled_back")
    assert found == {"ml_a": "deferred" if is_ordered else "committed", "ml_b": "rolled_back"}


def test_seats_that_wait_for_each_other_end_all_the_same(node: Node) -> None:
    """No plan has such seats."""
    batch = gpu_batch(node, ("ml_a", "1", "2"), ("ml_b", "2", "1"), ("ml_c", "", "3"))
    assert carried_out(node, batch) == {"ml_a": "deferred", "ml_b": "deferred", "ml_c": "committed"}


def test_nothing_waits_for_gpus_while_seats_are_staged(node: Node) -> None:
    batch = gpu_batch(node, ("ml_a", "1", "2"), ("ml_b", "2", "1"))
    path = batches.start_batch(batch, "stage", node.begin(ends(ml_a="staged", ml_b="failed"), "stage"))
    assert states(finished(path)["record"]) == {"ml_a": "staged", "ml_b": "failed"}


def test_all_seats_are_stopped_before_another_one_is_started(node: Node) -> None:
    batch = node.batch(*NAMES)
    batch["orders"][:3] = [{**order, "act": "stop"} for order in batch["orders"][:3]]
    finished(batches.start_batch(batch, "switch", node.begin(ends(ml_b="deferred"))))
    assert node.lines()[:6] == [f"{what} {name}" for name in NAMES[:3] for what in ("begin", "end")]


def waiting_times(monkeypatch: pytest.MonkeyPatch, policy: dict[str, Any], work: list[float]) -> list[Any]:
    """Return the policy that each seat is begun with, while each takes so many seconds."""
    given = list[Any]()
    monkeypatch.setattr(batches, "time", SimpleNamespace(monotonic=lambda: 1000 + sum(work[: len(given)])))

    def begin(order: dict[str, Any]) -> Path:
        given.append(order.get("when_busy"))
        raise ProblemError("in_use", "w", "w", "f")

    orders = [{"run": "r1", "seat": {"name": f"ml_{number}"}, "when_busy": policy} for number in range(len(work))]
    monkeypatch.setattr(batches, "MOST_FAILURES", len(work))
    batches.SeatJobs(orders, begin, 1000, {}).run(lambda *_: None)
    return given


@pytest.mark.parametrize(
    ("work", "expected"),
    [([0, 0, 0], [60, 60, 60]), ([10, 45.5, 9], [60, 50, 4]), ([90, 1, 1], [60, 0, 0])],
)
def test_the_seats_of_a_node_wait_for_work_until_one_deadline(
    monkeypatch: pytest.MonkeyPatch, work: list[float], expected: list[int]
) -> None:
    policy = {"policy": "wait", "seconds": 60, "reason": ""}
    assert waiting_times(monkeypatch, policy, work) == [policy | {"seconds": left} for left in expected]


@pytest.mark.parametrize("policy", [None, {"policy": "defer"}, {"policy": "force", "seconds": 0, "reason": "exam"}])
def test_only_the_policy_wait_has_a_deadline(monkeypatch: pytest.MonkeyPatch, policy: dict[str, Any]) -> None:
    assert waiting_times(monkeypatch, policy, [10, 10]) == [policy, policy]


def test_a_batch_of_one_order_shows_the_progress_of_the_seat(node: Node) -> None:
    assert shown(node, "ml_a") == [("switch", "pulling", 5, 10, "B"), ("verify", "verifying", None, None, "")]


def test_a_batch_of_several_orders_shows_how_many_have_ended_and_the_progress_of_one(node: Node) -> None:
    node.cores = 1
    assert shown(node, "ml_a", "ml_b") == [
        ("switch", "0 of 2 seats; ml_a: pulling", None, None, ""),
        ("verify", "0 of 2 seats; ml_a: verifying", None, None, ""),
        ("switch", "1 of 2 seats; ml_b: pulling", None, None, ""),
        ("verify", "1 of 2 seats; ml_b: verifying", None, None, ""),
    ]


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


LONG = {"code": "gpu_fails", "what": "显" * 5000, "why": "y" * 5000, "fix": "z" * 5000}


@pytest.mark.parametrize("number", [1, 60, 200])
def test_the_states_of_all_seats_survive_a_disk_that_is_full_at_the_end(
    node: Node, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The file of the batch has room for them from its beginning."""
    names = [f"ml_{index}" for index in range(number)]
    record = {"state": "rolled_back", "generation": 7, "checks": {"ssh": "x" * 2000}, "problems": [LONG] * 6}

    def run(*_: Any) -> dict[str, Any]:
        monkeypatch.setattr(files, "write_atomic", full)  # in the process of the batch
        return dict.fromkeys(names, record)

    monkeypatch.setattr(batches.SeatJobs, "run", run)
    path = node.start(ends(), *names)
    found = finished(path)["record"]
    assert states(found) == dict.fromkeys(names, "rolled_back")
    assert found["released"]
    for one in found["seats"].values():
        assert (one["generation"], one["problems"][0]["code"]) == (7, "gpu_fails")
        assert one["problems"][0]["what"].startswith("显" * 100)
    assert path.stat().st_size <= batches.MOST_ROOM


def test_the_record_of_many_seats_is_within_what_ansible_passes_on() -> None:
    seat = {"state": "failed", "generation": 1, "checks": {"ssh": "ok"}, "problems": [LONG] * 3}
    record = batches.node_record({f"ml_{index}": seat for index in range(200)})
    assert len(json.dumps(record)) <= batches.MOST_ROOM
    assert set(states(record).values()) == {"failed"}
    few = batches.node_record({"ml_a": seat, "ml_b": {"state": "committed"}})
    assert few == {"released": False, "seats": {"ml_a": seat, "ml_b": {"state": "committed"}}}


def test_a_disk_that_is_full_before_a_seat_is_begun_changes_nothing_there(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(name: str, _: Any) -> dict[str, Any]:
        if name == "ml_b":
            (node.root / "full").touch()
        return {"state": "committed"}

    write = files.write_atomic

    def write_unless_full(*given: Any) -> None:
        (full if (node.root / "full").exists() else write)(*given)

    monkeypatch.setattr(files, "write_atomic", write_unless_full)
    node.cores = 1
    record = node.carry_out(work, "ml_a", "ml_b", "ml_c")
    assert states(record) == {"ml_a": "committed", "ml_b": "committed", "ml_c": "failed"}
    assert record["seats"]["ml_c"]["problems"][0]["code"] == "job_not_started"
