"""A workload through the real kernel on a virtual clock: what a city sees of its scheduler in a week.

No store, no runners: the rows are folded by `lifecycle.record`, the snapshot evolves by their changes, `plan` decides,
and every plan is checked against books of its own. The loop looks every 30 s, as often as something happened, and
every 5 min while something waits. An admitted attempt runs after `STARTUP_S`; a preempted one holds its slots for
`GRACE_S` more and goes on later from its last checkpoint; a lost node's attempts are proven dead after `FENCE_S`.

Measured per department and day, in slots of each pool over its capacity that was up, summed over the pools:

- *share*: what its jobs held; *entitlement*: see `factory.simulation.entitlement`, on what they held and waited for.
  A job's wish counts once it has waited for `RECLAIM_GRACE_S`: the time in which slots may still be on their way back
  to it (minimum run time of the borrower, notice, proof). Only time in which the department wants something counts.
  Nobody is entitled to a part of a job: where the smallest job that waits is larger than what is missing, nothing is
  missing. (`in_parts` is the entitlement without this.)
- *share within entitlement* is the stricter figure: what is held beyond the entitlement of the same moment does not
  make up for a lack at another.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from factory.domain.events import (
    Admitted,
    AttemptEnded,
    AttemptRunning,
    AttemptStarting,
    AttemptUnknown,
    Checkpointed,
    Event,
    PreemptRequested,
    Submitted,
)
from factory.domain.ids import AttemptId, JobId, NodeId, PoolName, QueueName
from factory.domain.jobs import AttemptState, EndReason, Job, Outcome
from factory.domain.pools import Node, NodeState
from factory.domain.resources import slots_in, slots_milli
from factory.domain.time import SECOND, Instant
from factory.lifecycle.stepping import next_attempt_id, record
from factory.scheduling.planning import Admit, Plan, Policy, Preempt, plan
from factory.scheduling.snapshot import Change, JobChanged, NodeChanged, Rows, Snapshot
from factory.simulation.entitlement import entitlements
from factory.simulation.workloads import Arrival, Workload
from factory.testing.plan_checks import Books

__all__ = ["CityRun", "Hour", "run_city"]

LOOK_S = 30
IDLE_LOOK_S = 300
STARTUP_S = 20
GRACE_S = 20
FENCE_S = 120
RECLAIM_GRACE_S = 900
HOUR = 3600 * SECOND
DAY = 24 * HOUR


@dataclass(slots=True)
class Hour:
    """One hour of one department in one pool, in slot-milliseconds over capacity (a share of the pool x time)."""

    share: float = 0.0
    entitled: float = 0.0  # in whole jobs
    within: float = 0.0  # share, as far as it is within the entitlement of the moment
    in_parts: float = 0.0  # entitled, if jobs could be cut


@dataclass(slots=True)
class CityRun:
    """What came of it."""

    workload: Workload
    policy: str
    hours: dict[tuple[QueueName, PoolName, int], Hour] = field(default_factory=dict)
    held: defaultdict[tuple[PoolName, int], float] = field(default_factory=lambda: defaultdict(float))  # slot-hours
    capacity: defaultdict[tuple[PoolName, int], float] = field(default_factory=lambda: defaultdict(float))
    waits_s: defaultdict[QueueName, list[float]] = field(default_factory=lambda: defaultdict(list))
    preempted: defaultdict[tuple[QueueName, int], float] = field(default_factory=lambda: defaultdict(float))
    preemptions: int = 0
    lost_slot_hours: float = 0.0  # work that preemptions threw away
    failed_slot_hours: float = 0.0  # work that lost nodes took with them
    ended: int = 0
    waiting_at_end: int = 0
    plans: int = 0


def run_city(workload: Workload, policy: str) -> CityRun:
    """Run the workload with every pool under `policy`.

    Raises: AssertionError: a plan broke a promise.
    """
    return _City(workload, policy).run()


@dataclass(slots=True)
class _Truth:
    """What only the future knows about a job, and how far it got."""

    arrival: Arrival
    slots_milli: int
    left_s: float
    began: Instant | None = None  # user code of the live attempt
    wanted: bool = False  # counts as demand


class _City:
    def __init__(self, workload: Workload, policy: str) -> None:
        self._load = workload
        pools = tuple(replace(pool, policy=policy) for pool in workload.pools)
        rows = Rows(pools, workload.nodes, workload.queues, (), (workload.runner,))
        self._pools = {pool.name: pool for pool in pools}
        self._books = Books(rows)
        self._snapshot = Snapshot.build(rows)
        self._policy = Policy()
        self._found = CityRun(workload, policy)
        self._agenda: list[tuple[Instant, int, Callable[[], None]]] = []
        self._count = 0
        self._out: list[Change] = []
        self._now = workload.begin
        self._truth: dict[JobId, _Truth] = {}
        self._waiting: set[JobId] = set()
        self._wishes: defaultdict[tuple[QueueName, PoolName], Counter[int]] = defaultdict(Counter)  # sizes, slots_milli
        self._node_slots = {node.id: self._slots_of(node) for node in workload.nodes}
        self._stirred = False
        self._accounted = workload.begin
        for number, arrival in enumerate(workload.arrivals):
            self._at(arrival.at, self._submitter(JobId(f"job-{number:05d}"), arrival))
        for outage in workload.outages:
            self._at(outage.at, self._loser(outage.node))
            self._at(outage.until, self._returner(outage.node))

    def run(self) -> CityRun:
        looked = self._now
        while self._now < self._load.end:
            self._now += LOOK_S * SECOND
            due = self._agenda and self._agenda[0][0] <= self._now
            hour_over = self._now % HOUR == 0
            idle = not self._waiting or self._now - looked < IDLE_LOOK_S * SECOND
            if not due and not hour_over and idle:
                continue
            self._account()
            while self._agenda and self._agenda[0][0] <= self._now:
                heapq.heappop(self._agenda)[2]()
            if self._waiting and (self._stirred or not idle):
                looked = self._now
                self._look()
        self._finish()
        return self._found

    def _look(self) -> None:
        changes, self._out, self._stirred = self._out, [], False
        self._snapshot = self._snapshot.evolve(changes)
        decided = plan(self._snapshot, self._policy, self._now)
        faults = self._books.faults(decided, self._now)
        assert not faults, faults[:3]
        self._found.plans += 1
        self._perform(decided)

    def _perform(self, decided: Plan) -> None:
        for decision in decided.decisions:
            job = self._books.jobs[decision.job_id]
            match decision:
                case Admit():
                    self._admit(job, decision)
                case Preempt():
                    self._record(job, PreemptRequested(self._now, decision.attempt_id, decision.for_job, epoch=1))
                    self._found.preemptions += 1
                    self._at(self._now + GRACE_S * SECOND, self._killer(job.id, decision.attempt_id))

    def _admit(self, job: Job, decision: Admit) -> None:
        id, truth = next_attempt_id(job), self._truth[job.id]
        if not job.attempts:
            self._found.waits_s[job.spec.queue].append((self._now - job.submitted_at) / SECOND)
        self._record(job, Admitted(self._now, id, decision.runner, decision.allocation, epoch=1))
        self._waiting.discard(job.id)
        self._unwish(job, truth)
        truth.began = None
        self._at(self._now + STARTUP_S * SECOND, self._starter(job.id, id))

    # -- what happens ------------------------------------------------------------------------------------------------

    def _submitter(self, id: JobId, arrival: Arrival) -> Callable[[], None]:
        def submit() -> None:
            spec = arrival.spec
            slot = self._pools[spec.pool or next(iter(self._pools))].flavor.slot
            slots = slots_milli(spec.resources, slot) * spec.replicas
            self._truth[id] = _Truth(arrival, slots, float(arrival.work_s))
            job, _, _ = record(None, Submitted(arrival.at, id, arrival.tenant, "key-1", spec))
            self._changed(job)
            self._queued(job)

        return submit

    def _queued(self, job: Job) -> None:
        self._waiting.add(job.id)
        since = len(job.attempts)

        def wish() -> None:
            if job.id not in self._waiting:
                return
            truth = self._truth[job.id]
            if len(self._books.jobs[job.id].attempts) == since and not truth.wanted:
                truth.wanted = True
                self._wishes[job.spec.queue, self._pool_of(job)][truth.slots_milli] += 1

        self._at(self._now + RECLAIM_GRACE_S * SECOND, wish)

    def _unwish(self, job: Job, truth: _Truth) -> None:
        if truth.wanted:
            truth.wanted = False
            sizes = self._wishes[job.spec.queue, self._pool_of(job)]
            sizes[truth.slots_milli] -= 1
            if not sizes[truth.slots_milli]:
                del sizes[truth.slots_milli]

    def _pool_of(self, job: Job) -> PoolName:
        assert job.spec.pool is not None, "every job of the week names its pool"
        return job.spec.pool

    def _starter(self, id: JobId, attempt: AttemptId) -> Callable[[], None]:
        def start() -> None:
            job = self._alive(id, attempt)
            if job is None or job.attempts[-1].state is not AttemptState.DESIRED:
                return
            truth = self._truth[id]
            job = self._record(job, AttemptStarting(self._now, attempt))
            self._record(job, AttemptRunning(self._now, attempt))
            truth.began = self._now
            self._at(self._now + round(truth.left_s * SECOND), self._ender(id, attempt))
            if (every_s := truth.arrival.checkpoint_s) is not None:
                self._at(self._now + every_s * SECOND, self._saver(id, attempt, every_s))

        return start

    def _saver(self, id: JobId, attempt: AttemptId, every_s: int) -> Callable[[], None]:
        def save() -> None:
            job = self._running(id, attempt)
            if job is not None:
                self._record(job, Checkpointed(self._now, attempt), stirs=False)
                self._at(self._now + every_s * SECOND, self._saver(id, attempt, every_s))

        return save

    def _ender(self, id: JobId, attempt: AttemptId) -> Callable[[], None]:
        def end() -> None:
            job = self._running(id, attempt)
            if job is not None:
                self._record(job, AttemptEnded(self._now, attempt, Outcome(EndReason.COMPLETED), proof="report"))
                self._found.ended += 1
                del self._truth[id]

        return end

    def _killer(self, id: JobId, attempt: AttemptId) -> Callable[[], None]:
        def kill() -> None:
            job = self._alive(id, attempt)
            if job is not None:
                lost = self._interrupted(id)
                self._found.lost_slot_hours += lost
                self._found.preempted[job.spec.queue, self._day()] += lost
                self._queued(
                    self._record(job, AttemptEnded(self._now, attempt, Outcome(EndReason.PREEMPTED), "report"))
                )

        return kill

    def _loser(self, node: NodeId) -> Callable[[], None]:
        def lose() -> None:
            row = self._books.nodes[node]
            self._emit(NodeChanged(node, replace(row, state=NodeState.LOST)), stirs=True)
            for job in sorted(self._books.jobs.values(), key=lambda job: job.id):
                live = job.live_attempt
                if live is not None and any(placement.node == node for placement in live.allocation.placements):
                    self._record(job, AttemptUnknown(self._now, live.id, "node lost"))
                    self._at(self._now + FENCE_S * SECOND, self._burier(job.id, live.id))

        return lose

    def _burier(self, id: JobId, attempt: AttemptId) -> Callable[[], None]:
        def bury() -> None:
            job = self._alive(id, attempt)
            if job is not None:
                self._found.failed_slot_hours += self._interrupted(id)
                lost = Outcome(EndReason.NODE_LOST)
                self._queued(self._record(job, AttemptEnded(self._now, attempt, lost, "self-fence")))

        return bury

    def _returner(self, node: NodeId) -> Callable[[], None]:
        def come_back() -> None:
            row = self._books.nodes[node]
            self._emit(NodeChanged(node, replace(row, state=NodeState.READY)), stirs=True)

        return come_back

    def _interrupted(self, id: JobId) -> float:
        """Take off what was saved; return the slot-hours that are lost."""
        truth = self._truth[id]
        if truth.began is None:
            return 0.0
        ran_s = (self._now - truth.began) / SECOND
        every = truth.arrival.checkpoint_s
        saved_s = ran_s // every * every if every is not None else 0.0
        truth.left_s -= saved_s
        truth.began = None
        return (ran_s - saved_s) / 3600 * truth.slots_milli / 1000

    def _alive(self, id: JobId, attempt: AttemptId) -> Job | None:
        job = self._books.jobs.get(id)
        live = None if job is None else job.live_attempt
        return job if live is not None and live.id == attempt else None

    def _running(self, id: JobId, attempt: AttemptId) -> Job | None:
        """Return the job if this attempt does its work: it is not being stopped, and its node is not lost."""
        job = self._alive(id, attempt)
        return job if job is not None and job.attempts[-1].state is AttemptState.RUNNING else None

    def _at(self, when: Instant, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._agenda, (when, self._count, act))

    def _record(self, job: Job, event: Event, *, stirs: bool = True) -> Job:
        after, _, _ = record(job, event)
        self._changed(after, stirs=stirs)
        return after

    def _changed(self, job: Job, *, stirs: bool = True) -> None:
        self._emit(JobChanged(job.id, job), stirs=stirs)

    def _emit(self, change: Change, *, stirs: bool) -> None:
        self._books.apply((change,))
        self._out.append(change)
        self._stirred |= stirs

    # -- accounts ----------------------------------------------------------------------------------------------------

    def _day(self) -> int:
        return (self._now - self._load.begin) // DAY

    def _account(self) -> None:
        """Book the time since the last call, in which nothing changed, on the hour that it lies in."""
        lasted, hour = self._now - self._accounted, (self._accounted - self._load.begin) // HOUR
        self._accounted = self._now
        if lasted == 0:
            return
        for pool in self._pools:
            nodes = self._books.nodes
            up = sum(
                s for id, s in self._node_slots.items() if nodes[id].pool == pool and nodes[id].state is NodeState.READY
            )
            held = {q.name: self._books.held_by(q.name, pool) for q in self._load.queues}
            wishes = {name: self._wishes[name, pool] for name in held}
            wanted = {name: held[name] + sum(size * n for size, n in wishes[name].items()) for name in held}
            self._found.held[pool, hour] += sum(held.values()) * lasted / HOUR / 1000
            self._found.capacity[pool, hour] += up * lasted / HOUR / 1000
            if up == 0:
                continue
            for name, entitled in entitlements(self._load.queues, pool, up, wanted).items():
                if wanted[name]:
                    entry = self._found.hours.setdefault((name, pool, hour), Hour())
                    has_part = 0 < entitled - held[name] < min(wishes[name], default=0)
                    whole = held[name] if has_part else entitled
                    entry.share += held[name] * lasted / up
                    entry.entitled += whole * lasted / up
                    entry.within += min(held[name], whole) * lasted / up
                    entry.in_parts += entitled * lasted / up

    def _slots_of(self, node: Node) -> int:
        return slots_in(node.capacity, self._pools[node.pool].flavor.slot)

    def _finish(self) -> None:
        self._account()
        self._found.waiting_at_end = len(self._waiting)
        for id in sorted(self._waiting):
            job = self._books.jobs[id]
            if not job.attempts:
                self._found.waits_s[job.spec.queue].append((self._now - job.submitted_at) / SECOND)
