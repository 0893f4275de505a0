"""What the broker reads of a request. `make test-long PART=fuzz` tries 100,000 malformed ones."""

import json
import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.playbooks.node_code import ProblemError, module_util, problem

requests = module_util("broker.request")
ID = "0c7a9b2e-1f64-4c43-9a55-6f2f0a6f8f10"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC2Vb3m3hGZ7gQkM1x7h1m9S9w3zqk3yq8e0mYbX6z1B"
UP: dict[str, Any] = {
    "environment": "default",
    "gpus": 1,
    "hours": 8,
    "keys": [f"{KEY} anna@pc"],
    "switch": False,
    "wait_s": 0,
}
PIECES = (b'"', b"{", b"}", b"[", b"\\", b"\x00", b"9", b"")
TRIES_OF_ONE_EXAMPLE = 4 if settings.get_current_profile_name() == "commit" else 100


def a_request(verb: str = "up", **values: Any) -> dict[str, Any]:
    return {"v": 1, "id": ID, "verb": verb, **values}


def line(found: Any) -> bytes:
    return json.dumps(found).encode()


@pytest.mark.parametrize(
    ("verb", "values"),
    [
        ("up", UP),
        ("up", {}),
        ("up", {"gpus": 0, "restart": True}),
        ("status", {}),
        ("environments", {}),
        ("renew", {"hours": 8}),
        ("keep_alive", {"hours": 8, "reason": "训练要跑到明天早上"}),
        ("cancel", {}),
        ("down", {}),
        ("upgrade", {"now": True}),
        ("rotate_token", {}),
        ("logs", {"service": "ssh", "lines": 200}),
    ],
)
def test_a_request_is_read(verb: str, values: dict[str, Any]) -> None:
    assert requests.parse_request(line(a_request(verb, **values))) == (ID, verb, values)


@pytest.mark.parametrize("data", [b'\\"' * 2048, b'"' + b'\\"' * 2047, b'{"v":' + b'"\\' * 2045, b"[" * 4096])
def test_to_refuse_a_request_takes_no_long_time(data: bytes) -> None:
    begun = time.process_time()
    for _ in range(20):
        refused(data)
    assert time.process_time() - begun < 1.0


def refused(data: bytes) -> str:
    with pytest.raises(ProblemError) as caught:
        requests.parse_request(data)
    assert problem(caught)["code"] == "bad_request"
    return problem(caught)["what"]


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"image": "evil"}, "no field 'image'"),
        ({"user": "root"}, "no field 'user'"),
        ({"uid": 0}, "no field 'uid'"),
        ({"home": "/etc"}, "no field 'home'"),
        ({"environment": "../../etc"}, "`environment`"),
        ({"environment": "a\n"}, "`environment`"),
        ({"environment": 1}, "`environment`"),
        ({"gpus": -1}, "`gpus`"),
        ({"gpus": True}, "`gpus`"),
        ({"gpus": "1"}, "`gpus`"),
        ({"gpus": 1.0}, "the number 1.0"),
        ({"hours": 0}, "`hours`"),
        ({"hours": 10**30}, "too large"),
        ({"wait_s": float("nan")}, "the number NaN"),
        ({"wait_s": float("inf")}, "the number Infinity"),
        ({"keys": [KEY] * 5}, "`keys`"),
        ({"keys": KEY}, "`keys`"),
        ({"keys": [f"{KEY}\nssh-rsa AAAA"]}, "`keys`"),
        ({"keys": [f'command="sh" {KEY}']}, "`keys`"),
        ({"keys": [f"{KEY} \x1b[2J"]}, "`keys`"),
        ({"keys": [f"{KEY} \u2028"]}, "`keys`"),
        ({"keys": [KEY + "A" * 1000]}, "`keys`"),
        ({"switch": 1}, "`switch`"),
        ({"switch": None}, "`switch`"),
    ],
)
def test_a_value_that_is_not_listed_is_refused(values: dict[str, Any], what: str) -> None:
    assert what in refused(line(a_request(**values)))


@pytest.mark.parametrize(
    ("verb", "values"),
    [
        ("renew", {}),
        ("keep_alive", {"hours": 1}),
        ("keep_alive", {"hours": 1, "reason": " "}),
        ("keep_alive", {"hours": 1, "reason": "x" * 121}),
        ("keep_alive", {"hours": 1, "reason": "a\nb"}),
        ("logs", {}),
        ("logs", {"service": "jupyter;id"}),
        ("logs", {"service": "ssh", "lines": 201}),
        ("status", {"hours": 1}),
        ("exec", {}),
        ("", {}),
    ],
)
def test_a_verb_has_its_own_fields(verb: str, values: dict[str, Any]) -> None:
    refused(line(a_request(verb, **values)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b'"up"',
        b"{}",
        b"{",
        b"\xff\xfe",
        b'{"v":1}\x00',
        line(a_request()) + b"{}",
        line(a_request()) + b"\n" + line(a_request()),
        line({**a_request(), "v": 2}),
        line({**a_request(), "v": True}),
        line({**a_request(), "id": ID.upper()}),
        line({**a_request(), "id": "../" + ID}),
        line({**a_request(), "id": None}),
        line({**a_request(), "verb": ["up"]}),
        b'{"v":1,"v":1,"id":"' + ID.encode() + b'","verb":"status"}',
        line(a_request()).replace(b'"up"', b'"up","gpus":1,"gpus":2'),
        b"[" * 4096,
        b'{"a":' * 800,
        line(a_request(keys=[[[["x"]]]])),
        line(a_request()).ljust(4097),
        b'"' + b"\\" * 4000,
    ],
    ids=lambda data: ascii(data[:30]),
)
def test_what_is_no_request_is_refused(data: bytes) -> None:
    refused(data)


def test_brackets_in_texts_are_not_counted() -> None:
    reason = '[[[[[["{{{{{\\'
    assert requests.parse_request(line(a_request("keep_alive", hours=1, reason=reason))).values["reason"] == reason


@pytest.mark.parametrize(
    ("data", "expected"),
    [(line(a_request("exec")), ID), (line(a_request(gpus="x")), ID), (line({"id": 7}), None), (b"x", None)],
)
def test_the_id_of_a_refused_request_is_known_where_it_has_one(data: bytes, expected: str | None) -> None:
    assert requests.request_id(data) == expected


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
fields = st.dictionaries(
    st.sampled_from(
        ["v", "id", "verb", "gpus", "hours", "keys", "environment", "switch", "wait_s", "reason", "seat", "since"]
    )
    | st.text(max_size=8),
    values
    | st.sampled_from([1, ID, "up", "status", "renew", "logs", "default", "stop", "extend", "usage", "2027-03-01"]),
)


def is_answered(data: bytes) -> bool:
    """Whether a line is refused in words that are safe to show, or read with values that are all listed."""
    try:
        found = requests.parse_request(data)
    except ProblemError as fault:
        refusal = vars(fault)["problem"]
        return refusal["code"] == "bad_request" and all(text.isprintable() for text in refusal.values())
    known = requests.ALL_VERBS[found.verb]
    return set(found.values) <= set(known) and all(known[name](value) for name, value in found.values.items())


@given(fields, st.booleans())
def test_any_object_is_a_request_or_refused(found: dict[str, Any], is_near: bool) -> None:
    assert is_answered(line({**a_request(), **found} if is_near else found))


@given(st.binary(max_size=200), st.randoms(use_true_random=False))
def test_any_bytes_are_a_request_or_refused(noise: bytes, chance: random.Random) -> None:
    """Each example damages requests in many ways, which a search for new ones would only slow down."""
    whole = [line(a_request(**UP)), line(a_request("keep_alive", hours=3, reason="训练"))]
    whole.append(line(a_request("extend", seat="ml_anna", hours=3, reason="训练")))
    for _ in range(TRIES_OF_ONE_EXAMPLE):
        data = bytearray(chance.choice(whole))
        for _ in range(chance.randint(1, 4)):
            at, new = chance.randrange(len(data) + 1), chance.choice([noise, *PIECES])
            data[at : at + chance.randint(0, 3)] = new
        assert is_answered(bytes(data))
