"""What the loop sees: the scheduler's snapshot and how far in the change feed it is, kept by evolving.

A full build reads every open row once; after that a tick costs what changed. Both happen in one read transaction, so
that the snapshot is a state that the database really had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from factory.control.ports import ControlReader, FeedEntry, FeedKind
from factory.domain.ids import JobId, NodeId, PoolName, QueueName, RunnerId, VersionId
from factory.domain.tenancy import PLATFORM
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

__all__ = ["Changed", "View", "build", "catch_up"]

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


def build(reader: ControlReader) -> View:
    """Read everything that is open."""
    rows = Rows(
        pools=reader.pools(PLATFORM),
        nodes=reader.nodes(PLATFORM),
        queues=reader.queues(PLATFORM),
        jobs=reader.open_jobs(PLATFORM),
        runners=reader.runners(PLATFORM),
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
    rows, seen = reader.jobs_of(PLATFORM, named), view.snapshot.jobs
    # what the reader of this view wrote itself is in it already, as the very value that the store gives back
    jobs = [id for id in named if id not in rows or rows[id] is not seen.get(id)]
    changes: list[Change] = [JobChanged(id, rows.get(id)) for id in jobs]
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
