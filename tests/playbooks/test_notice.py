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
def wall_texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that `wall` was called with."""
    texts: list[str] = []

    def run(argv: list[str], _: float, *, text: str = "") -> Any:
        assert argv == ["wall"]
        texts.append(text)
        return command.CommandResult(0, "", "")

    monkeypatch.setattr(notices, "run", run)
    return texts


def shown(seat: Any) -> str:
    return Path(seat.folder, "notice/notice.txt").read_text()


def test_a_notice_is_readable_but_not_writable_for_users_of_the_seat(seat: Any, wall_texts: list[str]) -> None:
    before = os.umask(0o077)
    try:
        assert notices.notify(seat, "考试 on Friday") == {"state": "committed", "generation": 1}
    finally:
        os.umask(before)
    assert shown(seat) == "考试 on Friday\n"
    assert wall_texts == ["考试 on Friday\n"]
    folder = seat.folder / "notice"
    assert [path.stat().st_mode & 0o777 for path in (folder, folder / "notice.txt")] == [0o755, 0o644]


def test_an_unchanged_notice_is_not_shown_again(seat: Any, wall_texts: list[str]) -> None:
    notices.notify(seat, "exam")
    assert notices.notify(seat, "exam")["state"] == "unchanged"
    assert wall_texts == ["exam\n"]


def test_a_removed_notice_leaves_an_empty_file(seat: Any, wall_texts: list[str]) -> None:
    assert notices.notify(seat, None)["state"] == "unchanged"
    notices.notify(seat, "exam")
    assert notices.notify(seat, None)["state"] == "committed"
    assert shown(seat) == ""
    assert wall_texts == ["exam\n"]


def test_a_notice_survives_the_next_generation(seat: Any, wall_texts: list[str]) -> None:
    notices.notify(seat, "exam")
    notices.make_notice_folder(seat)
    assert (shown(seat), wall_texts) == ("exam\n", ["exam\n"])


def test_a_notice_is_written_even_without_the_program_wall(seat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert notices.notify(seat, "exam")["state"] == "committed"
    assert shown(seat) == "exam\n"


@pytest.mark.parametrize("text", ["\x1b[2J", "two\nlines", "", " ", "x" * 301, "a\u202eb"])
def test_a_notice_other_than_one_printable_line_is_refused(seat: Any, wall_texts: list[str], text: str) -> None:
    with pytest.raises(ProblemError, match="one line of at most 300 printable characters"):
        notices.notify(seat, text)
    assert wall_texts == []
    assert not (seat.folder / "notice").exists()


def test_a_notice_for_a_missing_seat_is_refused(tmp_path: Path, wall_texts: list[str]) -> None:
    with pytest.raises(ProblemError, match="there is no seat demo-student on the node"):
        notices.notify(seats.seat_of(an_order(tmp_path)), "exam")
    assert wall_texts == []
