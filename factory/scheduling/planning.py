"""Who starts now and where, and who makes room: the scheduler's decision as a value.

Rules (docs/adr/0009; whose turn it is: `fairshare`; who makes room: `preempting`)
    P1  Jobs for which others were preempted go first, in the order of their keys: freed slots are for the preemptor.
    P2  In each pool, room is kept for one gang that its quota admits and the nodes do not: for the one that has waited
        longest, or, as the policy says, the first in turn. It starts when the expected ends of running jobs make room
        on named nodes; where these are not known, on the nodes that are the freest already.
    P3  Room is kept for a preemptor until its victims are gone.
    P4  Others start beside what is kept only if they leave enough of it, or are expected to end before it is needed.
        Whose run time is unknown never starts past a reservation.
    P5  A job that waits for its queue's quota holds that pool's quota for itself: later jobs of its queue start there
        only if they are expected to end before it can start.
    P6  A gang starts whole, or with as many replicas as fit, but never fewer than `min_replicas`. Whole in any of its
        pools comes before fewer in the best of them; both come before preempting.
    P7  A job that backs off is passed over until its time. Nothing goes over a quota, a node or a device.

Each decision changes what is left for the next. What asks for the very same is tried once in a plan (a lane, see
`waiting`), but the head of a queue is always tried. `explain` tells anyone's reason with its numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from typing import TypeAlias
from zlib import crc32

from factory.domain.ids import AttemptId, JobId, PoolName, RunnerId
from factory.domain.jobs import Allocation, Job, WaitReason
from factory.domain.time import SECOND, Instant
from factory.scheduling.cycle import Cycle, Fit, Policy, Refused, Reservation, Stock
from factory.scheduling.fairshare import Head, Tournament
from factory.scheduling.preempting import Preemption, search
from factory.scheduling.reasons import precedence
from factory.scheduling.reserving import claim_of, quota_opens_at, reserve
from factory.scheduling.snapshot import Snapshot
from factory.scheduling.waiting import Lane, Line, Place, Turn, Waitlist, is_sound

__all__ = ["Admit", "Decision", "Plan", "Planning", "Policy", "Preempt", "plan"]

_ROUNDS = 64  # seconds within which everybody's victims are looked for, however many jobs there are
_STEPS = 64  # jobs of dropped lanes that are stepped over one by one, before lanes are looked at instead


@dataclass(frozen=True, slots=True)
class Admit:
    """Give the job these slots; the runner shall start an attempt on them."""

    job_id: JobId
    allocation: Allocation
    runner: RunnerId


@dataclass(frozen=True, slots=True)
class Preempt:
    """Stop the attempt, so that `for_job` can have its slots."""

    job_id: JobId
    attempt_id: AttemptId
    for_job: JobId


Decision: TypeAlias = Admit | Preempt
IsOpen: TypeAlias = Callable[[Job], bool]


@dataclass(frozen=True, slots=True)
class Plan:
    """Decisions in the order in which they were made, and why the jobs that were tried in vain wait, by job id."""

    decisions: tuple[Decision, ...]
    waiting: tuple[tuple[JobId, WaitReason], ...]
    wake_at: Instant | None = None  # plan again then, even if nothing changes


def plan(snapshot: Snapshot, policy: Policy, now: Instant) -> Plan:
    """Decide who starts now. Same snapshot content, policy and time: same plan (rule 11)."""
    planning = Planning(snapshot, policy, now)
    planning.run()
    return planning.result()


class Planning:
    """A plan in the making; `explain` looks into it afterwards."""

    def __init__(self, snapshot: Snapshot, policy: Policy, now: Instant) -> None:
        self.cycle = Cycle(snapshot, policy, now)
        self.snapshot = snapshot
        self.policy = policy
        self.now = now
        self.decisions: list[Decision] = []
        self.refused: dict[JobId, tuple[Refused, ...]] = {}
        self.preempting: dict[JobId, Preemption] = {}  # by preemptor, of this plan
        self.lines: dict[Line, _Walk] = {}
        self._dealt_with: set[JobId] = set()  # before the turns began

    def run(self) -> None:
        """Decide."""
        self._honour_claims()
        walks = {
            line: _Walk(self.cycle, line, waitlist, self._is_open) for line, waitlist in self.snapshot.waiting.items()
        }
        self.lines = walks
        self._keep_room(walks)
        heads = {line: head for line, walk in walks.items() if (head := walk.head()) is not None}
        turns = Tournament(self.cycle, heads.values())
        while (head := turns.first()) is not None and len(self.decisions) < self.policy.max_decisions:
            walk = walks[head.line]
            self._try(walk)
            turns.replace(head.line, walk.head())

    def result(self) -> Plan:
        """Return what was decided."""
        waiting = [
            (id, min((r.reason for r in refused), key=precedence)) for id, refused in self.refused.items() if refused
        ]
        return Plan(tuple(self.decisions), tuple(sorted(waiting)), self._wake_at())

    def admitted(self, id: JobId) -> Admit | None:
        """Return the decision that started the job, if there is one."""
        return next((d for d in self.decisions if isinstance(d, Admit) and d.job_id == id), None)

    def _is_open(self, job: Job) -> bool:
        """Whether the job may be tried: it does not back off, and was not dealt with before the turns began."""
        return self._may_start(job) and job.id not in self._dealt_with

    def _honour_claims(self) -> None:
        """Rules P1 and P3."""
        claims = [
            (place.turn, place.lane, id)
            for id in self.snapshot.claims
            if (place := self.snapshot.places.get(id)) is not None
        ]
        for turn, lane, id in sorted(claims):
            job = self.snapshot.jobs[id]
            claim = claim_of(self.cycle, job)
            if claim is None or not self._may_start(job):
                continue
            for stock in self.cycle.eligible(lane):
                if stock.pool.name not in claim.pools:
                    continue
                found = self.cycle.try_pool(job, lane, stock, least=lane.least)
                if isinstance(found, Fit):
                    self._admit(job, found.allocation)
                    self._dealt_with.add(id)
                elif claim.is_open and claim.keep(self.cycle, job, lane, stock):
                    self.refused[id] = (Refused(WaitReason.WAITING_FOR_PREEMPTION, stock.pool.name),)
                    self._dealt_with.add(id)
                break

    def _may_start(self, job: Job) -> bool:
        return job.not_before is None or job.not_before <= self.now

    def _keep_room(self, walks: dict[Line, _Walk]) -> None:
        """Rule P2 where it is age that decides: before anybody's turn, so that nobody takes the room first."""
        heads = [(walk.aged(), line, walk) for line, walk in walks.items()]
        for _, _, walk in sorted((entry for entry in heads if entry[0] is not None), key=lambda entry: entry[:2]):
            place = walk.place()
            if place is None:
                continue
            job = self.snapshot.jobs[place.turn[2]]
            for stock in self.cycle.eligible(place.lane):
                if not stock.order.keeps_for_oldest or stock.reservations:
                    continue
                why = self.cycle.refusal(job, place.lane, stock, place.lane.least)
                if why is None:
                    break
                if why.reason is WaitReason.GANG_DOES_NOT_FIT and not why.is_hopeless:
                    reserve(self.cycle, job, place.lane, stock)
                    break

    def _try(self, walk: _Walk) -> None:
        """Try the next job of a line, and step behind it."""
        place = walk.place()
        if place is None:  # pragma: no cover - a line without a head has no turn
            return
        job, lane = self.snapshot.jobs[place.turn[2]], place.lane
        fit, refused = self._find(walk, job, lane)
        if fit is not None:
            self._admit(job, fit)
            walk.step()
            return
        preemption = self._preempt(job, place, refused)
        if preemption is not None:
            self.refused[job.id] = (Refused(WaitReason.WAITING_FOR_PREEMPTION, preemption.allocation.pool),)
            walk.step()
            return
        self.refused[job.id] = refused
        for why in refused:
            stock = self.cycle.stock(self.snapshot.pools[why.pool])
            if why.is_hopeless:
                continue
            if why.reason is WaitReason.WAITING_FOR_QUOTA:
                walk.hold(stock, job, lane)
            elif why.reason is WaitReason.GANG_DOES_NOT_FIT and not stock.reservations and stock.order.keeps_room:
                reserve(self.cycle, job, lane, stock)
        walk.drop(lane)

    def _find(self, walk: _Walk, job: Job, lane: Lane) -> tuple[Allocation | None, tuple[Refused, ...]]:
        """Rule P6: whole in any pool, then smaller in any pool."""
        refused: list[Refused] = []
        sizes = (job.spec.replicas, lane.least) if lane.least < job.spec.replicas else (lane.least,)
        for least in sizes:
            refused.clear()
            for stock in self.cycle.eligible(lane):
                if (holder := walk.holder(stock, job)) is not None:
                    refused.append(holder)
                    continue
                found = self.cycle.try_pool(job, lane, stock, least=least)
                if isinstance(found, Fit):
                    return found.allocation, ()
                refused.append(found)
        return None, tuple(refused)

    def _preempt(self, job: Job, place: Place, refused: tuple[Refused, ...]) -> Preemption | None:
        for why in refused:
            if why.is_hopeless or why.reason not in (WaitReason.WAITING_FOR_QUOTA, WaitReason.GANG_DOES_NOT_FIT):
                continue
            stock = self.cycle.stock(self.snapshot.pools[why.pool])
            if not self._may_search(stock, job):
                continue
            stock.searches += 1
            found = search(self.cycle, job, place.lane, place.turn, stock)
            if found is None:
                continue
            for victim in found.victims:
                live = victim.live_attempt
                assert live is not None
                self.decisions.append(Preempt(victim.id, live.id, job.id))
                stock.stopping.add(victim.id)
            self.preempting[job.id] = found
            kept = Reservation(job.id, job.spec.queue, found.allocation.placements, None, is_claim=True)
            stock.reserve(kept, found.room)
            stock.count(job.spec.queue, found.allocation.slots_milli)
            return found
        return None

    def _may_search(self, stock: Stock, job: Job) -> bool:
        """Bound the work of one plan; those who were not looked at get their turn in plans of other seconds."""
        if stock.searches < self.policy.searches:
            return True
        return (crc32(job.id.encode()) + self.now // SECOND) % _ROUNDS == 0

    def _admit(self, job: Job, allocation: Allocation) -> None:
        pool = self.snapshot.pools[allocation.pool]
        self.cycle.stock(pool).take(job.spec.queue, allocation, self.cycle.ends_at(job))
        self.decisions.append(Admit(job.id, allocation, pool.runner))
        self.refused.pop(job.id, None)

    def _wake_at(self) -> Instant | None:
        """Return when time alone makes a difference: a policy's keys change, or somebody may be preempted."""
        wakes = [stock.quiet_until for stock in self.cycle.stocks if stock.quiet_until is not None]
        for stock in self.cycle.stocks:
            wakes.extend(_key_changes(self.cycle, stock))
        return min((at for at in wakes if at > self.now), default=None)


def _key_changes(cycle: Cycle, stock: Stock) -> Iterator[Instant]:
    if not stock.order.is_timed:
        return
    for (_, pool), holders in cycle.snapshot.holders.items():
        if pool == stock.pool.name:
            for id in holders.keys():
                if (at := stock.order.changes_at(cycle.snapshot.jobs[id], cycle.now)) is not None:
                    yield at


class _Walk:
    """A line during a plan: the next job that may be tried, lanes that were, and pools whose quota is held."""

    def __init__(self, cycle: Cycle, line: Line, waitlist: Waitlist, is_open: IsOpen) -> None:
        self._cycle = cycle
        self._line = line
        self._waitlist = waitlist
        self._is_open = is_open
        self._dropped: set[Lane] = set()
        self._passed = 0
        self._held: dict[PoolName, tuple[JobId, Lane]] = {}
        self._opens: dict[PoolName, Instant | None] = {}
        self._turns: Iterator[tuple[Turn, Lane]] = waitlist.order.items()
        self._next: tuple[Turn, Lane] | None = None
        self._is_unknown = line[0] not in cycle.snapshot.queues
        self.step()

    def place(self) -> Place | None:
        """Return the next job that may be tried."""
        return None if self._next is None else Place(self._line, self._next[1], self._next[0])

    def aged(self) -> Turn | None:
        """Return the turn of the next job, to compare with others of the same policy."""
        return None if self._next is None else self._next[0]

    def head(self) -> Head | None:
        """Return what decides whose turn it is."""
        if self._next is None:
            return None
        turn, lane = self._next
        stocks = self._cycle.eligible(lane)
        stock = next((stock for stock in stocks if stock.pool.name not in self._held), stocks[0])
        return Head(self._line, turn, stock, stock.slots_of(lane.asked) * lane.replicas)

    def holder(self, stock: Stock, job: Job) -> Refused | None:
        """Rule P5: the refusal, if an earlier job of the line holds the pool's quota against this one."""
        name = stock.pool.name
        if name not in self._held:
            return None
        holder, lane = self._held[name]
        ends_at = self._cycle.ends_at(job)
        if ends_at is not None:
            if name not in self._opens:
                needed = stock.slots_of(lane.asked) * lane.least
                self._opens[name] = quota_opens_at(self._cycle, stock, self._line[0], needed)
            opens_at = self._opens[name]
            if opens_at is not None and ends_at <= opens_at:
                return None
        return Refused(WaitReason.HELD_BY_RESERVATION, name)

    def held_by(self, pool: PoolName) -> JobId | None:
        """Return the job that holds the pool's quota."""
        held = self._held.get(pool)
        return None if held is None else held[0]

    def hold(self, stock: Stock, job: Job, lane: Lane) -> None:
        """Let later jobs of the line leave this pool's quota alone."""
        self._held.setdefault(stock.pool.name, (job.id, lane))

    def drop(self, lane: Lane) -> None:
        """Try no other job of this lane in this plan."""
        self._dropped.add(lane)
        self._passed += 1
        self.step()

    def step(self) -> None:
        """Go on to the next job that may be tried."""
        self._next = None
        if self._is_unknown or self._passed > self._cycle.policy.depth:
            return None
        skipped = 0
        for turn, lane in self._turns:
            if lane not in self._dropped and self._can_use(lane):
                if self._is_open(self._cycle.snapshot.jobs[turn[2]]):
                    self._next = turn, lane
                    return None
                continue
            skipped += 1
            if skipped == _STEPS:
                self._turns = self._by_lanes(turn)
                return self.step()
        return None

    def _can_use(self, lane: Lane) -> bool:
        stocks = self._cycle.eligible(lane)
        if (
            not stocks
            or not is_sound(lane)
            or (lane.length < 0 and all(stock.pool.name in self._held for stock in stocks))
        ):
            self._dropped.add(lane)
            return False
        return True

    def _by_lanes(self, after: Turn) -> Iterator[tuple[Turn, Lane]]:
        """Iterate over the jobs after `after` in lanes that are not dropped yet, in order."""
        heads: list[tuple[Turn, Lane, Iterator[tuple[Turn, JobId]]]] = []
        for lane, order in self._waitlist.lanes.items():
            if lane not in self._dropped:
                items = order.after(after)
                if (first := next(items, None)) is not None:
                    heads.append((first[0], lane, items))
        heapify(heads)
        while heads:
            turn, lane, items = heads[0]
            if lane in self._dropped:
                heappop(heads)
                continue
            yield turn, lane
            following = next(items, None)
            if following is None:
                heappop(heads)
            else:
                heapreplace(heads, (following[0], lane, items))
