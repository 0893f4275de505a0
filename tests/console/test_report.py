from datetime import UTC, datetime, timedelta
from typing import get_args

from provisioner.console.report import _MEANS, REMOVAL_MEANINGS, report_view
from provisioner.console.status import status_view, summary, urls_view, with_token
from provisioner.domain.rollout.report import Access, NodeRecord, NodeState, RolloutReport
from provisioner.domain.rollout.status import LabStatus, SeatStatus
from provisioner.domain.values.problem import Problem
from tests.console.screen import expected_text, render_text

BEGAN = datetime(2026, 11, 23, 12, tzinfo=UTC)
LAN = Access(
    jupyter="http://198.18.0.11:22001/lab", ssh="ssh -p 22000 student@198.18.0.11", host_key="ssh-ed25519 AAAA"
)
HIDDEN = Access(
    jupyter="http://127.0.0.1:8888/lab",
    ssh="ssh -p 22000 student@198.18.0.12",
    tunnel="ssh -p 22000 student@198.18.0.12 -N -L 8888:jupyter:8888",
)
SICK = Problem("jupyter_silent", "n3: no answer in 180 s", "so the old one was brought back", "docker logs")


def a_report(*nodes: NodeRecord) -> RolloutReport:
    return RolloutReport(lab="demo", run="r", started_at=BEGAN, ended_at=BEGAN + timedelta(seconds=83), nodes=nodes)


def test_report_of_a_failed_run() -> None:
    report = a_report(
        NodeRecord(node="n1", state="committed", generation=3, access=LAN, seconds=42.4),
        NodeRecord(node="n2", state="unchanged", generation=2, access=HIDDEN),
        NodeRecord(node="n3", state="rolled_back", generation=2, problems=(SICK,)),
        *(NodeRecord(node=f"pc{number:02}", state="not_started") for number in range(1, 31)),
    )
    assert render_text(report_view(report), 120) == expected_text("""
        n1  committed  generation 3  42 s
          jupyter   http://198.18.0.11:22001/lab
          ssh       ssh -p 22000 student@198.18.0.11
          host key  ssh-ed25519 AAAA
        n2  unchanged  generation 2
          jupyter   http://127.0.0.1:8888/lab
          tunnel    ssh -p 22000 student@198.18.0.12 -N -L 8888:jupyter:8888
          ssh       ssh -p 22000 student@198.18.0.12
        n3  rolled_back  runs its previous generation
        pc[01-30]  not_started  the run stopped before this node; not touched
        ╷ jupyter_silent  n3
        │ no answer in 180 s
        │ why: so the old one was brought back
        │ fix: docker logs
        ╵

        Not done: 33 nodes: 1 committed, 1 unchanged, 1 rolled_back, 30 not_started; 1:23 min.
    """)


def test_a_home_at_fault_is_counted_in_the_last_line() -> None:
    fault = Problem("home_fault", "works with an empty home, but not with /home/li", "why", "ask li")
    report = a_report(NodeRecord(node="n1", state="committed", problems=(fault,)))
    assert "Done: 1 node: 1 committed, 1 home at fault; 1:23 min." in render_text(report_view(report))


def test_report_of_a_successful_run() -> None:
    assert "Done: 1 node: 1 committed; 1:23 min." in render_text(
        report_view(a_report(NodeRecord(node="n1", state="committed")))
    )


def test_report_of_a_removal() -> None:
    records = [NodeRecord(node="n1", state="committed"), NodeRecord(node="n2", state="unchanged")]
    text = render_text(report_view(a_report(*records), REMOVAL_MEANINGS))
    assert "n1  committed  taken down; home, token and host key stay" in text
    assert "n2  unchanged  had no seat" in text


def test_every_state_has_a_text() -> None:
    assert set(_MEANS) == set(get_args(NodeState))


def test_addresses_are_not_wrapped_on_a_narrow_screen() -> None:
    text = render_text(report_view(a_report(NodeRecord(node="n2", state="committed", access=HIDDEN))), 80)
    assert "ssh -p 22000 student@198.18.0.12 -N -L 8888:jupyter:8888" in text


SEATS = (
    SeatStatus(
        node="n1", seat="demo-li", image="r/lab@sha256:1", generation=3, services={"jupyter": "healthy"}, access=LAN
    ),
    SeatStatus(node="n2", seat="demo-li", image="r/lab@sha256:0", generation=2, drift="the image changes"),
    SeatStatus(node="n3", seat=None, drift="n3: no route to host"),
    SeatStatus(node="n4", seat=None, drift="n4: no route to host"),
)


def test_status_of_running_drifted_and_unreachable_nodes() -> None:
    assert render_text(status_view(LabStatus(lab="demo", seats=SEATS))) == expected_text("""
        n1  as locked  generation 3
          image     r/lab@sha256:1
          services  jupyter healthy
          jupyter   http://198.18.0.11:22001/lab
          ssh       ssh -p 22000 student@198.18.0.11
          host key  ssh-ed25519 AAAA
        n2  drift  generation 2  the image changes
          image     r/lab@sha256:0
          services
        n[3-4]  no seat  no route to host

        Of 4 nodes 1 not as locked and 2 without a known seat. `provision plan` shows the difference.
    """)


def test_summary_without_drift() -> None:
    assert summary(LabStatus(lab="demo", seats=SEATS[:1])) == "No drift: 1 node as locked."


def test_urls_are_shown_for_nodes_with_a_token() -> None:
    missing = Problem("no_token", "n2 has no token", "w", "f")
    assert SEATS[0].access is not None
    ways = {"n1": with_token(SEATS[0].access, "a b&c")}
    text = render_text(urls_view(ways, {"n1": "a b&c", "n2": missing}))
    assert "n1  http://198.18.0.11:22001/lab?token=a+b%26c" in text
    assert "╷ no_token  n2" in text
