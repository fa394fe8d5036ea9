"""Who makes room: the running attempts that a waiting job may preempt, as few and as cheap as can be.

Rules (docs/adr/0012)
    V1  From other queues, jobs are reclaimed for a job that stays within quota, from queues that hold more than theirs:
        compared just below the lowest common ancestor, where both sides' quotas meet (Kueue's "reclaim within cohort").
    V2  Above quota, too, where its side's share with the job stays below the other side's share without the victim
        (Kueue's S2-a, strictly), so that the two never take turns. Only in pools with quotas.
    V3  From its own queue, as the pool's policy says (`Order.yields`).
    V4  Candidates are taken in order: other queues before the own, the largest share first, the lowest class first,
        then what loses the least work since its last checkpoint, then who was admitted last. One by one, each only
        while it is still legal, until the job fits: a gang is one victim.
    V5  Then those that need not go are spared, the last taken first, and what is left is judged again from the start:
        a victim that was legal only because of one that is now spared is not a victim (kueue#14543).
    V6  An attempt that has not yet run the minimum run time, a job that was preempted as often as may be, and an
        attempt that is being stopped anyway, are no candidates.
    V7  Nobody is preempted unless the job then fits, in quota and on nodes.

What is freed is kept for the preemptor by the plan (rule P3 there), which also outranks its victims in the next order:
within a queue by V3, between queues by V1 and V2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from factory.domain.ids import JobId, QueueName
from factory.domain.jobs import Allocation, Attempt, EndReason, Job, Placement
from factory.domain.time import SECOND, Instant
from factory.scheduling.cycle import Cycle, Stock, begin_of
from factory.scheduling.floor import Floor
from factory.scheduling.persistent import SortedMap
from factory.scheduling.quota import ENDLESS, ROOT, available, bubble
from factory.scheduling.waiting import Lane, Turn

__all__ = ["Preemption", "preemptions", "search"]


@dataclass(frozen=True, slots=True)
class Preemption:
    """Whom to preempt, and where the job goes then."""

    victims: tuple[Job, ...]  # in the order in which they were taken
    allocation: Allocation
    room: Floor  # what is free when the victims are gone, the job itself left out


@dataclass(frozen=True, slots=True)
class _Candidate:
    job: Job
    attempt: Attempt

    @property
    def queue(self) -> QueueName:
        return self.job.spec.queue

    @property
    def slots(self) -> int:
        return self.attempt.allocation.slots_milli

    @property
    def placements(self) -> tuple[Placement, ...]:
        return self.attempt.allocation.placements


class _Trial:
    """A pool as it would be with some victims gone."""

    def __init__(self, stock: Stock) -> None:
        self.stock = stock
        self.floor = stock.floor.copy()
        self._used: dict[QueueName, int] = {}

    def used(self, queue: QueueName) -> int:
        used = self._used.get(queue)
        return self.stock.used(queue) if used is None else used

    def remove(self, victim: _Candidate) -> None:
        self.floor.give(victim.placements)
        self._count(victim.queue, -victim.slots)

    def restore(self, victim: _Candidate) -> None:
        self.floor.take(victim.placements)
        self._count(victim.queue, victim.slots)

    def available(self, queue: QueueName) -> int:
        return available(self.stock.tree, queue, self.used, self.stock.capacity)

    def _count(self, queue: QueueName, slots: int) -> None:
        for name, amount in bubble(self.stock.tree, queue, slots, self.used):
            self._used[name] = self.used(name) + amount


def preemptions(job: Job) -> int:
    """Return how often the job was preempted."""
    return sum(a.stop is not None and a.stop.reason is EndReason.PREEMPTED for a in job.attempts)


def search(cycle: Cycle, job: Job, lane: Lane, turn: Turn, stock: Stock) -> Preemption | None:
    """Return whom the job may preempt in the pool so that it fits; None if there is nobody, or not enough.

    It is meant for a job that cannot start there now; the answer may be that no victim is needed only for a job that
    can.
    """
    asked, queue = lane.shape, job.spec.queue
    slots = stock.slots_of(asked.resources) * lane.least
    if not _may_ever(cycle, stock, queue, slots):
        return None
    trial = _Trial(stock)

    def fits() -> bool:
        return trial.available(queue) >= slots and trial.floor.can_fit(asked, lane.least, lane.topology)

    taken: list[_Candidate] = []
    for candidate in _candidates(cycle, turn, queue, slots, stock):
        if fits() or len(taken) >= cycle.policy.max_victims:
            break
        if candidate.queue != queue and not _is_legal(cycle, stock, trial, queue, slots, candidate):
            continue
        trial.remove(candidate)
        taken.append(candidate)
    if not taken or not fits():
        return None
    victims: list[_Candidate] = []
    for candidate in reversed(taken):  # rule V5
        trial.restore(candidate)
        if not fits():
            trial.remove(candidate)
            victims.append(candidate)
    victims.reverse()
    if not victims or not _all_legal(cycle, stock, queue, slots, victims):
        return None
    placements = trial.floor.place(asked, lane.least, lane.topology)
    if placements is None:  # pragma: no cover - it fits
        return None
    allocation = Allocation(stock.pool.name, slots, placements)
    return Preemption(tuple(victim.job for victim in victims), allocation, trial.floor)


def _may_ever(cycle: Cycle, stock: Stock, queue: QueueName, slots: int) -> bool:
    """A quick answer where no victim could be legal: most jobs that wait, wait for their own queue."""
    holders = cycle.snapshot.holders.get((queue, stock.pool.name))
    if holders:
        return True
    return stock.order.reclaims and any(_over(stock, level.queue, 0) > 0 for level in stock.tree)


def _all_legal(cycle: Cycle, stock: Stock, queue: QueueName, slots: int, victims: list[_Candidate]) -> bool:
    trial = _Trial(stock)
    for victim in victims:
        if victim.queue != queue and not _is_legal(cycle, stock, trial, queue, slots, victim):
            return False
        trial.remove(victim)
    return True


def _candidates(cycle: Cycle, turn: Turn, queue: QueueName, slots: int, stock: Stock) -> Iterator[_Candidate]:
    """Return who may be looked at, in the order of rule V4."""
    if stock.order.reclaims:
        for name in _offenders(cycle, stock, queue):
            yield from _of_queue(cycle, stock, name, None)
    yield from _of_queue(cycle, stock, queue, turn)


def _of_queue(cycle: Cycle, stock: Stock, queue: QueueName, turn: Turn | None) -> list[_Candidate]:
    """Return the candidates of one queue, cheapest first; with `turn`, those that yield to it."""
    found: list[tuple[tuple[object, ...], _Candidate]] = []
    holders: SortedMap[JobId, int] | None = cycle.snapshot.holders.get((queue, stock.pool.name))
    for id in holders.keys() if holders is not None else ():
        job = cycle.snapshot.jobs[id]
        live = job.live_attempt
        if live is None or live.stop is not None or id in stock.stopping:
            continue
        if preemptions(job) >= cycle.policy.max_preemptions:
            continue
        rank = ()
        if turn is not None:
            key = stock.order.running(job, cycle.running_ms(job), cycle.now)
            if not stock.order.yields(turn[0], key):
                continue
            rank = tuple(-part for part in key)
        grown_up = begin_of(live) + cycle.policy.min_runtime_s * SECOND
        if grown_up > cycle.now:
            stock.quiet_until = grown_up if stock.quiet_until is None else min(stock.quiet_until, grown_up)
            continue
        cost = (job.spec.priority.rank, _work_lost(live, cycle.now), -live.admitted_at, id)
        found.append(((*rank, *cost), _Candidate(job, live)))
    found.sort(key=lambda entry: entry[0])  # pyright: ignore[reportArgumentType]  # whole numbers, then an id
    return [candidate for _, candidate in found]


def _work_lost(attempt: Attempt, now: Instant) -> int:
    """Return the slots_milli x milliseconds that would have to be done again."""
    saved = attempt.checkpointed_at if attempt.checkpointed_at is not None else begin_of(attempt)
    return attempt.allocation.slots_milli * max(0, now - saved)


def _offenders(cycle: Cycle, stock: Stock, queue: QueueName) -> list[QueueName]:
    """Return the other queues that hold slots and are, or are below, one that holds more than its quota."""
    found: list[tuple[Fraction, QueueName]] = []
    if queue not in stock.tree:
        return []
    mine = {level.queue for level in stock.tree.path(queue)}
    for level in stock.tree:
        if level.queue == queue or (level.queue, stock.pool.name) not in cycle.snapshot.holders:
            continue
        top = _below_common(stock, level.queue, mine)
        if top is not None and _over(stock, top, 0) > 0:
            found.append((-_share(stock, top, stock.used(top)), level.queue))
    return [name for _, name in sorted(found)]


def _below_common(stock: Stock, queue: QueueName, path: set[QueueName]) -> QueueName | None:
    """Return the ancestor of `queue`, or itself, that lies just below the first one on `path`."""
    while True:
        parent = stock.tree[queue].parent
        if parent in path or parent == ROOT:
            return None if queue in path else queue
        queue = parent


def _is_legal(cycle: Cycle, stock: Stock, trial: _Trial, queue: QueueName, slots: int, victim: _Candidate) -> bool:
    """Rules V1 and V2 for a victim of another queue, as things stand in the trial."""
    tree = stock.tree
    if queue not in tree or victim.queue not in tree:
        return False
    ours = _below_common(stock, queue, {level.queue for level in tree.path(victim.queue)})
    theirs = _below_common(stock, victim.queue, {level.queue for level in tree.path(queue)})
    if ours is None or theirs is None:
        return False  # one is above the other: nothing is lent between them
    over = trial.used(theirs) - tree[theirs].subtree
    if over <= 0:
        return False
    with_job = trial.used(ours) + slots
    if with_job <= tree[ours].subtree:
        return True
    if not (cycle.policy.preempts_for_share and tree.is_bounded):
        return False
    without = trial.used(theirs) - victim.slots
    return _share(stock, ours, with_job) < _share(stock, theirs, without)


def _over(stock: Stock, queue: QueueName, more: int) -> int:
    return stock.used(queue) + more - stock.tree[queue].subtree if queue != ROOT else 0


def _share(stock: Stock, queue: QueueName, used: int) -> Fraction:
    """Return the share of a queue that holds so much: what exceeds its quota, per weight; siblings compare."""
    level = stock.tree[queue]
    over = max(0, used - level.subtree)
    return Fraction(over, level.weight) if level.weight else Fraction(over * ENDLESS)
