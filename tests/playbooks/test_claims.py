"""Claims of a node: at most one run may change it, and each refusal has its problem code."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from provisioner.domain.values.claim import Claim, claimed
from tests.playbooks.node_code import ProblemError, module_util, problem

claims, jobs, preparing = module_util("jobs.claims"), module_util("jobs.job"), module_util("prepare.prepare")
NodeJobs, follow = module_util("jobs.node_jobs").NodeJobs, module_util("jobs.jobfile").follow


def a_claim(run: str, fence: int, *seats: str) -> dict[str, Any]:
    """A claim of these seats; without any, of the node."""
    claim = Claim(run=run, lab="demo", holder=f"ann@{run}", since="2026-11-26T21:00:00Z", fence=fence)
    scoped = claim.model_copy(update={"scope": "seats", "seats": seats}) if seats else claim
    return scoped.model_dump(mode="json")


def read(root: str) -> tuple[list[dict[str, Any]], int]:
    """Return the active claims and the highest fence."""
    held = claims.read_claims(root)
    return held.active, held.fences.highest


def refusal(act: Any, *given: Any) -> str:
    """Return the problem code of the refusal, empty if there is none."""
    try:
        act(*given)
    except ProblemError as fault:
        return str(fault.problem["code"])  # type: ignore[attr-defined]
    return ""


def test_a_claimed_node_refuses_another_run_with_the_same_problem_as_the_controller(tmp_path: Path) -> None:
    root = str(tmp_path / "state")
    claims.take_claim(root, a_claim("r1", 1), "")
    with pytest.raises(ProblemError) as caught:
        claims.take_claim(root, a_claim("r2", 2), "")
    refused = caught.value.problem  # type: ignore[attr-defined]
    assert refused == claimed(Claim.model_validate(a_claim("r1", 1))).model_dump()
    assert refusal(claims.check_claim, root, a_claim("r2", 2)) == "claimed"
    assert refusal(claims.check_claim, root, a_claim("r1", 1)) == ""
    claims.release_claim(root, a_claim("r1", 1))
    assert read(root) == ([], 1)
    claims.take_claim(root, a_claim("r2", 2), "")


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Function that prepares a node by two steps, and calls `during` at the end of each."""

    def prepare(during: Callable[[], None] = lambda: None) -> dict[str, Any]:
        needs = [SimpleNamespace(description=name, action="act", deferred=False) for name in ("install", "restart")]

        def act(*_: Any) -> None:
            del needs[0]
            during()

        monkeypatch.setattr(preparing, "_require_root", lambda: None)
        monkeypatch.setattr(preparing, "_needs", lambda _: list(needs))
        monkeypatch.setattr(preparing, "_unfixable", lambda _: [])
        monkeypatch.setattr(preparing, "ACTIONS", {"act": act})
        record: dict[str, Any] = preparing.prepare(
            {"state_root": str(tmp_path)}, SimpleNamespace(report=lambda _: None)
        )
        return record

    return prepare


def test_the_node_is_not_prepared_while_a_run_has_claimed_it(
    tmp_path: Path, prepare: Callable[..., dict[str, Any]]
) -> None:
    claims.take_claim(str(tmp_path), a_claim("r1", 1), "")
    record = prepare()
    assert (record["state"], record["problems"][0]["code"], record["changes"]) == ("failed", "claimed", [])
    claims.release_claim(str(tmp_path), a_claim("r1", 1))
    record = prepare()
    assert (record["state"], record["changes"]) == ("prepared", ["install", "restart"])


def test_a_preparation_looks_for_claims_again_after_a_step_that_waited(
    tmp_path: Path, prepare: Callable[..., dict[str, Any]]
) -> None:
    """A step may wait ten minutes for apt's lock; the next one may restart the engine."""
    record = prepare(lambda: claims.take_claim(str(tmp_path), a_claim("r1", 1), ""))
    assert (record["state"], record["problems"][0]["code"], record["changes"]) == ("failed", "claimed", ["install"])


def test_a_node_that_is_being_prepared_cannot_be_claimed(tmp_path: Path) -> None:
    """The job would restart the engine during a switch."""
    root, end = str(tmp_path), tmp_path / "end"

    def work(*_: Any) -> dict[str, Any]:
        while not end.exists():
            time.sleep(0.01)
        return {"state": "ready"}

    job = jobs.start(NodeJobs(root), "r-prepare", "node", work)
    try:
        assert refusal(claims.take_claim, root, a_claim("r1", 1), "") == "node_busy"
        assert read(root) == ([], 1)
    finally:
        end.touch()
        assert follow(job, 10)["finished"]
    claims.take_claim(root, a_claim("r2", 2), "")


def test_a_run_whose_claim_was_replaced_stays_fenced(tmp_path: Path) -> None:
    root = str(tmp_path)
    claims.take_claim(root, a_claim("r1", 1), "")
    claims.take_claim(root, a_claim("r2", 2), "r1")
    assert refusal(claims.check_claim, root, a_claim("r1", 1)) == "fenced"
    claims.release_claim(root, a_claim("r1", 1))
    assert read(root)[0] == [a_claim("r2", 2)]
    claims.release_claim(root, a_claim("r2", 2))
    assert refusal(claims.check_claim, root, a_claim("r1", 1)) == "fenced"
    assert refusal(claims.take_claim, root, a_claim("r1", 1), "") == "fenced"


def test_a_lost_fence_file_does_not_let_an_older_run_in(tmp_path: Path) -> None:
    root = str(tmp_path)
    claims.take_claim(root, a_claim("r1", 1), "")
    claims.take_claim(root, a_claim("r2", 2), "r1")
    (tmp_path / "fence").unlink()
    assert read(root) == ([a_claim("r2", 2)], 2)
    assert refusal(claims.check_claim, root, a_claim("r1", 1)) == "fenced"


def test_resuming_a_run_fences_its_earlier_claim(tmp_path: Path) -> None:
    root = str(tmp_path)
    claims.take_claim(root, a_claim("r1", 1), "")
    claims.take_claim(root, a_claim("r1", 2), "")
    assert refusal(claims.check_claim, root, a_claim("r1", 1)) == "fenced"
    assert refusal(claims.check_claim, root, a_claim("r1", 2)) == ""


def test_a_released_node_refuses_a_claim_with_the_same_fence(tmp_path: Path) -> None:
    root = str(tmp_path)
    claims.take_claim(root, a_claim("r1", 1), "")
    claims.release_claim(root, a_claim("r1", 1))
    assert refusal(claims.take_claim, root, a_claim("r2", 1), "") == "fenced"


def test_a_claim_is_replaced_only_if_its_run_is_named(tmp_path: Path) -> None:
    root = str(tmp_path)
    claims.take_claim(root, a_claim("r1", 1), "")
    assert refusal(claims.take_claim, root, a_claim("r3", 2), "r2") == "claimed"


def test_check_claim_passes_without_a_claim(tmp_path: Path) -> None:
    claims.take_claim(str(tmp_path), a_claim("r1", 1), "")
    assert refusal(claims.check_claim, str(tmp_path), None) == ""


@pytest.mark.parametrize("name", ["claim.json", "fence", "fences.json"])
@pytest.mark.parametrize("text", ["{", "[]", '{"node": {}}'])
def test_an_unreadable_claim_file_refuses_every_run(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert refusal(claims.check_claim, str(tmp_path), a_claim("r1", 1)) == "claim_damaged"
    assert refusal(claims.take_claim, str(tmp_path), a_claim("r1", 1), "") == "claim_damaged"


def test_two_runs_hold_different_seats_of_a_node_at_the_same_time(tmp_path: Path) -> None:
    root, first, second = str(tmp_path), a_claim("r1", 2, "a", "b"), a_claim("r2", 1, "c")
    claims.take_claim(root, first, "")
    claims.take_claim(root, second, "")  # with a lower fence: no claim of this seat had a higher one
    assert read(root) == ([first, second], 2)
    assert (refusal(claims.check_claim, root, first), refusal(claims.check_claim, root, second)) == ("", "")
    claims.release_claim(root, first)
    assert (read(root)[0], claims.last_claim(root)) == ([second], first)
    claims.release_claim(root, second)
    assert (read(root)[0], claims.last_claim(root)) == ([], second)


@pytest.mark.parametrize(
    ("held", "wanted"),
    [
        (("a", "b"), ("b", "c")),
        (("a",), ()),
        ((), ("a",)),
        ((), ()),
    ],
)
def test_a_claim_of_what_another_run_holds_is_refused_and_names_that_run(
    tmp_path: Path, held: tuple[str, ...], wanted: tuple[str, ...]
) -> None:
    root, first, second = str(tmp_path), a_claim("r1", 1, *held), a_claim("r2", 2, *wanted)
    claims.take_claim(root, first, "")
    with pytest.raises(ProblemError, match="claimed by run r1 of ann@r1") as caught:
        claims.take_claim(root, second, "")
    assert problem(caught) == claimed(Claim.model_validate(first)).model_dump()
    assert refusal(claims.check_claim, root, second) == "claimed"
    assert refusal(claims.check_unclaimed, root) == "claimed"
    claims.take_claim(root, second, "r1")
    assert read(root) == ([second], 2)
    assert refusal(claims.check_claim, root, first) == "fenced"


def test_a_run_that_is_broken_for_one_seat_is_fenced_on_all_of_its_seats(tmp_path: Path) -> None:
    """Its controller ends at the first refusal; what it held besides is free at once."""
    root = str(tmp_path)
    claims.take_claim(root, a_claim("r1", 1, "a", "b"), "")
    claims.take_claim(root, a_claim("r2", 2, "b"), "r1")
    assert refusal(claims.check_claim, root, a_claim("r1", 1, "a")) == "fenced"
    claims.take_claim(root, a_claim("r3", 3, "a"), "")


def test_a_run_is_not_broken_where_it_is_not_in_the_way(tmp_path: Path) -> None:
    root = str(tmp_path)
    claims.take_claim(root, a_claim("r1", 1, "a"), "")
    claims.take_claim(root, a_claim("r2", 2, "b"), "r1")
    assert refusal(claims.check_claim, root, a_claim("r1", 1, "a")) == ""


def test_a_resumed_run_fences_all_that_it_held_before(tmp_path: Path) -> None:
    root = str(tmp_path)
    claims.take_claim(root, a_claim("r1", 1, "a", "b"), "")
    claims.take_claim(root, a_claim("r1", 2, "b"), "")
    assert refusal(claims.check_claim, root, a_claim("r1", 1, "a")) == "fenced"
    assert refusal(claims.take_claim, root, a_claim("r1", 1, "c"), "") == "fenced"


def test_the_same_claim_can_be_taken_again_but_not_a_larger_one_with_the_same_fence(tmp_path: Path) -> None:
    """The answer to the first may have been lost."""
    root = str(tmp_path)
    claims.take_claim(root, a_claim("r2", 1, "c"), "")
    claims.release_claim(root, a_claim("r2", 1))
    claims.take_claim(root, a_claim("r1", 1, "a"), "")
    claims.take_claim(root, a_claim("r1", 1, "a"), "")
    assert refusal(claims.take_claim, root, a_claim("r1", 1, "a", "c"), "") == "fenced"


def test_a_claim_of_an_earlier_release_is_one_of_the_node(tmp_path: Path) -> None:
    """That release writes no scope, and no other file than these two."""
    earlier = {name: text for name, text in a_claim("r1", 7).items() if name not in {"scope", "seats"}}
    claims.take_claim(str(tmp_path), a_claim("r0", 5, "a"), "")
    claims.release_claim(str(tmp_path), a_claim("r0", 5))
    (tmp_path / "fence").write_text("7")
    (tmp_path / "claim.json").write_text(json.dumps(earlier))
    root = str(tmp_path)
    assert refusal(claims.take_claim, root, a_claim("r2", 8, "a"), "") == "claimed"
    claims.release_claim(root, earlier)
    assert (refusal(claims.take_claim, root, a_claim("r2", 7, "b"), ""), read(root)) == ("fenced", ([], 7))
    claims.take_claim(root, a_claim("r2", 8, "b"), "")
    assert refusal(claims.check_claim, root, a_claim("r0", 5, "a")) == "fenced"


def test_an_earlier_release_reads_several_claims_as_one_of_all_their_runs(tmp_path: Path) -> None:
    claims.take_claim(str(tmp_path), a_claim("r1", 1, "a"), "")
    claims.take_claim(str(tmp_path), a_claim("r2", 2, "b"), "")
    found = json.loads((tmp_path / "claim.json").read_text())
    assert {name: found[name] for name in ("run", "holder", "fence")} == {
        "run": "r1, r2",
        "holder": "ann@r1, ann@r2",
        "fence": 2,
    }
    assert (tmp_path / "fence").read_text() == "2"


def test_the_claim_file_holds_exactly_the_claim_with_mode_0600(tmp_path: Path) -> None:
    claims.take_claim(str(tmp_path), a_claim("r1", 1), "")
    assert json.loads((tmp_path / "claim.json").read_text()) == a_claim("r1", 1)
    assert (tmp_path / "claim.json").stat().st_mode & 0o777 == 0o600


def test_a_finished_job_releases_its_claim_and_records_it(tmp_path: Path) -> None:
    root, record = str(tmp_path), {"state": "committed"}
    claims.take_claim(root, a_claim("r1", 1), "")
    order = {"state_root": root, "claim": a_claim("r1", 1)}
    assert claims.with_release(order, record) == {"state": "committed", "released": True}
    assert (read(root), claims.last_claim(root)) == (([], 1), a_claim("r1", 1))
    (tmp_path / "claim.json").write_text("{")
    assert claims.with_release(order, record) == record
