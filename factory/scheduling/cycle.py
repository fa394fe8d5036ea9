"""One plan in the making: what is left of every pool, of every quota, and who has taken what of it.

A `Cycle` is the only mutable thing of the scheduler. It begins as the snapshot, is given away by decisions, and is
thrown away with the plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from factory.domain.ids import JobId, PoolName, QueueName
from factory.domain.jobs import Allocation, Attempt, Job, Placement, Topology, WaitReason
from factory.domain.pools import NodeState, Pool
from factory.domain.resources import Resources, slots_in, slots_milli
from factory.domain.time import SECOND, Instant
from factory.scheduling.estimating import remaining_ms, until
from factory.scheduling.fleet import Fleet, Shape
from factory.scheduling.floor import Floor
from factory.scheduling.fragmentation import Typical
from factory.scheduling.policies.order import Order
from factory.scheduling.policies.registry import policy_named
from factory.scheduling.quota import ENDLESS, Tree, available, bubble, potential
from factory.scheduling.snapshot import Snapshot
from factory.scheduling.waiting import Gang, Lane

__all__ = ["READY", "Cycle", "Fit", "Policy", "Refused", "Reservation", "Stock", "slots_of"]

READY = frozenset({NodeState.READY})


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator may set, for all pools."""

    max_decisions: int = 1000  # of one plan; the next plan goes on
    min_runtime_s: int | None = None  # an attempt runs so long before it may be preempted; None = as the pool's order
    max_preemptions: int | None = None  # of one job, after that it is left alone; None = as the pool's order
    max_victims: int = 64  # attempts that may be preempted for one job
    searches: int = 4  # jobs for which victims are looked for, in one plan and pool
    depth: int = 50  # jobs of a queue that may be passed over in one plan
    lookahead: int = 256  # expected ends that are looked through for the start of a reservation
    preempts_for_share: bool = True  # above quota, too, where a pool has quotas


class Refused(NamedTuple):
    """Why a job cannot start in a pool now. The numbers are told by `explaining`, on demand."""

    reason: WaitReason
    pool: PoolName
    is_hopeless: bool = False  # running jobs that end would not help: nobody waits for it


class Option(NamedTuple):
    """A pool in which a gang fits."""

    at: int  # the pool's place in `Cycle.stocks`
    bit: int  # 1 << at
    slots: int  # that the gang holds there
    longest: int  # up to which length (`Lane.length`) its jobs may be


class Fit(NamedTuple):
    """Where a job can start now."""

    allocation: Allocation


@dataclass(frozen=True, slots=True)
class Reservation:
    """Room that is kept for a job until it can start."""

    job_id: JobId
    queue: QueueName
    placements: tuple[Placement, ...]
    starts_at: Instant | None  # when it is expected to start; None = not known
    is_claim: bool  # made by preempting others: nobody may start there, however short


class Stock:
    """What is left of one pool."""

    def __init__(
        self, snapshot: Snapshot, pool: Pool, typical: Typical, now: Instant, news: dict[Gang, tuple[Option, ...]]
    ) -> None:
        self.pool = pool
        self.typical = typical
        self.fleet: Fleet = snapshot.fleet(pool.name)
        self.tree: Tree = snapshot.trees[pool.name]
        self.order: Order = policy_named(pool.policy)
        self.reservations: list[Reservation] = []
        self.started: list[tuple[Instant, tuple[Placement, ...]]] = []  # what this plan started, with its expected end
        self._snapshot = snapshot
        self._now = now
        self._floor: Floor | None = None
        self._spare: Floor | None = None
        self._needed_at: Instant | None = None  # when the first reservation starts; None = not known
        self._used: dict[QueueName, int] = {}
        self._settled: dict[QueueName, int] = {}
        self._slots: dict[Resources, int] = {}
        self._news = news  # what is known of gangs in all pools: forgotten when it changes here
        self._full: set[Gang] = set()  # gangs for which there is no room
        self._tight: set[Gang] = set()  # gangs for which there is none past the reservations
        self._could: dict[Gang, bool] = {}
        self._potential: dict[QueueName, int] = {}
        self._available: dict[QueueName, int] = {}
        self._overs: dict[QueueName, int] = {}
        capacity = self.fleet.capacity()
        self.capacity = slots_in(capacity, pool.flavor.slot)

    @property
    def floor(self) -> Floor:
        """What is free now, claims left out."""
        if self._floor is None:
            self._floor = Floor(self.fleet, self.typical)
        return self._floor

    @property
    def may_reserve(self) -> bool:
        """True if room may be kept for a gang: the policy keeps some, and nothing is kept yet."""
        return self.order.keeps_room and all(reservation.is_claim for reservation in self.reservations)

    @property
    def is_lost(self) -> bool:
        """True if there are no nodes but lost ones."""
        return all(kind.state is NodeState.LOST for kind in self.fleet.kinds)

    def slots_of(self, asked: Resources) -> int:
        """Return the thousandths of a slot that one replica occupies."""
        slots = self._slots.get(asked)
        if slots is None:
            slots = self._slots[asked] = slots_milli(asked, self.pool.flavor.slot)
        return slots

    def used(self, queue: QueueName) -> int:
        """Return U of a queue, with what this plan gave away."""
        used = self._used.get(queue)
        if used is None:
            used = self._used[queue] = self._snapshot.tree_used.get((queue, self.pool.name), 0)
        return used

    def available(self, queue: QueueName) -> int:
        """Return how many thousandths of a slot more the queue may hold."""
        left = self._available.get(queue)
        if left is None:
            left = self._available[queue] = available(self.tree, queue, self.used, self.capacity)
        return left

    def potential(self, queue: QueueName) -> int:
        """Return the most that the queue could ever hold."""
        most = self._potential.get(queue)
        if most is None:
            most = self._potential[queue] = potential(self.tree, queue, self.capacity)
        return most

    def could_fit(self, gang: Gang) -> bool:
        """Return whether the gang would fit on the ready nodes if nothing ran there."""
        could = self._could.get(gang)
        if could is None:
            could = self._could[gang] = self.fleet.could_fit(gang.shape, gang.replicas, gang.topology, READY)
        return could

    def longest(self, gang: Gang) -> int:
        """Return up to which length (`Lane.length`) jobs may fit, as far as is known; -1 = none may."""
        if gang in self._full:
            return -1
        if gang not in self._tight:
            return ENDLESS
        return -1 if self._needed_at is None else max(0, (self._needed_at - self._now) // SECOND).bit_length()

    def has_room(self, gang: Gang) -> bool:
        """Return whether a gang fits now in what is free, reserved or not, if slots here have what it asks for."""
        if gang in self._full:
            return False
        if not self._suits(gang.shape.resources) or not self.floor.can_fit(gang.shape, gang.replicas, gang.topology):
            self._full.add(gang)
            return False
        if self._spare is not None and not self._spare.can_fit(gang.shape, gang.replicas, gang.topology):
            self._tight.add(gang)
        return True

    def _suits(self, asked: Resources) -> bool:
        slot = self.pool.flavor.slot
        return all(
            each or not want
            for want, each in (
                (asked.cpu_milli, slot.cpu_milli),
                (asked.memory_bytes, slot.memory_bytes),
                (asked.gpu_milli, slot.gpu_milli),
            )
        )

    def fits(self, gang: Gang, ends_at: Instant | None) -> bool:
        """Return whether a gang fits now.

        Args:
            ends_at: when the job is expected to end; None = unknown: then it must not touch what is reserved.
        """
        if gang in self._full:
            return False
        is_short = self._is_short(ends_at)
        if not is_short and gang in self._tight:
            return False
        floor = self._view(is_short)
        if floor.can_fit(gang.shape, gang.replicas, gang.topology):
            return True
        (self._full if floor is self._floor else self._tight).add(gang)
        self._news.pop(gang, None)
        return False

    def place(
        self, shape: Shape, least: int, most: int, topology: Topology, ends_at: Instant | None
    ) -> tuple[Placement, ...]:
        """Return where as many replicas as can be go now, at most `most`; `least` of them fit."""
        floor = self._view(self._is_short(ends_at))
        low, high = least, most + 1  # `low` fits, `high` does not or is not wanted
        if floor.can_fit(shape, most, topology):
            low = most
        while high - low > 1:
            middle = (low + high) // 2
            if floor.can_fit(shape, middle, topology):
                low = middle
            else:
                high = middle
        placements = floor.place(shape, low, topology)
        assert placements is not None, "a gang that fits has a place"
        return placements

    def room(self, shape: Shape) -> int:
        """Return how many replicas fit past all reservations."""
        return self._view(is_short=False).room(shape)

    def take(self, queue: QueueName, allocation: Allocation, ends_at: Instant | None) -> None:
        """Give an allocation away."""
        self.floor.take(allocation.placements)
        if self._spare is not None:
            self._spare.take(allocation.placements)
        self.count(queue, allocation.slots_milli)
        if ends_at is not None:
            self.started.append((ends_at, allocation.placements))

    def count(self, queue: QueueName, slots: int) -> None:
        """Let a queue hold so much more, now and when those who are told to stop have gone."""
        for name, amount in bubble(self.tree, queue, slots, self.used):
            self._used[name] = self.used(name) + amount
            self._overs.pop(name, None)
        self._available.clear()
        self.expect(queue, slots)

    def expect(self, queue: QueueName, slots: int) -> None:
        """Let a queue hold so much more, or less, when those who are told to stop have gone."""
        for name, amount in bubble(self.tree, queue, slots, self.settled):
            self._settled[name] = self.settled(name) + amount

    def settled(self, queue: QueueName) -> int:
        """Return U of a queue as it will be when those who are told to stop have gone."""
        used = self._settled.get(queue)
        if used is None:
            used = self._settled[queue] = self._snapshot.tree_used.get((queue, self.pool.name), 0)
        return used

    def over(self, queue: QueueName) -> int:
        """Return what the queue holds above its quota; below zero: what it has left."""
        over = self._overs.get(queue)
        if over is None:
            over = self._overs[queue] = self.used(queue) - self.tree[queue].subtree
        return over

    def reserve(self, reservation: Reservation, room: Floor) -> None:
        """Keep room for a job.

        Args:
            room: what will be free when it starts, with the job itself on it.
        """
        nodes = sorted({placement.node for placement in reservation.placements})
        floors = [self.floor] if reservation.is_claim else [self._own_spare()]
        if reservation.is_claim and self._spare is not None:
            floors.append(self._spare)
        for floor in floors:
            for node in nodes:
                floor.restrict(node, *room.free_of(node))
        self.reservations.append(reservation)
        if not reservation.is_claim:
            starts = [r.starts_at for r in self.reservations if not r.is_claim]
            self._needed_at = None if None in starts else min(start for start in starts if start is not None)

    def _own_spare(self) -> Floor:
        if self._spare is None:
            self._spare = self.floor.copy()
        return self._spare

    def _view(self, is_short: bool) -> Floor:
        """Return what a job may use: short ones all that is free, others what no reservation needs."""
        return self.floor if is_short or self._spare is None else self._spare

    def _is_short(self, ends_at: Instant | None) -> bool:
        """Return whether a job is gone before any reservation starts."""
        if self._spare is None:
            return True
        return ends_at is not None and self._needed_at is not None and ends_at <= self._needed_at

    def expected_ends(self, most: int) -> list[tuple[Instant, tuple[Placement, ...]]]:
        """Return who is expected to end first, and what that frees, at most so many, in order of time."""
        ends = list(self.started)
        order = self._snapshot.ends.get(self.pool.name)
        for (end, id), _ in zip(order.keys() if order is not None else (), range(most), strict=False):
            job = self._snapshot.jobs[id]
            live = job.live_attempt
            if live is None:  # pragma: no cover - only live attempts have an end
                continue
            if end <= self._now:
                end = until(begin_of(live), max(1, end - begin_of(live)), self._now)
            ends.append((end, live.allocation.placements))
        return sorted(ends, key=lambda entry: (entry[0], entry[1][0].node if entry[1] else ""))


class Cycle:
    """See the module."""

    def __init__(self, snapshot: Snapshot, policy: Policy, now: Instant) -> None:
        self.snapshot = snapshot
        self.policy = policy
        self.now = now
        typical = snapshot.typical()
        self._options: dict[Gang, tuple[Option, ...]] = {}
        self._stocks = {
            name: Stock(snapshot, pool, typical, now, self._options) for name, pool in sorted(snapshot.pools.items())
        }
        self.stocks = tuple(self._stocks.values())  # of all pools, by name
        self._eligible: dict[Lane, tuple[Stock, ...]] = {}
        self._masks: dict[Lane, int] = {}
        self._alive: set[Gang] | None = None
        self._mean_wait_ms: int | None = None
        self._horizons: dict[str, int | None] = {}

    def stock(self, pool: PoolName) -> Stock:
        """Return what is left of a pool."""
        return self._stocks[pool]

    def eligible(self, lane: Lane) -> tuple[Stock, ...]:
        """Return the pools that jobs of the lane may use, best first."""
        stocks = self._eligible.get(lane)
        if stocks is None:
            pools = self.snapshot.routes[lane]
            stocks = self._eligible[lane] = tuple(self._stocks[pool.name] for pool in pools)
        return stocks

    def horizon(self, policy: str) -> int | None:
        """Return from which key on jobs of a policy count as equal now."""
        if policy not in self._horizons:
            self._horizons[policy] = policy_named(policy).horizon(self._mean_wait_ms_of(policy))
        return self._horizons[policy]

    def mean_wait_ms(self) -> int:
        """Return how long all that wait have waited, on average."""
        if self._mean_wait_ms is None:
            self._mean_wait_ms = self._mean_wait_ms_of(None)
        return self._mean_wait_ms

    def _mean_wait_ms_of(self, policy: str | None) -> int:
        """Return the mean wait of those who wait under a policy; None = of all."""
        count = born = 0
        for (_, name), waitlist in self.snapshot.waiting.items():
            if policy in (None, name):
                count, born = count + len(waitlist), born + waitlist.submitted
        return max(0, self.now - born // count) if count else 0

    def options(self, gang: Gang) -> tuple[Option, ...]:
        """Return where the gang fits as far as is known, whoever asks."""
        options = self._options.get(gang)
        if options is None:
            asked = gang.shape.resources
            options = self._options[gang] = tuple(
                Option(at, 1 << at, stock.slots_of(asked) * gang.replicas, stock.longest(gang))
                for at, stock in enumerate(self.stocks)
                if gang.may_use(stock.pool) and stock.has_room(gang)
            )
            if not options and self._alive is not None:
                self._alive.discard(gang)
        return options

    def alive(self, gangs: Mapping[Gang, object]) -> set[Gang]:
        """Return those of the gangs that fit somewhere, as far as is known; it costs what there are of such at all."""
        if self._alive is None:
            self._alive = {gang for gang in self.snapshot.gangs if self.options(gang)}
        return self._alive.intersection(gangs)

    def may_fit(self, lane: Lane) -> bool:
        """Return whether jobs of the lane fit somewhere, as far as is known."""
        pools = self.mask(lane)
        return any(
            pools & option.bit and (option.longest >= ENDLESS or 0 <= lane.length <= option.longest)
            for option in self.options(lane.gang)
        )

    def mask(self, lane: Lane) -> int:
        """Return the pools that jobs of the lane may use, as bits in the order of `stocks`."""
        mask = self._masks.get(lane)
        if mask is None:
            names = {stock.pool.name for stock in self.eligible(lane)}
            mask = self._masks[lane] = sum(1 << at for at, stock in enumerate(self.stocks) if stock.pool.name in names)
        return mask

    def ends_at(self, job: Job, lane: Lane) -> Instant | None:
        """Return when the job is expected to end if it starts now; None = unknown."""
        left = self.snapshot.remaining_ms(job) if lane.length >= 0 else None
        return None if left is None else self.now + left

    def running_ms(self, job: Job) -> int | None:
        """Return how long a job that runs is expected to run on; None = unknown."""
        live = job.live_attempt
        if live is None:
            return None
        if live.stop is not None:
            return max(1, live.stop.at + job.spec.grace_s * SECOND - self.now)
        return remaining_ms(job, self.snapshot.times(job), max(0, self.now - begin_of(live)))

    def refusal(self, job: Job, lane: Lane, stock: Stock, gang: Gang | None = None) -> Refused | None:
        """Return why the job cannot start in the pool now; None if it can.

        Args:
            gang: how much of it; None = the least that it can start with.
        """
        name, queue = stock.pool.name, job.spec.queue
        gang = gang or lane.gang
        if stock.is_lost:
            return Refused(WaitReason.RUNNER_UNREACHABLE, name, is_hopeless=True)
        slots = stock.slots_of(lane.asked) * gang.replicas
        if slots > stock.potential(queue):
            return Refused(WaitReason.EXCEEDS_MAX_QUOTA, name, is_hopeless=True)
        if not stock.could_fit(gang):
            return Refused(WaitReason.GANG_DOES_NOT_FIT, name, is_hopeless=True)
        if slots > stock.available(queue):
            return Refused(WaitReason.WAITING_FOR_QUOTA, name)
        if not stock.fits(gang, self.ends_at(job, lane)):
            return Refused(WaitReason.GANG_DOES_NOT_FIT, name)
        return None

    def try_pool(self, job: Job, lane: Lane, stock: Stock, gang: Gang | None = None) -> Fit | Refused:
        """Return where in the pool the job starts now, with as many replicas as can be, or why it cannot.

        Args:
            gang: the least that it may start with; None = the least that it can.
        """
        if (refused := self.refusal(job, lane, stock, gang)) is not None:
            return refused
        least = (gang or lane.gang).replicas
        shape, each = lane.shape, stock.slots_of(lane.asked)
        most = job.spec.replicas if each == 0 else min(job.spec.replicas, stock.available(job.spec.queue) // each)
        placements = stock.place(shape, least, most, lane.topology, self.ends_at(job, lane))
        return Fit(Allocation(stock.pool.name, each * len(placements), placements))


def begin_of(attempt: Attempt) -> Instant:
    """Return when an attempt began to run, or was admitted."""
    return attempt.running_at if attempt.running_at is not None else attempt.admitted_at


def slots_of(asked: Resources, replicas: int, pool: Pool) -> int:
    """Return the thousandths of a slot that a gang occupies.

    Raises: ValueError: it asks for a resource that the pool's slot does not have.
    """
    return slots_milli(asked, pool.flavor.slot) * replicas
