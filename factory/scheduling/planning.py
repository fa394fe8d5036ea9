"""Who starts now, and where: the scheduler's decision as a value.

Rules of the first form
    P1  Within a pool, queues take turns: the one with the least used slots per weight goes next; ties by name. A queue
        of weight 0 goes after all others.
    P2  Within a queue: priority, then time of submission, then id.
    P3  A gang starts whole or not at all.
    P4  A job that waits for running jobs to end holds its queue back, but only for the pools that it waits for, so
        that smaller jobs behind it cannot starve it. A job that they cannot help (nodes lost, quota cut) holds nobody
        back.
    P5  Nothing goes over a quota, a node or a device.
    P6  A job that backs off is passed over until its time.

Each decision changes what is left for the next. Equal shapes that found no room are not tried again in the same plan.
`Plan.waiting` tells the reasons of the jobs that were tried; `explain` tells anyone's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from heapq import heapify, heappop, heapreplace
from typing import TypeAlias

from factory.domain.ids import AttemptId, JobId, PoolName, QueueName, RunnerId
from factory.domain.jobs import Allocation, Job, Waiting
from factory.domain.pools import Pool
from factory.domain.resources import Resources
from factory.domain.tenancy import Queue
from factory.domain.time import Instant
from factory.scheduling.feasibility import mismatch
from factory.scheduling.nomination import Workspace, nominate
from factory.scheduling.snapshot import Lane, Snapshot, Turn

__all__ = ["Admit", "Decision", "Plan", "Policy", "Preempt", "plan"]


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator may set."""

    name: str = "fair-first-form"
    max_decisions: int = 1000  # of one plan; the next plan goes on


@dataclass(frozen=True, slots=True)
class Admit:
    """Give the job these slots; the runner shall start an attempt on them."""

    job_id: JobId
    allocation: Allocation
    runner: RunnerId


@dataclass(frozen=True, slots=True)
class Preempt:
    """Stop the attempt, so that `for_job` can have its slots. The first form never decides this."""

    job_id: JobId
    attempt_id: AttemptId
    for_job: JobId


Decision: TypeAlias = Admit | Preempt


@dataclass(frozen=True, slots=True)
class Plan:
    """Decisions in the order in which they were made, and why the jobs that were tried in vain wait, by job id."""

    decisions: tuple[Decision, ...]
    waiting: tuple[tuple[JobId, Waiting], ...]


def plan(snapshot: Snapshot, policy: Policy, now: Instant) -> Plan:
    """Decide which jobs start now. Same snapshot content, policy and time: same plan (rule 11)."""
    work = Workspace(snapshot)
    decisions: list[Decision] = []
    reasons: dict[JobId, Waiting] = {}
    lines = {name: _Line(work, name, now) for name in snapshot.waiting}
    heads = [(turn, name) for name, line in lines.items() if (turn := line.share(reasons)) is not None]
    heapify(heads)
    while heads and len(decisions) < policy.max_decisions:
        _, name = heads[0]
        admitted = lines[name].try_head(reasons)
        if admitted is not None:
            decisions.append(admitted)
        turn = lines[name].share(reasons)  # rule P1: with what it now holds
        if turn is None:
            heappop(heads)
        else:
            heapreplace(heads, (turn, name))
    return Plan(tuple(decisions), tuple(sorted(reasons.items(), key=lambda item: item[0])))


_Share: TypeAlias = tuple[bool, Fraction]  # (weight is zero, used slots per weight); least first


class _Line:
    """One queue during a plan: the next job that may be tried, and the pools that are held for an earlier one."""

    def __init__(self, work: Workspace, name: QueueName, now: Instant) -> None:
        self._work = work
        self._name = name
        self._queue: Queue | None = work.snapshot.queues.get(name)
        self._now = now
        self._held: set[PoolName] = set()
        self._hopeless: set[tuple[Lane, Resources, int]] = set()  # shapes refused without holding anything
        self._lanes: list[tuple[Turn, Lane, Iterator[Turn]]] = []
        for lane, order in work.snapshot.waitlist(name).lanes.items():
            turns = order.keys()
            self._lanes.append((next(turns), lane, turns))
        heapify(self._lanes)

    def share(self, reasons: dict[JobId, Waiting]) -> _Share | None:
        """Return the queue's place in the order of rule P1; None if it has no job left to try."""
        head = self._head(reasons)
        if head is None or self._queue is None:
            return None
        used = min(self._work.used(self._name, pool.name) for pool in head[1])
        return (self._queue.weight == 0, Fraction(used, self._queue.weight or 1))

    def try_head(self, reasons: dict[JobId, Waiting]) -> Admit | None:
        """Try the next job, and step behind it."""
        head = self._head(reasons)
        if head is None:
            return None
        job, pools = head
        result = nominate(self._work, job, pools)
        lane = self._lanes[0][1]
        self._step()
        if isinstance(result, Allocation):
            self._work.take(self._name, result)
            runner = self._work.snapshot.pools[result.pool].runner
            return Admit(job.id, result, runner)
        reasons[job.id] = result.waiting
        self._held |= result.holds  # rule P4
        if not result.holds:
            self._hopeless.add((lane, job.spec.resources, job.spec.replicas))
        return None

    def _head(self, reasons: dict[JobId, Waiting]) -> tuple[Job, tuple[Pool, ...]] | None:
        """Return the next job with the pools that are not held for an earlier one."""
        while self._lanes:
            turn, lane, _ = self._lanes[0]
            job = self._work.snapshot.jobs[turn[2]]
            eligible = self._work.eligible(lane)
            pools = tuple(pool for pool in eligible if pool.name not in self._held)
            if self._queue is None or not eligible:
                fault = mismatch(self._work.snapshot, job.spec, job.tenant, eligible)
                if fault is not None:
                    reasons[job.id] = fault
                heappop(self._lanes)  # what keeps this job out keeps out its whole lane
            elif not pools:
                heappop(self._lanes)  # the same for what is held
            elif self._is_passed_over(job, lane):
                self._step()
            else:
                return job, pools
        return None

    def _is_passed_over(self, job: Job, lane: Lane) -> bool:
        if job.not_before is not None and job.not_before > self._now:
            return True  # rule P6
        return (lane, job.spec.resources, job.spec.replicas) in self._hopeless

    def _step(self) -> None:
        _, lane, turns = self._lanes[0]
        following = next(turns, None)
        if following is None:
            heappop(self._lanes)
        else:
            heapreplace(self._lanes, (following, lane, turns))
