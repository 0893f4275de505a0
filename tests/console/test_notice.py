from provisioner.console.notice import notice_view
from provisioner.domain.rollout.notice import NoticeReport
from provisioner.domain.rollout.report import NodeRecord
from provisioner.domain.values.problem import Problem
from tests.console.screen import render_text

OFF = Problem("unreachable", "no route to host", "it is off", "switch it on")
NODES = (
    NodeRecord(node="n1", state="committed"),
    NodeRecord(node="n2", state="committed"),
    NodeRecord(node="n3", state="unchanged"),
    NodeRecord(node="n4", state="unreachable", problems=(OFF,)),
)


def test_a_notice_shown_on_some_nodes_and_failed_on_others() -> None:
    lines = render_text(notice_view(NoticeReport(lab="demo", text="x", nodes=NODES))).splitlines()
    assert lines[:2] == ["n[1-2]  notice shown", "n3  notice shown already"]
    assert "unreachable  n4" in lines[2]


def test_a_notice_that_was_removed() -> None:
    assert "n[1-2]  notice removed\n" in render_text(notice_view(NoticeReport(lab="demo", text=None, nodes=NODES)))
