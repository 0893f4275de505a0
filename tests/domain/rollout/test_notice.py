import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.rollout.notice import MAX_CHARACTERS, NoticeReport, notice_text
from provisioner.domain.rollout.report import NodeRecord, NodeState


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("torch 2.10 comes on Friday", "torch 2.10 comes on Friday"),
        ("  two\nlines\tand a tab  ", "two lines and a tab"),
        ("周五\u3000升级 — $(id) <b>", "周五 升级 — $(id) <b>"),
        ("x" * MAX_CHARACTERS, "x" * MAX_CHARACTERS),
    ],
)
def test_what_may_be_told(text: str, shown: str) -> None:
    assert notice_text(text) == shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("x" * 301, "has 301 characters"),
        ("\x1b[2Jgone", "holds U\\+001B"),
        ("a\u202eb", "holds U\\+202E"),
        ("\x00", "holds U\\+0000"),
        ("\x9b31m", "holds U\\+009B"),
    ],
)
def test_what_may_not(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        notice_text(text)


@given(st.text(max_size=400))
def test_what_is_shown_is_one_short_line_that_no_terminal_obeys(text: str) -> None:
    try:
        shown = notice_text(text)
    except ValueError:
        return
    assert 0 < len(shown) <= MAX_CHARACTERS
    assert shown.isprintable()
    assert notice_text(shown) == shown


@pytest.mark.parametrize(
    ("states", "done"), [(("committed", "unchanged"), True), (("committed", "failed"), False), ((), True)]
)
def test_a_notice_is_told_once_every_node_has_it(states: tuple[NodeState, ...], done: bool) -> None:
    nodes = tuple(NodeRecord(node=f"n{number}", state=state) for number, state in enumerate(states))
    report = NoticeReport(lab="demo", text="x", nodes=nodes)
    assert report.done is done
    assert '"schema":"provisioner/notice/1"' in report.model_dump_json()
