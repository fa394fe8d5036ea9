"""Why a job is where it is, with its numbers: on demand, for one job, from the same rules as the plan.

Nothing here is a guess: without run-time estimates (they come with the scheduler issue) a start is expected only where
nothing stands before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import takewhile

from factory.domain.ids import JobId, PoolName, QueueName
from factory.domain.jobs import Job, JobState, Waiting, WaitReason
from factory.domain.pools import Pool
from factory.domain.resources import Resources
from factory.domain.time import SECOND, Instant
from factory.errors import NotFoundError
from factory.scheduling.nomination import Refusal, Workspace, nominate
from factory.scheduling.quota import quota_of
from factory.scheduling.reasons import counted, vector, waiting
from factory.scheduling.snapshot import Lane, Snapshot, lane_of, turn_of

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where a job is, and why."""

    job_id: JobId
    state: JobState
    waiting: Waiting | None  # None: it does not wait
    queue: QueueName
    position: int | None  # in its queue, 1 = next; None: it does not wait for slots
    queue_length: int  # jobs of the queue that wait for slots
    share_milli: int  # thousandths of a slot that the queue's jobs hold in the pools that the job may use
    nominal_milli: int | None  # the queue's quota there; None = not limited by a quota of its own
    expected_start: Instant | None  # None = not known


def explain(snapshot: Snapshot, job_id: JobId, now: Instant) -> Explanation:
    """Explain one job that has not ended.

    Raises: NotFoundError: the snapshot has no such job (it may have ended).
    """
    job = snapshot.jobs.get(job_id)
    if job is None:
        raise NotFoundError("job", job_id, hint="it may have ended; see: factory jobs list")
    queue = job.spec.queue
    work = Workspace(snapshot)
    pools = work.eligible(lane_of(job.spec, job.tenant))
    why, start = _why(work, job, pools, now)
    waitlist = snapshot.waitlist(queue)
    in_line = job.state is JobState.QUEUED and job.live_attempt is None
    return Explanation(
        job_id=job_id,
        state=job.state,
        waiting=why,
        queue=queue,
        position=waitlist.position(turn_of(job)) if in_line else None,
        queue_length=waitlist.length,
        share_milli=sum(work.used(queue, pool.name) for pool in pools),
        nominal_milli=_nominal(snapshot, queue, pools),
        expected_start=start,
    )


def _nominal(snapshot: Snapshot, queue: QueueName, pools: tuple[Pool, ...]) -> int | None:
    total = 0
    for pool in pools:
        quota = quota_of(snapshot, queue, pool.name)
        if quota is None:
            return None
        total += quota.nominal_milli
    return total if pools else None


def _why(work: Workspace, job: Job, pools: tuple[Pool, ...], now: Instant) -> tuple[Waiting | None, Instant | None]:
    """Return the first reason that holds and when the job is expected to start."""
    if job.state in (JobState.PENDING, JobState.SUSPENDED):
        return job.hold or waiting(WaitReason.PENDING_EVALUATION, f"the job is {job.state.value}"), None
    if job.state is not JobState.QUEUED:
        return None, None
    if (live := job.live_attempt) is not None:
        text = f"attempt {live.id} is {live.state.value}: the next one starts only after proof that it is dead"
        return waiting(WaitReason.PENDING_EVALUATION, text, attempt=live.id), None
    refusal = nominate(work, job, pools)
    if isinstance(refusal, Refusal):
        return refusal.waiting, None
    if (held := _held_back(work, job, pools, now)) is not None:
        return held, None
    return _next_in_turn(work, job, refusal.pool, now)


def _held_back(work: Workspace, job: Job, pools: tuple[Pool, ...], now: Instant) -> Waiting | None:
    """Return the reason if jobs before it in its queue hold every pool in which it would fit (rule P4 of the plan)."""
    mine = {pool.name for pool in pools}
    holder: dict[PoolName, JobId] = {}
    tried: set[tuple[Lane, Resources, int, int]] = set()
    for other in _jobs_before(work, job, pools):
        if other.not_before is not None and other.not_before > now:
            continue
        shape = (lane_of(other.spec, other.tenant), other.spec.resources, other.spec.replicas, len(holder))
        if shape in tried:
            continue  # one like it, with the same pools held, held none
        tried.add(shape)
        theirs = tuple(p for p in work.eligible(lane_of(other.spec, other.tenant)) if p.name not in holder)
        result = nominate(work, other, theirs) if theirs else None
        if isinstance(result, Refusal):
            holder.update((name, other.id) for name in sorted(result.holds))
        if mine <= holder.keys():
            break
    open_pools = tuple(pool for pool in pools if pool.name not in holder)
    refusal = nominate(work, job, open_pools) if open_pools else None
    if isinstance(refusal, Refusal):
        return refusal.waiting
    if refusal is not None:
        return None
    pool = pools[0]
    ahead = work.snapshot.jobs[holder[pool.name]]
    return waiting(
        WaitReason.HELD_BY_RESERVATION,
        f"it would fit, but {ahead.id} before it in queue '{job.spec.queue}' waits for room in pool '{pool.name}' "
        f"({ahead.spec.replicas} x {vector(ahead.spec.resources)}) and must not be starved",
        f"it starts after {ahead.id}; a higher priority or another pool would go past it",
        pool=pool.name,
        job=ahead.id,
        asked_replicas=ahead.spec.replicas,
    )


def _jobs_before(work: Workspace, job: Job, pools: tuple[Pool, ...]) -> Iterator[Job]:
    """Iterate over the jobs before it in its queue that may use one of its pools, in order."""
    mine = {pool.name for pool in pools}
    lanes = work.snapshot.waitlist(job.spec.queue).lanes
    orders = [order.keys() for lane, order in lanes.items() if mine & {pool.name for pool in work.eligible(lane)}]
    own = turn_of(job)
    for turn in takewhile(lambda turn: turn < own, merge(*orders)):
        yield work.snapshot.jobs[turn[2]]


def _next_in_turn(work: Workspace, job: Job, pool: PoolName, now: Instant) -> tuple[Waiting | None, Instant | None]:
    """Return what a job is told that would fit: it waits for its time, or only for the next plan."""
    ahead = work.snapshot.waitlist(job.spec.queue).position(turn_of(job)) - 1
    if job.not_before is not None and job.not_before > now:
        left = -(-(job.not_before - now) // SECOND)
        text = (
            f"backs off for {left} s after {counted(job.retries, 'retry', 'retries')}; it would fit pool '{pool}' now"
        )
        why = waiting(WaitReason.PENDING_EVALUATION, text, pool=pool, not_before=job.not_before, retries=job.retries)
        return why, job.not_before if ahead == 0 else None
    text = f"fits pool '{pool}' now; the next plan decides" + (f" ({counted(ahead, 'job')} before it)" if ahead else "")
    return waiting(WaitReason.PENDING_EVALUATION, text, pool=pool, ahead=ahead), now if ahead == 0 else None
