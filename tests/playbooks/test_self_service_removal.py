"""Removing self-service from a node: seats first, homes and the audit stay, and work is not ended without consent."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.fake_nvml import a_process
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import REFERENCE
from tests.playbooks.self_service_world import Site, busies, removals, steps
from tests.playbooks.test_claims import a_claim
from tests.playbooks.world import FakeCompose

seats, notices, stores, journals = (
    module_util(name) for name in ("seat.seat", "seat.notice", "broker.store", "seat.journal")
)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: FakeEngine) -> Site:
    made = Site(tmp_path, monkeypatch, engine)
    made.publish()
    return made


def a_running_seat(site: Site, name: str, **seat: Any) -> Any:
    """Write a seat of the broker whose containers run."""
    made = seats.Seat(site.state_root, name)
    made.make_folders()
    wanted = {"name": name, "lab": "ml", "kind": "self_service", "gpus": ["GPU-1"], "person": "anna", **seat}
    made.write(1, {"run": "me-1", "by": "broker", "seat": wanted, "image": {"reference": REFERENCE}, "files": {}}, {})
    made.commit(1)
    made.write_intent("up", "uid 5001")
    notices.make_notice_folder(made)
    (made.identity / "token").write_text("secret")
    return made


def test_a_removal_takes_seats_broker_and_everything_that_was_published(site: Site) -> None:
    seat, of_the_lab = a_running_seat(site, "ml_anna"), a_running_seat(site, "ml_bob", kind="")
    of_another = a_running_seat(site, "cv_anna", lab="cv")
    stores.Store(site.state_root).audit(uid=5001, verb="up")
    (site.layout.folder / "usage").mkdir()
    record = site.remove(claim=None)
    assert (record["state"], record["checks"]) == ("committed", {"ml_anna": "removed; its home stays"})
    assert {path.name for path in site.layout.folder.glob("*")} == {"jobs", "audit.jsonl", "usage"}
    assert not site.client.exists()
    assert (site.pid, site.tags()) == (None, set())
    assert not list(site.units.rglob("*.service"))
    assert (seat.current(), seat.numbers(), site.composes["ml_anna"].running) == (0, [], 0)
    assert (seat.identity / "token").read_text() == "secret"
    assert not (seat.folder / "intent.json").exists()
    assert of_the_lab.current() == of_another.current() == 1
    assert site.remove()["state"] == "unchanged"


def test_a_seat_at_work_is_not_removed_without_consent(site: Site) -> None:
    a_running_seat(site, "ml_anna")
    a_running_seat(site, "ml_bob")
    site.at_work = [a_process(4242)]
    with pytest.raises(busies.BusyError):
        site.remove()
    assert all(one.running for one in site.composes.values())
    assert (site.pid is not None, site.starts()) == (True, 1)
    forced = {"policy": "force", "seconds": 0, "reason": "the node goes away"}
    assert site.remove(when_busy=forced)["state"] == "committed"
    assert not any(one.running for one in site.composes.values())


def test_work_in_several_seats_is_waited_for_until_one_deadline(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ml_anna", "ml_bob"):
        a_running_seat(site, name)
    now, waits = [100.0], list[int]()
    monkeypatch.setattr(removals, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=lambda _: None))

    def require_consent(_compose: Any, _journal: Any, order: dict[str, Any], _report: Any, **_: bool) -> None:
        waits.append(order["when_busy"]["seconds"])
        now[0] += 70

    for module in (removals, steps):
        monkeypatch.setattr(module, "require_consent", require_consent)
    assert site.remove(when_busy={"policy": "wait", "seconds": 100, "reason": ""})["state"] == "committed"
    assert waits == [100, 30, 0, 0]


def damage(seat: Any) -> None:
    (seat.generation(seat.current()) / "order.json").write_text("{")


FORCE = {"policy": "force", "seconds": 0, "reason": "the node goes away"}


def test_a_damaged_seat_of_a_person_is_removed_too_and_its_use_counts_as_unknown(site: Site) -> None:
    seat = a_running_seat(site, "ml_anna")
    journals.Journal(seat.folder, "me-1").append("committed", generation=1)
    damage(seat)
    with pytest.raises(busies.BusyError, match="unknown"):
        site.remove()
    assert site.pid is not None
    assert site.remove(when_busy=FORCE)["checks"] == {"ml_anna": "removed; its home stays"}
    assert (seat.current(), seat.numbers(), site.composes["ml_anna"].running) == (0, [], 0)
    assert (seat.identity / "token").read_text() == "secret"


@pytest.mark.parametrize(
    ("name", "run"),
    [("cv_anna", "me-1"), ("mlx_anna", "me-1"), ("ml-anna", "me-1"), ("ml_anna", "r1"), ("ml_anna", "")],
)
def test_a_damaged_seat_of_another_lab_or_of_the_control_machine_is_left_alone(site: Site, name: str, run: str) -> None:
    """It may have been one of self-service before: what the broker wanted of it is still there."""
    seat = a_running_seat(site, name)
    if run:
        for one in ("me-0", run):
            journals.Journal(seat.folder, one).append("committed", generation=1)
    damage(seat)
    assert site.remove(when_busy=FORCE)["checks"] == {}
    assert (seat.current(), seat.numbers()) == (1, [1])
    assert name not in site.composes


def test_a_seat_that_cannot_be_removed_keeps_the_broker(site: Site) -> None:
    seat = a_running_seat(site, "ml_anna")
    site.composes["ml_anna"] = FakeCompose(seat, 1)
    site.composes["ml_anna"].broken = {-1}
    record = site.remove()
    assert (record["state"], [problem["code"] for problem in record["problems"]]) == ("failed", ["stop_failed"])
    assert (site.pid is not None, site.starts()) == (True, 2)
    assert site.config()
    site.composes["ml_anna"].broken = set()
    assert site.remove()["state"] == "committed"


def test_a_seat_that_the_broker_is_changing_is_waited_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    a_running_seat(site, "ml_anna")
    monkeypatch.setattr(removals, "LOCK_SECONDS", 0)
    monkeypatch.setattr(removals, "_takes", lambda _: False)
    record = site.remove()
    assert (record["state"], [problem["code"] for problem in record["problems"]]) == ("failed", ["seat_locked"])
    assert site.pid is not None


@pytest.mark.parametrize("pid", [None, 4000])
def test_another_lab_does_not_remove_it(site: Site, pid: int | None) -> None:
    site.pid = pid
    with pytest.raises(ProblemError) as caught:
        site.remove(claim=a_claim("r9", 1))
    assert vars(caught.value)["problem"]["code"] == "self_service_elsewhere"
    assert site.config()


def test_a_run_whose_claim_was_replaced_removes_nothing(site: Site) -> None:
    module_util("jobs.claims").take_claim(site.state_root, {**a_claim("r2", 2), "lab": "ml"}, "")
    with pytest.raises(ProblemError) as caught:
        site.remove(claim={**a_claim("r1", 1), "lab": "ml"})
    assert vars(caught.value)["problem"]["code"] == "fenced"
    assert (site.pid is not None, bool(site.config())) == (True, True)


def test_a_node_without_self_service_has_nothing_to_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: FakeEngine
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    site = Site(bare, monkeypatch, engine)
    assert site.remove() == {"state": "unchanged", "problems": [], "checks": {}}
    assert site.calls == []
