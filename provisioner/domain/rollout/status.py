"""What runs where, held against the lock."""

from typing import Literal

from pydantic import Field

from provisioner.domain.rollout.report import Access
from provisioner.domain.values.model import Document, Value
from provisioner.domain.values.problem import Problem

STATUS_SCHEMA: Literal["provisioner/status/1"] = "provisioner/status/1"


class SeatStatus(Value):
    """`drift` is empty where the node runs what the lock says, healthy. `services`: as the engine has them."""

    node: str
    seat: str | None
    image: str | None = None
    generation: int = 0
    services: dict[str, str] = {}
    drift: str = ""
    access: Access | None = None
    problems: tuple[Problem, ...] = ()
    remarks: tuple[str, ...] = ()  # what a person did to it, or is doing


class LabStatus(Document):
    schema_: Literal["provisioner/status/1"] = Field(default=STATUS_SCHEMA, alias="schema")
    lab: str
    seats: tuple[SeatStatus, ...] = ()

    @property
    def drifted(self) -> bool:
        return any(seat.drift for seat in self.seats)
