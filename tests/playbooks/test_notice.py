import os
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import an_order

notices, seats, command = module_util("seat.notice"), module_util("seat.seat"), module_util("base.command")


@pytest.fixture
def seat(tmp_path: Path) -> Any:
    made = seats.seat_of(an_order(tmp_path))
    made.make_folders()
    made.commit(1)
    return made


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was said to those who are logged in to the node."""
    said: list[str] = []

    def run(argv: list[str], _: float, *, text: str = "") -> Any:
        assert argv == ["wall"]
        said.append(text)
        return command.CommandResult(0, "", "")

    monkeypatch.setattr(notices, "run", run)
    return said


def shown(seat: Any) -> str:
    return Path(seat.folder, "notice/notice.txt").read_text()


def test_a_notice_is_where_the_seats_people_can_read_and_not_write_it(seat: Any, heard: list[str]) -> None:
    before = os.umask(0o077)
    try:
        assert notices.notify(seat, "考试 on Friday") == {"state": "committed", "generation": 1}
    finally:
        os.umask(before)
    assert shown(seat) == "考试 on Friday\n"
    assert heard == ["考试 on Friday\n"]
    folder = seat.folder / "notice"
    assert [path.stat().st_mode & 0o777 for path in (folder, folder / "notice.txt")] == [0o755, 0o644]


def test_the_same_again_disturbs_nobody(seat: Any, heard: list[str]) -> None:
    notices.notify(seat, "exam")
    assert notices.notify(seat, "exam")["state"] == "unchanged"
    assert heard == ["exam\n"]


def test_a_notice_that_is_taken_back_leaves_an_empty_file_for_whoever_looks_again(seat: Any, heard: list[str]) -> None:
    assert notices.notify(seat, None)["state"] == "unchanged"
    notices.notify(seat, "exam")
    assert notices.notify(seat, None)["state"] == "committed"
    assert shown(seat) == ""
    assert heard == ["exam\n"]


def test_it_survives_the_next_generation(seat: Any, heard: list[str]) -> None:
    notices.notify(seat, "exam")
    notices.make_notice_folder(seat)
    assert (shown(seat), heard) == ("exam\n", ["exam\n"])


def test_a_node_without_the_program_has_the_file_all_the_same(seat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert notices.notify(seat, "exam")["state"] == "committed"
    assert shown(seat) == "exam\n"


@pytest.mark.parametrize("text", ["\x1b[2J", "two\nlines", "", " ", "x" * 301, "a\u202eb"])
def test_what_a_terminal_would_obey_is_refused_here_too(seat: Any, heard: list[str], text: str) -> None:
    with pytest.raises(ProblemError, match="one line of at most 300 printable characters"):
        notices.notify(seat, text)
    assert heard == []
    assert not (seat.folder / "notice").exists()


def test_where_there_is_no_seat_nobody_is_told(tmp_path: Path, heard: list[str]) -> None:
    with pytest.raises(ProblemError, match="there is no seat demo-student on the node"):
        notices.notify(seats.seat_of(an_order(tmp_path)), "exam")
    assert heard == []
