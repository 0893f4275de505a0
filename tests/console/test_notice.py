from provisioner.console.notice import notice_view
from provisioner.domain.rollout.notice import NoticeReport
from provisioner.domain.rollout.report import NodeRecord
from provisioner.domain.values.problem import Problem
from tests.console.screen import drawn

OFF = Problem("unreachable", "no route to host", "it is off", "switch it on")
NODES = (
    NodeRecord(node="n1", state="committed"),
    NodeRecord(node="n2", state="committed"),
    NodeRecord(node="n3", state="unchanged"),
    NodeRecord(node="n4", state="unreachable", problems=(OFF,)),
)


def test_who_was_told_and_who_could_not_be() -> None:
    lines = drawn(notice_view(NoticeReport(lab="demo", text="x", nodes=NODES))).splitlines()
    assert lines[:2] == ["n[1-2]  told", "n3  told before"]
    assert "unreachable  n4" in lines[2]


def test_a_notice_that_was_taken_back() -> None:
    assert "n[1-2]  taken back\n" in drawn(notice_view(NoticeReport(lab="demo", text=None, nodes=NODES)))
