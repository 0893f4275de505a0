"""Exit code, report and journal of a run; on a fleet that does nothing, and on unreachable nodes.

Ansible itself finds them unreachable for `probe` and `notify`. The other commands send the same plays.
"""

import json
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from provisioner.adapters.ansible import inventory
from provisioner.adapters.ansible.play import HostEvent
from provisioner.adapters.ansible.settings import Settings
from provisioner.adapters.lab.lockfile import write_lock
from provisioner.adapters.state.files import state_home
from provisioner.adapters.state.journal import open_run
from provisioner.cli.execute import execute_run, exit_code, remove_locally
from provisioner.cli.output import Output
from provisioner.cli.run_context import OpenRun
from provisioner.domain.rollout.order import RemovalOrder, SeatName
from provisioner.domain.rollout.plan import Action
from provisioner.domain.rollout.report import NodeRecord, NodeState, RolloutReport
from provisioner.domain.rollout.run_spec import Rules, build_run_spec
from provisioner.domain.values.problem import Problem
from tests.builders import a_lock
from tests.cli.running import document, run
from tests.workflow.fake_fleet import FakeFleet, a_plan


class IdleFleet(FakeFleet):
    """Removed seats end in the given states."""

    def __init__(self, *states: NodeState) -> None:
        super().__init__(Path("/no/such/folder"))
        self._states = states

    def take_down(self, orders: Mapping[str, Mapping[str, RemovalOrder]]) -> Mapping[str, NodeRecord]:
        return {n: NodeRecord(node=n, state=state) for n, state in zip(orders, self._states, strict=True)}


def test_a_home_at_fault_is_a_check_that_failed_on_a_node_that_is_done() -> None:
    fault = Problem("home_fault", "works with an empty home, but not with /home/li", "why", "ask li")
    now = datetime(2026, 11, 26, tzinfo=UTC)
    nodes = (NodeRecord(node="n1", state="committed", problems=(fault,)), NodeRecord(node="n2", state="committed"))
    report = RolloutReport(lab="demo", run="r1", started_at=now, ended_at=now, nodes=nodes)
    assert (report.done, report.home_faults, exit_code(report)) == (True, 1, 1)
    assert exit_code(report.model_copy(update={"nodes": nodes[1:]})) == 0


def test_a_home_at_fault_is_not_hidden_by_a_node_that_is_busy() -> None:
    fault = Problem("home_fault", "works with an empty home, but not with /home/li", "why", "ask li")
    now = datetime(2026, 11, 26, tzinfo=UTC)
    nodes = (NodeRecord(node="n1", state="committed", problems=(fault,)), NodeRecord(node="n2", state="deferred"))
    report = RolloutReport(lab="demo", run="r1", started_at=now, ended_at=now, nodes=nodes)
    assert exit_code(report) == 1
    assert exit_code(report.model_copy(update={"nodes": nodes[1:]})) == 4


@pytest.mark.parametrize(
    ("state", "stopped", "code"), [("committed", "", 1), ("deferred", "", 1), ("not_started", "interrupted", 130)]
)
def test_a_person_without_a_node_is_a_failure_of_the_run(state: NodeState, stopped: str, code: int) -> None:
    now = datetime(2026, 11, 26, tzinfo=UTC)
    report = RolloutReport(
        lab="demo",
        run="r1",
        started_at=now,
        ended_at=now,
        nodes=(NodeRecord(node="n1", state=state),),
        unplaced={"eve": Problem("no_free_gpu", "eve asks for 1 own card", "why", "fix")},
        stopped=Problem(stopped, "w", "w", "f") if stopped else None,
    )
    assert (report.done, exit_code(report)) == (False, code)


def test_a_gpu_that_is_not_proved_yet_is_no_failure_of_the_run() -> None:
    pending = Problem("proof_pending", "li: its image has not computed yet on GPU-1", "why", "nothing to do")
    now = datetime(2026, 11, 26, tzinfo=UTC)
    nodes = (NodeRecord(node="n1", state="committed", problems=(pending,)),)
    report = RolloutReport(lab="demo", run="r1", started_at=now, ended_at=now, nodes=nodes)
    assert (report.done, report.home_faults, exit_code(report)) == (True, 0, 0)


@pytest.mark.parametrize(
    ("actions", "stale", "code"),
    [
        ((), "", 0),
        (("keep",), "", 0),
        (("defer",), "", 4),
        (("defer", "keep"), "", 4),
        (("skip",), "", 1),
        (("defer", "skip"), "", 1),
        (("update", "keep"), "n0", 6),
        (("update", "defer"), "n0", 1),
    ],
)
def test_exit_codes_of_a_rollout(
    actions: tuple[Action, ...], stale: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, journal = a_plan({f"n{number}": action for number, action in enumerate(actions)}), open_run("demo")
    run_spec = build_run_spec(journal.run, plan, {}, Rules(), datetime.now(UTC), stale=frozenset({stale}))
    assert execute_run(OpenRun.of(journal, Output(as_json=True)), run_spec, IdleFleet()) == code
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((journal.folder / "report.json").read_text())
    assert (report["schema"], report["run"], len(report["nodes"])) == (
        "provisioner/report/2",
        journal.run,
        len(actions),
    )


@pytest.mark.parametrize(
    ("states", "code"),
    [(("committed", "unchanged"), 0), (("committed", "unreachable"), 1)],
)
def test_exit_codes_of_a_removal(states: tuple[NodeState, ...], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    journal = open_run("demo")
    order = RemovalOrder(run=journal.run, act="remove", seat=SeatName(name="demo-student"))
    orders = {f"n{number}": {"demo-student": order} for number in range(len(states))}
    assert remove_locally(OpenRun.of(journal, Output()), "demo", IdleFleet(*states), orders) == code
    assert "n0  committed  taken down; home, token and host key stay" in capsys.readouterr().out


@pytest.fixture(scope="module")
def listings() -> dict[tuple[str, str | None], Any]:
    return {}


@pytest.fixture
def _listed_once(listings: dict[tuple[str, str | None], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask Ansible once for each inventory and limit: every command lists its hosts, and that takes half a second."""
    ask = inventory._list_inventory

    def list_once(settings: Settings, limit: str | None) -> Any:
        assert settings.inventory is not None
        asked = settings.inventory.read_text(), limit
        if asked not in listings:
            listings[asked] = ask(settings, limit)
        return listings[asked]

    monkeypatch.setattr(inventory, "_list_inventory", list_once)


@pytest.fixture
def _refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the events that Ansible sends for nodes which refuse the connection."""

    def run_playbook(_: Settings, folder: Path, __: str, on_host_event: Callable[[HostEvent], None]) -> None:
        for node in (folder / "limit").read_text().split():
            result = {"unreachable": True, "msg": "ssh: connect to host 127.0.0.1 port 1: Connection refused"}
            on_host_event(HostEvent(node, "unreachable", result))

    monkeypatch.setattr("provisioner.adapters.ansible.fleet.run_playbook", run_playbook)


@pytest.fixture
def unreachable_lab(tmp_path: Path, _listed_once: None) -> str:
    """Two nodes behind a port without a listener."""
    hosts = {name: {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_user": "nobody"} for name in ("n1", "n2")}
    (tmp_path / "hosts.yml").write_text(json.dumps({"all": {"hosts": hosts}}))
    (tmp_path / "lab.yml").write_text(
        'name: demo\nmirror: {address: "127.0.0.1:1", plain_http: true}\nregistry: {address: "127.0.0.1:1"}\n'
    )
    return str(tmp_path)


def test_probe_reports_unreachable_nodes(unreachable_lab: str) -> None:
    ran = run("probe", unreachable_lab, "--json")
    assert ran.exit_code == 1
    read = document(ran)
    assert (read["schema"], read["nodes"]) == ("provisioner/probe/1", [])
    assert [(problem["node"], problem["code"]) for problem in read["problems"]] == [
        ("n1", "unreachable"),
        ("n2", "unreachable"),
    ]
    assert "n1: probe failed: " in ran.stderr


@pytest.mark.usefixtures("_refused")
def test_rollout_to_unreachable_nodes_changes_nothing_and_reports_it(unreachable_lab: str) -> None:
    write_lock(Path(unreachable_lab, "lab.lock"), a_lock())
    ran = run("rollout", unreachable_lab, "--limit", "n1")
    assert ran.exit_code == 1
    assert "No changes: there is no node to change. 1 node skipped." in ran.stdout
    assert "n1  unreachable  could not be reached; not touched" in ran.stdout
    (folder,) = (state_home() / "demo" / "runs").iterdir()
    assert {path.name for path in folder.iterdir()} == {"events.jsonl", "plan.json", "report.json"}
    assert str(folder) in ran.stderr


VERBS = ("rollout", "rollback", "remove", "upgrade", "prepare", "probe")


@pytest.mark.parametrize("limit", ["", "n3"])
def test_a_limit_that_matches_no_node_makes_no_connection(unreachable_lab: str, limit: str) -> None:
    hosts = Path(unreachable_lab, "hosts.yml")
    write_lock(Path(unreachable_lab, "lab.lock"), a_lock())
    with socket.create_server(("127.0.0.1", 0)) as door:
        hosts.write_text(hosts.read_text().replace('"ansible_port": 1', f'"ansible_port": {door.getsockname()[1]}'))
        codes = {
            verb: run(verb, unreachable_lab, "--limit", limit, *(() if verb == "probe" else ("--yes",))).exit_code
            for verb in VERBS
        }
        assert codes == dict.fromkeys(VERBS, 2)
        door.settimeout(0)
        with pytest.raises(BlockingIOError):
            door.accept()


@pytest.mark.usefixtures("_refused")
def test_remove_from_unreachable_nodes_changes_nothing(unreachable_lab: str) -> None:
    ran = run("remove", unreachable_lab)
    assert ran.exit_code == 1
    assert "No changes: there is no node to change. 2 nodes skipped." in ran.stdout


def test_upgrade_without_a_lock_names_the_command_that_makes_one(unreachable_lab: str) -> None:
    ran = run("upgrade", unreachable_lab, "--yes")
    assert ran.exit_code == 2
    assert f"fix: provision lock {unreachable_lab}" in ran.stderr


@pytest.mark.usefixtures("_refused")
def test_upgrade_of_unreachable_nodes_does_not_write_the_lock(unreachable_lab: str) -> None:
    lock = Path(unreachable_lab, "lab.lock")
    write_lock(lock, a_lock())
    before = lock.read_bytes()
    ran = run("upgrade", unreachable_lab, "--yes")
    assert ran.exit_code == 1
    assert "unreachable" in ran.stderr
    assert lock.read_bytes() == before


def test_notify_reports_unreachable_nodes(unreachable_lab: str) -> None:
    ran = run("notify", unreachable_lab, "exam", "--json")
    assert ran.exit_code == 1
    read = document(ran)
    assert (read["schema"], read["text"]) == ("provisioner/notice/1", "exam")
    assert [(record["node"], record["state"]) for record in read["nodes"]] == [
        ("n1", "unreachable"),
        ("n2", "unreachable"),
    ]


def test_rollout_refuses_a_file_that_is_not_a_plan(unreachable_lab: str) -> None:
    saved = Path(unreachable_lab, "plan.json")
    saved.write_text('{"schema": "provisioner/lock/1"}')
    ran = run("rollout", unreachable_lab, "--plan", str(saved))
    assert ran.exit_code == 2
    assert "its schema is provisioner/lock/1, not provisioner/plan/2" in ran.stderr


def test_a_plan_of_a_lab_without_a_lock_cannot_be_saved(unreachable_lab: str) -> None:
    ran = run("plan", unreachable_lab, "-o", "plan.json")
    assert ran.exit_code == 2
    assert f"fix: provision lock {unreachable_lab}" in ran.stderr


def test_me_without_a_lock() -> None:
    ran = run("me")
    assert ran.exit_code == 2
    assert "provision me --lock FILE-or-URL" in ran.stderr


def test_resume_without_an_open_run_does_nothing_and_refuses_limits_and_unknown_runs(unreachable_lab: str) -> None:
    again = run("resume", unreachable_lab, "--json")
    assert (again.exit_code, document(again)["nodes"]) == (0, [])
    assert run("resume", unreachable_lab, "--limit", "n1").exit_code == 2
    unknown = run("resume", unreachable_lab, "20260101T000000Z-0000")
    assert (unknown.exit_code, "no_such_run" in unknown.stderr) == (2, True)


@pytest.mark.usefixtures("_refused")
def test_rollback_of_unreachable_nodes_changes_nothing_and_reports_it(unreachable_lab: str) -> None:
    ran = run("rollback", unreachable_lab, "--json")
    assert ran.exit_code == 1
    assert {record["state"] for record in document(ran)["nodes"]} == {"unreachable"}


@pytest.mark.usefixtures("_refused")
@pytest.mark.parametrize(
    ("moved", "flags", "code"),
    [(False, (), 1), (True, (), 6), (True, ("--skip-stale",), 6), (False, ("--skip-stale",), 1)],
)
def test_a_node_changed_since_the_plan_stops_the_run_or_is_skipped(
    unreachable_lab: str, tmp_path: Path, moved: bool, flags: tuple[str, ...], code: int
) -> None:
    """The nodes are unreachable, as in the saved plan or not."""
    write_lock(Path(unreachable_lab, "lab.lock"), a_lock())
    saved = a_plan({"n1": "create" if moved else "skip"})
    Path(unreachable_lab, "plan.json").write_text(saved.model_dump_json(by_alias=True))
    ran = run("rollout", unreachable_lab, "--plan", f"{tmp_path}/plan.json", "--limit", "n1", "--yes", *flags)
    assert ran.exit_code == code, ran.stderr
    assert ("plan_stale" in ran.stderr) == (moved and not flags)
