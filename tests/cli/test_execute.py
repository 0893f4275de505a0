"""How acting ends: code, report and record; on a fleet that does nothing, and by Ansible on nodes that are down."""

import json
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from provisioner.adapters.lab.lockfile import write_lock
from provisioner.adapters.state.files import state_home
from provisioner.adapters.state.journal import open_run
from provisioner.cli.execute import execute_run, remove_locally
from provisioner.cli.output import Output
from provisioner.domain.rollout.order import DownOrder, NamedSeat
from provisioner.domain.rollout.plan import Action
from provisioner.domain.rollout.report import NodeRecord, NodeState
from provisioner.domain.rollout.run_spec import Rules, build_run_spec
from tests.builders import a_lock
from tests.cli.running import document, run
from tests.workflow.fake_fleet import FakeFleet, a_plan


class StillFleet(FakeFleet):
    """Seats that are taken down end in the states that it was made with."""

    def __init__(self, *states: NodeState) -> None:
        super().__init__(Path("/no/such/folder"))
        self._states = states

    def take_down(self, orders: Mapping[str, DownOrder]) -> Mapping[str, NodeRecord]:
        return {n: NodeRecord(node=n, state=state) for n, state in zip(orders, self._states, strict=True)}


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
def test_codes_of_a_rollout(
    actions: tuple[Action, ...], stale: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, journal = a_plan({f"n{number}": action for number, action in enumerate(actions)}), open_run("demo")
    what = build_run_spec(journal.run, plan, {}, Rules(), datetime.now(UTC), stale=frozenset({stale}))
    assert execute_run(Output(as_json=True), journal, what, lambda _: StillFleet()) == code
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((journal.folder / "report.json").read_text())
    assert (told["schema"], told["run"], len(told["nodes"])) == ("provisioner/report/1", journal.run, len(actions))


@pytest.mark.parametrize(
    ("states", "code"),
    [(("committed", "unchanged"), 0), (("committed", "unreachable"), 1)],
)
def test_codes_of_a_removal(states: tuple[NodeState, ...], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    journal = open_run("demo")
    order = DownOrder(run=journal.run, act="remove", seat=NamedSeat(name="demo-student"))
    orders = {f"n{number}": order for number in range(len(states))}
    assert remove_locally(Output(), journal, "demo", lambda _: StillFleet(*states), orders) == code
    assert "n0  committed  taken down; home, token and host key stay" in capsys.readouterr().out


@pytest.fixture
def dark_lab(tmp_path: Path) -> str:
    """Two nodes behind a port on which nobody listens."""
    hosts = {name: {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_user": "nobody"} for name in ("n1", "n2")}
    (tmp_path / "hosts.yml").write_text(json.dumps({"all": {"hosts": hosts}}))
    (tmp_path / "lab.yml").write_text(
        'name: demo\nmirror: {address: "127.0.0.1:1", plain_http: true}\nregistry: {address: "127.0.0.1:1"}\n'
    )
    return str(tmp_path)


def test_probe_of_nodes_that_are_down(dark_lab: str) -> None:
    ran = run("probe", dark_lab, "--json")
    assert ran.exit_code == 1
    read = document(ran)
    assert (read["schema"], read["nodes"]) == ("provisioner/probe/1", [])
    assert [(problem["node"], problem["code"]) for problem in read["problems"]] == [
        ("n1", "unreachable"),
        ("n2", "unreachable"),
    ]
    assert "n1: probe failed: " in ran.stderr


def test_a_rollout_to_nodes_that_are_down_changes_nothing_and_says_so(dark_lab: str) -> None:
    write_lock(Path(dark_lab, "lab.lock"), a_lock())
    ran = run("rollout", dark_lab, "--limit", "n1")
    assert ran.exit_code == 1
    assert "No changes: there is no node to change. 1 node skipped." in ran.stdout
    assert "n1  unreachable  could not be reached; not touched" in ran.stdout
    (folder,) = (state_home() / "demo" / "runs").iterdir()
    assert {path.name for path in folder.iterdir()} == {"events.jsonl", "plan.json", "report.json"}
    assert str(folder) in ran.stderr


@pytest.mark.parametrize("limit", ["", "n3"])
@pytest.mark.parametrize("verb", ["rollout", "rollback", "remove", "upgrade", "prepare", "probe"])
def test_a_limit_that_names_nobody_makes_no_connection(dark_lab: str, verb: str, limit: str) -> None:
    hosts = Path(dark_lab, "hosts.yml")
    write_lock(Path(dark_lab, "lab.lock"), a_lock())
    with socket.create_server(("127.0.0.1", 0)) as door:
        hosts.write_text(hosts.read_text().replace('"ansible_port": 1', f'"ansible_port": {door.getsockname()[1]}'))
        agreed = () if verb == "probe" else ("--yes",)
        assert run(verb, dark_lab, "--limit", limit, *agreed).exit_code == 2
        door.settimeout(0)
        with pytest.raises(BlockingIOError):
            door.accept()


def test_of_nodes_that_are_down_nothing_is_removed(dark_lab: str) -> None:
    ran = run("remove", dark_lab)
    assert ran.exit_code == 1
    assert "No changes: there is no node to change. 2 nodes skipped." in ran.stdout


def test_an_upgrade_of_a_lab_without_a_lock_says_how_to_begin(dark_lab: str) -> None:
    ran = run("upgrade", dark_lab, "--yes")
    assert ran.exit_code == 2
    assert f"fix: provision lock {dark_lab}" in ran.stderr


def test_an_upgrade_of_nodes_that_are_down_leaves_the_lock_alone(dark_lab: str) -> None:
    lock = Path(dark_lab, "lab.lock")
    write_lock(lock, a_lock())
    before = lock.read_bytes()
    ran = run("upgrade", dark_lab, "--yes")
    assert ran.exit_code == 1
    assert "unreachable" in ran.stderr
    assert lock.read_bytes() == before


def test_a_notice_to_nodes_that_are_down_reached_nobody(dark_lab: str) -> None:
    ran = run("notify", dark_lab, "exam", "--json")
    assert ran.exit_code == 1
    read = document(ran)
    assert (read["schema"], read["text"]) == ("provisioner/notice/1", "exam")
    assert [(record["node"], record["state"]) for record in read["nodes"]] == [
        ("n1", "unreachable"),
        ("n2", "unreachable"),
    ]


def test_a_saved_plan_must_be_one(dark_lab: str) -> None:
    saved = Path(dark_lab, "plan.json")
    saved.write_text('{"schema": "provisioner/lock/1"}')
    ran = run("rollout", dark_lab, "--plan", str(saved))
    assert ran.exit_code == 2
    assert "its schema is provisioner/lock/1, not provisioner/plan/1" in ran.stderr


def test_a_plan_of_a_lab_without_a_lock_cannot_be_saved(dark_lab: str) -> None:
    ran = run("plan", dark_lab, "-o", "plan.json")
    assert ran.exit_code == 2
    assert f"fix: provision lock {dark_lab}" in ran.stderr


def test_me_without_a_lock() -> None:
    ran = run("me")
    assert ran.exit_code == 2
    assert "provision me --lock FILE-or-URL" in ran.stderr


def test_resume_knows_its_nodes_and_says_where_nothing_is_left(dark_lab: str) -> None:
    again = run("resume", dark_lab, "--json")
    assert (again.exit_code, document(again)["nodes"]) == (0, [])
    assert run("resume", dark_lab, "--limit", "n1").exit_code == 2
    unknown = run("resume", dark_lab, "20260101T000000Z-0000")
    assert (unknown.exit_code, "no_such_run" in unknown.stderr) == (2, True)


def test_a_rollback_of_nodes_that_are_down_changes_nothing_and_says_so(dark_lab: str) -> None:
    ran = run("rollback", dark_lab, "--json")
    assert ran.exit_code == 1
    assert {record["state"] for record in document(ran)["nodes"]} == {"unreachable"}


@pytest.mark.parametrize(
    ("moved", "flags", "code"),
    [(False, (), 1), (True, (), 6), (True, ("--skip-stale",), 6), (False, ("--skip-stale",), 1)],
)
def test_a_node_that_moved_stops_the_run_or_is_left_out(
    dark_lab: str, tmp_path: Path, moved: bool, flags: tuple[str, ...], code: int
) -> None:
    """The nodes are down: as the plan has it, or not."""
    write_lock(Path(dark_lab, "lab.lock"), a_lock())
    saved = a_plan({"n1": "create" if moved else "skip"})
    Path(dark_lab, "plan.json").write_text(saved.model_dump_json(by_alias=True))
    ran = run("rollout", dark_lab, "--plan", f"{tmp_path}/plan.json", "--limit", "n1", "--yes", *flags)
    assert ran.exit_code == code, ran.stderr
    assert ("plan_stale" in ran.stderr) == (moved and not flags)
