"""What brokers answer is harmless, whatever a node sends."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.adapters.ansible.broker_answers import parse_answers
from provisioner.adapters.ansible.play import HostEvent
from provisioner.domain.rollout.leases import BrokerAnswer
from provisioner.domain.values.problem import Problem
from tests.adapters.ansible.lies import VALUES, with_lies
from tests.builders import a_uuid

ROW = {"day": "", "uid": 5001, "person": "anna", "gpu": a_uuid("1"), "held_s": 60, "used_s": 0}
SEAT = {
    "seat": "ml_anna",
    "lab": "ml",
    "person": "anna",
    "uid": 5001,
    "gpus": [a_uuid("1")],
    "state": "active",
    "left_s": 60,
    "until": "2027-03-01T12:00:00+00:00",
    "ended": {"kind": "up", "state": "committed", "problems": []},
    "intent": {"wanted": "up", "by": "uid 5001"},
}
HONEST = [{"ok": True, "state": "ok", "seats": [SEAT], "waiting": []}, {"ok": True, "lab": "ml", "rows": [ROW]}]


def parse(answers: Any) -> tuple[BrokerAnswer, ...] | Problem:
    return parse_answers(HostEvent("n1", "ok", {"record": {"answers": answers}}))


def test_an_honest_answer_is_read() -> None:
    found = parse(HONEST)
    assert not isinstance(found, Problem)
    assert (found[0].seats[0].person, found[1].rows[0].held_s, found[1].lab) == ("anna", 60, "ml")


@pytest.mark.parametrize(
    "answers",
    [
        None,
        {},
        [None],
        [{}],
        [{"ok": False}],
        [{"ok": True, "problem": {"code": "c", "what": "w", "why": "y", "fix": "f"}}],
        [{"ok": True, "seats": [SEAT | {"gpus": ["all"]}]}],
        [{"ok": True, "seats": [SEAT | {"left_s": -1}]}],
        [{"ok": True, "seats": [SEAT | {"person": "x" * 300}]}],
        [{"ok": True, "seats": [SEAT | {"person": "\ud800"}]}],
        [{"ok": True, "rows": [ROW | {"uid": 1 << 32}]}],
        [{"ok": True, "rows": [ROW | {"held_s": 10**4299}]}],
    ],
)
def test_a_malformed_answer_is_a_problem_of_its_node(answers: Any) -> None:
    found = parse(answers)
    assert isinstance(found, Problem)
    assert found.code == "module_failed"


@given(
    st.one_of(
        VALUES,
        with_lies({"answers": HONEST}).map(
            lambda sent: sent["answers"] if isinstance(sent, dict) and "answers" in sent else sent
        ),
    )
)
def test_whatever_a_node_sends_is_an_answer_or_a_problem(answers: Any) -> None:
    found = parse(answers)
    assert isinstance(found, Problem) or all(isinstance(one, BrokerAnswer) for one in found)
