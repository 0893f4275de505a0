"""AnsibleFleet with the real Ansible on this machine alone: results of nodes, and clean-up after each play."""

import fcntl
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from provisioner.adapters.ansible.fleet import AnsibleFleet, local_fleet
from provisioner.adapters.ansible.play import HostEvent, connections, local_hostname, play_folder, run_playbook
from provisioner.adapters.ansible.settings import Settings
from provisioner.domain.lab.ordered import Deadlines, OrderedImage, OrderedRegistry
from provisioner.domain.rollout.order import Order
from provisioner.domain.rollout.report import NodeRecord
from provisioner.domain.seat.document import SeatDocument
from provisioner.domain.seat.seat import Seat
from provisioner.domain.values.claim import Claim
from provisioner.domain.values.event import Event
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem, ProblemError
from tests.playbooks.node_code import module_util

LOCAL = {"ansible_connection": "local", "ansible_become": False, "ansible_python_interpreter": sys.executable}
DEAD = {"ansible_host": "127.0.0.1", "ansible_port": 1}
take_claim = module_util("jobs.claims").take_claim
BROKEN = LOCAL | {"ansible_python_interpreter": "/no/such/python"}


def hide_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the engine of this machine, if it has one."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/docker.sock")
    monkeypatch.delenv("ANSIBLE_CONFIG", raising=False)


@pytest.fixture(autouse=True)
def _no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_engine(monkeypatch)


def inventory_in(folder: Path, **hosts: dict[str, Any]) -> Settings:
    path = folder / "hosts.yml"
    path.write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    return Settings(path)


@pytest.fixture
def inventory(tmp_path: Path) -> Callable[..., Settings]:
    return partial(inventory_in, tmp_path)


def count_results(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the results of the node `here`, by playbook. Each costs the control machine a third of a second of CPU."""
    found = Counter[str]()

    def counting(settings: Settings, folder: Path, playbook: str, on_event: Callable[[HostEvent], None]) -> None:
        def count(event: HostEvent) -> None:
            found[playbook] += event.node == "here" and event.status in {"ok", "failed"}
            on_event(event)

        run_playbook(settings, folder, playbook, count)

    monkeypatch.setattr("provisioner.adapters.ansible.fleet.run_playbook", counting)
    return found


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    return count_results(monkeypatch)


def an_order(root: Path, **over: Any) -> Order:
    seat = {
        "name": "demo-student",
        "lab": "demo",
        "node": "n1",
        "user": "student",
        "uid": 1000,
        "gid": 1000,
        "home": str(root / "home"),
        "gpus": (),
        "gpu_driver": "nvidia",
        "ports": {"ssh": 22000, "jupyter": 22001},
        "binds": {"ssh": "127.0.0.1", "jupyter": "127.0.0.1"},
    }
    return Order(
        run="r1",
        state_root=str(root),
        seat=Seat.model_validate(seat | over),
        image=OrderedImage(reference="r.lab/lab@sha256:" + "a" * 64, tag="t:1", platform="linux/amd64"),
        registry=OrderedRegistry(address="r.lab"),
        document=SeatDocument.of_texts({"compose.yaml": "services: {}"}),
        deadlines=Deadlines(pull=60, healthy=10, min_healthy=0),
    )


def each_seat(orders: Mapping[str, Order]) -> dict[str, dict[str, Order]]:
    """Return orders for one seat on each node, by node and seat."""
    return {node: {order.seat.name: order} for node, order in orders.items()}


def a_claim(run: str, fence: int) -> Claim:
    return Claim(run=run, lab="demo", holder="ann@control1", since="2026-11-26T21:00:00+00:00", fence=fence)


def command_lines() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # the process has just ended
            found.append(path.read_text(errors="replace"))
    return found


def play_folders() -> set[Path]:
    return set(Path("/tmp").glob(f"prov-{os.getpid()}-*"))


def endless_node(folder: Path) -> dict[str, Any]:
    """Return the variables of a node that prints without end, whatever it is sent by ssh."""
    path = folder / "ssh"
    path.write_text("#!/bin/sh\ncat > /dev/null\nexec yes '{}'\n")
    path.chmod(0o755)
    return {
        "ansible_ssh_executable": str(path),
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_become": False,
    }


def test_probe_gives_facts_or_a_problem_for_each_node(
    inventory: Callable[..., Settings], tmp_path: Path, results: Counter[str]
) -> None:
    before, events = play_folders(), list[Event]()
    take_claim(str(tmp_path), a_claim("r1", 1).model_dump(), "")
    printed = list[str]()
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    nodes = {"here": LOCAL, "dead": DEAD, "broken": BROKEN, "endless": endless_node(tmp_path)}
    settings = replace(inventory(**nodes), on_output=printed.append)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    accounts = ("root", "no-such-account", "two\nlines")
    answers = AnsibleFleet(settings, events.append, state_root=str(tmp_path), accounts=accounts).probe(list(nodes))
    assert list(answers) == list(nodes)
    here, dead, broken, endless = answers.values()
    assert isinstance(here, NodeFacts)
    assert (here.name, here.engine, here.clock_offset) == ("here", None, 0.0)
    assert (here.claims, here.fence) == ((a_claim("r1", 1),), 1)
    assert "/no/such/docker.sock" in here.absent_because["engine"] or "not installed" in here.absent_because["engine"]
    assert {name: account.uid for name, account in here.accounts.items()} == {"root": 0, "no-such-account": None}
    assert here.absent_because["accounts"].startswith("names not looked up")
    assert isinstance(dead, Problem)
    assert dead.code == "unreachable"
    assert "Connection refused" in dead.what
    assert isinstance(broken, Problem)
    assert broken.code == "module_failed"
    assert "/no/such/python" in broken.what
    assert isinstance(endless, Problem)
    assert (endless.code, endless.what) == (
        "module_failed",
        "the node printed more than Ansible may keep in memory for it; a valid result has at most 0.7 MB",
    )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 100 << 10  # kB
    assert {(event.node, event.kind) for event in events} == {
        ("here", "done"),
        ("dead", "failed"),
        ("broken", "failed"),
        ("endless", "failed"),
    }
    assert results == {"probe": 1}
    assert play_folders() <= before
    assert "TASK [Probe]" in "\n".join(printed)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


class Staged(NamedTuple):
    """What a play gave that staged an order on each node. `root` holds a folder for each of them."""

    root: Path
    settings: Settings
    records: Mapping[str, NodeRecord]
    events: list[Event]
    results: Counter[str]


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Staged:
    """One play on four nodes, of which one is dead and the others are this machine. Two get a template in the order."""
    root, events = tmp_path_factory.mktemp("staged"), list[Event]()
    evil = f"{{{{ lookup('pipe', 'touch {root}/canary') }}}}"
    orders = {node: an_order(root / node) for node in ("here", "dead", "bad")}
    seat = orders["bad"].seat.model_copy(update={"name": evil})
    orders["bad"] = orders["bad"].model_copy(update={"seat": seat})
    files = {"compose.yaml": evil, "x": f"!unsafe {evil}"}
    orders["here"] = orders["here"].model_copy(update={"document": SeatDocument.of_texts(files)})
    (root / "claimed").mkdir()
    take_claim(str(root / "claimed"), a_claim("r1", 1).model_dump(), "")
    late = {"run": "r2", "claim": a_claim("r2", 2)}
    orders["claimed"] = an_order(root / "claimed").model_copy(update=late)
    settings = inventory_in(root, **{node: DEAD if node == "dead" else LOCAL for node in orders})
    with pytest.MonkeyPatch.context() as monkeypatch:
        hide_engine(monkeypatch)
        results = count_results(monkeypatch)
        given = each_seat(orders)
        given["here"]["demo-other"] = an_order(root / "here", name="demo-other")
        records = AnsibleFleet(settings, events.append).stage(given)
    return Staged(root, settings, records, events, results)


def test_stage_and_switch_give_the_record_of_each_nodes_job(staged: Staged, results: Counter[str]) -> None:
    found = {node: staged.records[node] for node in ("here", "bad", "dead")}
    assert {node: (r.state, r.problems[0].code) for node, r in found.items()} == {
        "here": ("failed", "no_engine"),
        "bad": ("failed", "bad_order"),
        "dead": ("unreachable", "unreachable"),
    }
    events = list(staged.events)
    orders = {node: an_order(staged.root / node) for node in ("here", "dead")}
    found = dict(AnsibleFleet(staged.settings, events.append).switch(each_seat(orders)))
    assert {node: (r.state, r.problems[0].code) for node, r in found.items()} == {
        "here": ("failed", "no_engine"),
        "dead": ("unknown", "lost_contact"),  # the order may have arrived before the connection broke
    }
    assert [(e.phase, e.kind) for e in events if e.node == "here"] == [
        ("stage", "started"),
        ("stage", "failed"),
        ("switch", "started"),
        ("switch", "failed"),
    ]
    # The task that starts a job sees it end; a second one would follow it.
    assert (staged.results, results) == ({"stage": 1}, {"switch": 1})
    assert [seat.seat for seat in staged.records["here"].seats] == ["demo-student", "demo-other"]
    for name in ("seats/demo-student", "seats/demo-other", "batch"):
        assert json.loads((staged.root / f"here/{name}/jobs/r1.stage.json").read_text())["finished"]


def test_text_in_an_order_is_never_expanded_as_a_template(staged: Staged) -> None:
    assert staged.records["here"].problems[0].code == "no_engine"
    assert "invalid seat name" in staged.records["bad"].problems[0].what
    assert not (staged.root / "canary").exists()


def test_a_claimed_node_does_not_start_the_job_of_another_run(staged: Staged) -> None:
    record = staged.records["claimed"]
    assert (record.state, record.problems[0].code) == ("failed", "claimed")


def test_a_job_that_does_not_end_is_followed_for_a_limited_time(
    inventory: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provisioner.adapters.ansible.play._JOB_SECONDS", -279)  # one second is left
    monkeypatch.setattr("provisioner.adapters.ansible.play._patience", lambda _: 1)
    order, seat = an_order(tmp_path), tmp_path / "seats/demo-student"
    (seat / "jobs").mkdir(parents=True)
    job = module_util("jobs.jobfile").Job(seat / "jobs/r1.stage.json", "r1", "stage")
    job.report("pulling")
    with (seat / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = AnsibleFleet(inventory(here=LOCAL), lambda _: None).stage(each_seat({"here": order}))["here"]
    job.finish({"state": "staged"})  # so that the batch ends, too
    assert (record.state, record.problems[0].code) == ("unknown", "job_overdue"), record
    assert "pulling" in record.problems[0].what
    batch = tmp_path / "batch/jobs/r1.stage.json"
    wait_until(lambda: json.loads(batch.read_text())["record"] is not None)
    (ended,) = json.loads(batch.read_text())["record"]["seats"].values()
    assert ended["state"] == "staged"


def test_no_play_runs_without_nodes(tmp_path: Path) -> None:
    fleet = AnsibleFleet(Settings(tmp_path / "no such inventory"), lambda _: None)
    assert (fleet.probe([]), fleet.stage({}), fleet.switch({}), fleet.access({})) == ({}, {}, {}, {})
    assert (fleet.take_down({}), fleet.stage({"n1": {}}), fleet.access({"n1": []})) == ({}, {}, {})
    with play_folder({}) as folder, pytest.raises(ValueError, match="all of them"):
        run_playbook(Settings(None), folder, "probe", lambda _: None)


def test_a_play_that_did_not_run_raises_and_gives_no_node_a_result(
    inventory: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = inventory(here=LOCAL)
    (tmp_path / "ansible.cfg").write_text("[defaults]\nstrategy = no_such_strategy\n")
    with pytest.raises(ProblemError) as caught:
        AnsibleFleet(settings, lambda _: None).probe(["here"])
    (problem,) = caught.value.problems
    assert problem.code == "ansible_failed"
    assert "no_such_strategy" in problem.what


# An interrupted ansible-runner leaves its log files to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupted_play_leaves_no_folder_and_no_process(inventory: Callable[..., Settings]) -> None:
    before, during = play_folders(), set[Path]()

    def interrupted(_: Event) -> None:
        during.update(play_folders() - before)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        AnsibleFleet(inventory(here=LOCAL, dead=DEAD), interrupted).probe(["here", "dead"])
    assert during
    assert play_folders() <= before
    wait_until(lambda: not any(str(folder) in line for folder in during for line in command_lines()))
    gc.collect()  # here, where its warnings are expected, and not during a later test


def test_local_fleet_is_this_machine_without_an_inventory() -> None:
    (host,) = local_fleet(lambda _: None).hosts()  # its plays are tried by tests/journeys/test_me.py
    assert (host.name, host.address) == (local_hostname(), None)


def test_a_token_is_in_no_output_event_or_file_of_ansible(
    inventory: Callable[..., Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    kept, host_events = dict[str, bytes](), list[HostEvent]()

    def run_and_keep(settings: Settings, folder: Path, playbook: str, _: Callable[[HostEvent], None]) -> None:
        run_playbook(settings, folder, playbook, host_events.append)
        kept.update({str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()})

    monkeypatch.setattr("provisioner.adapters.ansible.fleet.run_playbook", run_and_keep)
    identity = tmp_path / "seats/demo-student/identity"
    identity.mkdir(parents=True)
    (identity / "token").write_text("t0ken-of-the-seat")
    settings = replace(inventory(here=LOCAL, there=LOCAL), verbosity=4)
    fleet = AnsibleFleet(settings, lambda _: None, state_root=str(tmp_path))
    evil = f"{{{{ lookup('pipe', 'touch {tmp_path}/canary') }}}}"
    found = fleet.access({"here": [evil, "demo-student"], "there": ["../../demo-other"]})
    assert found["here"]["demo-student"] == "t0ken-of-the-seat"
    for problem in (found["here"][evil], found["there"]["../../demo-other"]):
        assert isinstance(problem, Problem)
        assert problem.code == "no_token"
    assert not (tmp_path / "canary").exists()
    assert [name for name, text in kept.items() if b"t0ken" in text] == ["orders/here.1.token"]
    assert any(name.endswith("/stdout") and b"Fetch" in text for name, text in kept.items())
    assert "t0ken" not in repr(host_events)
    assert "t0ken" not in "".join(capfd.readouterr())


def test_the_tokens_of_sixty_seats_are_fetched_by_one_module(
    inventory: Callable[..., Settings], tmp_path: Path
) -> None:
    names = [f"demo_{number}" for number in range(60)]
    for name in names[1:]:
        identity = tmp_path / "seats" / name / "identity"
        identity.mkdir(parents=True)
        (identity / "token").write_text(f"t0ken-{name}" if name != "demo_2" else "x" * 10_000)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho >>{tmp_path}/runs\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    variables = LOCAL | {"ansible_python_interpreter": str(python)}
    fleet = AnsibleFleet(inventory(here=variables), lambda _: None, state_root=str(tmp_path))
    found = fleet.access({"here": names})["here"]
    problems = {name: answer.code for name, answer in found.items() if isinstance(answer, Problem)}
    assert problems == {"demo_0": "no_token", "demo_2": "bad_token"}
    assert [found[name] for name in names[3:]] == [f"t0ken-{name}" for name in names[3:]]
    assert (tmp_path / "runs").read_text() == "\n"


LIES = {
    "no JSON": "x",
    "nothing": "{}",
    "a text": '{"tokens": "t0ken"}',
    "numbers": '{"tokens": [1, null, {"a": "t0ken"}]}',
    "surrogates": '{"tokens": ["\\ud800"]}',
    "too many": json.dumps({"tokens": ["../../x"] * 1000}),
    "too much": json.dumps({"tokens": ["ab12"], "more": "x" * 1_000_000}),
    "a long one": json.dumps({"tokens": ["x" * 100_000]}),
}


def test_a_notice_is_committed_in_each_seat_that_did_not_show_it(
    tmp_path: Path, inventory: Callable[..., Settings]
) -> None:
    ordered = an_order(tmp_path, name="demo-ann")
    order = ordered.model_dump(mode="json") | {"files": ordered.files}
    seat = module_util("seat.seat").seat_of(order)
    seat.make_folders()
    seat.write(1, order, {})
    seat.commit(1)
    fleet = AnsibleFleet(inventory(here=LOCAL), lambda _: None, state_root=str(tmp_path))
    found = [fleet.notify({"here": ["demo-ann", "demo-bob"]}, run, "exam")["here"].seats for run in ("r1", "r2")]
    assert [[(one.seat, one.state) for one in seats] for seats in found] == [
        [("demo-ann", "committed"), ("demo-bob", "failed")],
        [("demo-ann", "unchanged"), ("demo-bob", "failed")],
    ]


def test_limits_of_the_disk_are_set_for_several_seats_of_a_node(
    inventory: Callable[..., Settings], tmp_path: Path
) -> None:
    seat = module_util("seat.seat").Seat(str(tmp_path), "demo-ann")
    seat.make_folders()
    seat.commit(1)
    fleet = AnsibleFleet(inventory(here=LOCAL), lambda _: None, state_root=str(tmp_path))
    records = fleet.limit_disks({"here": {"demo-ann": 100 << 30, "demo-bob": None}}, "r1")["here"]
    assert [(one.seat, one.state) for one in records.seats] == [("demo-ann", "committed"), ("demo-bob", "unchanged")]
    assert seat.disk_limit() == 100 << 30


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_what_a_lying_node_sends_as_tokens_is_no_token(
    lie: str, inventory: Callable[..., Settings], tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ncat >/dev/null\ncat {tmp_path}/lie\n")
    python.chmod(0o755)
    (tmp_path / "lie").write_text(lie)
    variables = LOCAL | {"ansible_python_interpreter": str(python)}
    found = AnsibleFleet(inventory(here=variables), lambda _: None).access({"here": ["demo-student"]})["here"]
    answer = found["demo-student"]
    assert isinstance(answer, Problem)
    assert answer.code in {"no_token", "bad_token"}


def test_a_claimed_node_refuses_other_runs_until_it_is_released(
    inventory: Callable[..., Settings], tmp_path: Path, results: Counter[str]
) -> None:
    take_claim(str(tmp_path), a_claim("r1", 1).model_dump(), "")
    fleet = AnsibleFleet(inventory(here=LOCAL, dead=DEAD), lambda _: None, state_root=str(tmp_path))
    other = a_claim("r2", 2)
    refused = fleet.claim(dict.fromkeys(("here", "dead"), other), "")
    assert refused["here"] is not None
    assert (refused["here"].code, "run r1 of ann@control1" in refused["here"].what) == ("claimed", True)
    assert refused["dead"] is not None
    assert refused["dead"].code == "unreachable"
    assert fleet.release(a_claim("r1", 1), ["here"]) == {"here": None}
    take_claim(str(tmp_path), other.model_dump(), "")  # or it raises
    assert results == {"claim": 2}


def test_shared_connections_outlive_a_play_and_end_with_their_folder() -> None:
    with connections() as shared:
        with play_folder({"n1": "{}"}, shared) as folder:
            (folder / "cp" / "socket").touch()
        assert (shared / "socket").exists()
        assert not folder.exists()
    assert not shared.exists()


def test_the_processes_of_an_interrupted_play_are_ended_and_a_job_on_this_machine_goes_on() -> None:
    """Ansible's workers run in their own sessions, which neither ^C nor a hang-up reaches."""
    with suppress(KeyboardInterrupt), play_folder({"n1": "{}"}) as folder:
        environment = os.environ | {"ANSIBLE_SSH_CONTROL_PATH_DIR": f"{folder}/cp"}
        worker = subprocess.Popen(["tail", "-f", f"{folder}/limit"], env=environment, start_new_session=True)
        job = subprocess.Popen(["sleep", "600"], env=environment, start_new_session=True)
        raise KeyboardInterrupt
    assert worker.wait() == -signal.SIGTERM
    assert job.poll() is None
    job.kill()
    job.wait()


SLOW = """
import sys
from pathlib import Path
from provisioner.adapters.ansible.fleet import AnsibleFleet
from provisioner.adapters.ansible.settings import Settings

AnsibleFleet(Settings(Path(sys.argv[1])), lambda _: None).probe(["here", "there"])
"""


def test_a_killed_controller_takes_ansible_its_workers_and_its_folder_along(
    inventory: Callable[..., Settings], tmp_path: Path
) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 611\n")
    slow.chmod(0o755)
    variables = LOCAL | {"ansible_python_interpreter": str(slow)}
    settings = inventory(here=variables, there=variables)
    with subprocess.Popen([sys.executable, "-c", SLOW, str(settings.inventory)]) as controller:
        prefix = f"/tmp/prov-{controller.pid}-"
        try:
            wait_until(lambda: sum("sleep\x00611" in line for line in command_lines()) == 2)
            assert sum(f"@{prefix}" in line for line in command_lines()) == 3  # Ansible and two workers
        finally:
            controller.kill()
    wait_until(lambda: not any(prefix in line or "sleep\x00611" in line for line in command_lines()))
    assert not list(Path("/tmp").glob(f"prov-{controller.pid}-*"))


def wait_until(is_so: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_folders_of_killed_runs_are_removed_and_those_of_live_runs_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provisioner.adapters.ansible.play._TMP", tmp_path)
    ended = subprocess.Popen(["true"])
    ended.wait()
    alive = os.getpid()
    folders = {
        name: tmp_path / name for name in (f"prov-{ended.pid}-old", f"prov-{ended.pid}-new", f"prov-{alive}-old")
    }
    for name, folder in folders.items():
        (folder / "orders").mkdir(parents=True)
        (folder / "orders" / "n1.token").write_text("secret")
        if name.endswith("old"):
            os.utime(folder, (0, 0))
    with play_folder({"n1": "{}"}):
        pass
    assert [folder.exists() for folder in folders.values()] == [False, True, True]
