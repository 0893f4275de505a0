"""The list of seats on a screen."""

from datetime import UTC, date, datetime
from typing import Any

from provisioner.console.seats import seats_view
from provisioner.domain.rollout.seat_list import Card, SeatEntry, SeatList
from provisioner.domain.values.node import DiskUse
from provisioner.domain.values.problem import Problem
from tests.builders import a_uuid
from tests.console.screen import expected_text, render_text

OWN = (Card(uuid=a_uuid("a"), index="0"), Card(uuid=a_uuid("b")))


def test_table_has_a_row_for_each_seat() -> None:
    down = Problem("unreachable", "gpu3: no answer", "why", "fix")
    seats = (
        SeatEntry(
            person="anna",
            node="gpu1",
            seat="ml_anna",
            gpus=OWN,
            state="healthy",
            since=date(2026, 9, 1),
            group="staff",
            until=date(2027, 1, 31),
        ),
        SeatEntry(person="bob", node="gpu2", seat="ml_bob", gpus=OWN, shared=True, state="unhealthy"),
        SeatEntry(person="eve\x1b[2J", state="unknown"),
        SeatEntry(person="li", node="gpu2", seat="ml_li", state="absent"),
    )
    listing = SeatList(lab="ml", seats=seats, unread={"gpu3": (down,)})
    assert render_text(seats_view(listing), 120) == expected_text("""
        person       node   seat      GPUs                             state           since        group   until
        ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
        anna         gpu1   ml_anna   0 (GPU-0cc175b9), GPU-92eb5ffe   healthy         2026-09-01   staff   2027-01-31
        bob          gpu2   ml_bob    shared: 2 GPUs                   unhealthy
        eve\\x1b[2J                                                     unknown
        li           gpu2   ml_li                                      not there yet
        ╷ unreachable  gpu3
        │ no answer
        │ why: why
        │ fix: fix
        ╵

        4 seats: 1 healthy, 1 unhealthy, 1 unknown, 1 not there yet; 1 node without a known seat.
    """)


def test_the_reason_of_a_stop_stands_beside_the_state() -> None:
    seats = (
        SeatEntry(person="anna", node="gpu1", state="stopped", reason="exam \x1b[2J"),
        SeatEntry(person="bob", node="gpu1", seat="ml_bob", state="healthy", reason="fills the disk"),
    )
    text = render_text(seats_view(SeatList(lab="ml", seats=seats)), 120)
    assert "  stopped: exam \\x1b[2J" in text
    assert "  healthy, to be stopped: fills the disk" in text


def test_of_many_seats_those_that_are_healthy_are_counted_for_each_group_of_equal_nodes() -> None:
    seats = tuple(
        SeatEntry(person=f"p{node}-{number}", node=f"gpu{node}", seat=f"ml_p{node}-{number}", state="healthy")
        for node in range(1, 4)
        for number in range(30 if node < 3 else 29)
    )
    stopped = SeatEntry(person="eve", node="gpu3", seat="ml_eve", state="stopped")
    listing = SeatList(lab="ml", seats=(*seats, stopped))
    assert render_text(seats_view(listing), 120) == expected_text("""
        person   node   seat     GPUs   state     since   group   until
        ───────────────────────────────────────────────────────────────
        eve      gpu3   ml_eve          stopped

        nodes      healthy seats on each
        ────────────────────────────────
        gpu[1-2]                      30
        gpu3                          29

        -v lists the healthy seats, too.

        90 seats: 89 healthy, 1 stopped.
    """)
    assert render_text(seats_view(listing, verbose=True), 120).count("ml_") == 90


GIB = 1 << 30


def a_use(**over: Any) -> DiskUse:
    given = {"measured_at": datetime(2026, 11, 30, tzinfo=UTC), "home_bytes": 40 * GIB, "complete": True}
    return DiskUse.model_validate(given | {"layer_bytes": 2 * GIB} | over)


def test_the_disk_has_a_column_where_a_seat_was_measured_or_has_a_limit() -> None:
    seats = (
        SeatEntry(person="anna", node="gpu1", seat="ml_anna", state="healthy", disk=a_use(), disk_limit=100 * GIB),
        SeatEntry(person="bob", node="gpu1", seat="ml_bob", state="healthy", disk=a_use(), disk_limit=42 * GIB),
        SeatEntry(
            person="eve",
            node="gpu1",
            seat="ml_eve",
            state="healthy",
            disk=a_use(layer_bytes=None, complete=False),
            disk_limit=100 * GIB,
        ),
        SeatEntry(person="li", node="gpu1", seat="ml_li", state="healthy", disk_limit=100 * GIB),
        SeatEntry(person="max", node="gpu1", seat="ml_max", state="healthy", disk=a_use()),
        SeatEntry(person="zoe", state="absent"),
    )
    assert render_text(seats_view(SeatList(lab="ml", seats=seats)), 120) == expected_text("""
        person   node   seat      GPUs   state           disk                 since   group   until
        ───────────────────────────────────────────────────────────────────────────────────────────
        anna     gpu1   ml_anna          healthy         42 GiB / 100 GiB
        bob      gpu1   ml_bob           healthy         42 GiB / 42 GiB !
        eve      gpu1   ml_eve           healthy         ≥ 40 GiB / 100 GiB
        li       gpu1   ml_li            healthy         ? / 100 GiB
        max      gpu1   ml_max           healthy         42 GiB
        zoe                              not there yet

        6 seats: 5 healthy, 1 not there yet.
    """)


def test_of_many_healthy_seats_those_above_their_limit_have_a_row() -> None:
    many = tuple(
        SeatEntry(person=f"p{number}", node="gpu1", seat=f"s{number}", state="healthy") for number in range(60)
    )
    full = SeatEntry(person="bob", node="gpu1", seat="ml_bob", state="healthy", disk=a_use(), disk_limit=GIB)
    text = render_text(seats_view(SeatList(lab="ml", seats=(*many, full))), 120)
    assert "42 GiB / 1 GiB !" in text
    assert "s59" not in text


def test_a_lease_shows_what_is_left_of_it() -> None:
    own = {"node": "gpu1", "state": "healthy", "kind": "self_service"}
    seats = (SeatEntry(person="anna", left_s=5400, **own), SeatEntry(person="bob", **own | {"state": "stopped"}))
    text = render_text(seats_view(SeatList(lab="ml", seats=seats)), 120)
    assert "1:30:00 h left" in text
    assert "no lease" in text


def test_a_lab_with_several_environments_has_a_column_for_them() -> None:
    seats = (
        SeatEntry(person="anna", node="gpu1", seat="ml_anna", state="healthy", environment="nlp"),
        SeatEntry(person="bob", node="gpu1", seat="ml_bob", state="healthy"),
    )
    assert render_text(seats_view(SeatList(lab="ml", seats=seats)), 120) == expected_text("""
        person   node   seat      environment   GPUs   state     since   group   until
        ──────────────────────────────────────────────────────────────────────────────
        anna     gpu1   ml_anna   nlp                  healthy
        bob      gpu1   ml_bob    default              healthy

        2 seats: 2 healthy.
    """)
    of_default = [seat.model_copy(update={"environment": "default", "kind": "self_service"}) for seat in seats]
    assert "environment" not in render_text(seats_view(SeatList(lab="ml", seats=tuple(of_default))), 120)
