"""Claims of a node: at most one run may change it, and each refusal has its problem code."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provisioner.domain.values.claim import Claim, claimed
from tests.playbooks.node_code import ProblemError, module_util

claims, jobs, preparing = module_util("jobs.claims"), module_util("jobs.job"), module_util("prepare.prepare")
NodeJobs, follow = module_util("jobs.node_jobs").NodeJobs, module_util("jobs.jobfile").follow


def a_claim(run: str, fence: int) -> dict[str, Any]:
    return Claim(run=run, lab="demo", holder=f"ann@{run}", since="2026-11-26T21:00:00Z", fence=fence).model_dump()


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
    assert claims.read_claim(root) == (None, 1)
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
        assert claims.read_claim(root) == (None, 1)
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
    assert claims.read_claim(root)[0] == a_claim("r2", 2)
    claims.release_claim(root, a_claim("r2", 2))
    assert refusal(claims.check_claim, root, a_claim("r1", 1)) == "fenced"
    assert refusal(claims.take_claim, root, a_claim("r1", 1), "") == "fenced"


def test_a_lost_fence_file_does_not_let_an_older_run_in(tmp_path: Path) -> None:
    root = str(tmp_path)
    claims.take_claim(root, a_claim("r1", 1), "")
    claims.take_claim(root, a_claim("r2", 2), "r1")
    (tmp_path / "fence").unlink()
    assert claims.read_claim(root) == (a_claim("r2", 2), 2)
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


@pytest.mark.parametrize("name", ["claim.json", "fence"])
def test_an_unreadable_claim_file_refuses_every_run(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{")
    assert refusal(claims.check_claim, str(tmp_path), a_claim("r1", 1)) == "claim_damaged"
    assert refusal(claims.take_claim, str(tmp_path), a_claim("r1", 1), "") == "claim_damaged"


acts = st.lists(
    st.tuples(st.sampled_from(["take", "break", "release"]), st.sampled_from(["a", "b", "c"]), st.integers(1, 6)),
    max_size=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts)
def test_at_most_one_run_may_write_and_the_fence_never_decreases(
    tmp_path: Path, happened: list[tuple[str, str, int]]
) -> None:
    for path in tmp_path.glob("*"):
        path.unlink()
    root, highest = str(tmp_path), 0
    for act, run, fence in happened:
        alive = claims.read_claim(root)[0]
        if act == "release":
            claims.release_claim(root, a_claim(run, fence))
        else:
            refusal(
                claims.take_claim, root, a_claim(run, fence), (alive or {}).get("run", "") if act == "break" else ""
            )
        alive, now = claims.read_claim(root)
        assert now >= highest
        highest = now
        may = [r for r in "abc" for f in range(1, 7) if alive and not refusal(claims.check_claim, root, a_claim(r, f))]
        assert set(may) <= ({alive["run"]} if alive else set())


def test_the_claim_file_holds_exactly_the_claim_with_mode_0600(tmp_path: Path) -> None:
    claims.take_claim(str(tmp_path), a_claim("r1", 1), "")
    assert json.loads((tmp_path / "claim.json").read_text()) == a_claim("r1", 1)
    assert (tmp_path / "claim.json").stat().st_mode & 0o777 == 0o600


def test_a_finished_job_releases_its_claim_and_records_it(tmp_path: Path) -> None:
    root, record = str(tmp_path), {"state": "committed"}
    claims.take_claim(root, a_claim("r1", 1), "")
    order = {"state_root": root, "claim": a_claim("r1", 1)}
    assert claims.with_release(order, record) == {"state": "committed", "released": True}
    assert (claims.read_claim(root), claims.last_claim(root)) == ((None, 1), a_claim("r1", 1))
    (tmp_path / "claim.json").write_text("{")
    assert claims.with_release(order, record) == record
