"""Wait for a tag: read the mirror's status, report it, pause, and repeat until an image is complete or time is up."""

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from provisioner.domain.forecast.mirror_status import MirrorStatus
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport, SyncState


class WaitSettings(NamedTuple):
    """The clock and the limits of a wait. `every`: seconds between readings. `sleep` takes seconds."""

    clock: Callable[[], datetime]
    sleep: Callable[[float], None]
    every: float
    deadline: datetime


class WaitResult(NamedTuple):
    """The end of a wait. `reference`: the complete image, or None at the deadline or where no registry answers."""

    reference: str | None
    status: MirrorStatus


def wait_for_image(
    settings: WaitSettings,
    read_status: Callable[[], MirrorStatus],
    inspect: Callable[[ImageReference], SyncReport],
    report: Callable[[MirrorStatus, float, float], None],
) -> WaitResult:
    """Read the status until it names a complete image, at least once.

    `inspect` checks every layer of one image, which makes a cache fetch them. `report` gets the status, the seconds
    until the next reading and the seconds left.
    """
    first = True
    while True:
        status = read_status()
        reference = status.reference or _fetch_by_cache(status, inspect)
        left = (settings.deadline - settings.clock()).total_seconds()
        if reference is not None or left <= 0 or (first and is_hopeless(status)):
            return WaitResult(reference, status)
        first, pause = False, min(settings.every, left)
        report(status, pause, left)
        settings.sleep(pause)


def is_hopeless(status: MirrorStatus) -> bool:
    """Return whether no registry is at the address. After the first reading this counts as an outage."""
    problem = status.forecast.problem
    return problem is not None and problem.code == "no_such_service"


def _fetch_by_cache(status: MirrorStatus, inspect: Callable[[ImageReference], SyncReport]) -> str | None:
    """Inspect the newest cold image, so that the cache fetches it; return its reference if it is complete then."""
    cold = next((row for row in status.tags if row.state is SyncState.COLD and row.upstream != "absent"), None)
    if cold is None:
        return None
    report = inspect(ImageReference.parse(cold.reference))
    return report.reference if report.state is SyncState.COMPLETE else None
