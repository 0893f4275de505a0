"""The status of each seat: what runs, compared with the lock."""

from datetime import date
from typing import Literal

from pydantic import Field

from provisioner.domain.rollout.report import Access
from provisioner.domain.values.model import Document, Value
from provisioner.domain.values.problem import Problem

STATUS_SCHEMA: Literal["provisioner/status/1"] = "provisioner/status/1"


class SeatStatus(Value):
    """The status of one seat. `drift`: empty if it runs the locked image and is healthy. `services`: name -> state.

    `person`: the id in the roster; empty: the seat of a lab without one. `gpus`: UUIDs; `shared`: others use them, too.
    `since`: the day on which it was set up for the first time.
    """

    node: str
    seat: str | None
    person: str = ""
    gpus: tuple[str, ...] = ()
    shared: bool = False
    since: date | None = None
    image: str | None = None
    generation: int = 0
    services: dict[str, str] = {}
    drift: str = ""
    access: Access | None = None
    problems: tuple[Problem, ...] = ()
    remarks: tuple[str, ...] = ()  # changes that a person made or is making on the node


class LabStatus(Document):
    """The status of all seats of a lab. `problems`: of the lab's registry, where provision set it up.

    `unplaced`: why people of the roster have no node, by id.
    """

    schema_: Literal["provisioner/status/1"] = Field(default=STATUS_SCHEMA, alias="schema")
    lab: str
    seats: tuple[SeatStatus, ...] = ()
    problems: tuple[Problem, ...] = ()
    unplaced: dict[str, Problem] = {}

    @property
    def drifted(self) -> bool:
        """Whether any seat differs from the lock."""
        return any(seat.drift for seat in self.seats)
