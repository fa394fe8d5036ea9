"""Queues as people see them: what each holds, how it stands in each pool, who waits first and why.

Rule 9: what a caller may not see is summed up as "other departments", and a parent of another tenant is called so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from heapq import nsmallest

from factory.domain.ids import JobId, PoolName, QueueName
from factory.domain.jobs import Job, JobState
from factory.domain.pools import Isolation, NodeState
from factory.domain.resources import slots_in
from factory.domain.tenancy import Queue, Quota, Scope
from factory.domain.time import Instant
from factory.scheduling.explaining import why_in
from factory.scheduling.planning import Planning, Policy
from factory.scheduling.quota import ENDLESS
from factory.scheduling.snapshot import Snapshot
from factory.schemas.platform import QueueDetail, QueuedJobView, QueuePoolView, QueueView, QuotaModel
from factory.schemas.veil import OTHERS, Veil
from factory.tenants.shares import Standing, standings

__all__ = ["Use", "queue_detail", "queue_view"]

_SHOWN = 5  # waiting jobs of a queue's page; each is explained


@dataclass(slots=True)
class _Held:
    """What the jobs of one queue hold, and how many there are."""

    slots: dict[PoolName, int] = field(default_factory=dict[PoolName, int])  # thousandths
    queued: int = 0
    running: int = 0


@dataclass(frozen=True, slots=True)
class Use:
    """What open jobs hold, by queue."""

    by_queue: Mapping[QueueName, _Held]

    @staticmethod
    def of(jobs: Iterable[Job]) -> Use:
        """Count every open job once."""
        found: dict[QueueName, _Held] = {}
        for job in jobs:
            held = found.setdefault(job.spec.queue, _Held())
            live = job.live_attempt
            if live is not None:
                pool = live.allocation.pool
                held.slots[pool] = held.slots.get(pool, 0) + live.allocation.slots_milli
                held.running += 1
            elif job.state in (JobState.PENDING, JobState.QUEUED):
                held.queued += 1
        return Use(found)

    def of_queue(self, queue: QueueName) -> _Held:
        """Return what the queue's own jobs hold."""
        return self.by_queue.get(queue, _Held())

    def in_pool(self, pool: PoolName) -> dict[QueueName, int]:
        """Return what each queue's own jobs hold in the pool."""
        return {queue: held.slots[pool] for queue, held in self.by_queue.items() if pool in held.slots}


def queue_view(queue: Queue, use: Use, visible: Collection[QueueName]) -> QueueView:
    """Return the queue and what its own jobs hold; `visible` are the queues that the caller may see."""
    return QueueView.model_validate(_fields(queue, use, visible))


def queue_detail(
    queue: Queue,
    snapshot: Snapshot,
    visible: Collection[QueueName],
    scope: Scope,
    now: Instant,
    policy: Policy | None = None,
) -> QueueDetail:
    """Return all that is shown of one queue, which the caller may see. `policy`: what the control loop plans with."""
    veil = Veil(
        {name for name, _ in snapshot.queues.items() if name not in visible},
        lambda id: (job := snapshot.jobs.get(JobId(id))) is not None and not scope.covers(job.tenant),
    )
    jobs = [job for _, job in snapshot.jobs.items()]
    use = Use.of(jobs)
    first = _first(queue, jobs)
    planning = Planning(snapshot, replace(policy or Policy(), max_decisions=ENDLESS), now)
    if first:
        planning.run()  # one plan tells of all of them
    return QueueDetail.model_validate(
        _fields(queue, use, visible)
        | {
            "pools": tuple(_pools(queue, snapshot, use, visible)),
            "waiting": tuple(_waiting(planning, job, veil, now) for job in first),
        }
    )


def _fields(queue: Queue, use: Use, visible: Collection[QueueName]) -> dict[str, object]:
    held = use.of_queue(queue.name)
    return {
        "name": queue.name,
        "tenant": queue.tenant,
        "parent": queue.parent if queue.parent is None or queue.parent in visible else OTHERS,
        "weight": queue.weight,
        "quotas": tuple(_quota_model(quota) for quota in queue.quotas),
        "used": {pool: held.slots[pool] / 1000 for pool in sorted(held.slots)},
        "queued": held.queued,
        "running": held.running,
    }


def _quota_model(quota: Quota) -> QuotaModel:
    return QuotaModel(
        pool=quota.pool,
        nominal=quota.nominal_milli / 1000,
        borrowing=_slots(quota.borrowing_milli),
        lending=_slots(quota.lending_milli),
    )


def _pools(queue: Queue, snapshot: Snapshot, use: Use, visible: Collection[QueueName]) -> Iterator[QueuePoolView]:
    """Yield the queue's standing in each pool that its tenant may use, or that it has a quota for."""
    queues = [each for _, each in snapshot.queues.items()]
    capacity: dict[PoolName, int] = {
        quota.pool: 0
        for quota in queue.quotas  # a quota may be there before the pool
    }
    for name, pool in snapshot.pools.items():
        if pool.isolation is Isolation.SHARED or pool.tenant == queue.tenant:
            capacity[name] = 0
    for _, node in snapshot.nodes.items():
        pool = snapshot.pools.get(node.pool)
        if pool is not None and pool.name in capacity and node.state is NodeState.READY:
            capacity[pool.name] += slots_in(node.capacity, pool.flavor.slot)
    for pool_name in sorted(capacity):
        standing = standings(queues, use.in_pool(pool_name), pool_name, capacity[pool_name])[queue.name]
        yield _pool_view(pool_name, standing, visible)


def _pool_view(pool: PoolName, standing: Standing, visible: Collection[QueueName]) -> QueuePoolView:
    quota = standing.quota
    lent_to: dict[str, float] = {}
    for borrower, milli in standing.lent_to:
        shown = borrower if borrower in visible else OTHERS
        lent_to[shown] = lent_to.get(shown, 0) + milli / 1000
    return QueuePoolView(
        pool=pool,
        nominal=None if quota is None else quota.nominal_milli / 1000,
        borrowing=None if quota is None else _slots(quota.borrowing_milli),
        lending=None if quota is None else _slots(quota.lending_milli),
        used=standing.used_milli / 1000,
        borrowed=standing.borrowed_milli / 1000,
        lent=standing.lent_milli / 1000,
        lent_to=lent_to,
        fair_share=standing.fair_milli / 1000,
    )


def _first(queue: Queue, jobs: Iterable[Job]) -> list[Job]:
    """Return the first few jobs of the queue that wait for slots, in the order of the queue."""
    waiting = (
        job
        for job in jobs
        if job.spec.queue == queue.name and job.state is JobState.QUEUED and job.live_attempt is None
    )
    return nsmallest(_SHOWN, waiting, key=lambda job: (-job.spec.priority.rank, job.submitted_at, job.id))


def _waiting(planning: Planning, job: Job, veil: Veil, now: Instant) -> QueuedJobView:
    said, start, _ = why_in(planning, job, now)
    why = None if said is None else veil.waiting(said)
    place = planning.snapshot.places.get(job.id)
    return QueuedJobView(
        id=job.id,
        name=job.spec.name,
        priority=job.spec.priority,
        submitted_at=job.submitted_at,
        position=None if place is None else planning.snapshot.waitlist(place.line).position(place.turn),
        reason=None if why is None else why.reason,
        message="" if why is None else why.message,
        hint="" if why is None else why.hint,
        expected_start=start,
    )


def _slots(milli: int | None) -> float | None:
    return None if milli is None else milli / 1000
