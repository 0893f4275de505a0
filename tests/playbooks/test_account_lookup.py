"""Accounts are looked up by name in a child; what a hanging directory service does not answer in time is not known."""

import os
import pwd
import signal
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.playbooks.node_code import module_util

lookup = module_util("seat.account_lookup")

NONE: dict[str, Any] = {"uid": None, "gid": None, "home": "", "groups": []}
SKIPPED = "names not looked up, invalid or beyond 4096:"


class Entry(NamedTuple):
    """What an entry of the directory holds."""

    pw_name: str
    pw_uid: int = 5001
    pw_gid: int = 100
    pw_dir: str = "/home/x"


class Group(NamedTuple):
    """What an entry of the groups holds."""

    gr_name: str


class Directory:
    """A directory service. `hangs` are names that it never answers; `fails` are those for which it reports an error."""

    def __init__(self) -> None:
        self.entries = {name: Entry(name) for name in ("anna", "bob", "2024012345", "li@lab")}
        self.gids: dict[str, list[int]] = {}
        self.groups = {100: "users", 200: "ml", 300: "a:b"}
        self.hangs: set[str] = set()
        self.fails: set[str] = set()
        self.ends: set[str] = set()

    def getpwnam(self, name: str) -> Entry:
        if name in self.hangs:
            signal.pause()
        if name in self.ends:
            os.kill(os.getpid(), signal.SIGKILL)
        if name in self.fails:
            raise OSError(5, "Input/output error")
        return self.entries[name]

    def getgrouplist(self, name: str, gid: int) -> list[int]:
        return [gid, *self.gids.get(name, [])]

    def getgrgid(self, gid: int) -> Group:
        return Group(self.groups[gid])


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Directory:
    """The directory that the node asks. A name that it must not be asked for is none of its entries."""
    made = Directory()
    monkeypatch.setattr(lookup.pwd, "getpwnam", made.getpwnam)
    monkeypatch.setattr(lookup.os, "getgrouplist", made.getgrouplist)
    monkeypatch.setattr(lookup.grp, "getgrgid", made.getgrgid)
    return made


def test_the_accounts_of_this_machine_are_found_with_their_groups() -> None:
    root = pwd.getpwnam("root")
    accounts, reason = lookup.look_up_accounts(["root", "no-such-account"])
    assert accounts["root"] == {"uid": 0, "gid": 0, "home": root.pw_dir, "groups": accounts["root"]["groups"]}
    assert "root" in accounts["root"]["groups"]
    assert (accounts["no-such-account"], reason) == (NONE, "")


def test_each_name_has_its_account_or_none(directory: Directory) -> None:
    directory.gids["anna"] = [200, 300, 999]  # an invalid name, and a group without a name
    accounts, reason = lookup.look_up_accounts(["2024012345", "anna", "nobody-here", "li@lab", "anna"])
    assert reason == ""
    assert accounts == {
        "2024012345": {"uid": 5001, "gid": 100, "home": "/home/x", "groups": ["users"]},
        "anna": {"uid": 5001, "gid": 100, "home": "/home/x", "groups": ["users", "ml"]},
        "nobody-here": NONE,
        "li@lab": {"uid": 5001, "gid": 100, "home": "/home/x", "groups": ["users"]},
    }


def test_no_process_is_started_without_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "collect_in_child", lambda *_: 1 / 0)
    assert lookup.look_up_accounts([]) == ({}, "")


def test_what_was_answered_before_the_directory_hangs_is_kept(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "SECONDS", 0.5)
    directory.hangs = {"bob"}
    accounts, reason = lookup.look_up_accounts(["anna", "bob", "li@lab"])
    assert list(accounts) == ["anna"]
    assert reason == "accounts that are not known: 2 (no answer within 0.5 s; a directory service may hang)"


def test_an_error_of_the_directory_leaves_only_this_name_unknown(directory: Directory) -> None:
    directory.fails = {"bob"}
    accounts, reason = lookup.look_up_accounts(["anna", "bob", "li@lab"])
    assert (list(accounts), reason) == (["anna", "li@lab"], "accounts that are not known: 1 (the lookup failed)")


def test_a_library_that_ends_the_child_does_not_end_the_probe(directory: Directory) -> None:
    directory.ends = {"bob"}
    accounts, reason = lookup.look_up_accounts(["anna", "bob", "li@lab"])
    assert (list(accounts), reason) == (["anna"], "accounts that are not known: 2 (the lookup failed)")


@pytest.mark.parametrize(
    "name",
    ["", "a\nb", "a\0b", "x" * 256, "é" * 128, "../x", "a:b", "\ud800", "\x1b[2J", "a\x7f", "a\u2028b"],
    ids=ascii,
)
def test_a_name_that_no_account_can_have_is_not_passed_on(directory: Directory, name: str) -> None:
    directory.entries[name] = Entry(name)
    assert lookup.look_up_accounts([name]) == ({}, f"{SKIPPED} 1")
    accounts, reason = lookup.look_up_accounts([name, "anna"])
    assert (list(accounts), reason) == (["anna"], f"{SKIPPED} 1")


def test_names_beyond_the_bound_are_not_looked_up(directory: Directory) -> None:
    names = ["anna", *(f"p{number}" for number in range(5000))]
    accounts, reason = lookup.look_up_accounts(names)
    assert list(accounts) == names[:4096]
    assert reason == f"{SKIPPED} 905"
    assert directory.entries


def test_accounts_beyond_the_bound_of_their_size_are_not_known(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "MOST_BYTES", 100)
    accounts, reason = lookup.look_up_accounts(["anna", "bob", "li@lab"])
    assert (list(accounts), reason) == (["anna"], "accounts that are not known: 2 (the lookup failed)")
    assert directory.entries


@pytest.mark.parametrize("home", ["", "home/x", "/home/a\nb", "/home/\udcff", "/" + "x" * 4096], ids=ascii)
def test_a_home_that_is_no_printable_absolute_path_is_left_out(directory: Directory, home: str) -> None:
    directory.entries["anna"] = Entry("anna", pw_dir=home)
    assert lookup.look_up_accounts(["anna"])[0]["anna"]["home"] == ""


def test_uid_0_is_reported_as_it_is(directory: Directory) -> None:
    directory.entries["toor"] = Entry("toor", 0, 0, "/root")
    assert lookup.look_up_accounts(["toor"])[0]["toor"]["uid"] == 0


def test_at_most_256_groups_of_an_account_are_reported(directory: Directory) -> None:
    directory.gids["anna"] = list(range(1000, 2000))
    directory.groups |= {gid: f"g{gid}" for gid in range(1000, 2000)}
    assert lookup.look_up_accounts(["anna"])[0]["anna"]["groups"] == ["users", *(f"g{n}" for n in range(1000, 1255))]


@given(st.text())
def test_every_name_that_is_looked_up_can_be_written_in_one_line(name: str) -> None:
    if lookup.is_account_name(name):
        assert len(name.splitlines()) == 1
        assert 0 < len(name.encode()) <= 255
        assert "\0" not in name
