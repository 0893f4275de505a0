"""Self-service from lab.yml to the nodes: plan, rollout, a changed setting, rollback by a new run, and its removal."""

from pathlib import Path
from typing import Any

import pytest

from provisioner.adapters.state.journal import list_started_runs
from provisioner.adapters.state.published import PublishedRuns
from provisioner.domain.values.node import SelfServiceFacts
from tests.builders import a_lease, a_uuid
from tests.cli.commands.people import LAB
from tests.cli.commands.people_fleet import PeopleLab
from tests.cli.commands.test_me import answering
from tests.cli.running import document, run
from tests.workflow.broker_fleet import OLD, a_leased_seat

HOURS = "groups: {{student: {{hours: {}}}}}\n"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PeopleLab:
    found = PeopleLab(tmp_path, monkeypatch)
    monkeypatch.setattr("provisioner.cli.seat_change.open_fleet", found._open)
    return found


def write(lab: PeopleLab, settings: str = "nodes: 'gpu*'", hours: int = 24) -> None:
    own = f"self_service: {{unix_group: students, {settings}}}\n" if settings else ""
    (lab.path / "lab.yml").write_text(LAB + own + (HOURS.format(hours) if own else ""))


def roll_out(lab: PeopleLab, **settings: Any) -> dict[str, Any]:
    write(lab, **settings)
    done = run("rollout", str(lab.path), "--yes", "--json")
    assert done.exit_code == 0, done.output
    return document(done)


def installed(lab: PeopleLab, node: str = "gpu1") -> SelfServiceFacts:
    found = lab.fleet.self_service(node)
    assert found is not None
    return found


def test_a_rollout_publishes_and_a_second_one_changes_nothing(lab: PeopleLab) -> None:
    report = roll_out(lab)
    version = installed(lab).environments["default"]
    assert [node["environments"] for node in report["nodes"]] == [
        {"default": {"version": version, "state": "published"}}
    ] * 2
    assert installed(lab).pool == (a_uuid("gpu1/0"), a_uuid("gpu1/1"))
    lab.fleet.calls.clear()
    assert roll_out(lab)["nodes"][0]["environments"] == {"default": {"version": version, "state": "unchanged"}}
    assert [act for act, _ in lab.fleet.calls] == ["probe"]


def test_a_plan_says_in_words_what_changes_and_counts_for_the_exit_code(lab: PeopleLab) -> None:
    write(lab)
    first = run("plan", str(lab.path), "--exit-code")
    assert (first.exit_code, "self-service  no self-service on the node yet" in first.stdout) == (3, True), first.output
    assert "2 GPUs for members of students" in first.stdout
    roll_out(lab)
    assert run("plan", str(lab.path), "--exit-code").exit_code == 0
    write(lab, "gpus: 1", 48)
    second = run("plan", str(lab.path), "--exit-code")
    assert second.exit_code == 3
    assert f"pool -{a_uuid('gpu1/1')}" in second.stdout
    assert "group student hours 24 -> 48" in second.stdout
    assert "self-service changes on 2 nodes" in second.stdout
    publications = document(run("plan", str(lab.path), "--json"))["publications"]
    assert {one["node"]: one["action"] for one in publications} == {"gpu1": "update", "gpu2": "update"}


def test_a_saved_plan_is_applied_as_it_was_reviewed(lab: PeopleLab) -> None:
    write(lab)
    saved = lab.path / "monday.json"
    assert run("plan", str(lab.path), "-o", str(saved)).exit_code == 0
    assert run("rollout", str(lab.path), "--plan", str(saved), "--yes").exit_code == 0
    assert installed(lab).runs
    write(lab, hours=12)
    assert run("rollout", str(lab.path), "--plan", str(saved), "--yes").exit_code == 6


def test_a_rollback_publishes_what_was_before_and_goes_back_no_further(lab: PeopleLab) -> None:
    roll_out(lab)
    before = installed(lab)
    roll_out(lab, hours=48)
    assert installed(lab).config != before.config
    done = run("rollback", str(lab.path), "--yes")
    assert (done.exit_code, installed(lab)) == (0, before), done.output
    assert "group student hours 48 -> 24" in done.stdout
    again = run("rollback", str(lab.path), "--yes")
    assert (again.exit_code, installed(lab)) == (0, before), again.output


def test_the_question_of_a_rollback_of_self_service_alone_says_that_no_seat_is_stopped(
    lab: PeopleLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    roll_out(lab)
    roll_out(lab, hours=48)
    asked = answering(monkeypatch, False)
    assert run("rollback", str(lab.path)).exit_code == 1
    (question,) = asked
    assert question.startswith("Roll 2 nodes back? On 2 nodes self-service gets what was published before; seats")


def test_a_publication_that_is_pending_is_drift_of_the_status(lab: PeopleLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provisioner.cli.commands.status.fleet", lambda *_: lab.fleet)
    write(lab)
    first = run("status", str(lab.path))
    assert (first.exit_code, "drift: no self-service on the node yet" in first.stdout) == (3, True), first.output
    roll_out(lab)
    done = run("status", str(lab.path))
    assert (done.exit_code, "No drift" in done.stdout) == (0, True), done.output
    write(lab, hours=48)
    changed = run("status", str(lab.path))
    assert (changed.exit_code, "Self-service of 2 nodes not as published." in changed.stdout) == (3, True)
    found = document(run("status", str(lab.path), "--json"))["self_service"]
    assert [one["drift"] for one in found] == ["its self-service changes"] * 2


def test_a_pattern_that_matches_no_node_is_a_caution_of_the_plan(lab: PeopleLab) -> None:
    write(lab, "nodes: 'gpx*'")
    done = run("plan", str(lab.path))
    assert "no_node_with_self_service" in done.stdout, done.output
    (caution,) = document(run("plan", str(lab.path), "--json"))["cautions"]
    assert "gpx* matches no node" in caution["what"]
    write(lab)
    assert document(run("plan", str(lab.path), "--json"))["cautions"] == []


def test_a_rollback_leaves_the_pool_as_it_is_and_the_next_one_knows_it(lab: PeopleLab) -> None:
    """A GPU that has left the pool may be that of a person in the roster by now."""
    roll_out(lab)
    roll_out(lab, settings="gpus: 1", hours=48)
    pool = installed(lab).pool
    assert len(pool) == 1
    assert run("rollback", str(lab.path), "--yes").exit_code == 0
    back = installed(lab)
    assert back.pool == pool
    roll_out(lab, settings="gpus: 1", hours=72)
    done = run("rollback", str(lab.path), "--yes")
    assert (done.exit_code, installed(lab)) == (0, back), done.output
    assert "group student hours 72 -> 24" in done.stdout


def test_a_rollback_leaves_out_what_was_never_in_force_on_the_node(lab: PeopleLab) -> None:
    roll_out(lab)
    before = installed(lab)
    write(lab, hours=48)
    lab.fail("publish", "gpu1", "failed")
    assert run("rollout", str(lab.path), "--yes").exit_code == 1
    lab.fleet.ends = {}
    roll_out(lab, hours=72)
    assert run("rollback", str(lab.path), "--yes").exit_code == 0
    assert installed(lab) == before


def test_a_node_whose_earlier_publication_is_not_known_stays_as_it_is(lab: PeopleLab) -> None:
    roll_out(lab)
    before = installed(lab)
    done = run("rollback", str(lab.path), "--yes")
    assert (done.exit_code, installed(lab)) == (0, before), done.output
    assert "no run on this machine has published anything before it" in done.stdout


def test_a_rollback_to_a_generation_leaves_self_service_as_it_is(lab: PeopleLab) -> None:
    roll_out(lab)
    roll_out(lab, hours=48)
    before = installed(lab)
    run("rollback", str(lab.path), "--to", "1", "--yes")
    assert installed(lab) == before


def test_self_service_that_lab_yml_no_longer_has_is_removed(lab: PeopleLab) -> None:
    roll_out(lab)
    write(lab, settings="nodes: gpu1")
    done = run("rollout", str(lab.path), "--yes", "--json")
    assert done.exit_code == 4, done.output
    left = document(done)["nodes"][1]
    assert (left["environments"]["default"]["state"], left["counts"]) == ("removed", {"deferred": 1})
    assert lab.fleet.self_service("gpu2") is None
    assert lab.fleet.self_service("gpu1")
    roll_out(lab, settings="nodes: gpu1")
    assert lab.fleet.running() == {"gpu1": [], "gpu2": ["ml-student"]}


def test_a_removal_takes_self_service_too(lab: PeopleLab) -> None:
    roll_out(lab)
    for node in ("gpu1", "gpu2"):
        lab.fleet._write(node, lab.fleet.read(node), "ml-student")
    done = run("remove", str(lab.path), "--yes")
    assert (done.exit_code, lab.fleet.self_service("gpu1"), lab.fleet.self_service("gpu2")) == (0, None, None), (
        done.output
    )


def test_a_limit_publishes_on_its_nodes_alone(lab: PeopleLab, monkeypatch: pytest.MonkeyPatch) -> None:
    write(lab)
    hosts = lab.fleet.hosts()[1:]
    monkeypatch.setattr(lab.fleet, "hosts", lambda: hosts)
    assert run("rollout", str(lab.path), "--limit", "gpu2", "--yes").exit_code == 0
    assert lab.fleet.self_service("gpu1") is None
    assert lab.fleet.self_service("gpu2")


def test_a_run_that_lost_a_node_is_resumed_and_publishes_there(lab: PeopleLab) -> None:
    write(lab)
    lab.fail("publish", "gpu2", "unknown")
    assert run("rollout", str(lab.path), "--yes").exit_code == 1
    lab.fleet.ends = {}
    done = run("resume", str(lab.path))
    assert (done.exit_code, installed(lab, "gpu2").runs) == (0, True), done.output


def test_a_plan_of_what_is_in_force_reads_no_records_of_runs(lab: PeopleLab, monkeypatch: pytest.MonkeyPatch) -> None:
    roll_out(lab)

    def refuse(_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("provisioner.adapters.state.published.list_started_runs", refuse)
    assert run("plan", str(lab.path), "--exit-code").exit_code == 0


def test_damaged_records_of_runs_are_left_out_of_what_was_published(lab: PeopleLab) -> None:
    roll_out(lab)
    digest = installed(lab).config
    assert PublishedRuns("ml").config(digest)
    assert PublishedRuns("ml").config("0" * 64) is None
    assert PublishedRuns("ml").before("gpu1", digest) is None
    for folder in list_started_runs("ml"):
        (folder / "undertaking.json").write_text('{"verb": "rollout", "publications": {"gpu1": {"documents": 1}}}')
    assert PublishedRuns("ml").config(digest) is None


def test_a_new_version_is_left_to_the_people_whose_seats_have_a_lease(lab: PeopleLab) -> None:
    roll_out(lab)
    lab.fleet.leased = {"gpu1": (a_leased_seat(version=OLD), a_leased_seat("bob"))}
    write(lab)
    done = run("rollout", str(lab.path), "--yes", "--json")
    assert done.exit_code == 4
    gpu1, gpu2 = document(done)["nodes"]
    assert (gpu1["state"], gpu1["problems"][0]["code"], gpu2["state"]) == ("deferred", "leased", "unchanged")
    assert gpu1["seats"][-1]["seat"] == "ml_anna"


def test_seats_with_a_lease_are_restarted_by_force_only_after_a_question(
    lab: PeopleLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    roll_out(lab)
    lease = a_lease(version=OLD)
    found = installed(lab).model_copy(update={"leases": (lease, lease.model_copy(update={"version": "?"}))})
    others = installed(lab, "gpu2")
    monkeypatch.setattr(lab.fleet, "self_service", {"gpu1": found, "gpu2": others}.get)
    words = ("rollout", str(lab.path), "--when-busy", "force", "--reason", "driver update")
    asked = run(*words)
    assert (asked.exit_code, "2 seats with a lease: what runs there ends." in asked.stderr) == (2, True), asked.stderr
    assert run(*words, "--yes").exit_code == 0
    assert run("rollout", str(lab.path)).exit_code == 0
