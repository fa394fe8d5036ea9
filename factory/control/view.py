"""What the loop sees: the scheduler's snapshot and how far in the change feed it is, kept by evolving.

A full build reads every open row once, and the jobs that ended of late: they teach how long jobs run, and what queues
have used. After that a tick costs what changed. Both happen in one read transaction, so that the snapshot is a state
that the database really had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from factory.control.ports import ControlReader, FeedEntry, FeedKind
from factory.domain.ids import JobId, NodeId, PoolName, QueueName, RunnerId, VersionId
from factory.domain.jobs import TERMINAL_STATES, Job, JobState
from factory.domain.tenancy import PLATFORM
from factory.domain.time import SECOND, Instant
from factory.jobs.ports import JobFilter
from factory.scheduling.snapshot import (
    Change,
    JobChanged,
    NodeChanged,
    PoolChanged,
    QueueChanged,
    Rows,
    RunnerChanged,
    Snapshot,
)
from factory.scheduling.spending import HALF_LIFE_S

__all__ = ["HISTORY_JOBS", "Changed", "View", "build", "catch_up", "since_at"]

HISTORY_JOBS = 4000  # that ended, the last ones submitted: so many are read for a full build
_HISTORY_MS = 10 * HALF_LIFE_S * SECOND  # what was used before weighs less than a thousandth
_GRID_MS = 64 * HALF_LIFE_S * SECOND
_PAGE = 10_000  # feed entries per read
_ROW = TypeVar("_ROW")
_KEY = TypeVar("_KEY", bound=str)


@dataclass(frozen=True, slots=True)
class View:
    """The rows as of feed entry `cursor`."""

    snapshot: Snapshot
    cursor: int


@dataclass(frozen=True, slots=True)
class Changed:
    """What is new since the last look."""

    jobs: frozenset[JobId] = frozenset()
    versions: frozenset[VersionId] = frozenset()
    pools: frozenset[PoolName] = frozenset()
    fleet: bool = False  # pools, nodes, runners or queues
    endpoints: bool = False
    models: bool = False

    @property
    def is_empty(self) -> bool:
        """True if nothing changed."""
        return not (self.jobs or self.versions or self.fleet or self.endpoints or self.models)


def since_at(now: Instant) -> Instant:
    """Return from when on usage counts, for who builds a view now.

    On a coarse grid, so that all control planes count from the same instant however long they have been up. It moves
    every eleven days; a view is then built again.
    """
    since = now - _HISTORY_MS
    return max(0, since - since % _GRID_MS)


def build(reader: ControlReader, now: Instant) -> View:
    """Read everything that is open, and what ended since `since_at(now)`, at most `HISTORY_JOBS`."""
    since = since_at(now)
    ended = reader.jobs(PLATFORM, JobFilter(states=TERMINAL_STATES, limit=HISTORY_JOBS))
    rows = Rows(
        pools=reader.pools(PLATFORM),
        nodes=reader.nodes(PLATFORM),
        queues=reader.queues(PLATFORM),
        jobs=(*reader.open_jobs(PLATFORM), *(job for job in ended if job.ended_at is None or job.ended_at >= since)),
        runners=reader.runners(PLATFORM),
        since=since,
    )
    return View(Snapshot.build(rows), reader.feed_head())


def catch_up(reader: ControlReader, view: View) -> tuple[View, Changed]:
    """Return the view as of now, and what changed.

    Raises:
        FeedPrunedError: the feed no longer reaches back to the view; build again.
    """
    entries: list[FeedEntry] = []
    cursor = view.cursor
    while page := reader.feed(cursor, _PAGE):
        entries.extend(page)
        cursor = page[-1].seq
        if len(page) < _PAGE:
            break
    if not entries:
        return view, Changed()
    keys: dict[FeedKind, set[str]] = {}
    for entry in entries:
        keys.setdefault(entry.kind, set()).add(entry.key)
    named = [JobId(key) for key in sorted(keys.get(FeedKind.JOB, ()))]
    told = Counter(entry.key for entry in entries if entry.kind is FeedKind.JOB)
    rows, seen = reader.jobs_of(PLATFORM, named), view.snapshot.jobs
    # what the reader of this view wrote itself is in it already, as the very value that the store gives back
    jobs = [id for id in named if id not in rows or rows[id] is not seen.get(id)]
    changes: list[Change] = []
    for id in jobs:
        row = rows.get(id)
        if row is not None and row.is_terminal and id not in seen and told[id] > 1:
            # it lived between two looks. What ended is counted only for jobs that were seen: an end that the reader
            # wrote itself is told again, once
            changes.append(JobChanged(id, _unstarted(row)))
        changes.append(JobChanged(id, row))
    fleet = _fleet_changes(reader, keys)
    changed = Changed(
        jobs=frozenset(jobs),
        versions=frozenset(VersionId(key) for key in keys.get(FeedKind.VERSION, ())),
        pools=frozenset(PoolName(key) for key in keys.get(FeedKind.POOL, ())),
        fleet=bool(fleet),
        endpoints=FeedKind.ENDPOINT in keys,
        models=FeedKind.MODEL in keys,
    )
    return View(view.snapshot.evolve([*fleet, *changes]), cursor), changed


def _unstarted(job: Job) -> Job:
    return replace(job, state=JobState.QUEUED, attempts=(), outcome=None, ended_at=None)


def _fleet_changes(reader: ControlReader, keys: dict[FeedKind, set[str]]) -> list[Change]:
    """Pools, nodes, queues and runners are few: one list of each kind that changed."""
    changes: list[Change] = []
    if named := keys.get(FeedKind.POOL):
        pools = _by(reader.pools(PLATFORM), lambda pool: pool.name)
        changes.extend(PoolChanged(PoolName(key), pools.get(PoolName(key))) for key in sorted(named))
    if named := keys.get(FeedKind.NODE):
        nodes = _by(reader.nodes(PLATFORM), lambda node: node.id)
        changes.extend(NodeChanged(NodeId(key), nodes.get(NodeId(key))) for key in sorted(named))
    if named := keys.get(FeedKind.QUEUE):
        queues = _by(reader.queues(PLATFORM), lambda queue: queue.name)
        changes.extend(QueueChanged(QueueName(key), queues.get(QueueName(key))) for key in sorted(named))
    if named := keys.get(FeedKind.RUNNER):
        runners = _by(reader.runners(PLATFORM), lambda runner: runner.id)
        changes.extend(RunnerChanged(RunnerId(key), runners.get(RunnerId(key))) for key in sorted(named))
    return changes


def _by(rows: Iterable[_ROW], key: Callable[[_ROW], _KEY]) -> dict[_KEY, _ROW]:
    return {key(row): row for row in rows}
