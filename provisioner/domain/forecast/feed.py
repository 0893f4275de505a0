"""What the feed of a mirror says of one sync job."""

from datetime import datetime
from enum import StrEnum

from pydantic import AwareDatetime

from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem


class JobStatus(StrEnum):
    """The status of a sync job, in tunasync's words and those of mirrorz that it lacks."""

    NONE = "none"  # has never run
    SUCCESS = "success"
    FAILED = "failed"
    SYNCING = "syncing"
    PRE_SYNCING = "pre-syncing"
    PAUSED = "paused"
    DISABLED = "disabled"
    PENDING = "pending"
    CACHE = "cache"  # a reverse proxy that keeps what it fetched: it has no schedule
    PROXY = "proxy"  # a reverse proxy that keeps nothing
    UNKNOWN = "unknown"


_RUNNING = (JobStatus.SYNCING, JobStatus.PRE_SYNCING)


class Job(Value):
    """One sync job. `last_success` is the end of a successful run, `last_ended` of any run.

    `next_schedule` is when the job is due; it may then queue before it runs. `is_retrying`: its last attempt failed at
    `last_ended`, and the next one of the same run follows at once.
    """

    name: str
    status: JobStatus = JobStatus.UNKNOWN
    last_success: AwareDatetime | None = None
    last_started: AwareDatetime | None = None
    last_ended: AwareDatetime | None = None
    next_schedule: AwareDatetime | None = None
    upstream: str = ""
    size: str = ""
    is_retrying: bool = False

    @property
    def running_since(self) -> datetime | None:
        """When the run in progress, or its present attempt, began. None: no run is in progress, or it is not known."""
        if self.is_retrying:
            return self.last_ended
        return self.last_started if self.status in _RUNNING else None

    @property
    def is_on_demand(self) -> bool:
        """Whether the job is a reverse proxy and has no schedule."""
        return self.status in (JobStatus.CACHE, JobStatus.PROXY)


class FeedReading(Value):
    """A feed at the time of the request. `job` None: it could not be read or has no such job; see `problems`."""

    url: str
    wanted: str
    fetched_at: datetime | None = None
    job: Job | None = None
    problems: tuple[Problem, ...] = ()
