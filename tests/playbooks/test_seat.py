import json
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.adapters.ansible.lies import VALUES
from tests.playbooks.node_code import ProblemError, module_util, problem
from tests.playbooks.orders import an_order, with_seat

seats, journals, identities, accounts = (
    module_util(n) for n in ("seat.seat", "seat.journal", "seat.identity", "seat.accounts")
)


@pytest.mark.parametrize("name", ["../x", "", "a/b", "-p", "Ä", "a\n", ".", "x" * 3 + "/"])
def test_a_seat_name_that_could_leave_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProblemError, match="invalid seat name"):
        seats.seat_of(with_seat(an_order(tmp_path), name=name))


@pytest.mark.parametrize("name", ["../x", "order.json", "passwd", ".hidden", "a/b", ""])
def test_a_file_name_that_could_leave_its_folder_or_overwrite_a_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProblemError, match="invalid file name"):
        seats.seat_of(an_order(tmp_path, files={name: ""}))


@pytest.mark.parametrize("run", ["../x", "", "a/b", ".x"])
def test_a_run_name_that_could_leave_its_folder_is_refused(tmp_path: Path, run: str) -> None:
    with pytest.raises(ProblemError, match="invalid run name"):
        seats.seat_of(an_order(tmp_path, run))


def test_a_damaged_order_is_reported_with_its_path(tmp_path: Path) -> None:
    seat = seats.seat_of(an_order(tmp_path))
    seat.make_folders()
    seat.write(1, an_order(tmp_path), {})
    (seat.generation(1) / "order.json").write_text("{")
    with pytest.raises(ProblemError, match=r"gens/1/order\.json cannot be read"):
        seat.staged(an_order(tmp_path))


def test_an_incomplete_generation_is_not_listed(tmp_path: Path) -> None:
    order = an_order(tmp_path)
    seat = seats.seat_of(order)
    seat.make_folders()
    assert seat.folder.stat().st_mode & 0o777 == 0o700
    assert seat.next_number() == 1
    (seat.generation(1)).mkdir()  # a power cut before the last file
    assert seat.numbers() == []
    assert seat.next_number() == 2
    seat.write(2, order, {"passwd": "p"})
    assert seat.numbers() == [2]
    assert seat.files(2) == order["files"]
    assert (seat.generation(2) / "passwd").read_text() == "p"
    assert seat.order(2) == order


def test_staged_finds_a_generation_by_its_content_not_by_its_run(tmp_path: Path) -> None:
    order = an_order(tmp_path)
    seat = seats.seat_of(order)
    seat.make_folders()
    seat.write(1, order, {})
    assert seat.staged(an_order(tmp_path, "r2")) == 1
    assert seat.staged(an_order(tmp_path, files={"compose.yaml": "other"})) == 0
    seat.commit(1)
    assert seat.staged(order) == 0


def test_commit_moves_current_and_previous_follows(tmp_path: Path) -> None:
    seat = seats.seat_of(an_order(tmp_path))
    seat.make_folders()
    assert (seat.current(), seat.previous()) == (0, 0)
    for number in (1, 2, 3):
        seat.write(number, an_order(tmp_path), {})
    seat.commit(1)
    seat.commit(3)
    assert (seat.current(), seat.previous()) == (3, 2)
    assert (seat.folder / "current").readlink() == Path("gens/3")
    seat.clear_current()
    seat.clear_current()
    assert seat.current() == 0


def test_files_returns_the_current_content_on_disk(tmp_path: Path) -> None:
    order = an_order(tmp_path)
    seat = seats.seat_of(order)
    seat.make_folders()
    seat.write(1, order, {})
    (seat.generation(1) / "compose.yaml").write_text("edited")
    assert seat.files(1)["compose.yaml"] == "edited"


@pytest.mark.parametrize(
    "fault",
    [
        {"state": "switching", "detail": {"to": 2}},
        {"state": "switching", "detail": {"to": "2", "back": 1}},
        {"state": ["committed"]},
        {"detail": []},
        {"run": 7},
    ],
    ids=str,
)
def test_a_whole_line_that_no_release_writes_is_damage(tmp_path: Path, fault: dict[str, Any]) -> None:
    line = {"seq": 1, "at": "x", "run": "r1", "state": "committed", "detail": {}} | fault
    (tmp_path / "journal.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(ProblemError) as caught:
        journals.Journal(tmp_path, "r1").open_switch()
    assert problem(caught)["code"] == "journal_damaged"


LINES = st.binary(max_size=40) | st.fixed_dictionaries(
    {"seq": VALUES, "at": VALUES, "run": VALUES, "state": VALUES | st.sampled_from(["switching", "committed"])},
    optional={"detail": VALUES},
).map(lambda line: json.dumps(line).encode())


@given(st.lists(LINES, max_size=5))
def test_every_journal_is_read_or_refused_whatever_is_in_it(lines: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        journal = journals.Journal(Path(folder), "r1")
        (Path(folder) / "journal.jsonl").write_bytes(b"\n".join(lines))
        try:
            before = journal.lines()
        except ProblemError:
            with pytest.raises(ProblemError):
                journal.append("staged", generation=1)
            return
        for read in (journal.open_switch, journal.host_key, journal.rollback_attempts):
            read()
        journal.target("r1")
        journal.append("staged", generation=1)
        assert [line["state"] for line in journal.lines()] == [*(line["state"] for line in before), "staged"]


def test_the_journal_keeps_its_order_and_survives_a_torn_line(tmp_path: Path) -> None:
    journal = journals.Journal(tmp_path, "r1")
    journal.append("staged", generation=1)
    journal.append("switching", to=1, back=0)
    path = tmp_path / "journal.jsonl"
    path.write_text(path.read_text().rstrip()[:-20])
    assert [line["state"] for line in journal.lines()] == ["staged"]
    journal.append("switching", to=1, back=0)
    assert [line["state"] for line in journal.lines()] == ["staged", "switching"]
    last = journal.last_step()
    assert (last["run"], last["detail"]) == ("r1", {"to": 1, "back": 0})
    assert last["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@contextmanager
def no_file_may_exceed(size: int) -> Iterator[None]:
    """Let the kernel write only up to this many bytes of a file, as on a disk that is almost full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 1, 58])
def test_a_journal_line_of_which_a_part_is_written_is_an_error_and_no_step(tmp_path: Path, room: int) -> None:
    journal = journals.Journal(tmp_path, "r1")
    journal.append("staged", generation=1)
    with no_file_may_exceed((tmp_path / "journal.jsonl").stat().st_size + room):
        with pytest.raises(ProblemError) as caught:
            journal.append("switching", to=1, back=0)
        assert problem(caught)["code"] == "io_error"
    assert journal.open_switch() is None
    journal.append("switching", to=2, back=0)
    assert [line["detail"] for line in journal.lines()] == [{"generation": 1}, {"to": 2, "back": 0}]


def test_a_switch_takes_the_room_for_its_further_lines_before_it_begins(tmp_path: Path) -> None:
    journal, path = journals.Journal(tmp_path, "r1"), tmp_path / "journal.jsonl"
    for number in (1, 2):
        journal.append("switching", to=number, back=0)
        size = path.stat().st_size
        with no_file_may_exceed(size):
            for state in ("verifying", "rolling_back", "rolling_back", "rolling_back", "needs_attention"):
                journal.append(state, because="x" * 100)
        assert path.stat().st_size == size
    assert [line["seq"] for line in journal.lines()] == list(range(1, 13))


@pytest.fixture
def long_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A journal with a commit and then 30 starts that failed, of which ten lines are kept when it is shortened."""
    monkeypatch.setattr(journals, "KEPT_LINES", 10)
    monkeypatch.setattr(journals, "LONGEST", 5000)
    journal = journals.Journal(tmp_path, "r1")
    journal.append("committed", generation=1, host_key="old")
    journal.append("committed", generation=2, host_key="ssh-ed25519 A")
    for _ in range(30):
        journal.append("rolled_back", generation=2)
    return journal


def test_a_long_journal_keeps_its_latest_lines_and_the_last_commit(long_journal: Any) -> None:
    before = long_journal.lines()
    long_journal.shorten()
    assert long_journal.lines() == [before[1], *before[-10:]]
    assert (long_journal.host_key(), long_journal.last_step()) == ("ssh-ed25519 A", before[-1])
    long_journal.append("stopped")
    assert [line["seq"] for line in long_journal.lines()][-2:] == [32, 33]
    kept = long_journal.lines()
    long_journal.shorten()  # it is not long now
    assert long_journal.lines() == kept


def test_a_journal_with_an_open_switch_is_not_shortened(long_journal: Any) -> None:
    long_journal.append("switching", to=3, back=2)
    before = long_journal.lines()
    long_journal.shorten()
    assert long_journal.lines() == before


def test_a_journal_that_cannot_be_written_stays_as_it_is(long_journal: Any) -> None:
    before = long_journal.lines()
    with no_file_may_exceed(100), pytest.raises(ProblemError) as caught:
        long_journal.shorten()
    assert (problem(caught)["code"], long_journal.lines()) == ("io_error", before)


def test_a_switch_without_room_for_its_further_lines_does_not_begin(tmp_path: Path) -> None:
    journal = journals.Journal(tmp_path, "r1")
    journal.append("staged", generation=1)
    with no_file_may_exceed(journals.ROOM), pytest.raises(ProblemError):
        journal.append("switching", to=1, back=0)
    assert [line["state"] for line in journal.lines()] == ["staged"]
    journal.append("committed", generation=1)
    assert [line["state"] for line in journal.lines()] == ["staged", "committed"]


@pytest.mark.parametrize("name", ["journal.jsonl", "current"])
def test_a_record_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path: Path, name: str) -> None:
    """Taken for empty, an unfinished switch would never be undone."""
    seat = seats.seat_of(an_order(tmp_path))
    seat.make_folders()
    (seat.folder / name).mkdir()  # reading it fails, as it does on a damaged disk
    look = seat.current if name == "current" else journals.Journal(seat.folder, "r1").open_switch
    with pytest.raises(ProblemError, match=r"Is a directory|Invalid argument"):
        look()


@pytest.mark.parametrize("text", ["3", "[]", "{}", '{"state": "committed"}', "null"])
def test_a_journal_line_that_is_not_ours_is_skipped(tmp_path: Path, text: str) -> None:
    (tmp_path / "journal.jsonl").write_text(f"{text}\n")
    journal = journals.Journal(tmp_path, "r1")
    assert journal.last_step() is None
    journal.append("switching", to=1, back=0)
    assert journal.open_switch()["detail"] == {"to": 1, "back": 0}


@pytest.mark.parametrize(
    ("states", "interrupted"),
    [
        ([], False),
        (["staged"], False),
        (["switching"], True),
        (["switching", "verifying"], True),
        (["switching", "verifying", "rolling_back"], True),
        (["switching", "verifying", "committed"], False),
        (["switching", "rolling_back", "rolled_back"], False),
        (["switching", "rolling_back", "needs_attention"], False),
    ],
)
def test_a_transaction_is_open_between_switching_and_its_end(
    tmp_path: Path, states: list[str], interrupted: bool
) -> None:
    journal = journals.Journal(tmp_path, "r1")
    for number, state in enumerate(states):
        journal.append(state, to=number, back=0)
    found = journal.open_switch()
    assert (found is not None) == interrupted
    assert found is None or found["state"] == "switching"


def test_identity_is_made_once_and_kept(tmp_path: Path) -> None:
    seat = seats.seat_of(an_order(tmp_path))
    seat.make_folders()
    assert identities.made_on(seat) is None
    identities.make_identity(seat, 1234, 2345)
    before = {path.name: path.read_bytes() for path in seat.identity.iterdir()}
    os.utime(seat.identity / "ssh_host_ed25519_key.pub", (1788220800, 1788220800))
    identities.make_identity(seat, 1234, 2345)
    assert identities.made_on(seat) == "2026-09-01"
    assert {path.name: path.read_bytes() for path in seat.identity.iterdir()} == before
    assert len(before["token"]) == 64
    int(before["token"], 16)
    assert identities.host_key(seat).startswith("ssh-ed25519 AAAA")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can change the owner of a file")
def test_the_user_can_read_but_not_replace_token_and_key(tmp_path: Path) -> None:
    seat = seats.seat_of(an_order(tmp_path))
    seat.make_folders()
    identities.make_identity(seat, 1234, 2345)
    token, key = ((seat.identity / name).stat() for name in ("token", identities.HOST_KEY))
    assert (token.st_uid, token.st_gid, token.st_mode & 0o777) == (1234, 2345, 0o400)
    assert (key.st_uid, key.st_gid, key.st_mode & 0o777) == (0, 2345, 0o440)


PASSWD = "root:x:0:0:root:/root:/bin/bash\nubuntu:x:1000:1000:Ubuntu:/home/ubuntu:/bin/bash\nstudent:x:9:9::/:/bin/sh"
STUDENT = "student:x:1000:1000:student:/home/student:/bin/bash"


def test_with_user_removes_other_lines_with_this_name_or_uid() -> None:
    lines = accounts.with_user(PASSWD, "student", 1000, 1000, "/home/student").splitlines()
    assert lines == [STUDENT, "root:x:0:0:root:/root:/bin/bash"]


def test_a_login_of_digits_has_a_line_of_its_own() -> None:
    """Also where the image has an account with that number."""
    lines = accounts.with_user(f"{PASSWD}\nlate:x:70000:70000::/:/bin/sh", "1000", 70000, 70000, "/home/1000")
    assert lines.startswith("1000:x:70000:70000:1000:/home/1000:/bin/bash\n")
    assert "ubuntu:x:1000:" in lines
    assert "late" not in lines
    assert accounts.with_group("users:x:1000:\n", "1000", 70000) == "1000:x:70000:\nusers:x:1000:\n"


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("root:x:0:\n", "student:x:1000:\nroot:x:0:\n"),
        ("root:x:0:\nusers:x:1000:\n", "root:x:0:\nusers:x:1000:\n"),
        ("student:x:5:\n", "student:x:1000:\n"),
        ("", "student:x:1000:\n"),
    ],
)
def test_with_group_adds_a_name_for_an_unknown_gid(group: str, expected: str) -> None:
    assert accounts.with_group(group, "student", 1000) == expected


def test_an_order_is_stored_unchanged_with_mode_0600(tmp_path: Path) -> None:
    order = an_order(tmp_path)
    seat = seats.seat_of(order)
    seat.make_folders()
    seat.write(1, order, {})
    assert json.loads((seat.generation(1) / "order.json").read_text()) == order
    assert (seat.generation(1) / "order.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("text", "is_down"), [(None, False), ("", False), ("{", False), ("[]", False), ('{"wanted": "up"}', False)]
)
def test_a_seat_without_an_intent_is_not_meant_to_be_down(tmp_path: Path, text: str | None, is_down: bool) -> None:
    seat = seats.seat_of(an_order(tmp_path))
    seat.make_folders()
    if text is not None:
        (seat.folder / "intent.json").write_text(text)
    assert seat.is_wanted_down() is is_down
    seat.write_intent("down", "idle")
    assert seat.is_wanted_down()
    seat.write_intent("up", "uid 5001")
    assert not seat.is_wanted_down()
