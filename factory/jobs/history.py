"""What was asked of the factory in a period: the export that a replay starts from (platform role only).

Jobs are read from their rows, which are the fold of their events; when one first waited for slots is asked of its
events, where something else can have held it before.
"""

from __future__ import annotations

from collections.abc import Iterator

from factory.domain.events import Queued
from factory.domain.ids import JobId
from factory.domain.jobs import Attempt, EndReason, Job, ServiceEntry
from factory.domain.tenancy import PLATFORM, Principal, Role
from factory.domain.time import SECOND, Instant
from factory.jobs.ports import JobFilter, SubmissionReader, SubmissionStore
from factory.schemas.common import LONGEST_S
from factory.schemas.history import (
    HistoryFleet,
    HistoryJob,
    HistoryNode,
    HistoryPage,
    HistoryPool,
    HistoryQueue,
    HistoryQuota,
)

__all__ = ["LOOK_BACK_MS", "HistoryService"]

LOOK_BACK_MS = 7 * 86_400 * SECOND  # ended jobs that were submitted longer before the period are left out
# what the factory or its machines did to an attempt says nothing of how long the job takes
_CUT_SHORT = frozenset(
    {
        EndReason.PREEMPTED,
        EndReason.WORKER_LOST,
        EndReason.NODE_LOST,
        EndReason.START_TIMEOUT,
        EndReason.FACTORY_STOPPED,
    }
)


class HistoryService:
    """Exports what a replay needs."""

    def __init__(self, store: SubmissionStore) -> None:
        self._store = store

    def jobs(
        self, principal: Principal, *, since: Instant, until: Instant, before: JobId | None, limit: int, now: Instant
    ) -> HistoryPage:
        """Return a page of the jobs of every tenant that waited or ran between the two instants, newest first.

        A page may hold fewer than `limit` while there are more: the cursor tells. Raises: ForbiddenError.
        """
        principal.require(Role.PLATFORM)

        def look(reader: SubmissionReader) -> HistoryPage:
            rows = reader.jobs(PLATFORM, JobFilter(before=before, limit=limit))
            horizon = since - LOOK_BACK_MS
            last = len(rows) < limit or rows[-1].submitted_at < horizon
            found = [job for job in rows if job.submitted_at >= horizon]
            if last:  # what is still open from longer ago takes its slots all the same
                found += [job for job in reader.open_jobs(PLATFORM) if job.submitted_at < horizon]
            items = tuple(_within(reader, found, since, until, now))
            return HistoryPage(items=items, next_cursor=None if last else rows[-1].id)

        return self._store.read(look)

    def fleet(self, principal: Principal) -> HistoryFleet:
        """Return pools, nodes and queues as they are now. Raises: ForbiddenError."""
        principal.require(Role.PLATFORM)

        def look(reader: SubmissionReader) -> HistoryFleet:
            return HistoryFleet(
                pools=tuple(
                    HistoryPool(
                        name=pool.name,
                        flavor=pool.flavor.name,
                        slot_cpu_milli=pool.flavor.slot.cpu_milli,
                        slot_memory_bytes=pool.flavor.slot.memory_bytes,
                        slot_gpu_milli=pool.flavor.slot.gpu_milli,
                        runner=pool.runner,
                        tenant=pool.tenant,
                        policy=pool.policy,
                    )
                    for pool in sorted(reader.pools(PLATFORM), key=lambda p: p.name)
                ),
                nodes=tuple(
                    HistoryNode(
                        id=node.id,
                        pool=node.pool,
                        runner=node.runner,
                        cpu_milli=node.capacity.cpu_milli,
                        memory_bytes=node.capacity.memory_bytes,
                        devices=node.devices,
                        state=node.state,
                        gpu_model=node.gpu_model,
                        zone=node.zone,
                    )
                    for node in sorted(reader.nodes(PLATFORM), key=lambda n: n.id)
                ),
                queues=tuple(
                    HistoryQueue(
                        name=queue.name,
                        tenant=queue.tenant,
                        parent=queue.parent,
                        weight=queue.weight,
                        quotas=tuple(
                            HistoryQuota(
                                pool=quota.pool,
                                nominal_milli=quota.nominal_milli,
                                borrowing_milli=quota.borrowing_milli,
                                lending_milli=quota.lending_milli,
                            )
                            for quota in queue.quotas
                        ),
                    )
                    for queue in sorted(reader.queues(PLATFORM), key=lambda q: q.name)
                ),
            )

        return self._store.read(look)


def _within(
    reader: SubmissionReader, jobs: list[Job], since: Instant, until: Instant, now: Instant
) -> Iterator[HistoryJob]:
    for job in jobs:
        if job.submitted_at >= until or (job.ended_at is not None and job.ended_at <= since):
            continue
        queued_at = _queued_at(reader, job)
        if queued_at is not None and queued_at < until:
            yield _history_job(job, queued_at, now)


def _queued_at(reader: SubmissionReader, job: Job) -> Instant | None:
    """Return when it first waited for slots; None: it never did."""
    if not job.spec.after and not job.spec.inputs and job.hold is None:
        return job.submitted_at  # nothing could have held it
    events = reader.events(PLATFORM, job.id)
    first = events[0].event if events else None
    if first is not None and getattr(first, "hold", None) is None:
        return job.submitted_at
    return next((e.event.at for e in events if isinstance(e.event, Queued)), None)


def _history_job(job: Job, queued_at: Instant, now: Instant) -> HistoryJob:
    spec = job.spec
    return HistoryJob(
        id=job.id,
        tenant=job.tenant,
        queue=spec.queue,
        name=spec.name,
        cpu_milli=spec.resources.cpu_milli,
        memory_bytes=spec.resources.memory_bytes,
        gpu_milli=spec.resources.gpu_milli,
        replicas=spec.replicas,
        min_replicas=spec.min_replicas,
        pool=spec.pool,
        flavors=spec.flavors,
        gpu_models=spec.gpu_models,
        topology=spec.topology,
        estimate_s=spec.estimate_s,
        priority=spec.priority,
        submitted_at=job.submitted_at,
        queued_at=queued_at,
        started_at=job.attempts[0].admitted_at if job.attempts else None,
        held_ms=_held_ms(job, now),
        withdrawn_at=None if job.attempts else job.ended_at,
        preemptions=sum(1 for a in job.attempts if a.outcome and a.outcome.reason is EndReason.PREEMPTED),
    )


def _held_ms(job: Job, now: Instant) -> int | None:
    """Return how long its own work held slots: without attempts that were cut short, if there are others."""
    if not job.attempts:
        return None
    if isinstance(job.spec.entry, ServiceEntry) and not job.is_terminal:
        return LONGEST_S * SECOND
    own = [a for a in job.attempts if a.outcome is None or a.outcome.reason not in _CUT_SHORT]
    return sum(_span(job, attempt, now) for attempt in own or job.attempts[-1:])


def _span(job: Job, attempt: Attempt, now: Instant) -> int:
    if attempt.ended_at is not None:
        return max(1, attempt.ended_at - attempt.admitted_at)
    # still under way: by what is known of it, it is half done
    return max(1, 2 * (now - attempt.admitted_at), (job.spec.estimate_s or 0) * SECOND)
