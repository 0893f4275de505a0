"""The check from inside: once for each node, run and environment, and whatever it finds is a caution."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.lab.inside import Inside
from provisioner.domain.seat.inside import QUESTIONS_FILE, questions_text
from provisioner.domain.seat.options import SeatOptions
from provisioner.domain.values.problem import Problem
from tests.playbooks.node_code import module_util

check = module_util("inside.check")
reach = module_util("inside.reach")
CommandResult = module_util("base.command").CommandResult

QUESTIONS = questions_text(
    SeatOptions.model_validate(
        {
            "inside": {"pip_index": "https://m.example/simple", "proxy": {"http": "http://p.example:3128"}},
            "extra": {"tensorboard": 6006},
        }
    )
)


def an_order(root: Path, run: str = "r1", environment: str = "default") -> dict[str, Any]:
    seat = {"name": "demo-a", "uid": 1000, "gid": 1001, "environment": environment}
    return {"run": run, "state_root": str(root), "seat": seat}


class Docker:
    """Stands for `run`: `prints` is what the program in the container has written; None: it was killed."""

    def __init__(self) -> None:
        self.prints: str | None = json.dumps({"index": {"outcome": "reachable", "detail": ""}})
        self.calls: list[list[str]] = []

    def run(self, argv: list[str], seconds: float, **given: Any) -> Any:
        self.calls.append(argv)
        if argv[1] != "rm":
            assert (seconds, given["text"]) == (15, check.PROGRAM)
        return CommandResult(None if self.prints is None else 0, self.prints or "", "")


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> Docker:
    fake = Docker()
    monkeypatch.setattr(check, "run", fake.run)
    return fake


def results(outcome: str, name: str = "index") -> str:
    return json.dumps({name: {"outcome": outcome, "detail": "http://m.example/simple/pip/: HTTP 1"}})


def codes(problems: list[dict[str, str]]) -> list[str]:
    return [Problem(**problem).code for problem in problems]


def test_the_questions_file_is_the_one_that_the_control_machine_writes() -> None:
    assert check.QUESTIONS == QUESTIONS_FILE
    assert set(json.loads(QUESTIONS)) == {*reach.ASK, "variables"}


@pytest.mark.parametrize("options", [SeatOptions(), SeatOptions(inside=Inside(timezone="Asia/Shanghai"))])
def test_a_lab_that_names_no_server_asks_nothing(options: SeatOptions, docker: Docker) -> None:
    assert questions_text(options) == ""
    assert check.check_trial("trial", [], "") == []
    assert docker.calls == []


def test_one_seat_of_each_run_and_environment_is_asked(tmp_path: Path, docker: Docker) -> None:
    for order in (an_order(tmp_path), an_order(tmp_path, environment="nlp"), an_order(tmp_path, "r2")):
        for _ in range(3):
            assert check.check_seat(order, QUESTIONS, "c1") == []
    assert len(docker.calls) == 3
    assert docker.calls[0][:5] == ["docker", "exec", "-i", "--user", "1000:1001"]
    assert docker.calls[0][-4:] == ["python3", "-I", "-", QUESTIONS]


def test_of_60_seats_at_once_one_is_asked(tmp_path: Path, docker: Docker) -> None:
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda _: check.check_seat(an_order(tmp_path), QUESTIONS, "c1"), range(60)))
    assert len(docker.calls) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run": "r1"}', '{"run": "r1", "checked": 7}', "null"])
def test_a_damaged_record_is_none(tmp_path: Path, docker: Docker, text: str) -> None:
    (tmp_path / "node").mkdir()
    (tmp_path / "node/inside.json").write_text(text)
    check.check_seat(an_order(tmp_path), QUESTIONS, "c1")
    assert len(docker.calls) == 1


def test_where_it_cannot_be_noted_no_seat_is_asked(tmp_path: Path, docker: Docker) -> None:
    (tmp_path / "node").write_text("in the way of the folder")
    assert check.check_seat(an_order(tmp_path), QUESTIONS, "c1") == []
    assert docker.calls == []


@pytest.mark.parametrize("outcome", check.SAYS)
@pytest.mark.parametrize("name", check.NAMES)
def test_each_outcome_is_a_caution_of_its_own(tmp_path: Path, docker: Docker, name: str, outcome: str) -> None:
    docker.prints = f"a warning of the image\n{results(outcome, name)}\n"
    (problem,) = check.check_seat(an_order(tmp_path), QUESTIONS, "c1")
    assert problem["code"] == f"{name}_{outcome}"
    assert "http://m.example/simple/pip/: HTTP 1" in problem["what"]
    assert check.NAMES[name][1] in problem["why"]


@pytest.mark.parametrize(
    ("prints", "code"),
    [
        (results("missing", "extra"), ["extra_missing"]),
        (results("unknown", "extra"), ["inside_unknown"]),
        (results("unknown"), ["inside_unknown"]),
        (results("a lie"), ["inside_unknown"]),
        (results("reachable", "something"), ["inside_unknown"]),
        ('{"index": "x"}', ["inside_unknown"]),
        ("[" * 100000, ["inside_unknown"]),
        ("", ["inside_unknown"]),
        (None, ["inside_unknown"]),
    ],
)
def test_what_is_not_understood_is_unknown(tmp_path: Path, docker: Docker, prints: str | None, code: list[str]) -> None:
    docker.prints = prints
    assert codes(check.check_seat(an_order(tmp_path), QUESTIONS, "c1")) == code


@given(st.text(max_size=300))
def test_no_output_breaks_the_check(text: str) -> None:
    check.parse_results(text)


def test_a_long_detail_is_cut_and_controls_no_terminal(tmp_path: Path, docker: Docker) -> None:
    docker.prints = json.dumps({"index": {"outcome": "refused", "detail": "\x1b[31m" + "x" * 60000}})
    (problem,) = check.check_seat(an_order(tmp_path), QUESTIONS, "c1")
    assert len(problem["what"]) < 600
    assert "\x1b" not in problem["what"]


def test_a_trial_has_the_proxy_in_its_variables_and_is_removed(docker: Docker) -> None:
    docker.prints = None
    assert codes(check.check_trial("trial", ["--cap-drop", "ALL", "image", "-I", "-"], QUESTIONS)) == ["inside_unknown"]
    first, words, last = docker.calls
    assert first == last == ["docker", "rm", "-f", "trial"]
    assert words[:6] == ["docker", "run", "--rm", "-i", "--name", "trial"]
    assert "http_proxy=http://p.example:3128" in words
    assert words[-6:] == ["--cap-drop", "ALL", "image", "-I", "-", QUESTIONS]


def test_a_container_that_answers_nothing_takes_no_longer_than_its_time(tmp_path: Path, monkeypatch: Any) -> None:
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\nsleep 600 & sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(check, "SECONDS", 0.5)
    started = time.monotonic()
    assert codes(check.check_seat(an_order(tmp_path), QUESTIONS, "c1")) == ["inside_unknown"]
    assert time.monotonic() - started < 5
