"""What the admin asks of the brokers of nodes, and their answers: the seats that people have started themselves."""

from datetime import date, datetime
from typing import Annotated, Literal

from pydantic import Field

from provisioner.domain.values.model import Document, Value
from provisioner.domain.values.node import GpuUuid, UserId
from provisioner.domain.values.problem import Problem

BROKER_SOCKET = "/run/provisioner/broker.sock"
LEASE_CHANGE_SCHEMA: Literal["provisioner/lease_change/1"] = "provisioner/lease_change/1"
MOST_HOURS = 8760  # of an extension
NO_SELF_SERVICE = "no_self_service"  # the code of a node that has no broker
BROKER_DOWN = "broker_down"

BrokerVerb = Literal["seats", "release", "extend", "stop", "upgrade_seat", "usage"]
ShortText = Annotated[str, Field(max_length=255)]


class BrokerRequest(Value):
    """A request of root. What its verb does not need is None. `since`: the first day (UTC) whose use is added up."""

    verb: BrokerVerb
    seat: str | None = None
    hours: int | None = None
    reason: str | None = None
    since: date | None = None


class Intent(Value):
    """Whether the broker wants a seat `up` or `down`, and `by` whom or why; both empty where it does not say."""

    wanted: ShortText = ""
    by: ShortText = ""


class EndedJob(Value):
    """The last job of a seat since the broker was started: see `NodeState` for its states."""

    kind: ShortText = ""
    state: ShortText = ""
    problems: Annotated[tuple[Problem, ...], Field(max_length=16)] = ()


class LeasedSeat(Value):
    """A seat that a person has started. `state`: of its lease; `stopped` where it has none.

    `left_s`: seconds until its end, at `until`. `newest`: the published version of its environment, empty where none
    is. `why`: why it is being ended. `released`: the reason for which the admin has ended its time. `job`: what is
    being done to it; `ended`: what was done last.
    """

    seat: ShortText
    lab: ShortText = ""
    person: ShortText = ""
    uid: UserId | None = None
    gpus: Annotated[tuple[GpuUuid, ...], Field(max_length=256)] = ()
    state: ShortText = ""
    left_s: Annotated[int, Field(ge=0)] = 0
    until: datetime | None = None
    environment: ShortText = ""
    version: ShortText = ""
    newest: ShortText = ""
    why: ShortText = ""
    released: ShortText = ""
    job: ShortText = ""
    ended: EndedJob | None = None
    intent: Intent = Intent()

    @property
    def has_lease(self) -> bool:
        """Whether the seat has a lease, so that it runs or is being started or stopped."""
        return self.state != "stopped"

    @property
    def is_outdated(self) -> bool:
        """Whether the seat has a lease, and a newer version of its environment is published."""
        return self.has_lease and bool(self.newest) and self.version != self.newest


class GpuUse(Value):
    """For how many seconds a person has held a GPU, and how many of them it was in use."""

    uid: UserId
    person: ShortText = ""
    gpu: GpuUuid
    held_s: Annotated[int, Field(ge=0)]
    used_s: Annotated[int, Field(ge=0)]


class BrokerAnswer(Value):
    """The answer to one request; `problem` says why there is none.

    `seats`: of the verb `seats`. `seat`: the one that was changed. `rows`: of the verb `usage`, in the lab of the node.
    """

    problem: Problem | None = None
    seats: tuple[LeasedSeat, ...] = ()
    seat: LeasedSeat | None = None
    rows: tuple[GpuUse, ...] = ()
    lab: ShortText = ""


class ChangedLease(Value):
    """A seat on a node after a change of its lease, or as it was before one that was refused."""

    node: str
    seat: LeasedSeat
    problem: Problem | None = None


class LeaseChange(Document):
    """The result of a release, an extension or a stop. `unread`: nodes whose seats are not known, and why."""

    schema_: Literal["provisioner/lease_change/1"] = Field(default=LEASE_CHANGE_SCHEMA, alias="schema")
    lab: str
    verb: BrokerVerb
    reason: str
    seats: tuple[ChangedLease, ...] = ()
    unread: dict[str, Problem] = {}

    @property
    def done(self) -> bool:
        """Whether each seat was changed, and the seats of every node are known."""
        return not self.unread and all(changed.problem is None for changed in self.seats)
