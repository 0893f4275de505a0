"""Read the status of a mirror for one query: from the mirror, its upstream, its feed and earlier observations."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from provisioner.domain.forecast.feed import Job
from provisioner.domain.forecast.forecast import ForecastInput, Presence, forecast
from provisioner.domain.forecast.history import (
    FeedObservation,
    JobStatistics,
    ListingObservation,
    Observation,
    TagObservation,
    first_listed,
    learn_statistics,
    tag_observations,
)
from provisioner.domain.forecast.mirror_status import MirrorStatus, TagStatus, best, newest_first
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport, SyncState
from provisioner.workflow.mirror.mirror_listing import (
    MirrorQuery,
    MirrorSources,
    ObservationStore,
    TagList,
    find_alternatives,
    find_candidates,
    inspect_candidates,
    list_tags,
    newest_tags,
    tag_of,
)

_ROWS = 12  # at most so many rows for tags that only upstream has


class StatusContext(NamedTuple):
    """What one reading found. `upstream` is None without an upstream.

    `observations`: all of each host, those of this reading included.
    """

    query: MirrorQuery
    sources: MirrorSources
    here: TagList
    upstream: TagList | None
    found: dict[str, SyncReport]
    observations: dict[str, list[Observation]]
    now: datetime

    @property
    def job(self) -> Job | None:
        """Return the mirror's sync job for images, or None without a feed."""
        return None if self.sources.feed is None else self.sources.feed.job

    @property
    def learned(self) -> JobStatistics:
        """Return what earlier observations of the mirror and of its job show."""
        feed = self.query.mirror.feed
        return learn_statistics(self.observations[self.query.host], "" if feed is None else feed.job)

    @property
    def unlisted_state(self) -> SyncState:
        """Return the state of a tag that the mirror does not list. A lazy mirror lists only what it has fetched."""
        state = self.here.unlisted_state
        return SyncState.COLD if state is SyncState.ABSENT and self.query.kind == "lazy" else state


def read_mirror_status(query: MirrorQuery, sources: MirrorSources, now: datetime) -> MirrorStatus:
    """Return the status of the mirror. Faults of the mirror, its upstream and its feed are problems in it."""
    here, upstream = list_tags(sources.mirror, query.mirror.repositories, sources), _list_upstream(query, sources)
    found, not_inspected = inspect_candidates(query, sources, here)
    released = [] if upstream is None else [tag_of(name) for name in find_candidates(upstream, query)]
    observations, unusable = _record_observations(query, sources, found.values(), released, now)
    context = StatusContext(query, sources, here, upstream, found, observations, now)
    rows = _rows(context, [tag for tag in released if tag not in here.tags][:_ROWS])
    chosen = best(rows) or _no_tag_row(context)
    listings = [here] if upstream is None else [here, upstream]
    return MirrorStatus(
        mirror=query.host,
        kind=query.kind,
        torch=query.torch,
        checked_at=now,
        reference=chosen.reference if chosen.state is SyncState.COMPLETE else None,
        forecast=chosen.forecast,
        tags=tuple(rows),
        feed=sources.feed,
        learned=context.learned,
        profile=sources.profile,
        problems=(
            *not_inspected,
            *(problem for listing in listings for problem in listing.problems),
            *(() if sources.feed is None else sources.feed.problems),
            *unusable,
        ),
    )


def _list_upstream(query: MirrorQuery, sources: MirrorSources) -> TagList | None:
    upstream = query.mirror.upstream
    if sources.upstream is None or upstream is None:
        return None
    return list_tags(sources.upstream, upstream.repositories or query.mirror.repositories, sources)


def _record_observations(
    query: MirrorQuery, sources: MirrorSources, found: Iterable[SyncReport], released: Iterable[str], now: datetime
) -> tuple[dict[str, list[Observation]], tuple[Problem, ...]]:
    """Add the observations of this reading to the store; return all of each host.

    A store that cannot be used is a problem of the status, which is then made without what was learned before.
    """
    fresh: dict[str, list[Observation]] = {query.host: [_tag_seen(report, now) for report in found]}
    if sources.feed is not None and sources.feed.job is not None:
        fresh[query.host].append(FeedObservation(at=sources.feed.fetched_at or now, job=sources.feed.job))
    if query.mirror.upstream is not None:
        there = [ListingObservation(at=now, repository="", tag=tag) for tag in released]
        fresh.setdefault(query.mirror.upstream.address, []).extend(there)
    observations: dict[str, list[Observation]] = {}
    unusable: dict[Problem, None] = {}
    for host, seen in fresh.items():
        observations[host] = list(seen)
        try:
            observations[host] = _add(sources.memory, host, seen)
        except ProblemError as error:
            unusable |= dict.fromkeys(error.problems)
    return observations, tuple(unusable)


def _tag_seen(report: SyncReport, now: datetime) -> TagObservation:
    reference = ImageReference.parse(report.reference)
    return TagObservation(
        at=now,
        repository=reference.repository,
        tag=reference.tag or "",
        state=report.state,
        bytes_missing=report.bytes_missing,
    )


def _add(store: ObservationStore, host: str, fresh: Sequence[Observation]) -> list[Observation]:
    known = store.read(host)
    store.add(host, known, fresh)
    return [*known, *fresh]


def _rows(context: StatusContext, upstream_only: Iterable[str]) -> list[TagStatus]:
    """Return the rows of inspected tags and of those that only upstream has, newest first."""
    base = _base_input(context)
    if not any(report.state is SyncState.COMPLETE for report in context.found.values()):
        base = base.model_copy(update={"others": find_alternatives(context.query, context.sources, context.here)})
    rows = [_found_row(context, base, tag, report) for tag, report in context.found.items()]
    rows += [_missing_row(context, base, tag) for tag in upstream_only]
    newest = newest_first(context.sources.facts(row.reference) for row in rows)
    order = {facts.reference: place for place, facts in enumerate(newest)}
    return sorted(rows, key=lambda row: order[row.reference])


def _base_input(context: StatusContext) -> ForecastInput:
    """Return the input of a forecast with the fields that are the same for every tag."""
    upstream = context.upstream
    return ForecastInput(
        tag=f"torch {context.query.torch}",
        mirror=context.query.host,
        state=context.unlisted_state,
        upstream="not_asked" if upstream is None else "unknown" if upstream.problems else "absent",
        now=context.now,
        kind=context.query.kind,
        problems=context.here.problems,
        job=context.job,
        learned=context.learned,
        nearest=() if upstream is None else newest_tags(upstream, context.query),
    )


def _found_row(context: StatusContext, base: ForecastInput, tag: str, report: SyncReport) -> TagStatus:
    tag_input = _tag_input(context, base, tag).model_copy(update={"state": report.state, "problems": report.problems})
    return TagStatus(
        reference=report.reference,
        torch=context.sources.facts(report.reference).torch,
        state=report.state,
        upstream=tag_input.upstream,
        bytes=report.bytes,
        bytes_missing=report.bytes_missing,
        forecast=forecast(tag_input),
    )


def _missing_row(context: StatusContext, base: ForecastInput, tag: str) -> TagStatus:
    tag_input = _tag_input(context, base, tag)
    reference = f"{context.query.host}/{context.query.mirror.repositories[0]}:{tag}"
    return TagStatus(
        reference=reference,
        torch=context.sources.facts(reference).torch,
        state=tag_input.state,
        upstream=tag_input.upstream,
        forecast=forecast(tag_input),
    )


def _tag_input(context: StatusContext, base: ForecastInput, tag: str) -> ForecastInput:
    upstream = context.query.mirror.upstream
    there: Presence = "present" if context.upstream is not None and tag in context.upstream.tags else base.upstream
    released = None if upstream is None else first_listed(context.observations[upstream.address], tag)
    looks = tag_observations(context.observations[context.query.host], tag)
    return base.model_copy(update={"tag": tag, "upstream": there, "released": released, "looks": looks})


def _no_tag_row(context: StatusContext) -> TagStatus:
    """Return the row of a query that no tag of the mirror or its upstream meets."""
    tag_input = _base_input(context).model_copy(
        update={"others": find_alternatives(context.query, context.sources, context.here)}
    )
    return TagStatus(
        reference=tag_input.tag,
        torch=None,
        state=tag_input.state,
        upstream=tag_input.upstream,
        forecast=forecast(tag_input),
    )
