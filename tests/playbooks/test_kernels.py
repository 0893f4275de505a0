"""What the health of a self-service seat says of its kernels, as the engine keeps it; unknown counts as use."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.playbooks.node_code import module_util

kernels = module_util("docker.kernels")
UNKNOWN = ["jupyter: it is unknown whether kernels run code"]


def said(*outputs: Any) -> dict[str, Any]:
    log = [{"Start": "t0", "End": "t1", "ExitCode": 0, "Output": output} for output in outputs]
    return {"State": {"Health": {"Status": "healthy", "Log": log}}}


@pytest.mark.parametrize(
    ("container", "lines"),
    [
        (said("HTTP 200, busy kernels: 0\n"), []),
        (said("HTTP 200, busy kernels: 2\n"), ["jupyter: 2 kernels run code"]),
        (said("HTTP 200, busy kernels: 3\n", "HTTP 200, busy kernels: 0\n"), []),
        (said("HTTP 200, busy kernels: 0\n", "HTTP 200, busy kernels: 1\n"), ["jupyter: 1 kernels run code"]),
        (said("HTTP 200, busy kernels: 1\n[2, []]\n"), ["jupyter: 1 kernels run code"]),
        (said("HTTP 200, busy kernels: 0\n[broken]\n"), []),
        (said("HTTP 200, busy kernels: 0\n[]\n[]\n"), UNKNOWN),
        (said("HTTP 200, busy kernels: unknown\n"), UNKNOWN),
        (said("HTTP 200\n"), UNKNOWN),
        (said("HTTP 200, busy kernels: 0\nHTTP 200, busy kernels: 0"), UNKNOWN),
        (said("HTTP 200, busy kernels: " + "9" * 4000), UNKNOWN),
        (said("HTTP 200, busy kernels: ²"), UNKNOWN),
        (said("Health check exceeded timeout (10s)"), UNKNOWN),
        (said(), UNKNOWN),
        (said(None), UNKNOWN),
        ({"State": {"Health": None}}, UNKNOWN),
        ({"State": {}}, UNKNOWN),
        ({}, UNKNOWN),
        (None, UNKNOWN),
    ],
    ids=lambda value: ascii(value)[-50:],
)
def test_kernels_that_run_code_are_use(container: Any, lines: list[str]) -> None:
    assert kernels.kernel_use(container) == lines


ID = "0c7a9b2e-1f64-4c43-9a55-6f2f0a6f8f10"
ROW = [ID, "a.ipynb", "idle", "2026-11-30T08:00:00.123456Z"]
KERNEL = {"name": "a.ipynb", "state": "idle", "since": "2026-11-30T08:00:00Z", "gpu_bytes": 0}


def listed(text: str, memory: int = 0) -> Any:
    return kernels.kernel_list(said(f"HTTP 200, busy kernels: 1\n{text}\n"), {ID: memory})


def test_kernels_are_listed_with_the_gpu_memory_that_they_hold() -> None:
    assert listed(json.dumps([1, [ROW]])) == {"all": 1, "listed": [KERNEL]}
    assert listed(json.dumps([1, [ROW]]), memory=7)["listed"] == [{**KERNEL, "gpu_bytes": 7}]


def test_a_seat_without_kernels_has_an_empty_list_and_one_that_does_not_list_them_has_none() -> None:
    assert kernels.kernel_list(said("HTTP 200, busy kernels: 0\n"), {}) == {"all": 0, "listed": []}
    assert kernels.kernel_list(said("HTTP 200, busy kernels: 1\n"), {}) is None
    assert kernels.kernel_list(None, {}) is None


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ([ID, "\x1b]0;owned\x07\u202e\ud800.ipynb", "idle", "x"], {"name": "?]0;owned???.ipynb", "since": None}),
        ([ID, "x" * 200, "on fire\n", "2026-13-30T08:00:00Z"], {"name": "x" * 48, "state": "unknown", "since": None}),
        (["", "", "busy", "0000-01-01T00:00:00Z"], {"name": "", "state": "busy", "since": None}),
    ],
)
def test_what_a_seat_says_of_its_kernels_is_made_printable_and_cut(row: list[str], shown: dict[str, Any]) -> None:
    found = listed(json.dumps([1, [row]]))["listed"][0]
    assert {name: found[name] for name in shown} == shown


def test_a_list_has_twenty_kernels_at_most() -> None:
    found = listed(json.dumps([10**9, [ROW] * 40]))
    assert (found["all"], len(found["listed"])) == (9999, 20)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "[1]",
        "[1, {}]",
        '["1", []]',
        "[1, [[]]]",
        '[1, [["a", "b", "c", 4]]]',
        '[1, [[["a"], "b", "c", "d"]]]',
        "[NaN, []]",
        "[" * 4000 + "]",
        "[1, [2]]",
    ],
)
def test_what_is_no_list_of_kernels_is_none(text: str) -> None:
    assert listed(text) is None


@given(st.recursive(st.none() | st.integers() | st.text() | st.floats(), st.lists, max_leaves=12))
def test_no_answer_of_a_seat_stops_the_broker(found: Any) -> None:
    for text in (json.dumps([found]), json.dumps([1, [found]]), json.dumps([1, [[*ROW[:3], found]]])):
        shown = listed(text)
        assert shown is None or all(isinstance(kernel["name"], str) for kernel in shown["listed"])
