"""Who starts now and where, and who makes room: the scheduler's decision as a value.

Rules (docs/adr/0009; whose turn it is: `fairshare`; who makes room: `preempting`)
    P1  Jobs for which others were preempted go first, in the order of their keys: freed slots are for the preemptor.
    P2  In each pool, room is kept for one gang that its quota admits and the nodes do not: for the one that has waited
        longest, or, as the policy says, the first in turn. It starts when the expected ends of running jobs make room
        on named nodes; where these are not known, on the nodes that are the freest already.
    P3  Room is kept for a preemptor until its victims are gone.
    P4  Others start beside what is kept only if they leave enough of it, or are expected to end before it is needed.
        Whose run time is unknown never starts past a reservation.
    P5  The first job of a queue that waits for its quota holds that pool's quota for itself: later jobs of its queue
        start there only if they are expected to end before it can start.
    P6  A gang starts whole, or with as many replicas as fit, but never fewer than `min_replicas`. Whole in any of its
        pools comes before fewer in the best of them; both come before preempting.
    P7  Victims are looked for only for the first few jobs of a queue; behind them others are filled in.
    P8  A job that backs off is passed over until its time. Nothing goes over a quota, a node or a device.
    P9  In each pool, the oldest that fits goes before all turns once it has waited longer than six hours and three
        times as long as all that wait do on average: what others always outrun when it would fit is served at last.

Each decision changes what is left for the next. What asks for the very same is tried once in a plan (a lane, see
`waiting`), but the head of a queue is always tried. `explain` tells anyone's reason with its numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from typing import TypeAlias

from factory.domain.ids import AttemptId, JobId, PoolName, RunnerId
from factory.domain.jobs import Allocation, Job, WaitReason
from factory.domain.time import SECOND, Instant
from factory.scheduling.cycle import Cycle, Fit, Policy, Refused, Reservation, Stock
from factory.scheduling.fairshare import Head, Tournament
from factory.scheduling.persistent import SortedMap
from factory.scheduling.policies.order import AGEING_S
from factory.scheduling.preempting import Preemption, Search
from factory.scheduling.quota import ENDLESS
from factory.scheduling.reasons import precedence
from factory.scheduling.reserving import Claims, quota_opens_at, reserve
from factory.scheduling.snapshot import Snapshot
from factory.scheduling.waiting import Lane, Line, Place, Turn, Waitlist, counts_as, gang_of, in_order

__all__ = ["Admit", "Decision", "Plan", "Planning", "Policy", "Preempt", "plan"]


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


_STARVED = 3  # times the mean wait
_SEARCHERS = 3  # jobs of one line, each of another lane, for which victims are looked for in one plan

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
        self.lines: dict[Line, Walk] = {}
        self._dealt_with: set[JobId] = set()  # before the turns began
        self._victims = {stock.pool.name: Search(self.cycle, stock) for stock in self.cycle.stocks}

    def run(self) -> None:
        """Decide."""
        self._honour_claims()
        lines = self.snapshot.waiting.items()
        self.lines = {line: Walk(self.cycle, line, waitlist, self._is_open) for line, waitlist in lines}
        self._keep_room()
        heads = [head for walk in self.lines.values() if (head := walk.head()) is not None]
        turns = Tournament(self.cycle, heads)
        while (head := turns.first()) is not None and len(self.decisions) < self.policy.max_decisions:
            walk = self.lines[head.line]
            self._serve(walk)
            turns.replace(head.line, walk.head())

    def result(self) -> Plan:
        """Return what was decided."""
        waiting = [(id, min((r.reason for r in why), key=precedence)) for id, why in self.refused.items() if why]
        return Plan(tuple(self.decisions), tuple(sorted(waiting)), self._wake_at())

    def admitted(self, id: JobId) -> Admit | None:
        """Return the decision that started the job, if there is one."""
        return next((d for d in self.decisions if isinstance(d, Admit) and d.job_id == id), None)

    def _is_open(self, job: Job) -> bool:
        """Whether the job may be tried: it does not back off, and was not dealt with before the turns began."""
        return self._may_start(job) and job.id not in self._dealt_with

    def _may_start(self, job: Job) -> bool:
        return job.not_before is None or job.not_before <= self.now

    def _honour_claims(self) -> None:
        """Rules P1 and P3."""
        claims = Claims(self.cycle)
        for place in claims.places:
            job = self.snapshot.jobs[place.turn[2]]
            if not self._may_start(job):
                continue
            for stock in claims.pools(job.id):
                found = self.cycle.try_pool(job, place.lane, stock)
                if isinstance(found, Fit):
                    self._admit(job, found.allocation)
                    self._dealt_with.add(job.id)
                    break
                if claims.keep(job, place.lane, stock):
                    self.refused[job.id] = (Refused(WaitReason.WAITING_FOR_PREEMPTION, stock.pool.name),)
                    self._dealt_with.add(job.id)
                    break

    def _keep_room(self) -> None:
        """Rule P2 where it is age that decides: before anybody's turn, so that nobody takes the room first."""
        open_pools = {s.pool.name for s in self.cycle.stocks if s.order.keeps_for_oldest and s.fleet.nodes}
        places = [(place.turn, line, place) for line, walk in self.lines.items() if (place := walk.place) is not None]
        for turn, _, place in sorted(places, key=lambda entry: entry[:2]):
            if not open_pools:
                return
            job = self.snapshot.jobs[turn[2]]
            for stock in self.cycle.eligible(place.lane):
                if stock.pool.name not in open_pools:
                    continue
                why = self.cycle.refusal(job, place.lane, stock)
                if why is None:
                    if self._is_starved(job):
                        self._admit_starved(job, place)
                        open_pools.discard(stock.pool.name)
                    break
                if why.reason is WaitReason.GANG_DOES_NOT_FIT and not why.is_hopeless:
                    reserve(self.cycle, job, place.lane, stock)
                    open_pools.discard(stock.pool.name)
                    break

    def _is_starved(self, job: Job) -> bool:
        """Rule P9."""
        waited_ms = self.now - job.submitted_at
        return waited_ms > AGEING_S * SECOND and waited_ms > _STARVED * self.cycle.mean_wait_ms()

    def _admit_starved(self, job: Job, place: Place) -> None:
        walk = self.lines[place.line]
        fit, _ = self._find(walk, job, place.lane)
        if fit is not None:
            self._admit(job, fit)
            self._dealt_with.add(job.id)
            walk.step()

    def _serve(self, walk: Walk) -> None:
        """Try the jobs of a line in order until one of them gets something; step behind it."""
        while (place := walk.place) is not None:
            job, lane = self.snapshot.jobs[place.turn[2]], place.lane
            fit, refused = self._find(walk, job, lane)
            if fit is not None:
                self._admit(job, fit)
                walk.step()
                return
            if walk.may_preempt and self._preempt(job, place, refused):
                walk.step()
                return
            self.refused[job.id] = refused
            for why in refused:
                stock = self.cycle.stock(why.pool)
                if why.reason is WaitReason.WAITING_FOR_QUOTA:
                    walk.hold(stock, job, lane)
                elif why.reason is WaitReason.GANG_DOES_NOT_FIT and not why.is_hopeless and stock.may_reserve:
                    reserve(self.cycle, job, lane, stock)
            walk.drop(lane, is_hopeless=all(why.is_hopeless for why in refused))

    def _find(self, walk: Walk, job: Job, lane: Lane) -> tuple[Allocation | None, tuple[Refused, ...]]:
        """Rule P6: whole in any pool, then smaller in any pool."""
        refused: list[Refused] = []
        whole = gang_of(lane.shape, lane.replicas, lane.topology, lane.gang.route)
        for gang in (whole, lane.gang) if whole is not lane.gang else (whole,):
            refused.clear()
            for stock in self.cycle.eligible(lane):
                if (held := walk.held(stock, job)) is not None:
                    refused.append(held)
                    continue
                found = self.cycle.try_pool(job, lane, stock, gang)
                if isinstance(found, Fit):
                    return found.allocation, ()
                refused.append(found)
        return None, tuple(refused)

    def _preempt(self, job: Job, place: Place, refused: tuple[Refused, ...]) -> bool:
        for why in refused:
            if why.is_hopeless or why.reason not in (WaitReason.WAITING_FOR_QUOTA, WaitReason.GANG_DOES_NOT_FIT):
                continue
            found = self._victims[why.pool].find(job, place.lane, place.turn)
            if found is None:
                continue
            stock = self.cycle.stock(why.pool)
            for victim in found.victims:
                live = victim.live_attempt
                assert live is not None
                self.decisions.append(Preempt(victim.id, live.id, job.id))
            self.preempting[job.id] = found
            kept = Reservation(job.id, job.spec.queue, found.allocation.placements, None, is_claim=True)
            stock.reserve(kept, found.room)
            stock.count(job.spec.queue, found.allocation.slots_milli)
            self.refused[job.id] = (Refused(WaitReason.WAITING_FOR_PREEMPTION, why.pool),)
            return True
        return False

    def _admit(self, job: Job, allocation: Allocation) -> None:
        stock = self.cycle.stock(allocation.pool)
        stock.take(job.spec.queue, allocation, self.cycle.ends_at(job, self.snapshot.places[job.id].lane))
        self.decisions.append(Admit(job.id, allocation, stock.pool.runner))
        self.refused.pop(job.id, None)

    def _wake_at(self) -> Instant | None:
        """Return when time alone makes a difference: a policy's keys change, or somebody may be preempted."""
        wakes = [search.quiet_until for search in self._victims.values() if search.quiet_until is not None]
        for stock in self.cycle.stocks:
            wakes.extend(_key_changes(self.cycle, stock))
        return min((at for at in wakes if at > self.now), default=None)


def _key_changes(cycle: Cycle, stock: Stock) -> Iterator[Instant]:
    if not stock.order.is_timed:
        return
    for (_, pool), holders in cycle.snapshot.holders.items():
        if pool == stock.pool.name:
            for (_, id), _ in holders.items():
                if (at := stock.order.changes_at(cycle.snapshot.jobs[id], cycle.now)) is not None:
                    yield at


class Walk:
    """A line during a plan: the next job that may be tried, lanes that were, and pools whose quota is held."""

    def __init__(self, cycle: Cycle, line: Line, waitlist: Waitlist, is_open: IsOpen) -> None:
        self.place: Place | None = None  # the next job that may be tried
        self._cycle = cycle
        self._line = line
        self._waitlist = waitlist
        self._is_open = is_open
        self._dropped: set[Lane] = set()
        self._failed = 0
        self._has_failed = False
        self._held: dict[PoolName, tuple[JobId, Lane]] = {}
        self._opens: dict[PoolName, Instant | None] = {}
        self._horizon = cycle.horizon(line[1])
        self._turns: Iterator[tuple[Turn, Lane]] | None = None  # None = nothing but the head was looked at yet
        self._behind: Turn | None = None
        if line[0] in cycle.snapshot.queues:
            self.step()

    @property
    def may_preempt(self) -> bool:
        """Whether victims may be looked for (rule P7)."""
        return self._failed < _SEARCHERS

    def head(self) -> Head | None:
        """Return what decides whose turn it is."""
        if self.place is None:
            return None
        lane = self.place.lane
        stocks = self._cycle.eligible(lane)
        stock = next((stock for stock in stocks if stock.pool.name not in self._held), stocks[0])
        turn = counts_as(self.place.turn, self._horizon)
        return Head(self._line, turn, stock, stock.slots_of(lane.asked) * lane.replicas)

    def held(self, stock: Stock, job: Job) -> Refused | None:
        """Rule P5: the refusal, if an earlier job of the line holds the pool's quota against this one."""
        name = stock.pool.name
        if name not in self._held:
            return None
        ends_at = self._cycle.ends_at(job, self._cycle.snapshot.places[job.id].lane)
        opens_at = self._opens_at(stock) if ends_at is not None else None
        if ends_at is not None and opens_at is not None and ends_at <= opens_at:
            return None
        return Refused(WaitReason.HELD_BY_RESERVATION, name)

    def _opens_at(self, stock: Stock) -> Instant | None:
        """Return when the job that holds the pool's quota is expected to have enough of it."""
        name = stock.pool.name
        if name not in self._opens:
            lane = self._held[name][1]
            needed = stock.slots_of(lane.asked) * lane.least
            self._opens[name] = quota_opens_at(self._cycle, stock, self._line[0], needed)
        return self._opens[name]

    def held_by(self, pool: PoolName) -> JobId | None:
        """Return the job that holds the pool's quota."""
        held = self._held.get(pool)
        return None if held is None else held[0]

    def hold(self, stock: Stock, job: Job, lane: Lane) -> None:
        """Let later jobs of the line leave this pool's quota alone."""
        self._held.setdefault(stock.pool.name, (job.id, lane))

    def drop(self, lane: Lane, *, is_hopeless: bool) -> None:
        """Try no other job of this lane in this plan; go on to the next that may be tried."""
        assert self.place is not None
        self._dropped.add(lane)
        self._failed += 1
        if not self._has_failed:
            self._has_failed = not is_hopeless
            self._turns = self._by_lanes(self.place.turn)
        self.step()

    def step(self) -> None:
        """Go on to the next job that may be tried."""
        self.place = None
        if self._failed > self._cycle.policy.depth:
            return
        if self._turns is None and self._behind is None and self._horizon is None:  # most lines are left at their head
            first = self._waitlist.order.first()
            if first is not None:
                self._behind = first[0]
                if self._is_next(*first):
                    return
        if self._turns is None:
            self._turns = in_order(self._waitlist.order, self._horizon, self._behind)
        for turn, lane in self._turns:
            if self._is_next(turn, lane):
                return

    def _is_next(self, turn: Turn, lane: Lane) -> bool:
        if lane in self._dropped or not self._can_use(lane):
            return False
        if not self._is_open(self._cycle.snapshot.jobs[turn[2]]):
            return False
        self.place = Place(self._line, lane, turn)
        return True

    def _can_use(self, lane: Lane) -> bool:
        """Return whether a job of the lane may start at all."""
        if self._cycle.eligible(lane):
            return True
        self._dropped.add(lane)
        return False

    def _by_lanes(self, after: Turn) -> Iterator[tuple[Turn, Lane]]:
        """Iterate over the jobs after `after` in lanes that may fit still, in order."""
        heads: list[tuple[Turn, Turn, Lane, Iterator[tuple[Turn, JobId]]]] = []
        for lane, order in self._open_lanes():
            items = in_order(order, self._horizon, after)
            if (first := next(items, None)) is not None:
                heads.append((counts_as(first[0], self._horizon), first[0], lane, items))
        heapify(heads)
        while heads:
            _, turn, lane, items = heads[0]
            if lane in self._dropped or (self._has_failed and not self._cycle.may_fit(lane)):
                heappop(heads)
                continue
            yield turn, lane
            following = next(items, None)
            if following is None:
                heappop(heads)
            else:
                heapreplace(heads, (counts_as(following[0], self._horizon), following[0], lane, items))

    def _open_lanes(self) -> Iterator[tuple[Lane, SortedMap[Turn, JobId]]]:
        """Iterate over the lanes of which, as far as is known without looking at a job, some job may start.

        This runs for every line and each gang that waits in it: sets of pools are bits of a number.
        """
        cycle, queue, lanes = self._cycle, self._line[0], self._waitlist.lanes
        if not self._has_failed:
            for alike in lanes.values():
                yield from ((lane, order) for lane, order in alike.items() if lane not in self._dropped)
            return
        alive = cycle.alive(lanes)
        if not alive:
            return
        left = [stock.available(queue) for stock in cycle.stocks]
        caps = [self._longest(stock) for stock in cycle.stocks]
        for gang in alive:  # in any order: whoever asks puts the jobs in order
            alike = lanes[gang]
            any_length = some_lengths = 0  # pools in which it fits whatever its length, and up to some
            longest = -1
            for at, bit, slots, most in cycle.options(gang):
                if slots > left[at]:
                    continue
                most = min(most, caps[at])
                if most >= ENDLESS:
                    any_length |= bit
                elif most >= 0:
                    some_lengths |= bit
                    longest = max(longest, most)
            if not any_length | some_lengths:
                continue
            for lane, order in alike.items():
                pools = cycle.mask(lane)
                may_fit = pools & any_length or (pools & some_lengths and 0 <= lane.length <= longest)
                if may_fit and lane not in self._dropped:
                    yield lane, order

    def _longest(self, stock: Stock) -> int:
        """Return up to which length jobs may be that start beside the one that holds the pool's quota."""
        if stock.pool.name not in self._held:
            return ENDLESS
        opens_at = self._opens_at(stock)
        return -1 if opens_at is None else max(0, (opens_at - self._cycle.now) // SECOND).bit_length()
