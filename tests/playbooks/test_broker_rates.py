"""How often and how much at once people may ask."""

import pytest

from tests.playbooks.node_code import module_util

rates = module_util("lease.rates")


def test_a_window_is_full_after_so_many_and_has_room_as_time_goes_by() -> None:
    window = rates.Window(60.0, 3)
    for now in (0.0, 10.0, 20.0):
        assert not window.is_full(7, now)
        window.count(7, now)
    assert window.is_full(7, 59.0)
    assert not window.is_full(8, 59.0)
    assert not window.is_full(7, 90.0)
    window.count(7, 90.0)
    assert not window.is_full(7, 91.0)


def test_a_window_slides() -> None:
    window = rates.Window(60.0, 3)
    for now in (0.0, 10.0, 20.0, 60.0):
        assert not window.is_full(7, now)
        window.count(7, now)
    assert window.is_full(7, 69.0)


def test_people_who_have_done_nothing_for_long_take_no_memory() -> None:
    window = rates.Window(60.0, 3)
    for uid in range(1000):
        window.count(uid, float(uid))
    assert len(window._done) <= 61


def test_a_person_has_two_connections() -> None:
    open_ones = rates.Connections()
    for _ in range(2):
        assert open_ones.has_room(5001)
        open_ones.opened(5001)
    assert not open_ones.has_room(5001)
    assert open_ones.has_room(5002)
    open_ones.closed(5001)
    assert open_ones.has_room(5001)


@pytest.mark.parametrize(("uid", "most"), [(0, 32), (5999, 30)])
def test_two_of_all_connections_are_kept_for_root(uid: int, most: int) -> None:
    open_ones = rates.Connections()
    for number in range(30):
        open_ones.opened(5001 + number)
    while open_ones.has_room(uid):
        open_ones.opened(uid)
    assert sum(open_ones._open.values()) == most
