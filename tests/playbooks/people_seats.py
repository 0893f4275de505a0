"""Committed seats of people on disk."""

from pathlib import Path
from typing import Any

from tests.playbooks.node_code import module_util
from tests.playbooks.orders import an_order, with_seat

seats = module_util("seat.seat")


def a_persons_seat(root: Path, name: str = "ml_anna", **over: Any) -> Any:
    """Return a committed seat of a person, whose home is HOMES/NAME, below `root`."""
    home = root / "homes" / name
    home.mkdir(parents=True, exist_ok=True)
    values = {"name": name, "person": name.rpartition("_")[2], "home": str(home)}
    order = with_seat(an_order(root), **(values | over))
    seat = seats.seat_of(order)
    seat.make_folders()
    seat.write(1, order, {})
    seat.commit(1)
    return seat
