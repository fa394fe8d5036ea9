"""Why a job is where it is, with its numbers: on demand, for one job, from the very plan that would be made now.

It sees the whole factory. Who shows it to a tenant leaves out the names of others (rule 9: `schemas.veil`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice

from factory.domain.ids import JobId, QueueName
from factory.domain.jobs import Job, JobState, Waiting, WaitReason
from factory.domain.pools import NodeState
from factory.domain.resources import slots_in
from factory.domain.time import SECOND, Instant
from factory.errors import NotFoundError
from factory.scheduling.cycle import Refused, Reservation, Stock
from factory.scheduling.fairshare import dominant_share
from factory.scheduling.feasibility import mismatch, obstacle
from factory.scheduling.planning import Planning, Policy
from factory.scheduling.quota import ENDLESS, ROOT, Level, quota_of
from factory.scheduling.reasons import counted, described, listed, number, precedence, slots, vector, waiting
from factory.scheduling.snapshot import Snapshot
from factory.scheduling.waiting import Lane, eligible_pools, lane_of

__all__ = ["Explanation", "explain", "why_in"]

_NAMED = 3  # names told of a list that may be long


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
    fair_share: Fraction | int = 0  # the queue's dominant share above quota, per weight: the least goes first
    helps: tuple[str, ...] = ()  # what would let it start sooner


def explain(snapshot: Snapshot, job_id: JobId, now: Instant, policy: Policy | None = None) -> Explanation:
    """Explain one job that has not ended.

    Raises: NotFoundError: the snapshot has no such job (it may have ended).
    """
    job = snapshot.jobs.get(job_id)
    if job is None:
        raise NotFoundError("job", job_id, hint="it may have ended; see: factory jobs list")
    queue = job.spec.queue
    pools = eligible_pools(snapshot.pools, lane_of(job.spec, job.tenant))
    place = snapshot.places.get(job_id)
    planning = None
    if place is not None:
        planning = Planning(snapshot, replace(policy or Policy(), max_decisions=ENDLESS), now)
        planning.run()
    why, start, helps = _why(snapshot, job, planning, now)
    nominal: int | None = 0 if pools else None
    for pool in pools:
        quota = quota_of(snapshot.queues.get(queue), pool.name)
        nominal = None if nominal is None or quota is None else nominal + quota.nominal_milli
    lines = snapshot.lines(queue)
    return Explanation(
        job_id=job_id,
        state=job.state,
        waiting=why,
        queue=queue,
        position=None if place is None else snapshot.waitlist(place.line).position(place.turn),
        queue_length=sum(len(waitlist) for _, waitlist in lines),
        share_milli=sum(snapshot.used.get((queue, pool.name), 0) for pool in pools),
        nominal_milli=nominal,
        expected_start=start,
        fair_share=0 if planning is None else dominant_share(planning.cycle, queue),
        helps=helps,
    )


_Why = tuple[Waiting | None, Instant | None, tuple[str, ...]]


def _why(snapshot: Snapshot, job: Job, planning: Planning | None, now: Instant) -> _Why:
    """Return the first reason that holds, when the job is expected to start, and what would help."""
    if job.state in (JobState.PENDING, JobState.SUSPENDED):
        return job.hold or waiting(WaitReason.PENDING_EVALUATION, f"the job is {job.state.value}"), None, ()
    if job.state is not JobState.QUEUED:
        return None, None, ()
    if (live := job.live_attempt) is not None:
        text = f"attempt {live.id} is {live.state.value}: the next one starts only after proof that it is dead"
        return waiting(WaitReason.PENDING_EVALUATION, text, attempt=live.id), None, ()
    assert planning is not None, "a job that is queued has a place"
    return why_in(planning, job, now)


def why_in(planning: Planning, job: Job, now: Instant) -> _Why:
    """Explain a queued job by a plan that was made with it."""
    snapshot = planning.snapshot
    lane = snapshot.places[job.id].lane
    stocks = planning.cycle.eligible(lane)
    fault = mismatch(snapshot, job.spec, job.tenant, tuple(stock.pool for stock in stocks))
    if fault is not None:
        return fault, None, ()
    if (admitted := planning.admitted(job.id)) is not None:
        text = f"fits pool '{admitted.allocation.pool}' now; the next plan decides"
        return waiting(WaitReason.PENDING_EVALUATION, text, pool=admitted.allocation.pool), now, ()
    if job.not_before is not None and job.not_before > now:
        left = -(-(job.not_before - now) // SECOND)
        text = f"backs off for {left} s after {counted(job.retries, 'retry', 'retries')}"
        why = waiting(WaitReason.PENDING_EVALUATION, text, not_before=job.not_before, retries=job.retries)
        return why, job.not_before, ()
    refused = planning.refused.get(job.id) or _late(planning, job, lane, stocks)
    if not refused:
        text = "fits now, but the plan before it was full; the next plan decides"
        return waiting(WaitReason.PENDING_EVALUATION, text), now, ()
    told = sorted(refused, key=lambda r: (r.is_hopeless, precedence(r.reason)))[0]
    stock = planning.cycle.stock(told.pool)
    tell = _Teller(planning, job, lane, stock, now)
    return tell.sentence(told), tell.expected_start(), tuple(tell.helps(told, stocks))


def _late(planning: Planning, job: Job, lane: Lane, stocks: tuple[Stock, ...]) -> tuple[Refused, ...]:
    """Return the refusals of a job that the plan passed over: one like it, or one before it, was refused."""
    walk = planning.lines.get(planning.snapshot.places[job.id].line)
    refused: list[Refused] = []
    for stock in stocks:
        held = None if walk is None else walk.held(stock, job)
        why = held or planning.cycle.refusal(job, lane, stock)
        if why is None:
            return ()
        refused.append(why)
    return tuple(refused)


class _Teller:
    """Writes the sentence for one job and pool."""

    def __init__(self, planning: Planning, job: Job, lane: Lane, stock: Stock, now: Instant) -> None:
        self._planning = planning
        self._snapshot = planning.snapshot
        self._job = job
        self._lane = lane
        self._stock = stock
        self._now = now
        self._pool = stock.pool.name
        self._needed = stock.slots_of(lane.asked) * lane.least

    def sentence(self, refused: Refused) -> Waiting:
        """Return the reason with its numbers."""
        match refused.reason:
            case WaitReason.RUNNER_UNREACHABLE:
                return self._unreachable()
            case WaitReason.EXCEEDS_MAX_QUOTA:
                return obstacle(self._snapshot, self._job.spec, self._stock.pool) or self._over_quota()
            case WaitReason.WAITING_FOR_QUOTA:
                return self._over_quota()
            case WaitReason.HELD_BY_RESERVATION:
                return self._held()
            case WaitReason.WAITING_FOR_PREEMPTION:
                return self._preempting()
            case _:
                return self._too_few_ready() if refused.is_hopeless else self._no_room()

    def expected_start(self) -> Instant | None:
        """Return when the job starts by what is kept for it; None = not known."""
        own = self._reservation(self._job.id)
        if own is None:
            return None
        return self._now + self._grace_ms() if own.is_claim else own.starts_at

    def helps(self, refused: Refused, stocks: tuple[Stock, ...]) -> Iterator[str]:
        """Say what would let it start sooner, as far as that is known."""
        lane, spec = self._lane, self._job.spec
        if refused.reason is WaitReason.GANG_DOES_NOT_FIT and lane.least > 1:
            room = min(self._room(), lane.least - 1)
            if room:
                yield f"a smaller gang: {counted(room, 'replica')} would fit pool '{self._pool}' now (min_replicas)"
        if refused.reason is WaitReason.WAITING_FOR_QUOTA and lane.least > 1:
            each = self._stock.slots_of(lane.asked)
            room = min(max(0, self._stock.available(spec.queue)) // each if each else 0, lane.least - 1)
            if room:
                yield f"a smaller gang: the quota has room for {counted(room, 'replica')} now (min_replicas)"
        if spec.estimate_s is None and refused.reason in (WaitReason.HELD_BY_RESERVATION, WaitReason.GANG_DOES_NOT_FIT):
            yield "an estimate of its run time, so that it may be filled in before what is reserved"
        tried = {stock.pool.name for stock in stocks}
        for name, pool in sorted(self._snapshot.pools.items()):
            if name in tried or (pool.tenant is not None and pool.tenant != self._job.tenant):
                continue
            other = self._planning.cycle.stock(name)
            freer = lane_of(replace(spec, pool=None, flavors=()), self._job.tenant)
            if pool in eligible_pools(self._snapshot.pools, freer) and (
                self._planning.cycle.refusal(self._job, freer, other) is None
            ):
                yield f"another flavor: it would fit pool '{name}' ({pool.flavor.name}) now"
        if (start := self.expected_start()) is not None and start - self._now > 4 * 3600 * SECOND:
            yield "off-peak hours: it is expected to start hours from now"

    def _unreachable(self) -> Waiting:
        nodes = len(self._stock.fleet.nodes)
        return waiting(
            WaitReason.RUNNER_UNREACHABLE,
            f"pool '{self._pool}' is out of reach: {counted(nodes, 'node')} lost, none ready"
            if nodes
            else f"pool '{self._pool}' has no nodes: its runner has not reported any",
            "it goes on when the runner is back; an operator can look with: factory nodes",
            pool=self._pool,
            nodes=nodes,
            lost=nodes,
        )

    def _over_quota(self) -> Waiting:
        stock, queue = self._stock, self._job.spec.queue
        level, is_borrowing = _binding(stock, queue)
        used, left = stock.used(level.queue), max(0, stock.available(queue))
        needs = f"needs {described(self._lane.asked, self._lane.least, self._needed)} in pool '{self._pool}'"
        if level.queue == ROOT:
            what = f"the queues below keep {number(stock.tree.retained)} of {slots(stock.capacity)} for themselves"
        else:
            limits = f"{number(level.subtree)} nominal"
            if level.borrowing and level.borrowing < ENDLESS:
                limits += f" + {number(level.borrowing)} borrowed at most"
            what = f"queue '{level.queue}' holds {number(used)} ({limits})"
        lent = self._lent()
        return waiting(
            WaitReason.BORROWING_LIMIT_REACHED if is_borrowing else WaitReason.WAITING_FOR_QUOTA,
            f"{needs}; {number(left)} free under its quota: {what}{self._lent_text(lent)}",
            "it starts when jobs that count for this quota end",
            pool=self._pool,
            queue=queue,
            asked_milli=self._needed,
            available_milli=left,
            used_milli=used,
            nominal_milli=level.subtree,
            lent_milli=lent[0],
        )

    def _no_room(self) -> Waiting:
        stock, lane = self._stock, self._lane
        free = slots_in(self._snapshot.fleet(self._pool).offered, stock.pool.flavor.slot)
        room = self._room()
        own = self._snapshot.used.get((self._job.spec.queue, self._pool), 0)
        others = max(0, stock.capacity - free - own)
        parts = [f"{number(free)} of {number(stock.capacity)} free", *self._holders(own, others)]
        if lane.least > 1:
            parts.append(f"{room} of its {lane.least} replicas would fit now")
        lent = self._lent()
        why = waiting(
            WaitReason.GANG_DOES_NOT_FIT,
            f"needs {described(lane.asked, lane.least, self._needed)} in pool '{self._pool}'; "
            f"{', '.join(parts)}{self._lent_text(lent)}",
            "it starts when enough of the running jobs end" + (", or sooner as a smaller gang" if room else ""),
            pool=self._pool,
            asked_milli=self._needed,
            free_milli=free,
            total_milli=stock.capacity,
            held_by_queue_milli=own,
            lent_milli=lent[0],
            asked_replicas=lane.least,
            fitting_replicas=room,
        )
        if stock.floor.can_fit(lane.shape, lane.least, lane.topology):
            return self._held()
        own_room = self._reservation(self._job.id)
        if own_room is not None and own_room.starts_at is not None:
            at = own_room.starts_at
            return replace(why, numbers=tuple(sorted((*why.numbers, ("reserved_at", at)))))
        return why

    def _held(self) -> Waiting:
        """It would fit, but room, or the quota, is kept for another job."""
        walk = self._planning.lines.get(self._snapshot.places[self._job.id].line)
        holder = None if walk is None else walk.held_by(self._pool)
        kept = next((r for r in self._stock.reservations if r.job_id == holder), None)
        if holder is None:
            kept = next((r for r in self._stock.reservations if r.job_id != self._job.id), None)
            holder = None if kept is None else kept.job_id
        who, of, numbers = "another job", "", dict[str, int | str]()
        if holder is not None and (other := self._snapshot.jobs.get(holder)) is not None:
            who, of = other.id, f" ({other.spec.replicas} x {vector(other.spec.resources)})"
            if other.spec.queue == self._job.spec.queue:
                who = f"{other.id} before it in queue '{other.spec.queue}'"
            numbers |= {"job": other.id, "asked_replicas": other.spec.replicas}
        until = ""
        if kept is not None and kept.starts_at is not None:
            until = f" until {_clock(kept.starts_at)}"
            numbers["until"] = kept.starts_at
        return waiting(
            WaitReason.HELD_BY_RESERVATION,
            f"it would fit, but room in pool '{self._pool}' is kept for {who}{of}{until}, which must not be starved",
            "a job that is expected to end before that may start; so would one of higher priority, or in another pool",
            pool=self._pool,
            **numbers,
        )

    def _preempting(self) -> Waiting:
        found = self._planning.preempting.get(self._job.id)
        leaving = len(found.victims) if found is not None else len(self._snapshot.claims.get(self._job.id, ()))
        grace = self._grace_ms() // SECOND
        return waiting(
            WaitReason.WAITING_FOR_PREEMPTION,
            f"{counted(leaving, 'job')} in pool '{self._pool}' {'makes' if leaving == 1 else 'make'} room for it "
            f"(within {grace} s)",
            "it starts when they have stopped; what they free is kept for it",
            pool=self._pool,
            victims=leaving,
            grace_s=grace,
        )

    def _too_few_ready(self) -> Waiting:
        fleet, lane = self._stock.fleet, self._lane
        ready, draining, lost = (fleet.count(s) for s in (NodeState.READY, NodeState.DRAINING, NodeState.LOST))
        most = fleet.largest_gang(lane.shape, lane.topology, {NodeState.READY})
        never = obstacle(self._snapshot, self._job.spec, self._stock.pool)
        if never is not None:
            return never
        return waiting(
            WaitReason.GANG_DOES_NOT_FIT,
            f"needs {lane.least} x {vector(lane.asked)} at once, but the ready nodes of pool '{self._pool}' could "
            f"hold at most {most} ({ready} ready, {draining} draining, {lost} lost)",
            "it can start when nodes come back; others are not held up meanwhile",
            pool=self._pool,
            asked_replicas=lane.least,
            largest_gang=most,
            ready=ready,
            draining=draining,
            lost=lost,
        )

    def _holders(self, own: int, others: int) -> Iterator[str]:
        jobs = self._snapshot.holders.get((self._job.spec.queue, self._pool))
        if jobs is not None:
            names = [id for _, id in islice(jobs.keys(), _NAMED)]
            rest = len(jobs) - len(names)
            yield f"{number(own)} held by {listed([*names, *([f'{rest} more of this queue'] if rest else [])])}"
        if others:
            yield f"{number(others)} held by other queues"

    def _lent(self) -> tuple[int, tuple[QueueName, ...], Instant | None]:
        """Return how much of the queue's own quota others hold, who, and when the first of it is expected back."""
        stock, queue = self._stock, self._job.spec.queue
        if queue not in stock.tree:
            return 0, (), None
        level = stock.tree[queue]
        unused = max(0, level.subtree - stock.used(queue))
        lent = max(0, unused - max(0, min(stock.available(queue), self._free_slots())))
        if not lent:
            return 0, (), None
        over = [(-stock.over(other.queue), other.queue) for other in stock.tree if other.queue not in (ROOT, queue)]
        borrowers = [
            name for amount, name in sorted(over) if amount < 0 and (name, self._pool) in self._snapshot.holders
        ]
        ends = [
            self._now + left
            for name in borrowers[:_NAMED]
            for (_, id), _ in islice(self._snapshot.holders[name, self._pool].items(), 100)
            if (left := self._planning.cycle.running_ms(self._snapshot.jobs[id])) is not None
        ]
        return lent, tuple(borrowers[:_NAMED]), min(ends, default=None)

    def _free_slots(self) -> int:
        return slots_in(self._snapshot.fleet(self._pool).offered, self._stock.pool.flavor.slot)

    def _lent_text(self, lent: tuple[int, tuple[QueueName, ...], Instant | None]) -> str:
        amount, borrowers, until = lent
        if not amount:
            return ""
        to = listed([f"'{name}'" for name in borrowers]) if borrowers else "other queues"
        return f"; {number(amount)} of its quota lent to {to}{f' until about {_clock(until)}' if until else ''}"

    def _room(self) -> int:
        """Return how many of its replicas fit now, past what is kept for others."""
        own = self._reservation(self._job.id)
        return self._stock.room(self._lane.shape) if own is None else self._stock.floor.room(self._lane.shape)

    def _reservation(self, job: JobId) -> Reservation | None:
        """Return what is kept for the job; if others are stopped for it, that, for it comes first."""
        kept = (r for r in self._stock.reservations if r.job_id == job)
        return min(kept, key=lambda r: not r.is_claim, default=None)

    def _grace_ms(self) -> int:
        found = self._planning.preempting.get(self._job.id)
        ids = (v.id for v in found.victims) if found is not None else self._snapshot.claims.get(self._job.id, ())
        graces = [self._snapshot.jobs[id].spec.grace_s for id in ids]
        return max(graces, default=0) * SECOND


def _binding(stock: Stock, queue: QueueName) -> tuple[Level, bool]:
    """Return the level that says how much is available, and whether it does by its borrowing limit."""
    path = stock.tree.path(queue)
    found, is_borrowing = path[-1], False
    above = ENDLESS
    for level in reversed(path):
        held = stock.used(level.queue)
        if level.queue == ROOT:
            above = max(0, stock.capacity - stock.tree.retained - held) if stock.tree.retained else ENDLESS
            continue
        limit = ENDLESS
        if level.borrowing < ENDLESS:
            limit = level.subtree - level.local - max(0, held - level.local) + level.borrowing
        if limit <= above:
            found, is_borrowing = level, 0 < level.borrowing < ENDLESS
        above = max(0, level.local - held) + min(above, limit)
    return found, is_borrowing


def _clock(at: Instant) -> str:
    """Write an instant as hours and minutes, UTC.

    >>> _clock(1_700_000_000_000)
    '22:13 UTC'
    """
    minutes = at // (60 * SECOND) % (24 * 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d} UTC"
