"""Who may change a node: a model of the law is held against the node's own code, and each refusal has its words."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provisioner.domain.values.claim import Claim, claimed
from tests.playbooks.node_code import ProblemError, module_util

claims = module_util("jobs.claims")


def a_claim(run: str, fence: int) -> dict[str, Any]:
    return Claim(run=run, lab="demo", holder=f"ann@{run}", since="2026-11-26T21:00:00Z", fence=fence).model_dump()


def refusal(act: Any, *given: Any) -> str:
    """The code of the fault, empty where there was none."""
    try:
        act(*given)
    except ProblemError as fault:
        return str(fault.problem["code"])  # type: ignore[attr-defined]
    return ""


def test_a_node_is_taken_once_and_says_by_whom_in_our_own_words(tmp_path: Path) -> None:
    root = str(tmp_path / "state")
    claims.take_claim(root, a_claim("r1", 1), "")
    with pytest.raises(ProblemError) as caught:
        claims.take_claim(root, a_claim("r2", 2), "")
    told = caught.value.problem  # type: ignore[attr-defined]
    assert told == claimed(Claim.model_validate(a_claim("r1", 1))).model_dump()
    assert refusal(claims.check_claim, root, a_claim("r2", 2)) == "claimed"
    assert refusal(claims.check_claim, root, a_claim("r1", 1)) == ""
    claims.release_claim(root, a_claim("r1", 1))
    assert claims.read_claim(root) == (None, 1)
    claims.take_claim(root, a_claim("r2", 2), "")


def test_a_run_that_was_taken_over_from_never_writes_again(tmp_path: Path) -> None:
    root = str(tmp_path)
    claims.take_claim(root, a_claim("r1", 1), "")
    claims.take_claim(root, a_claim("r2", 2), "r1")
    assert refusal(claims.check_claim, root, a_claim("r1", 1)) == "fenced"
    claims.release_claim(root, a_claim("r1", 1))
    assert claims.read_claim(root)[0] == a_claim("r2", 2)
    claims.release_claim(root, a_claim("r2", 2))
    assert refusal(claims.check_claim, root, a_claim("r1", 1)) == "fenced"
    assert refusal(claims.take_claim, root, a_claim("r1", 1), "") == "fenced"


def test_a_run_that_is_resumed_is_no_longer_the_one_that_hangs(tmp_path: Path) -> None:
    root = str(tmp_path)
    claims.take_claim(root, a_claim("r1", 1), "")
    claims.take_claim(root, a_claim("r1", 2), "")
    assert refusal(claims.check_claim, root, a_claim("r1", 1)) == "fenced"
    assert refusal(claims.check_claim, root, a_claim("r1", 2)) == ""


def test_two_that_saw_the_same_do_not_both_get_the_node_one_after_the_other(tmp_path: Path) -> None:
    root = str(tmp_path)
    claims.take_claim(root, a_claim("r1", 1), "")
    claims.release_claim(root, a_claim("r1", 1))
    assert refusal(claims.take_claim, root, a_claim("r2", 1), "") == "fenced"


def test_the_break_names_the_run_that_is_meant(tmp_path: Path) -> None:
    root = str(tmp_path)
    claims.take_claim(root, a_claim("r1", 1), "")
    assert refusal(claims.take_claim, root, a_claim("r3", 2), "r2") == "claimed"


def test_ones_own_machine_asks_nobody(tmp_path: Path) -> None:
    claims.take_claim(str(tmp_path), a_claim("r1", 1), "")
    assert refusal(claims.check_claim, str(tmp_path), None) == ""


@pytest.mark.parametrize("name", ["claim.json", "fence"])
def test_what_cannot_be_read_lets_nobody_in(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{")
    assert refusal(claims.check_claim, str(tmp_path), a_claim("r1", 1)) == "claim_damaged"
    assert refusal(claims.take_claim, str(tmp_path), a_claim("r1", 1), "") == "claim_damaged"


acts = st.lists(
    st.tuples(st.sampled_from(["take", "break", "release"]), st.sampled_from(["a", "b", "c"]), st.integers(1, 6)),
    max_size=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts)
def test_whatever_happens_at_most_one_run_may_write_and_the_fence_never_falls(
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


def test_a_claim_holds_nothing_but_what_it_says(tmp_path: Path) -> None:
    claims.take_claim(str(tmp_path), a_claim("r1", 1), "")
    assert json.loads((tmp_path / "claim.json").read_text()) == a_claim("r1", 1)
    assert (tmp_path / "claim.json").stat().st_mode & 0o777 == 0o600


def test_a_job_that_came_to_its_end_lets_the_node_go_and_says_so(tmp_path: Path) -> None:
    root, record = str(tmp_path), {"state": "committed"}
    claims.take_claim(root, a_claim("r1", 1), "")
    order = {"state_root": root, "claim": a_claim("r1", 1)}
    assert claims.with_release(order, record) == {"state": "committed", "released": True}
    assert (claims.read_claim(root), claims.last_claim(root)) == ((None, 1), a_claim("r1", 1))
    (tmp_path / "claim.json").write_text("{")
    assert claims.with_release(order, record) == record
