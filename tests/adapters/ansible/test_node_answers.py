"""Whatever one node sends harms the row of this node alone."""

import base64
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.adapters.ansible.fleet import AnsibleFleet
from provisioner.adapters.ansible.play import HostEvent
from provisioner.adapters.ansible.prepare import Preparer
from provisioner.adapters.ansible.results import parse_claim_problem, parse_facts, parse_progress, parse_record
from provisioner.adapters.ansible.settings import Settings
from provisioner.adapters.lab.compatibility_data import load
from provisioner.console.progress import event_line
from provisioner.domain.rollout.preparation import NodePreparation, PrepareOrder, RegistryAccess
from provisioner.domain.seat.render import render
from provisioner.domain.values.claim import MAX_FENCE, Claim, implausible_fences, next_fence
from provisioner.domain.values.event import Event
from provisioner.domain.values.node import Account, NodeFacts
from provisioner.domain.values.problem import Problem
from provisioner.workflow.rollout.plan import PlanInputs, build_plan
from tests.adapters.ansible.lies import TEXTS, VALUES, as_sent, valid_facts, with_lies
from tests.builders import a_lab, a_lock, a_locked_image, a_node
from tests.costly import costly
from tests.domain.seats import DOCUMENTS, GPU, KEY, TEMPLATES, a_seat
from tests.playbooks.node_code import module_util
from tests.workflow.fake_fleet import FakeHost

FACTS = valid_facts().model_dump(mode="json")
HONEST = as_sent(FACTS)
CLAIM = Claim(run="r1", lab="demo", holder="ann@control1", since="2026-11-26T21:00:00+00:00", fence=1)
VALID_TEXTS = st.text(st.characters(codec="utf-8"), max_size=9)
DEEP: list[Any] = []
for _ in range(900):
    DEEP = [DEEP]


def many_texts(joined: str, lengths: list[Any]) -> dict[str, Any]:
    """Return facts with these texts; none of the files has one of them."""
    packed: str = module_util("base.packing").pack(joined)
    return HONEST | {"seats": [], "texts": packed, "lengths": lengths}


def with_accounts(accounts: Any) -> dict[str, Any]:
    """Return facts with these accounts."""
    return as_sent(FACTS | {"accounts": accounts})


def probe_result(facts: Any, **over: Any) -> HostEvent:
    return HostEvent("lying", "ok", {"facts": facts, "clock": 0.0, **over})


def read_facts(facts: Any) -> NodeFacts | Problem:
    return parse_facts(probe_result(facts))


@pytest.mark.parametrize(
    "facts",
    [
        None,
        [],
        "facts",
        HONEST | {"fence": 10**4299},
        HONEST | {"fence": MAX_FENCE + 1},
        HONEST | {"fence": -1},
        HONEST | {"hostname": "\ud800"},
        HONEST | {"gpus": HONEST["gpus"] * 200},
        HONEST | {"gpus": [HONEST["gpus"][0] | {"uuid": "all"}]},
        HONEST | {"gpus": [HONEST["gpus"][0] | {"memory_total": 2**64}]},
        HONEST | {"platform": "linux/amd64\nx"},
        HONEST | {"seats": [HONEST["seats"][0] | {"ports": {"ssh": 65536, "jupyter": 23}}]},
        as_sent(FACTS | {"seats": [FACTS["seats"][0] | {"files": {"x": "y" * 100_000}}]}),
        FACTS,  # with texts in place of their numbers
        HONEST | {"seats": [HONEST["seats"][0] | {"files": {"x": 1}}]},
        HONEST | {"seats": [HONEST["seats"][0] | {"files": {"x": -1}}]},
        HONEST | {"seats": [HONEST["seats"][0] | {"files": {"x": []}}]},
        HONEST | {"lengths": [3]},
        HONEST | {"lengths": [-2, 4]},
        HONEST | {"lengths": [2.0]},
        with_accounts({"a\nb": {"uid": 1}}),
        with_accounts({"x" * 256: {"uid": 1}}),
        with_accounts({"anna": {"uid": -1}}),
        with_accounts({"anna": {"uid": 1 << 32}}),
        with_accounts({"anna": {"uid": 1, "home": "home/anna"}}),
        with_accounts({"anna": {"uid": 1, "home": "/home/a\nb"}}),
        with_accounts({"anna": {"uid": 1, "groups": ["\ud800"]}}),
        with_accounts({"anna": {"uid": 1, "groups": ["g"] * 257}}),
        with_accounts({f"p{number}": {} for number in range(4097)}),
        with_accounts(DEEP),
        with_accounts([1] * (1 << 19)),
        HONEST | {"accounts": base64.b64encode(zlib.compress(b"{")).decode()},
        HONEST | {"accounts": base64.b64encode(zlib.compress(b"[" * 100_000)).decode()},
        HONEST | {"accounts": base64.b64encode(zlib.compress(b" " * (4 << 20) + b"{}")).decode()},
        HONEST | {"texts": None},
        HONEST | {"texts": "x\n"},
        HONEST | {"texts": "²"},
        HONEST | {"texts": base64.b64encode(b"no zlib").decode()},
        HONEST | {"texts": base64.b64encode(zlib.compress(b"x\n")[:-1]).decode()},
        HONEST | {"texts": base64.b64encode(zlib.compress(b"\xff\xff")).decode()},
        HONEST | {"texts": "A" * 700_001},
        many_texts("x" * (9 << 20), [1 << 16] * (9 << 4)),
        HONEST | {"seats": HONEST["seats"] * 20_000},
        HONEST | {"absent_because": {"x": DEEP}},
        HONEST | {"hostname": ["x"] * 200_000},
        HONEST | {"claims": [CLAIM.model_dump() | {"fence": 10**4299}]},
    ],
)
def test_facts_that_no_node_of_ours_has_are_a_problem(facts: Any) -> None:
    problem = read_facts(facts)
    assert isinstance(problem, Problem)
    assert problem.code == "module_failed"
    assert len(problem.what) < 1000


def test_a_node_cannot_report_under_the_name_of_another() -> None:
    facts = read_facts(HONEST | {"name": "another"})
    assert isinstance(facts, NodeFacts)
    assert facts.name == "lying"


def test_texts_below_the_bound_that_no_file_has_are_no_fault() -> None:
    assert isinstance(read_facts(many_texts("x" * (8 << 20), [1 << 16] * (8 << 4))), NodeFacts)


@given(
    VALID_TEXTS,
    st.lists(st.integers(0, 4), max_size=4) | VALUES,
    st.dictionaries(st.text(max_size=3), st.integers(-1, 4) | VALUES, max_size=3) | VALUES,
)
def test_any_texts_lengths_and_numbers_give_facts_or_a_problem(joined: str, lengths: Any, files: Any) -> None:
    answer = read_facts(many_texts(joined, lengths) | {"seats": [HONEST["seats"][0] | {"files": files}]})
    if isinstance(answer, Problem):
        assert answer.code == "module_failed"
    else:
        assert set(answer.seats[0].files) == set(files)
        assert all(text in joined for text in answer.seats[0].files.values())


@given(st.lists(st.dictionaries(VALID_TEXTS, VALID_TEXTS), max_size=4))
def test_each_file_has_the_text_that_it_has_on_the_node(files: list[dict[str, str]]) -> None:
    seats = [FACTS["seats"][0] | {"name": f"s{number}", "files": texts} for number, texts in enumerate(files)]
    facts = read_facts(json.loads(json.dumps(as_sent(FACTS | {"seats": seats}))))
    assert isinstance(facts, NodeFacts)
    assert [seat.files for seat in facts.seats] == files
    assert {name: value for name, value in facts if name not in {"seats", "clock_offset"}} == {
        name: value for name, value in valid_facts() if name not in {"seats", "clock_offset"}
    }


@given(st.dictionaries(TEXTS, st.dictionaries(st.sampled_from(["uid", "gid", "home", "groups"]), VALUES)) | VALUES)
def test_any_accounts_give_facts_or_a_problem(accounts: Any) -> None:
    answer = read_facts(with_accounts(accounts))
    assert isinstance(answer, NodeFacts | Problem)
    assert answer.model_dump_json()


def test_the_accounts_of_thousands_of_people_are_passed_on_and_read() -> None:
    groups = [f"course-{number}" for number in range(40)]
    accounts = {
        f"u{number:08}": Account(uid=number, gid=number, home=f"/home/u{number}", groups=groups[number % 20 :][:20])
        for number in range(4096)
    }
    sent = with_accounts({name: account.model_dump(mode="json") for name, account in accounts.items()})
    assert len(json.dumps(sent)) < 300_000
    facts = read_facts(sent)
    assert isinstance(facts, NodeFacts)
    assert facts.accounts == accounts


def files_of_seats(count: int) -> list[dict[str, str]]:
    """Return the rendered files of so many seats, which differ as those of several people do."""
    seat = a_seat(name="ml_anna", user="anna", uid=70_000, home="/srv/homes/anna", authorized_keys=(f"{KEY} anna@lab",))
    files = render(seat, a_locked_image(), TEMPLATES).files
    return [{name: _of_another(text, number) for name, text in files.items()} for number in range(count)]


def _of_another(text: str, number: int) -> str:
    random = hashlib.sha256(str(number).encode()).hexdigest()
    changes = {
        "anna": f"u{random[:8]}",
        "70000": f"{70_000 + number}",
        "22000": f"{22_000 + 2 * number}",
        "22001": f"{22_001 + 2 * number}",
        "10.213.0.0": f"10.213.{number // 16}.{number % 16 * 16}",
        GPU: f"GPU-{random[:8]}-{random[8:12]}-{random[12:16]}-{random[16:20]}-{random[20:32]}",
        KEY[-40:]: random[:40],
    }
    for old, new in changes.items():
        text = text.replace(old, new)
    return text


def test_the_facts_of_200_seats_are_shorter_than_what_ansible_runner_passes_on() -> None:
    seats = [FACTS["seats"][0] | {"files": files} for files in files_of_seats(200)]
    assert {len(seat["files"]) for seat in seats} == {12}
    assert len({text for seat in seats for text in seat["files"].values()}) > 2 * 200
    assert len(json.dumps(seats)) > 4_000_000
    sent = as_sent(FACTS | {"seats": seats})
    assert len(json.dumps(probe_result(sent).result)) < 500_000
    facts = read_facts(sent)
    assert isinstance(facts, NodeFacts)
    assert [seat.files for seat in facts.seats] == [seat["files"] for seat in seats]


@pytest.mark.parametrize("clock", [float("nan"), float("inf"), 10**400, "x", None, []])
def test_a_clock_that_is_no_time_is_a_problem(clock: Any) -> None:
    event = HostEvent(
        "n1", "ok", {"facts": {}, "clock": clock}, "2026-11-23T10:00:00+00:00", "2026-11-23T10:00:04+00:00"
    )
    assert isinstance(parse_facts(event), Problem)


@costly
@given(with_lies(HONEST))
def test_a_lying_node_leaves_the_plan_of_others_as_it_is(facts: Any) -> None:
    probed = {"honest": a_node("honest"), "lying": read_facts(facts)}
    inputs = PlanInputs(a_lab(), a_lock(), load(), DOCUMENTS, ())
    prepared = build_plan(inputs, [FakeHost("lying"), FakeHost("honest")], probed)
    alone = build_plan(inputs, [FakeHost("honest")], {"honest": probed["honest"]})
    assert prepared.plan.steps[1] == alone.plan.steps[0]
    json.dumps(prepared.plan.model_dump(mode="json"), allow_nan=False)
    assert prepared.plan.model_dump_json()


@given(st.dictionaries(st.sampled_from(["record", "problem", "phase", "text", "done", "total", "unit", "msg"]), VALUES))
def test_every_result_of_a_job_is_read_without_an_exception(result: dict[str, Any]) -> None:
    for status in ("ok", "failed", "unreachable"):
        event = HostEvent("lying", status, result)
        record, answer = parse_record(event, ["s", "t"], started=True), parse_claim_problem(event)
        assert record is None or record.node == "lying"
        assert answer is None or isinstance(answer, Problem)
        assert isinstance(parse_facts(event), Problem)
        for found in (record, answer):
            assert found is None or found.model_dump_json()
    progress = parse_progress(HostEvent("lying", "retry", result))
    assert event_line(progress)
    assert progress.model_dump_json()


SEAT = {
    "state": "committed",
    "generation": 1,
    "gpu": {"method": "torch", "uuids": ["GPU-1"]},
    "access": {"jupyter": "x", "ssh": "y"},
    "problems": [{"code": "a", "what": "b", "why": "c", "fix": "d"}],
    "seconds": 1.0,
}
RECORD = {"state": "committed", "released": True, "seats": {"s": SEAT, "t": SEAT}, "seconds": 1.0}


@given(with_lies(RECORD))
def test_a_record_with_a_lie_is_a_record_of_its_node(record: Any) -> None:
    read = parse_record(HostEvent("lying", "ok", {"record": record}), ["s", "t"], started=True)
    assert read is None or (read.node, [seat.seat for seat in read.seats]) == ("lying", ["s", "t"])
    if read is not None:
        json.dumps(read.model_dump(mode="json"), allow_nan=False)


@given(VALUES)
def test_a_preparation_is_read_without_an_exception(record: Any) -> None:
    preparer = Preparer(Settings(inventory=None), lambda _: None, NodePreparation)
    found = preparer._parse(HostEvent("lying", "ok", {"record": record}), started=True)
    assert found is None or found.node == "lying"


def test_malformed_results_end_in_records_of_their_node_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    results: dict[str, dict[str, Any]] = {
        "broken": {"record": ["x"]},
        "lying": {"record": {"state": {}}},
        "lying about a seat": {"record": {"state": "committed", "seats": {"s": {"state": {}}}}},
        "honest": {"record": RECORD},
    }

    def play(*arguments: Any) -> None:
        on_event = arguments[-1]
        for node, result in results.items():
            on_event(HostEvent(node, "ok", result))

    monkeypatch.setattr("provisioner.adapters.ansible.fleet.run_playbook", play)
    monkeypatch.setattr("provisioner.adapters.ansible.prepare.run_playbook", play)
    events: list[Event] = []
    records = AnsibleFleet(Settings(inventory=None), events.append).notify(
        {node: ["s"] for node in results}, "r1", None
    )
    assert {node: record.state for node, record in records.items()} == {
        "broken": "unknown",
        "lying": "unknown",
        "lying about a seat": "unknown",
        "honest": "committed",
    }
    order = PrepareOrder(run="r1", registry=RegistryAccess(address="r:1", ca=None), deadline=9)
    prepared = Preparer(Settings(inventory=None), events.append, NodePreparation).prepare(dict.fromkeys(results, order))
    assert {node: found.state for node, found in prepared.items()} == {
        "broken": "unknown",
        "lying": "failed",
        "lying about a seat": "failed",
        "honest": "failed",
    }


def test_one_fence_far_above_the_others_is_a_problem_of_its_node() -> None:
    assert implausible_fences({}) == {}
    assert implausible_fences({"only": MAX_FENCE}) == {}
    assert implausible_fences({"new": 0, "a": 3, "b": 7}) == {}
    found = implausible_fences({"a": 3, "lying": MAX_FENCE, "b": 7})
    assert list(found) == ["lying"]
    assert found["lying"].code == "fence_implausible"


@given(st.lists(st.integers(0, 10_000), min_size=2), st.integers(0, MAX_FENCE), st.integers(0, 100))
def test_a_lying_node_cannot_use_up_the_fences_of_a_lab(honest: list[int], lie: int, position: int) -> None:
    fences = {f"n{index}": fence for index, fence in enumerate(honest)}
    fences = dict([*list(fences.items())[: position % len(honest)], ("lying", lie), *fences.items()])
    believed = [fence for name, fence in fences.items() if name not in implausible_fences(fences)]
    assert set(honest) <= set(believed)
    assert next_fence(believed) <= 10_000 + 1_000_001
    assert Claim.model_validate(CLAIM.model_dump() | {"fence": next_fence([MAX_FENCE])}).fence == MAX_FENCE + 1


def test_what_is_no_token_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = {
        "good": b"ab12" * 16,
        "long": b"a" * (1 << 20),
        "binary": b"\xff\xfe",
        "url": b"x&next=http://evil",
        "empty": b"",
    }

    def play(_: Settings, folder: Path, *_others: object) -> None:
        for number, token in enumerate(sent.values()):
            (folder / "orders" / f"n1.{number}.token").write_bytes(token)

    monkeypatch.setattr("provisioner.adapters.ansible.fleet.run_playbook", play)
    tokens = dict(AnsibleFleet(Settings(inventory=None), lambda _: None).access({"n1": list(sent)})["n1"])
    assert tokens.pop("good") == "ab12" * 16
    assert {token.code if isinstance(token, Problem) else token for token in tokens.values()} == {"bad_token"}
