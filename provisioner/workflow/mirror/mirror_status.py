"""A full look at a mirror for one wish: what it has, what its upstream has, what its feed says, what we saw before."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from provisioner.domain.forecast.feed import Job
from provisioner.domain.forecast.forecast import Presence, Question, forecast
from provisioner.domain.forecast.history import (
    FeedSeen,
    Learned,
    ListedSeen,
    Sighting,
    TagSeen,
    first_listed,
    learn,
    looks_at,
)
from provisioner.domain.forecast.mirror_status import MirrorStatus, TagStatus, best, newest_first
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport, SyncState
from provisioner.workflow.mirror.mirror_listing import (
    Listed,
    Memory,
    Wanted,
    World,
    candidates,
    listed,
    look_at,
    nearest,
    others,
    tag_of,
)

_ROWS = 12  # tags told of those that only upstream has


class Scene(NamedTuple):
    """One look. `above` None: there is no upstream to ask. `seen`: all sightings by host, this look's included."""

    wanted: Wanted
    world: World
    here: Listed
    above: Listed | None
    found: dict[str, SyncReport]
    seen: dict[str, list[Sighting]]
    now: datetime

    @property
    def job(self) -> Job | None:
        return None if self.world.feed is None else self.world.feed.job

    @property
    def learned(self) -> Learned:
        feed = self.wanted.mirror.feed
        return learn(self.seen[self.wanted.host], "" if feed is None else feed.job)

    @property
    def unlisted(self) -> SyncState:
        """A lazy mirror lists only what it has fetched before."""
        state = self.here.unlisted
        return SyncState.COLD if state is SyncState.ABSENT and self.wanted.kind == "lazy" else state


def look(wanted: Wanted, world: World, now: datetime) -> MirrorStatus:
    """Never raises for a fault of the mirror, of its upstream or of its feed."""
    here, above = listed(world.mirror, wanted.mirror.repositories, world), _above(wanted, world)
    found, unseen = look_at(wanted, world, here)
    hoped = [] if above is None else [tag_of(name) for name in candidates(above, wanted)]
    seen = _remember(wanted, world, found.values(), hoped, now)
    scene = Scene(wanted, world, here, above, found, seen, now)
    rows = _rows(scene, [tag for tag in hoped if tag not in here.tags][:_ROWS])
    chosen = best(rows) or _nothing(scene)
    listings = [here] if above is None else [here, above]
    return MirrorStatus(
        mirror=wanted.host,
        kind=wanted.kind,
        torch=wanted.torch,
        checked_at=now,
        reference=chosen.reference if chosen.state is SyncState.COMPLETE else None,
        forecast=chosen.forecast,
        tags=tuple(rows),
        feed=world.feed,
        learned=scene.learned,
        profile=world.profile,
        problems=(
            *unseen,
            *(problem for listing in listings for problem in listing.problems),
            *(() if world.feed is None else world.feed.problems),
        ),
    )


def _above(wanted: Wanted, world: World) -> Listed | None:
    upstream = wanted.mirror.upstream
    if world.upstream is None or upstream is None:
        return None
    return listed(world.upstream, upstream.repositories or wanted.mirror.repositories, world)


def _remember(
    wanted: Wanted, world: World, found: Iterable[SyncReport], hoped: Iterable[str], now: datetime
) -> dict[str, list[Sighting]]:
    fresh: dict[str, list[Sighting]] = {wanted.host: [_tag_seen(report, now) for report in found]}
    if world.feed is not None and world.feed.job is not None:
        fresh[wanted.host].append(FeedSeen(at=world.feed.fetched_at or now, job=world.feed.job))
    if wanted.mirror.upstream is not None:
        there = [ListedSeen(at=now, repository="", tag=tag) for tag in hoped]
        fresh.setdefault(wanted.mirror.upstream.address, []).extend(there)
    return {host: _added(world.memory, host, sightings) for host, sightings in fresh.items()}


def _tag_seen(report: SyncReport, now: datetime) -> TagSeen:
    reference = ImageReference.parse(report.reference)
    return TagSeen(
        at=now,
        repository=reference.repository,
        tag=reference.tag or "",
        state=report.state,
        bytes_missing=report.bytes_missing,
    )


def _added(memory: Memory, host: str, fresh: Sequence[Sighting]) -> list[Sighting]:
    known = memory.read(host)
    memory.add(host, known, fresh)
    return [*known, *fresh]


def _rows(scene: Scene, only_above: Iterable[str]) -> list[TagStatus]:
    """Newest first."""
    base = _question(scene)
    if not any(report.state is SyncState.COMPLETE for report in scene.found.values()):
        base = base.model_copy(update={"others": others(scene.wanted, scene.world, scene.here)})
    rows = [_found_row(scene, base, tag, report) for tag, report in scene.found.items()]
    rows += [_missing_row(scene, base, tag) for tag in only_above]
    newest = newest_first(scene.world.facts(row.reference) for row in rows)
    order = {facts.reference: place for place, facts in enumerate(newest)}
    return sorted(rows, key=lambda row: order[row.reference])


def _question(scene: Scene) -> Question:
    """What is the same of every tag."""
    above = scene.above
    return Question(
        tag=f"torch {scene.wanted.torch}",
        mirror=scene.wanted.host,
        state=scene.unlisted,
        upstream="not_asked" if above is None else "unknown" if above.problems else "absent",
        now=scene.now,
        kind=scene.wanted.kind,
        problems=scene.here.problems,
        job=scene.job,
        learned=scene.learned,
        nearest=() if above is None else nearest(above, scene.wanted),
    )


def _found_row(scene: Scene, base: Question, tag: str, report: SyncReport) -> TagStatus:
    asked = _of_tag(scene, base, tag).model_copy(update={"state": report.state, "problems": report.problems})
    return TagStatus(
        reference=report.reference,
        torch=scene.world.facts(report.reference).torch,
        state=report.state,
        upstream=asked.upstream,
        bytes=report.bytes,
        bytes_missing=report.bytes_missing,
        forecast=forecast(asked),
    )


def _missing_row(scene: Scene, base: Question, tag: str) -> TagStatus:
    asked = _of_tag(scene, base, tag)
    reference = f"{scene.wanted.host}/{scene.wanted.mirror.repositories[0]}:{tag}"
    return TagStatus(
        reference=reference,
        torch=scene.world.facts(reference).torch,
        state=asked.state,
        upstream=asked.upstream,
        forecast=forecast(asked),
    )


def _of_tag(scene: Scene, base: Question, tag: str) -> Question:
    upstream = scene.wanted.mirror.upstream
    there: Presence = "present" if scene.above is not None and tag in scene.above.tags else base.upstream
    released = None if upstream is None else first_listed(scene.seen[upstream.address], tag)
    looks = looks_at(scene.seen[scene.wanted.host], tag)
    return base.model_copy(update={"tag": tag, "upstream": there, "released": released, "looks": looks})


def _nothing(scene: Scene) -> TagStatus:
    """Neither the mirror nor its upstream has a tag that would meet the wish."""
    asked = _question(scene).model_copy(update={"others": others(scene.wanted, scene.world, scene.here)})
    return TagStatus(
        reference=asked.tag, torch=None, state=asked.state, upstream=asked.upstream, forecast=forecast(asked)
    )
