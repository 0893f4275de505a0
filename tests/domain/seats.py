"""A seat with good defaults. Changes of a test bypass validation, as a malicious value might."""

from typing import Any

from provisioner.adapters.resources import templates
from provisioner.adapters.templates import read_templates
from provisioner.domain.seat.seat import Seat, lab_owner, seat_of
from provisioner.domain.seat.slotted import Documents
from tests.builders import a_lab, a_node, a_uuid

GPU = a_uuid("n1/0")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC2Vb3m3hGZ7gQkM1x7h1m9S9w3zqk3yq8e0mYbX6z1B"
TEMPLATES = read_templates(templates())
DOCUMENTS = Documents(TEMPLATES)


def a_seat(**changes: Any) -> Seat:
    owner = lab_owner(a_lab(), a_node(), (f"{KEY} li.lei@example.edu",))
    seat = seat_of(a_lab(), a_node(), owner, (GPU,), host=None)
    assert isinstance(seat, Seat)
    return seat.model_copy(update=changes)
