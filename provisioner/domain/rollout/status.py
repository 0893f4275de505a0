"""The status of each seat: what runs, compared with the lock."""

from datetime import date
from typing import Literal

from pydantic import Field

from provisioner.domain.lab.environments import is_default_environment
from provisioner.domain.rollout.leases import BROKER_DOWN
from provisioner.domain.rollout.report import Access
from provisioner.domain.values.model import Document, Value
from provisioner.domain.values.node import DiskUse, Lease, NodeFacts
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.size import binary_size

STATUS_SCHEMA: Literal["provisioner/status/1"] = "provisioner/status/1"


class SeatStatus(Value):
    """The status of one seat. `drift`: empty if it runs the locked image and is healthy. `services`: name -> state.

    `person`: the id in the roster; empty: the seat of a lab without one. `gpus`: UUIDs; `shared`: others use them, too.
    `since`: the day on which it was set up for the first time. `uid`: of its user. `disk`: what it used when it was
    measured last. `disk_limit`: that of its group, in bytes. `environment`: what it is to run, or else runs.
    """

    node: str
    seat: str | None
    person: str = ""
    gpus: tuple[str, ...] = ()
    shared: bool = False
    since: date | None = None
    uid: int | None = None
    disk: DiskUse | None = None
    disk_limit: int | None = None
    image: str | None = None
    generation: int = 0
    services: dict[str, str] = {}
    drift: str = ""
    access: Access | None = None
    problems: tuple[Problem, ...] = ()
    remarks: tuple[str, ...] = ()  # changes that a person made or is making on the node
    environment: str = Field(default="", exclude_if=is_default_environment)


def is_above_limit(disk: DiskUse | None, limit: int | None) -> bool:
    """Whether a seat uses as much of the disk as its group may, or more."""
    return disk is not None and limit is not None and disk.total >= limit


def disk_size(disk: DiskUse) -> str:
    """Return what a seat uses, with a sign where it may be more."""
    return f"{'' if disk.complete else '≥ '}{binary_size(disk.total)}"


def disk_problems(node: str, seat: str, disk: DiskUse | None, limit: int | None) -> tuple[Problem, ...]:
    """Return the problem of a seat at or above its limit of the disk."""
    if disk is None or limit is None or not is_above_limit(disk, limit):
        return ()
    return (
        Problem(
            "disk_limit_reached",
            f"{node}: {seat} used {disk_size(disk)} of {binary_size(limit)} on {disk.measured_at.date()}",
            "nothing stops a seat at this limit, and a full disk stops the work of all on the node",
            "its person sees the numbers in each new shell and in Jupyter; ask for files to be deleted, or raise"
            " groups.NAME.disk in lab.yml",
            node,
        ),
    )


class SelfServiceStatus(Value):
    """The seats of a node that people start themselves. `pool`: the GPUs for leases; `free`: those without a lease.

    `waiting`: people who wait for a GPU. `problems`: why nothing can be started there now. `drift`: why a rollout would
    change it, or would leave it out; empty where it is as published.
    """

    node: str
    pool: tuple[str, ...] = ()
    free: tuple[str, ...] = ()
    leases: tuple[Lease, ...] = ()
    waiting: int = 0
    problems: tuple[Problem, ...] = ()
    drift: str = ""


def leases_of(facts: NodeFacts, lab: str) -> tuple[Lease, ...]:
    """Return the leases of seats of this lab that a node reports."""
    found = facts.self_service
    return found.leases if found is not None and found.lab == lab else ()


def self_service_status(facts: NodeFacts, lab: str, drift: str = "") -> SelfServiceStatus | None:
    """Return what a node reports of the self-service of this lab, None where it neither has nor is to have any."""
    found = facts.self_service
    if found is None or found.lab != lab:
        return SelfServiceStatus(node=facts.name, drift=drift) if drift else None
    leased = {gpu for lease in found.leases for gpu in lease.gpus}
    return SelfServiceStatus(
        node=facts.name,
        pool=found.pool,
        free=tuple(gpu for gpu in found.pool if gpu not in leased),
        leases=found.leases,
        waiting=found.waiting,
        problems=() if found.runs else (broker_down(facts.name),),
        drift=drift,
    )


def broker_down(node: str) -> Problem:
    """Return that the broker of a node does not run."""
    return Problem(
        BROKER_DOWN,
        f"{node}: the broker does not run",
        "seats that run go on; none can be started or prolonged, and no lease ends until it runs again",
        "run `provision rollout`, which starts it; on the node its log says why it ended",
        node,
    )


class LabStatus(Document):
    """The status of all seats of a lab. `problems`: of the lab's registry, where provision set it up.

    `unplaced`: why people of the roster have no node, by id. `self_service`: by node, where it is or is to be.
    `to_fetch`: the bytes of the images of the lock that a node lacks, by node; 0: their size is not known.
    """

    schema_: Literal["provisioner/status/1"] = Field(default=STATUS_SCHEMA, alias="schema")
    lab: str
    seats: tuple[SeatStatus, ...] = ()
    problems: tuple[Problem, ...] = ()
    unplaced: dict[str, Problem] = {}
    self_service: tuple[SelfServiceStatus, ...] = ()
    to_fetch: dict[str, int] = {}

    @property
    def drifted(self) -> bool:
        """Whether any seat differs from the lock, or self-service of a node from what is to be published."""
        return any(seat.drift for seat in self.seats) or any(found.drift for found in self.self_service)
