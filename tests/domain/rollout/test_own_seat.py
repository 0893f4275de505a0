"""What a node answers about a person's seat, and the lines for ssh: nothing in them is text of the node."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from provisioner.domain.rollout.own_seat import (
    INCLUDE,
    MeAnswer,
    SeatLogin,
    SshEntry,
    alias_of,
    changes_key,
    check_node,
    entry_file,
    has_include,
    is_of_other_node,
    known_host,
    long_alias_of,
    parse_me_answer,
    stanza,
    token_url,
    with_include,
    with_known_host,
)
from tests.builders import a_uuid

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAHg+phYlkD6xkYtQDftiz/I5BA4qXI9gttPyHlLqb+V"


def a_login(**over: Any) -> dict[str, Any]:
    return {"host": "192.0.2.22", "port": 24000, "user": "anna", "host_key": HOST_KEY, **over}


def an_own_seat(**over: Any) -> dict[str, Any]:
    usual = {"name": "ml_anna", "state": "running", "jupyter": "http://127.0.0.1:24001/lab", "ssh": a_login()}
    return {**usual, "gpus": [a_uuid("gpu1/0")], "left_s": 28800, "environment": "default", "version": "0" * 12, **over}


def an_answer(**over: Any) -> dict[str, Any]:
    usual = {"schema": "provisioner/me/1", "act": "up", "state": "running", "seat": an_own_seat(), "job": None}
    return {**usual, "problems": [], **over}


def an_entry(**over: Any) -> SshEntry:
    usual: dict[str, Any] = {"alias": "gpu1-ml", "node": "gpu1", "login": SeatLogin(**a_login()), "jump": False}
    return SshEntry(**{**usual, **over})


@pytest.mark.parametrize("greeting", ["", "Welcome to gpu1!\n\n"])
def test_an_answer_is_read_also_behind_a_greeting(greeting: str) -> None:
    answer = parse_me_answer(f"{greeting}{json.dumps(an_answer())}\n")
    assert isinstance(answer, MeAnswer)
    assert (answer.seat.name, answer.seat.ssh.port) == ("ml_anna", 24000)


PROBLEM = {"code": "no_free_gpu", "what": "w", "why": "y", "fix": "f"}


@pytest.mark.parametrize(
    "found",
    [
        {"schema": "provisioner/problems/1", "problems": [PROBLEM]},
        an_answer(state="stopped", seat=None, problems=[PROBLEM]),
    ],
)
def test_a_refusal_is_read(found: Any) -> None:
    answer = parse_me_answer(json.dumps(found))
    assert isinstance(answer, tuple)
    assert [problem.code for problem in answer] == ["no_free_gpu"]


HOSTILE = ["\n  ProxyCommand sh", "$(id)", "`id`", "a b", "-oProxyCommand=sh", "", "x\x1b[2J", "ä", "x" * 500, None, 7]


@pytest.mark.parametrize("value", HOSTILE, ids=repr)
@pytest.mark.parametrize("field", ["host", "user", "host_key", "name", "environment"])
def test_a_field_that_is_something_else_is_refused_without_its_value(field: str, value: Any) -> None:
    seat = (
        an_own_seat(**{field: value})
        if field in ("name", "environment")
        else an_own_seat(ssh=a_login(**{field: value}))
    )
    with pytest.raises(ValueError, match="not what they should be") as caught:
        parse_me_answer(json.dumps(an_answer(seat=seat)))
    assert field in str(caught.value)
    assert not isinstance(value, str) or len(value) < 3 or value not in str(caught.value)


@pytest.mark.parametrize(
    "found",
    [
        "",
        "Welcome!\n{}",
        "[]",
        "[" * 100_000,
        "{}",
        an_answer(schema="provisioner/me/2"),
        an_answer(state="starting"),
        an_answer(seat=None),
        an_answer(seat=an_own_seat(ssh=a_login(port=0))),
        an_answer(seat=an_own_seat(ssh=a_login(port="22 x"))),
        an_answer(seat=an_own_seat(ssh=a_login(host="0.0.0.0"))),
        an_answer(seat=an_own_seat(ssh=a_login(host="evil.example"))),
        an_answer(seat=an_own_seat(gpus=["GPU-\x1b"])),
        an_answer(seat=an_own_seat(left_s=float("inf"))),
        an_answer(seat=an_own_seat(left_s=-1)),
        {"schema": "provisioner/problems/1", "problems": ["x"]},
        {"schema": "provisioner/problems/1", "problems": [{"code": 1}]},
    ],
)
def test_what_is_no_answer_is_refused(found: Any) -> None:
    with pytest.raises(ValueError, match=r"^(it|its|not) "):
        parse_me_answer(found if isinstance(found, str) else json.dumps(found))


STANZA = """\
Host gpu1-ml
  HostName 192.0.2.22
  Port 24000
  User anna
  HostKeyAlias gpu1-ml
  UserKnownHostsFile ~/.ssh/provisioner_known_hosts
  StrictHostKeyChecking yes
  IdentitiesOnly yes
  IdentityFile ~/.ssh/id_ed25519
  ProxyJump anna@gpu1
"""


def test_the_lines_of_a_seat() -> None:
    entry = an_entry(node="anna@gpu1", jump=True, identities=("id_ed25519",))
    assert stanza(entry) == STANZA
    assert known_host(entry) == f"gpu1-ml {HOST_KEY}\n"
    assert "ProxyJump" not in stanza(an_entry())


@given(st.text(), st.text(), st.text())
def test_a_stanza_has_as_many_lines_as_fields(alias: str, user: str, identity: str) -> None:
    try:
        login = SeatLogin(**a_login(user=user))
        entry = SshEntry(alias=alias, node="gpu1", login=login, jump=True, identities=(identity,))
    except ValidationError:
        return
    assert len(stanza(entry).splitlines()) == len(STANZA.splitlines())


def test_the_key_of_a_seat_replaces_its_older_one_only() -> None:
    before = f"other-ml {HOST_KEY}\ngpu1-ml ssh-ed25519 OLD\ngpu1-ml2 {HOST_KEY}\n"
    after = with_known_host(before, an_entry())
    assert after == f"other-ml {HOST_KEY}\ngpu1-ml2 {HOST_KEY}\ngpu1-ml {HOST_KEY}\n"
    assert with_known_host(after, an_entry()) == after
    assert [changes_key(text, an_entry()) for text in (before, after, "")] == [True, False, False]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("", False),
        (f"Include {INCLUDE}\n", True),
        (f"  include = {INCLUDE}\n", True),
        ("Include config.d/*\n", True),
        ('Include other "~/.ssh/config.d/*.conf"\n', True),
        ("Include /home/anna/.ssh/config.d/*\n", True),
        ("Include config.d/work-*\n", False),
        (f"#Include {INCLUDE}\n", False),
        (f"Host *\n  User x\nInclude {INCLUDE}\n", False),
        (f"match all\nInclude {INCLUDE}\n", False),
        (f"Compression yes\nInclude {INCLUDE}\nHost *\n", True),
    ],
)
def test_an_include_counts_where_it_is_for_all_hosts(config: str, expected: bool) -> None:
    assert has_include(config) == expected
    after = with_include(config)
    assert has_include(after)
    assert after == config if expected else after.endswith(config)
    assert with_include(after) == after


@pytest.mark.parametrize(
    ("node", "seat", "expected"),
    [
        ("gpu1", "ml_anna", "gpu1-ml"),
        ("anna@GPU1.lab.example", "ml_anna", "gpu1-ml"),
        ("10.0.0.5", "ml_anna", "10-0-0-5-ml"),
        ("2001:db8::7", "ai-lab_anna", "2001-db8-7-ai-lab"),
        ("gpu_1", "ml__anna-0123456789", "gpu-1-ml"),
    ],
)
def test_a_seat_is_named_after_its_node_and_lab(node: str, seat: str, expected: str) -> None:
    assert alias_of(node, seat) == expected
    assert stanza(an_entry(alias=expected, node=node, jump=True)).endswith(f"  ProxyJump {node}\n")


OTHER_KEY = HOST_KEY.replace("IAHg", "IAHh")


@pytest.mark.parametrize(
    ("before", "node", "key", "expected"),
    [
        ("gpu1.a", "gpu1.b", OTHER_KEY, True),
        ("gpu1.a", "gpu1.b", HOST_KEY, False),  # the same node, called by another name
        ("gpu1.a", "anna@GPU1.A", OTHER_KEY, False),  # the seat was made anew
    ],
)
def test_a_name_is_taken_by_a_seat_with_another_key_on_another_node(
    before: str, node: str, key: str, expected: bool
) -> None:
    text, known = entry_file(an_entry(node=before)), known_host(an_entry(node=before))
    entry = an_entry(node=node, login=SeatLogin(**a_login(host_key=key)))
    assert is_of_other_node(text, known, entry) == expected
    assert not is_of_other_node("", "", entry)
    assert not is_of_other_node(stanza(entry), known, entry)
    assert text.endswith(stanza(an_entry(node=before)))


def test_a_name_that_is_taken_is_replaced_by_the_whole_name_of_the_node() -> None:
    assert long_alias_of("anna@gpu1.b.example", "ml_anna") == "gpu1-b-example-ml"


@pytest.mark.parametrize("node", ["gpu1", "anna@gpu1.lab", "10.0.0.5", "fe80::1", "my_node"])
def test_a_node_is_what_ssh_calls_it(node: str) -> None:
    assert check_node(node) == node


@pytest.mark.parametrize("node", ["", "-oProxyCommand=sh", "a b", "a@-x", "a\nb", "a@b@c", "$(id)", "ssh://x", "a,b"])
def test_what_ssh_could_take_for_something_else_is_no_node(node: str) -> None:
    with pytest.raises(ValueError, match="is not HOST"):
        check_node(node)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"http://127.0.0.1:24001/lab?token={'a' * 64}\n", f"http://127.0.0.1:9999/lab?token={'a' * 64}"),
        (f"http://evil.example/lab?token={'a' * 64}\n", None),
        ("http://127.0.0.1:24001/lab?token=" + "a" * 20 + "&x=1", None),
        (f"Welcome\nhttp://127.0.0.1:24001/lab?token={'a' * 64}\n", None),
        ("", None),
    ],
)
def test_only_the_token_is_taken_from_what_the_seat_prints(text: str, expected: str | None) -> None:
    assert token_url(text, 9999) == expected


def test_ssh_reads_the_stanza_and_other_hosts_keep_their_settings(tmp_path: Path) -> None:
    (tmp_path / "provisioner-gpu1-ml.conf").write_text(stanza(an_entry(jump=True, identities=("id_lab",))))
    config = with_include("Compression yes\nHost *\n  Port 2222\n  User other\n")
    path = tmp_path / "config"
    path.write_text(config.replace("config.d/", f"{tmp_path}/"))

    def settings(host: str) -> dict[str, str]:
        ran = subprocess.run(["ssh", "-G", "-F", str(path), host], capture_output=True, text=True, check=True)
        return dict(line.split(" ", 1) for line in ran.stdout.splitlines() if " " in line)

    seat, other = settings("gpu1-ml"), settings("elsewhere")
    assert (seat["hostname"], seat["port"], seat["user"], seat["proxyjump"]) == ("192.0.2.22", "24000", "anna", "gpu1")
    assert seat["identityfile"].endswith("/.ssh/id_lab")
    assert seat["stricthostkeychecking"] in ("true", "yes")
    assert (other["hostname"], other["port"], other["user"]) == ("elsewhere", "2222", "other")
    assert (seat["compression"], other["compression"]) == ("yes", "yes")
