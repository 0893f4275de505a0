from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest

from provisioner.console.report import _MEANS, REMOVAL_MEANINGS, report_view
from provisioner.console.status import status_view, summary, urls_view, with_token
from provisioner.domain.rollout.report import (
    Access,
    EnvironmentRecord,
    NodeRecord,
    NodeState,
    RolloutReport,
    SeatRecord,
    build_node_record,
)
from provisioner.domain.rollout.status import LabStatus, SeatStatus, SelfServiceStatus
from provisioner.domain.values.problem import Problem
from tests.builders import a_lease, a_uuid
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


def test_status_of_self_service_names_who_has_gpus_for_how_long() -> None:
    down = Problem("broker_down", "n2: the broker does not run", "w", "f")
    leases = (a_lease("bob", left_s=7200, gpus=()), a_lease("anna\x1b[2J", left_s=60))
    pool = (a_uuid("1"), a_uuid("2"))
    own = (
        SelfServiceStatus(node="n1", pool=pool, free=pool[1:], leases=leases, waiting=1),
        SelfServiceStatus(node="n2", pool=pool, free=pool, problems=(down,)),
    )
    assert render_text(status_view(LabStatus(lab="demo", self_service=own))) == expected_text("""
        n1  self-service  1 of 2 GPUs without a lease, 1 waiting
          anna\\x1b[2J  1 GPU  default  active  1:00 min left
          bob  no GPU  default  active  2:00:00 h left
        n2  self-service  2 of 2 GPUs without a lease
        ╷ broker_down  n2
        │ the broker does not run
        │ why: w
        │ fix: f
        ╵

        No drift: 0 nodes as locked.
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


# Several seats on a node.


def a_node_record(node: str, **seats: NodeState) -> NodeRecord:
    """The record of a node in a report: unchanged seats are counted only."""
    records = [SeatRecord(seat=f"ml_{name}", state=state) for name, state in seats.items()]
    whole = build_node_record(node, records)
    shown = tuple(seat for seat in records if seat.state != "unchanged")
    return whole.model_copy(update={"counts": dict(Counter(seats.values())), "seats": shown})


def test_a_report_counts_the_seats_of_a_node_and_names_those_that_are_not_done() -> None:
    eve = Problem("no_free_gpu", "eve (row 9) asks for 1 own card", "why", "lower gpus")
    report = a_report(
        a_node_record("n1", ann="committed", bob="unchanged", cem="deferred", dan="rolled_back", eve="rolled_back"),
        a_node_record("n2", fay="committed", gil="committed"),
        a_node_record("n3", hal="committed", ida="committed"),
    ).model_copy(update={"unplaced": {"eve": eve}})
    assert render_text(report_view(report), 120) == expected_text("""
        n1  rolled_back  1 committed, 1 unchanged, 1 deferred, 2 rolled_back
          deferred: ml_cem
          rolled_back: ml_dan ml_eve
        n[2-3]  committed  2 committed
        ╷ no_free_gpu  eve
        │ eve (row 9) asks for 1 own card
        │ why: why
        │ fix: lower gpus
        ╵

        Not done: 3 nodes, 9 seats: 5 committed, 1 unchanged, 1 deferred, 2 rolled_back; 1:23 min.
    """)


@pytest.mark.parametrize("ended", [("committed",), ("unchanged", "deferred"), ("rolled_back", "committed", "unknown")])
def test_a_report_of_six_thousand_seats_fits_on_a_screen(ended: tuple[NodeState, ...]) -> None:
    nodes = [
        a_node_record(f"gpu{node:03}", **{f"s{node * 97}x{seat}": ended[seat % len(ended)] for seat in range(30)})
        for node in range(200)
    ]
    text = render_text(report_view(a_report(*nodes)), 120)
    assert "200 nodes, 6000 seats" in text
    assert len(text.splitlines()) <= 5


def a_seat_status(node: str, name: str, drift: str = "") -> SeatStatus:
    return SeatStatus(node=node, seat=f"ml_{name}", person=name, image="r/lab@sha256:1", drift=drift)


def test_a_status_counts_the_seats_of_a_node_and_says_why_others_differ() -> None:
    missing = dict.fromkeys(("cem", "dan"), "ssh is missing")
    whys = {"ann": "", "bob": "", **missing, **dict.fromkeys("efgh", "new image")}
    seats = tuple(a_seat_status("n1", name, drift) for name, drift in whys.items())
    found = LabStatus(lab="demo", seats=(*seats, SeatStatus(node="n2", seat=None, drift="n2: no route to host")))
    assert render_text(status_view(found)) == expected_text("""
        n1  2 of 8 seats as locked
          ml_cem ml_dan  ssh is missing
          4 seats  new image
        n2  no seat  no route to host

        Of 9 seats 6 not as locked and 1 without a known seat. `provision plan` shows the difference.
    """)


def test_a_status_says_once_which_run_holds_seats_of_a_node() -> None:
    held = ("held by rollout r1 of ann since noon: 2 seats",)
    seats = [a_seat_status("n1", name).model_copy(update={"remarks": held}) for name in ("ann", "bob")]
    found = LabStatus(lab="demo", seats=(*seats, a_seat_status("n1", "cem")))
    assert render_text(status_view(found)) == expected_text("""
        n1  3 of 3 seats as locked
          held by rollout r1 of ann since noon: 2 seats

        No drift: 3 seats as locked.
    """)


@pytest.mark.parametrize("drift", ["", "the image changes"])
def test_a_status_of_six_thousand_seats_fits_on_a_screen(drift: str) -> None:
    seats = tuple(a_seat_status(f"gpu{node:03}", f"s{node}x{seat}", drift) for node in range(200) for seat in range(30))
    assert len(render_text(status_view(LabStatus(lab="demo", seats=seats)), 120).splitlines()) <= 4


@pytest.mark.parametrize(
    ("drift", "said"),
    [
        ("", "2 seats as locked. Of the roster 1 without a node."),
        ("new image", "Of 2 seats 2 not as locked. Of the roster 1 without a node."),
    ],
)
def test_a_status_names_people_without_a_node(drift: str, said: str) -> None:
    seats = tuple(a_seat_status("n1", name, drift) for name in ("ann", "bob"))
    eve = Problem("no_free_gpu", "eve (row 9) asks for 1 own card", "why", "lower gpus")
    text = render_text(status_view(LabStatus(lab="demo", seats=seats, unplaced={"eve": eve})))
    assert "no_free_gpu  eve" in text
    assert text.endswith(f"{said} `provision plan` shows the difference.")


def test_self_service_is_shown_beside_seats_and_alone() -> None:
    found = {"default": EnvironmentRecord(version="4f1c9a02be77", state="published")}
    failed = {"default": EnvironmentRecord(version="4f1c9a02be77", state="failed")}
    report = a_report(
        NodeRecord(node="n1", state="committed", counts={"committed": 1}, generation=3, access=LAN, environments=found),
        NodeRecord(node="n2", state="committed", environments=found),
        NodeRecord(node="n3", state="committed", environments=found),
        NodeRecord(node="n4", state="failed", environments=failed, problems=(SICK,)),
    )
    assert render_text(report_view(report), 120) == expected_text("""
        n1  committed  generation 3
          jupyter   http://198.18.0.11:22001/lab
          ssh       ssh -p 22000 student@198.18.0.11
          host key  ssh-ed25519 AAAA
        n1  self-service: default 4f1c9a02be77 published
        n[2-3]  committed  self-service: default 4f1c9a02be77 published
        n4  failed  self-service: default 4f1c9a02be77 failed
        ╷ jupyter_silent  n4
        │ n3: no answer in 180 s
        │ why: so the old one was brought back
        │ fix: docker logs
        ╵

        Not done: 4 nodes: 3 committed, 1 failed; 1:23 min.
    """)
