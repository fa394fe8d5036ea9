"""Who makes room: the running attempts that a waiting job may preempt, as few and as cheap as can be.

Rules (docs/adr/0014)
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

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from math import lcm
from zlib import crc32

from factory.domain.ids import JobId, QueueName
from factory.domain.jobs import Allocation, Attempt, EndReason, Job, Placement
from factory.domain.time import SECOND, Instant
from factory.scheduling.cycle import Cycle, Stock, begin_of
from factory.scheduling.floor import Floor
from factory.scheduling.persistent import SortedMap
from factory.scheduling.policies.order import capped
from factory.scheduling.quota import ENDLESS, ROOT, available, bubble
from factory.scheduling.snapshot import Holder
from factory.scheduling.waiting import Lane, Turn

__all__ = ["Preemption", "Search", "preemptions"]

_NONE: SortedMap[Holder, int] = SortedMap()
_LOOKED_AT = 512  # candidates, for one job
_ROUNDS = 64  # seconds within which everybody's victims are looked for, however many jobs wait


@dataclass(frozen=True, slots=True)
class Preemption:
    """Whom to preempt, and where the job goes then."""

    victims: tuple[Job, ...]  # in the order in which they were taken
    allocation: Allocation
    room: Floor  # what is free when the victims are gone and the job is there


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
        return self.stock.settled(queue) if used is None else used

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


class Search:
    """Looks for victims in one pool, for the jobs of one plan. What holds for all of them is found out once."""

    def __init__(self, cycle: Cycle, stock: Stock) -> None:
        self.quiet_until: Instant | None = None  # when somebody who is too young to be preempted no longer is
        self._cycle = cycle
        self._stock = stock
        self._stopping: set[JobId] = set()
        self._done = 0
        self._offenders: list[QueueName] | None = None
        self._of_queues: dict[QueueName, list[_Candidate]] = {}

    def find(self, job: Job, lane: Lane, turn: Turn) -> Preemption | None:
        """Return whom the job may preempt so that it fits; None if there is nobody, or not enough.

        It is meant for a job that cannot start now.
        """
        stock, queue = self._stock, job.spec.queue
        slots = stock.slots_of(lane.asked) * lane.least
        if not self._may_search(job):
            return None
        others = stock.order.reclaims and self._may_reclaim(queue, slots)
        own = self._of_queue(queue, turn)
        if not (others or own):
            return None
        self._done += 1
        trial = _Trial(stock)

        def fits() -> bool:
            return trial.available(queue) >= slots and trial.floor.can_fit(lane.shape, lane.least, lane.topology)

        taken: list[_Candidate] = []
        is_enough = False
        looked_at = 0
        for candidates, are_own in chain(self._of_others(trial, queue, slots) if others else (), ((own, True),)):
            for candidate in candidates:
                looked_at += 1
                if candidate.job.id in self._stopping:
                    continue
                if not are_own and not _is_legal(self._cycle, stock, trial, queue, slots, candidate):
                    continue
                trial.remove(candidate)
                taken.append(candidate)
                is_enough = fits()
                if is_enough or len(taken) >= self._cycle.policy.max_victims:
                    break
            if is_enough or looked_at >= _LOOKED_AT or len(taken) >= self._cycle.policy.max_victims:
                break
        if not is_enough:
            return None
        victims = _spared(trial, taken, fits)
        if not victims or not _all_legal(self._cycle, stock, queue, slots, victims):
            return None
        placements = trial.floor.place(lane.shape, lane.least, lane.topology)
        assert placements is not None, "what fits has a place"
        trial.floor.take(placements)
        for victim in victims:
            self._stopping.add(victim.job.id)
            stock.expect(victim.queue, -victim.slots)
        allocation = Allocation(stock.pool.name, slots, placements)
        return Preemption(tuple(victim.job for victim in victims), allocation, trial.floor)

    def _may_search(self, job: Job) -> bool:
        """Bound the work of one plan; those who were not looked at get their turn in plans of other seconds."""
        if self._done < self._cycle.policy.searches:
            return True
        return (crc32(job.id.encode()) + self._cycle.now // SECOND) % _ROUNDS == 0

    def _may_reclaim(self, queue: QueueName, slots: int) -> bool:
        """A quick answer where no victim of another queue can be legal: nobody on its way up borrows from it."""
        tree, stock = self._stock.tree, self._stock
        if queue not in tree:
            return False
        for level in tree.path(queue)[:-1]:
            is_within = stock.settled(level.queue) + slots <= level.subtree
            for sibling in tree[level.parent].children:
                if sibling == level.queue or stock.settled(sibling) <= tree[sibling].subtree:
                    continue
                if is_within or _may_share(self._cycle, stock, level.queue, slots, sibling):
                    return True
        return False

    def _of_others(self, trial: _Trial, queue: QueueName, slots: int) -> Iterator[tuple[list[_Candidate], bool]]:
        """Return the candidates of other queues, queue by queue, in the order of rule V4."""
        if self._offenders is None:
            self._offenders = list(_offenders(self._cycle, self._stock))
        for name in self._offenders:
            if name == queue or not _may_take(self._cycle, self._stock, trial, queue, slots, name):
                continue
            if name not in self._of_queues:
                self._of_queues[name] = self._of_queue(name, None)
            yield self._of_queues[name], False

    def _of_queue(self, queue: QueueName, turn: Turn | None) -> list[_Candidate]:
        """Return the candidates of one queue, cheapest first; with `turn`, those that yield to it."""
        cycle, stock = self._cycle, self._stock
        order, policy = stock.order, cycle.policy
        most = order.max_preemptions if policy.max_preemptions is None else policy.max_preemptions
        quiet_s = order.min_runtime_s if policy.min_runtime_s is None else policy.min_runtime_s
        horizon = cycle.horizon(order.name)
        found: list[tuple[tuple[int, ...], JobId, _Candidate]] = []
        holders: SortedMap[Holder, int] = cycle.snapshot.holders.get((queue, stock.pool.name), _NONE)
        if (
            turn is not None
            and order.is_by_class
            and (first := holders.first()) is not None
            and -first[0][0] <= turn[0][1]
        ):
            return []  # nobody there is of a lower class
        for (_, id), _ in holders.items():
            job = cycle.snapshot.jobs[id]
            rank: tuple[int, ...] = ()
            if turn is not None:
                left = cycle.running_ms(job) if order.is_by_length else None
                key = capped(order.running(job, left, cycle.now), horizon)
                if not order.yields(capped(turn[0], horizon), key):
                    continue
                rank = tuple(-part for part in key)
            live = job.live_attempt
            if live is None or live.stop is not None or preemptions(job) >= most:
                continue
            grown_up = begin_of(live) + quiet_s * SECOND
            if grown_up > cycle.now:
                self.quiet_until = grown_up if self.quiet_until is None else min(self.quiet_until, grown_up)
                continue
            cost = (job.spec.priority.rank, _work_lost(live, cycle.now), -live.admitted_at)
            found.append(((*rank, *cost), id, _Candidate(job, live)))
        found.sort(key=lambda entry: entry[:2])
        return [candidate for _, _, candidate in found]


def _spared(trial: _Trial, taken: list[_Candidate], fits: Callable[[], bool]) -> list[_Candidate]:
    """Rule V5: return those that must go, in the order in which they were taken."""
    victims: list[_Candidate] = []
    for candidate in reversed(taken):
        trial.restore(candidate)
        if not fits():
            trial.remove(candidate)
            victims.append(candidate)
    victims.reverse()
    return victims


def _all_legal(cycle: Cycle, stock: Stock, queue: QueueName, slots: int, victims: list[_Candidate]) -> bool:
    trial = _Trial(stock)
    for victim in victims:
        if victim.queue != queue and not _is_legal(cycle, stock, trial, queue, slots, victim):
            return False
        trial.remove(victim)
    return True


def _work_lost(attempt: Attempt, now: Instant) -> int:
    """Return the slots_milli x milliseconds that would have to be done again."""
    saved = attempt.checkpointed_at if attempt.checkpointed_at is not None else begin_of(attempt)
    return attempt.allocation.slots_milli * max(0, now - saved)


def _offenders(cycle: Cycle, stock: Stock) -> Iterator[QueueName]:
    """Return the queues that hold slots and are, or are below, one that holds more than its quota, the worst first."""
    tree, holders = stock.tree, cycle.snapshot.holders
    unit = lcm(*(level.weight for level in tree if level.weight))
    worst: dict[QueueName, int] = {}  # the largest share on the way up
    for level in reversed(tuple(tree)):  # parents come before their children
        over = max(0, stock.settled(level.queue) - level.subtree) if level.queue != ROOT else 0
        share = over * (unit // level.weight if level.weight else unit * ENDLESS)
        worst[level.queue] = max(share, worst.get(level.parent, 0))
    found = [(-share, name) for name, share in worst.items() if share > 0 and (name, stock.pool.name) in holders]
    return (name for _, name in sorted(found))


def _below_common(stock: Stock, queue: QueueName, other: QueueName) -> QueueName | None:
    """Return the queue just below the lowest common ancestor, on the side of `queue`; None = it is that ancestor."""
    above = {level.queue for level in stock.tree.path(other)}
    if queue in above:
        return None
    while (parent := stock.tree[queue].parent) not in above:
        queue = parent
    return queue


def _is_legal(cycle: Cycle, stock: Stock, trial: _Trial, queue: QueueName, slots: int, victim: _Candidate) -> bool:
    """Rules V1 and V2 for a victim of another queue, as things stand in the trial."""
    return _may_take(cycle, stock, trial, queue, slots, victim.queue, victim.slots)


def _may_take(
    cycle: Cycle, stock: Stock, trial: _Trial, queue: QueueName, slots: int, theirs: QueueName, taken: int = 0
) -> bool:
    """Return whether a queue may have `taken` slots of another one for a job of so many; 0: whether any of them."""
    tree = stock.tree
    if queue not in tree or theirs not in tree:
        return False
    ours, owner = _below_common(stock, queue, theirs), _below_common(stock, theirs, queue)
    if ours is None or owner is None:
        return False  # one is above the other: nothing is lent between them
    used = trial.used(owner)
    if used <= tree[owner].subtree:
        return False
    with_job = trial.used(ours) + slots
    if with_job <= tree[ours].subtree:
        return True
    if not (cycle.policy.preempts_for_share and tree.is_bounded):
        return False
    return _is_less(stock, ours, with_job, owner, used - taken)


def _may_share(cycle: Cycle, stock: Stock, ours: QueueName, slots: int, theirs: QueueName) -> bool:
    """Return whether rule V2 may hold for some victim: it can only if the shares differ as things stand."""
    if not (cycle.policy.preempts_for_share and stock.tree.is_bounded):
        return False
    return _is_less(stock, ours, stock.settled(ours) + slots, theirs, stock.settled(theirs))


def _is_less(stock: Stock, one: QueueName, used: int, other: QueueName, used_other: int) -> bool:
    """Return whether a queue that holds so much has a lesser share than a sibling that holds so much."""
    level, sibling = stock.tree[one], stock.tree[other]
    over, over_other = max(0, used - level.subtree), max(0, used_other - sibling.subtree)
    if not level.weight:
        over *= ENDLESS
    if not sibling.weight:
        over_other *= ENDLESS
    return over * max(1, sibling.weight) < over_other * max(1, level.weight)
