"""Waiting for a tag: a look, a word, a pause, until it is there or the time is up."""

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from provisioner.domain.forecast.mirror_status import MirrorStatus
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport, SyncState


class Pace(NamedTuple):
    """`every`: seconds between full looks. `sleep` takes seconds."""

    clock: Callable[[], datetime]
    sleep: Callable[[float], None]
    every: float
    deadline: datetime


class Waited(NamedTuple):
    """How it ended. `reference` None: not in time, or nothing that will ever come."""

    reference: str | None
    outlook: MirrorStatus


def wait(
    pace: Pace,
    look: Callable[[], MirrorStatus],
    ask: Callable[[ImageReference], SyncReport],
    tell: Callable[[MirrorStatus, float, float], None],
) -> Waited:
    """`ask` looks at every layer of one image: to a cache that is the question which makes it fetch them.

    `tell` is given the outlook, the seconds until the next look and those that are left in all.
    """
    first = True
    while True:
        outlook = look()
        reference = outlook.reference or _warmed(outlook, ask)
        left = (pace.deadline - pace.clock()).total_seconds()
        if reference is not None or left <= 0 or (first and is_hopeless(outlook)):
            return Waited(reference, outlook)
        first, pause = False, min(pace.every, left)
        tell(outlook, pause, left)
        pace.sleep(pause)


def is_hopeless(outlook: MirrorStatus) -> bool:
    """Nothing there is a registry: no image will come, however long one waits. One that answered before may be back."""
    problem = outlook.forecast.problem
    return problem is not None and problem.code == "no_such_service"


def _warmed(outlook: MirrorStatus, ask: Callable[[ImageReference], SyncReport]) -> str | None:
    """Of a cache one image is asked for: the newest that it can be had from."""
    cold = next((row for row in outlook.tags if row.state is SyncState.COLD and row.upstream != "absent"), None)
    if cold is None:
        return None
    report = ask(ImageReference.parse(cold.reference))
    return report.reference if report.state is SyncState.COMPLETE else None
