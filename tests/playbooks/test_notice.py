import os
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import an_order, with_seat

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
    assert (shown(seat), wall_texts) == ("考试 on Friday\n", [])
    folder = seat.folder / "notice"
    assert [path.stat().st_mode & 0o777 for path in (folder, folder / "notice.txt")] == [0o755, 0o644]


def orders(root: Path, text: str | None, *names: str) -> list[dict[str, Any]]:
    return [with_seat(an_order(root, text=text), name=name) for name in names]


def state_after(given: list[dict[str, Any]]) -> str:
    """Carry out the order of one seat, and return its state."""
    (record,) = notices.notify_seats(given)["seats"].values()
    return str(record["state"])


def test_an_unchanged_notice_is_not_shown_again(tmp_path: Path, seat: Any, wall_texts: list[str]) -> None:
    states = [state_after(orders(tmp_path, "exam", seat.name)) for _ in range(2)]
    assert (states, wall_texts) == (["committed", "unchanged"], ["exam\n"])


def test_a_removed_notice_leaves_an_empty_file(tmp_path: Path, seat: Any, wall_texts: list[str]) -> None:
    given = (None, "exam", None)
    states = [state_after(orders(tmp_path, text, seat.name)) for text in given]
    assert states == ["unchanged", "committed", "committed"]
    assert (shown(seat), wall_texts) == ("", ["exam\n"])


def test_terminals_show_the_notice_for_several_seats_once_and_a_missing_seat_does_not_stop_the_others(
    tmp_path: Path, seat: Any, wall_texts: list[str]
) -> None:
    second = seats.Seat(tmp_path / "state", "ml_b")
    second.make_folders()
    second.commit(2)
    record = notices.notify_seats(orders(tmp_path, "exam", seat.name, "ml_a", "../ml", "ml_b"))
    assert {name: (one["state"], one.get("generation")) for name, one in record["seats"].items()} == {
        seat.name: ("committed", 1),
        "ml_a": ("failed", None),
        "../ml": ("failed", None),
        "ml_b": ("committed", 2),
    }
    codes = [record["seats"][name]["problems"][0]["code"] for name in ("ml_a", "../ml")]
    assert (codes, wall_texts) == (["no_seat", "bad_order"], ["exam\n"])
    assert (shown(seat), shown(second)) == ("exam\n", "exam\n")


def test_a_notice_survives_the_next_generation(seat: Any) -> None:
    notices.notify(seat, "exam")
    notices.make_notice_folder(seat)
    assert shown(seat) == "exam\n"


def test_a_notice_is_written_even_without_the_program_wall(
    tmp_path: Path, seat: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert state_after(orders(tmp_path, "exam", seat.name)) == "committed"
    assert shown(seat) == "exam\n"


@pytest.mark.parametrize("text", ["\x1b[2J", "two\nlines", "", " ", "x" * 301, "a\u202eb"])
def test_a_notice_other_than_one_printable_line_is_refused(seat: Any, text: str) -> None:
    with pytest.raises(ProblemError, match="one line of at most 300 printable characters"):
        notices.notify(seat, text)
    assert not (seat.folder / "notice").exists()


def test_a_notice_for_a_missing_seat_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="there is no seat demo-student on the node"):
        notices.notify(seats.seat_of(an_order(tmp_path)), "exam")
