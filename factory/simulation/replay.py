"""What if: the jobs of a recorded period through the real kernel, on a virtual clock, with other settings.

Pure: a `Period` (who asked for what and when, how long it held its slots) and a `Fleet` (pools, nodes, queues as rows)
give an `Outcome`, the same every time. Jobs move by the real `lifecycle.step`, slots are given by the real
`scheduling.plan` on a snapshot that evolves.

What is assumed, since no log can tell it:

- R1 A job holds its slots as long as it really did, wherever it runs and whoever runs beside it; attempts that the
  factory or its machines cut short do not count.
- R2 A preempted job begins anew: what it did is lost. Its slots are free `STOP_MS` after the decision.
- R3 A gang that starts with fewer replicas takes longer in proportion.
- R4 A job whose length nobody knows (it never ran, or still runs) takes what it declared, else as long as the median of
  jobs of its queue and name, else of all. One that was withdrawn while it waited is withdrawn at that time if it still
  waits then.
- R5 Dependencies and gates are over when the job really was queued; nodes do not fail.
- R6 The scheduler looks when something happens and when its last plan asks to be asked again, at most once every
  `step_ms`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush

from factory.domain.events import (
    Admitted,
    AttemptEnded,
    AttemptRunning,
    CancelRequested,
    Event,
    PreemptRequested,
    Submitted,
)
from factory.domain.ids import AttemptId, JobId, NodeId, PoolName, QueueName, TenantId
from factory.domain.jobs import Attempt, EndReason, Job, JobSpec, JobState
from factory.domain.jobs import Outcome as Ending
from factory.domain.pools import Node, NodeState, Pool, Runner
from factory.domain.resources import slots_in
from factory.domain.tenancy import Queue, Quota
from factory.domain.time import SECOND, Instant
from factory.errors import InvalidRequestError, NotFoundError, UnknownPoolError, did_you_mean
from factory.lifecycle.stepping import next_attempt_id, step
from factory.scheduling.planning import Admit, Policy, plan
from factory.scheduling.snapshot import JobChanged, Rows, Snapshot

__all__ = [
    "Fleet",
    "Outcome",
    "Period",
    "PoolFigures",
    "Waits",
    "WhatIf",
    "Work",
    "changed",
    "fine_step_ms",
    "recorded_waits",
    "replay",
]

STOP_MS = 2 * SECOND
_UNKNOWN_MS = 60 * SECOND  # of a job of which nothing at all is known
_LOOKS = 6_000  # of the scheduler in a period, about: with more events it takes several together


@dataclass(frozen=True, slots=True)
class Fleet:
    """What is shared, and how."""

    pools: tuple[Pool, ...]
    nodes: tuple[Node, ...]
    queues: tuple[Queue, ...]


@dataclass(frozen=True, slots=True)
class Work:
    """One recorded job."""

    id: JobId
    tenant: TenantId
    spec: JobSpec
    submitted_at: Instant
    queued_at: Instant  # when it first waited for slots: its dependencies and gates were over
    held_ms: int | None  # how long it held its slots; None = not known
    started_at: Instant | None = None  # when it was first given slots
    withdrawn_at: Instant | None = None  # cancelled while it waited


@dataclass(frozen=True, slots=True)
class Period:
    """What was asked of the factory between two instants, what it was doing at the first one included."""

    since: Instant
    until: Instant
    works: tuple[Work, ...]


@dataclass(frozen=True, slots=True)
class WhatIf:
    """Other settings."""

    add_nodes: tuple[tuple[PoolName, int], ...] = ()
    quotas: tuple[tuple[QueueName, Quota], ...] = ()
    policies: tuple[tuple[PoolName, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Waits:
    """How long jobs waited for slots, from when they were queued; those that never started count as of the end."""

    jobs: int
    p50_ms: int
    p99_ms: int
    never_started: int
    slot_ms: int  # thousandths of a slot times milliseconds that they held in the period


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """How a pool was used in the period, in thousandths of a slot times milliseconds."""

    held: int
    offered: int

    @property
    def utilisation(self) -> float:
        """0..1; 0 without nodes."""
        return self.held / self.offered if self.offered else 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    queues: Mapping[QueueName, Waits]
    tenants: Mapping[TenantId, Waits]
    all: Waits
    pools: Mapping[PoolName, PoolFigures]
    ended: int  # jobs that ended in the period
    never_started: int
    preemptions: int
    makespan_ms: int  # from the beginning of the period to the last end
    looks: int  # how often the scheduler planned


def changed(fleet: Fleet, what: WhatIf, policies: Sequence[str]) -> Fleet:
    """Return the fleet with other settings.

    Args:
        policies: the names that a pool's policy may have.
    Raises: UnknownPoolError; NotFoundError: no such queue; InvalidRequestError: no such policy, a pool without nodes.
    """
    pools = {pool.name: pool for pool in fleet.pools}
    queues = {queue.name: queue for queue in fleet.queues}
    nodes = list(fleet.nodes)
    for pool, count in what.add_nodes:
        nodes.extend(_more_nodes(_known_pool(pools, pool).name, count, fleet.nodes))
    for name, quota in what.quotas:
        _known_pool(pools, quota.pool)
        if name not in queues:
            raise NotFoundError("queue", name, queues, hint="see: factory queues")
        kept = tuple(q for q in queues[name].quotas if q.pool != quota.pool)
        queues[name] = replace(queues[name], quotas=tuple(sorted((*kept, quota), key=lambda q: q.pool)))
    for pool, policy in what.policies:
        if policy not in policies:
            raise InvalidRequestError(
                f"there is no policy '{policy}'{did_you_mean(policy, policies)}",
                hint=f"policies: {', '.join(policies)}",
            )
        pools[pool] = replace(_known_pool(pools, pool), policy=policy)
    return Fleet(tuple(pools.values()), tuple(nodes), tuple(queues.values()))


def fine_step_ms(period: Period) -> int:
    """Return how often the scheduler shall look at most: at every event, unless there are many."""
    return 1 if 2 * len(period.works) <= _LOOKS else max(1, (period.until - period.since) // _LOOKS)


def replay(period: Period, fleet: Fleet, *, step_ms: int | None = None) -> Outcome:
    """Return what comes of the period's jobs on this fleet. Jobs that wait at its end still run to their own end."""
    world = _World(period, fleet, step_ms or fine_step_ms(period))
    world.run()
    return world.outcome()


def recorded_waits(period: Period) -> tuple[int, int]:
    """Return how long the period's jobs really waited, median and 99 of 100, in ms: how near the replay comes."""
    waits = sorted(
        max(0, min(work.started_at or work.withdrawn_at or period.until, period.until) - work.queued_at)
        for work in period.works
        if work.started_at is None or work.started_at >= period.since
    )
    return _quantile(waits, 0.5), _quantile(waits, 0.99)


def _known_pool(pools: Mapping[PoolName, Pool], name: PoolName) -> Pool:
    if name not in pools:
        raise UnknownPoolError(name, pools)
    return pools[name]


def _more_nodes(pool: PoolName, count: int, nodes: Iterable[Node]) -> Iterable[Node]:
    """Return `count` nodes of the pool's most frequent kind."""
    mine = [node for node in nodes if node.pool == pool]
    if not mine:
        raise InvalidRequestError(f"pool '{pool}' has no node that more could be like", hint="see: factory nodes")
    kinds = Counter((n.capacity, n.devices, n.gpu_model, n.zone) for n in mine)
    kind = min(kinds, key=lambda k: (-kinds[k], k))
    model = min((n for n in mine if (n.capacity, n.devices, n.gpu_model, n.zone) == kind), key=lambda n: n.id)
    for number in range(1, count + 1):
        yield replace(model, id=NodeId(f"{pool}-added-{number}"), state=NodeState.READY, host="", ray_node_id="")


@dataclass(slots=True)
class _Tally:
    """What one job came to."""

    work: Work
    counts: bool  # it waits in the period: not one that already ran at its beginning
    started_at: Instant | None = None
    ended_at: Instant | None = None
    slot_ms: int = 0


@dataclass(order=True, slots=True)
class _Happening:
    """Something at a time; `number` keeps the order of those of one time."""

    at: Instant
    number: int
    kind: str = field(compare=False)  # "submit", "end", "stopped", "withdraw"
    id: JobId = field(compare=False)
    attempt: AttemptId | None = field(compare=False, default=None)


class _World:
    def __init__(self, period: Period, fleet: Fleet, step_ms: int) -> None:
        self._period = period
        self._fleet = fleet
        self._step_ms = step_ms
        runners = sorted({pool.runner for pool in fleet.pools})
        self._snapshot = Snapshot.build(
            Rows(
                pools=fleet.pools,
                nodes=fleet.nodes,
                queues=fleet.queues,
                runners=tuple(Runner(id, "replay", period.since) for id in runners),
            )
        )
        self._lengths = _Lengths(period.works)
        self._jobs: dict[JobId, Job] = {}
        self._tallies: dict[JobId, _Tally] = {}
        self._held: Counter[PoolName] = Counter()
        self._waiting = 0
        self._preemptions = 0
        self._looks = 0
        self._wake_at: Instant | None = None  # when time alone changes what the last plan said
        self._heap: list[_Happening] = []
        self._numbers = 0
        for work in sorted(period.works, key=lambda w: (w.queued_at, w.submitted_at, w.id)):
            if (first := self._entry(work)) is not None:
                self._put(first, "submit", work.id)
        heapify(self._heap)

    def run(self) -> None:
        now = self._period.since
        while (due := self._due()) is not None:
            now = max(now, -(-due // self._step_ms) * self._step_ms)
            touched: dict[JobId, None] = {}
            while self._heap and self._heap[0].at <= now:
                happening = heappop(self._heap)
                if self._happen(happening, now):
                    touched[happening.id] = None
            self._evolve(touched)
            self._look(now)

    def outcome(self) -> Outcome:
        until = self._period.until
        for id, job in self._jobs.items():
            if (live := job.live_attempt) is not None:
                self._count_held(id, live, until)
        offered: Counter[PoolName] = Counter()
        slots = {pool.name: pool.flavor.slot for pool in self._fleet.pools}
        for node in self._fleet.nodes:
            if node.state is NodeState.READY and node.pool in slots:
                offered[node.pool] += slots_in(node.capacity, slots[node.pool]) * (until - self._period.since)
        tallies = [tally for _, tally in sorted(self._tallies.items())]
        by_queue: dict[QueueName, list[_Tally]] = {}
        by_tenant: dict[TenantId, list[_Tally]] = {}
        for tally in tallies:
            by_queue.setdefault(tally.work.spec.queue, []).append(tally)
            by_tenant.setdefault(tally.work.tenant, []).append(tally)
        whole = self._waits(tallies)
        ends = [tally.ended_at for tally in tallies if tally.ended_at is not None]
        return Outcome(
            queues={name: self._waits(by_queue[name]) for name in sorted(by_queue)},
            tenants={name: self._waits(by_tenant[name]) for name in sorted(by_tenant)},
            all=whole,
            pools={name: PoolFigures(self._held[name], offered[name]) for name in sorted(slots)},
            ended=sum(1 for end in ends if end <= until),
            never_started=whole.never_started,
            preemptions=self._preemptions,
            makespan_ms=max(ends, default=self._period.since) - self._period.since,
            looks=self._looks,
        )

    def _due(self) -> Instant | None:
        """Return when to look next (rule R6); None: nothing will happen any more."""
        happens = self._heap[0].at if self._heap else None
        wakes = self._wake_at if self._waiting else None
        if happens is None:  # only what never ends runs: time may still let somebody be preempted, but not for ever
            return wakes if wakes is not None and wakes < self._period.until else None
        return happens if wakes is None else min(happens, wakes)

    # -- what happens ------------------------------------------------------------------------------------------------

    def _entry(self, work: Work) -> Instant | None:
        """Return when a job enters; None: it was over, or not there yet."""
        period = self._period
        ended = None
        if work.started_at is not None and work.held_ms is not None:
            ended = work.started_at + work.held_ms
        over = work.withdrawn_at if work.withdrawn_at is not None and work.started_at is None else ended
        if work.queued_at >= period.until or (over is not None and over <= period.since):
            return None
        return max(work.queued_at, period.since)

    def _put(self, at: Instant, kind: str, id: JobId, attempt: AttemptId | None = None) -> None:
        self._numbers += 1
        heappush(self._heap, _Happening(at, self._numbers, kind, id, attempt))

    def _happen(self, what: _Happening, now: Instant) -> bool:
        """Let it happen; False: it means nothing any more."""
        match what.kind:
            case "submit":
                self._submit(self._lengths.works[what.id], now)
                return True
            case "withdraw":
                job = self._jobs.get(what.id)
                if job is None or job.state is not JobState.QUEUED or job.live_attempt is not None:
                    return False
                self._move(job, CancelRequested(now, "replay"))
                self._waiting -= 1
                return True
            case _:
                job = self._jobs[what.id]
                live = job.live_attempt
                if live is None or live.id != what.attempt or (live.stop is not None) != (what.kind == "stopped"):
                    return False
                reason = EndReason.PREEMPTED if what.kind == "stopped" else EndReason.COMPLETED
                self._end(job, live, reason, what.at)  # its slots are found free at the next look
                return True

    def _submit(self, work: Work, now: Instant) -> None:
        job = step(None, Submitted(work.submitted_at, work.id, work.tenant, "replay", work.spec)).job
        self._jobs[work.id] = job
        ran_already = work.started_at is not None and work.started_at < self._period.since
        self._tallies[work.id] = _Tally(work, counts=not ran_already)
        self._waiting += 1
        if work.withdrawn_at is not None and work.started_at is None:
            self._put(max(now, work.withdrawn_at), "withdraw", work.id)

    def _end(self, job: Job, live: Attempt, reason: EndReason, now: Instant) -> None:
        self._count_held(job.id, live, now)
        moved = self._move(job, AttemptEnded(now, live.id, Ending(reason), "report"))
        if moved.is_terminal:
            self._tallies[job.id].ended_at = now
        else:
            self._waiting += 1

    def _move(self, job: Job, event: Event) -> Job:
        moved = step(job, event).job
        self._jobs[job.id] = moved
        return moved

    def _count_held(self, id: JobId, attempt: Attempt, end: Instant) -> None:
        first, last = max(attempt.admitted_at, self._period.since), min(end, self._period.until)
        held = attempt.allocation.slots_milli * max(0, last - first)
        self._held[attempt.allocation.pool] += held
        self._tallies[id].slot_ms += held

    # -- what the scheduler does -------------------------------------------------------------------------------------

    def _evolve(self, ids: Iterable[JobId]) -> None:
        self._snapshot = self._snapshot.evolve([JobChanged(id, self._jobs[id]) for id in sorted(ids)])

    def _look(self, now: Instant) -> None:
        policy = Policy()
        self._wake_at = None
        while self._waiting:
            self._looks += 1
            made = plan(self._snapshot, policy, now)
            self._wake_at = made.wake_at
            preempts = False
            for decision in made.decisions:
                job = self._jobs[decision.job_id]
                if isinstance(decision, Admit):
                    self._admit(job, decision, now)
                else:
                    self._move(job, PreemptRequested(now, decision.attempt_id, decision.for_job, 1))
                    self._preemptions += 1
                    preempts = True
                    self._put(now + STOP_MS, "stopped", job.id, decision.attempt_id)
            self._evolve({decision.job_id for decision in made.decisions})
            # a plan gives all there is; it looks for victims for the first of each queue only
            if not preempts and len(made.decisions) < policy.max_decisions:
                return

    def _admit(self, job: Job, decision: Admit, now: Instant) -> None:
        attempt = next_attempt_id(job)
        admitted = self._move(job, Admitted(now, attempt, decision.runner, decision.allocation, 1))
        self._move(admitted, AttemptRunning(now, attempt))
        self._waiting -= 1
        tally = self._tallies[job.id]
        if tally.started_at is None:
            tally.started_at = now
        length = self._lengths.of(tally.work)
        if not tally.counts and len(job.attempts) == 0 and tally.work.started_at is not None:
            length = max(1, length - (now - tally.work.started_at))  # it was under way when the period began
        replicas = len(decision.allocation.placements)
        if replicas < job.spec.replicas:  # rule R3
            length = length * job.spec.replicas // replicas
        self._put(now + length, "end", job.id, attempt)

    def _waits(self, tallies: Sequence[_Tally]) -> Waits:
        counted = [tally for tally in tallies if tally.counts]
        withdrawn = [t for t in counted if t.started_at is None and t.work.withdrawn_at is not None]
        waits = sorted(self._wait(tally) for tally in counted)
        return Waits(
            jobs=len(counted),
            p50_ms=_quantile(waits, 0.5),
            p99_ms=_quantile(waits, 0.99),
            never_started=sum(1 for t in counted if t.started_at is None) - len(withdrawn),
            slot_ms=sum(tally.slot_ms for tally in tallies),
        )

    def _wait(self, tally: _Tally) -> int:
        end = tally.started_at
        if end is None:
            end = min(tally.work.withdrawn_at or self._period.until, self._period.until)
        return max(0, end - tally.work.queued_at)


class _Lengths:
    """How long jobs hold their slots (rules R1, R4)."""

    def __init__(self, works: Iterable[Work]) -> None:
        self.works = {work.id: work for work in works}
        alike: dict[tuple[QueueName, str], list[int]] = {}
        everything: list[int] = []
        for work in self.works.values():
            if work.held_ms is not None:
                alike.setdefault((work.spec.queue, work.spec.name), []).append(work.held_ms)
                everything.append(work.held_ms)
        self._alike = {key: _quantile(sorted(held), 0.5) for key, held in alike.items()}
        self._any = _quantile(sorted(everything), 0.5) if everything else _UNKNOWN_MS

    def of(self, work: Work) -> int:
        if work.held_ms is not None:
            return max(1, work.held_ms)
        if work.spec.estimate_s is not None:
            return work.spec.estimate_s * SECOND
        return max(1, self._alike.get((work.spec.queue, work.spec.name), self._any))


def _quantile(ordered: Sequence[int], part: float) -> int:
    """Return the least value that `part` of all do not exceed (nearest rank); 0 of none."""
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)] if ordered else 0
