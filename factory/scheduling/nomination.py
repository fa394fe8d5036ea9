"""One job against what is left: its allocation, or why not and which pools it now waits for.

A `Workspace` is the snapshot as it is being given away during one plan: the loads and usage that the decisions so far
leave. What failed once in it stays failed, because a plan of the first form only takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from factory.domain.ids import NodeId, PoolName, QueueName
from factory.domain.jobs import Allocation, Job, JobSpec, Waiting, WaitReason
from factory.domain.pools import NodeState, Pool
from factory.domain.resources import Resources
from factory.scheduling.feasibility import eligible_pools, idle_capacity, mismatch, obstacle
from factory.scheduling.placement import NodeLoad, capacity, place, slots_of
from factory.scheduling.quota import Limit, limits, reached
from factory.scheduling.reasons import counted, described, listed, number, precedence, slots, vector, waiting
from factory.scheduling.snapshot import Lane, Snapshot

__all__ = ["Refusal", "Workspace", "nominate"]

_READY = frozenset({NodeState.READY})


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the job cannot start now, and the pools that it holds for itself until it can.

    No pools: running jobs ending would not help it (a node must come back, a quota must grow), so nobody waits for it.
    """

    waiting: Waiting
    holds: frozenset[PoolName]


class Workspace:
    """What is left of a snapshot while a plan gives it away."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._loads: dict[PoolName, dict[NodeId, NodeLoad]] = {}  # of pools in which something was tried
        self._taken: dict[PoolName, Resources] = {}
        self._more: dict[tuple[QueueName, PoolName], int] = {}  # own usage on top of the snapshot's
        self._more_below: dict[tuple[QueueName, PoolName], int] = {}  # the same for queues and those below them
        self._pools: dict[Lane, tuple[Pool, ...]] = {}
        self._limits: dict[tuple[QueueName, PoolName], tuple[Limit, ...]] = {}
        self._room: dict[tuple[PoolName, Resources], int] = {}  # replicas that fitted when a gang last did not
        self._idle: dict[tuple[PoolName, Resources, int], int] = {}

    def eligible(self, lane: Lane) -> tuple[Pool, ...]:
        """Return the pools that jobs of `lane` may use, best first."""
        if lane not in self._pools:
            self._pools[lane] = eligible_pools(self.snapshot, lane)
        return self._pools[lane]

    def used(self, queue: QueueName, pool: PoolName) -> int:
        """Return the slots_milli that the queue's own jobs hold now."""
        return self.snapshot.used.get((queue, pool), 0) + self._more.get((queue, pool), 0)

    def used_below(self, queue: QueueName, pool: PoolName) -> int:
        """Return the slots_milli that the queue and all queues below it hold now."""
        return self.snapshot.tree_used.get((queue, pool), 0) + self._more_below.get((queue, pool), 0)

    def limit_reached(self, queue: QueueName, pool: PoolName, asked_milli: int) -> Limit | None:
        """Return the first limit that `asked_milli` more would break now."""
        if (queue, pool) not in self._limits:
            self._limits[queue, pool] = limits(self.snapshot, queue, pool)
        return reached(self._limits[queue, pool], lambda name: self.used_below(name, pool), asked_milli)

    def free(self, pool: PoolName) -> Resources:
        """Return what the ready nodes of the pool have left together."""
        return self.snapshot.index(pool).free - self._taken.get(pool, Resources())

    def idle_room(self, pool: Pool, spec: JobSpec) -> int:
        """Return how many replicas the ready nodes could hold if nothing ran on them."""
        shape = (pool.name, spec.resources, spec.replicas)
        if shape not in self._idle:
            self._idle[shape] = idle_capacity(self.snapshot, spec, pool, _READY)
        return self._idle[shape]

    def place(self, pool: Pool, spec: JobSpec) -> Allocation | int:
        """Return where the gang goes, or how many of its replicas fit: of shapes that failed before, then."""
        shape = (pool.name, spec.resources)
        known = self._room.get(shape)
        if known is not None and known < spec.replicas:
            return known
        loads = self._working(pool.name)
        placed = place(loads.values(), pool, spec)
        if placed is None:
            self._room[shape] = capacity(loads.values(), spec)
            return self._room[shape]
        return placed

    def take(self, queue: QueueName, allocation: Allocation) -> None:
        """Give the allocation away."""
        pool = allocation.pool
        loads = self._working(pool)
        for placement in allocation.placements:
            loads[placement.node] = loads[placement.node].take(placement)
            self._taken[pool] = self._taken.get(pool, Resources()) + placement.resources
        self._more[queue, pool] = self._more.get((queue, pool), 0) + allocation.slots_milli
        for level in self.snapshot.chain(queue):
            at = (level.name, pool)
            self._more_below[at] = self._more_below.get(at, 0) + allocation.slots_milli

    def _working(self, pool: PoolName) -> dict[NodeId, NodeLoad]:
        if pool not in self._loads:
            loads = self.snapshot.index(pool).loads
            self._loads[pool] = {id: load for id, load in loads.items() if load.node.state is NodeState.READY}
        return self._loads[pool]


def nominate(work: Workspace, job: Job, pools: tuple[Pool, ...]) -> Allocation | Refusal:
    """Find room for the job in one of `pools`, which are eligible for it, best first.

    Of several reasons, that of a pool which the job can wait for is told before that of one which it cannot.
    """
    if (fault := mismatch(work.snapshot, job.spec, job.tenant, pools)) is not None:
        return Refusal(fault, frozenset())
    found: list[tuple[bool, int, Waiting]] = []  # (waiting helps not, precedence, reason)
    holds: list[PoolName] = []
    for pool in pools:
        tried = _try_pool(work, job, pool)
        if isinstance(tried, Allocation):
            return tried
        helps, why = tried
        found.append((not helps, precedence(why.reason), why))
        if helps:
            holds.append(pool.name)
    return Refusal(min(found, key=lambda entry: entry[:2])[2], frozenset(holds))


def _try_pool(work: Workspace, job: Job, pool: Pool) -> Allocation | tuple[bool, Waiting]:
    """Return the allocation, or whether the end of running jobs would help, and the reason."""
    spec = job.spec
    if (lost := _unreachable(work, pool)) is not None:
        return False, lost
    if (never := obstacle(work.snapshot, spec, pool)) is not None:
        return False, never
    needed = slots_of(spec, pool)
    could = work.idle_room(pool, spec) >= spec.replicas
    limit = work.limit_reached(spec.queue, pool.name, needed)
    if limit is not None:
        return could, _over_quota(work, spec, pool, needed, limit)
    placed = work.place(pool, spec) if could else work.idle_room(pool, spec)
    if isinstance(placed, Allocation):
        return placed
    return could, _no_room(work, spec, pool, needed, placed) if could else _too_few_ready(work, spec, pool, placed)


def _unreachable(work: Workspace, pool: Pool) -> Waiting | None:
    index = work.snapshot.index(pool.name)
    nodes, lost = index.count(*NodeState), index.count(NodeState.LOST)
    if lost < nodes:
        return None
    return waiting(
        WaitReason.RUNNER_UNREACHABLE,
        f"pool '{pool.name}' is out of reach: {counted(lost, 'node')} lost, none ready"
        if nodes
        else f"pool '{pool.name}' has no nodes: its runner has not reported any",
        "it goes on when the runner is back; an operator can look with: factory nodes",
        pool=pool.name,
        nodes=nodes,
        lost=lost,
    )


def _over_quota(work: Workspace, spec: JobSpec, pool: Pool, needed: int, limit: Limit) -> Waiting:
    used = work.used_below(limit.queue, pool.name)
    borrows = limit.queue == spec.queue and limit.borrowing_milli > 0
    allowed = f"{number(limit.nominal_milli)} nominal + {number(limit.borrowing_milli)} borrowed"
    return waiting(
        WaitReason.BORROWING_LIMIT_REACHED if borrows else WaitReason.WAITING_FOR_QUOTA,
        f"needs {described(spec, needed)} in pool '{pool.name}'; queue '{limit.queue}' holds {number(used)} of at most "
        f"{slots(limit.most_milli)} there" + (f" ({allowed})" if limit.borrowing_milli else ""),
        "it starts when jobs that count for this quota end",
        pool=pool.name,
        queue=limit.queue,
        asked_milli=needed,
        used_milli=used,
        limit_milli=limit.most_milli,
        nominal_milli=limit.nominal_milli,
        available_milli=limit.most_milli - used,
    )


def _no_room(work: Workspace, spec: JobSpec, pool: Pool, needed: int, room: int) -> Waiting:
    total = _whole_slots(work.snapshot.index(pool.name).capacity(), pool.flavor.slot)
    free = _whole_slots(work.free(pool.name), pool.flavor.slot)
    own = work.used(spec.queue, pool.name)
    fits = f"; {room} of its {spec.replicas} replicas would fit now" if spec.replicas > 1 else ""
    held = "".join(f", {part}" for part in _holders(work, spec.queue, pool.name, own, max(0, total - free - own)))
    return waiting(
        WaitReason.GANG_DOES_NOT_FIT,
        f"needs {described(spec, needed)} in pool '{pool.name}'; {number(free)} of {number(total)} free{held}{fits}",
        "it starts when enough of the running jobs end" + (", or sooner as a smaller gang" if room else ""),
        pool=pool.name,
        asked_milli=needed,
        free_milli=free,
        total_milli=total,
        held_by_queue_milli=own,
        asked_replicas=spec.replicas,
        fitting_replicas=room,
    )


def _holders(work: Workspace, queue: QueueName, pool: PoolName, own: int, others: int) -> Iterator[str]:
    before = work.snapshot.used.get((queue, pool), 0)
    jobs = work.snapshot.holders.get((queue, pool))
    if jobs is not None:
        names = list(islice(jobs.keys(), 3))
        rest = len(jobs) - len(names)
        yield f"{number(before)} held by {listed([*names, *([f'{rest} more of this queue'] if rest else [])])}"
    if own > before:
        yield f"{number(own - before)} given to jobs of this queue that start now"
    if others:
        yield f"{number(others)} held by other queues"


def _too_few_ready(work: Workspace, spec: JobSpec, pool: Pool, room: int) -> Waiting:
    index = work.snapshot.index(pool.name)
    ready, draining, lost = (index.count(s) for s in (NodeState.READY, NodeState.DRAINING, NodeState.LOST))
    return waiting(
        WaitReason.GANG_DOES_NOT_FIT,
        f"needs {spec.replicas} x {vector(spec.resources)} at once, but the ready nodes of pool '{pool.name}' could "
        f"hold at most {room} ({ready} ready, {draining} draining, {lost} lost)",
        "it can start when nodes come back; others are not held up meanwhile",
        pool=pool.name,
        asked_replicas=spec.replicas,
        largest_gang=room,
        ready=ready,
        draining=draining,
        lost=lost,
    )


def _whole_slots(amount: Resources, slot: Resources) -> int:
    """Return how many thousandths of a slot a vector makes: its scarcest resource decides."""
    pairs = (
        (amount.cpu_milli, slot.cpu_milli),
        (amount.memory_bytes, slot.memory_bytes),
        (amount.gpu_milli, slot.gpu_milli),
    )
    return max(0, min((have * 1000 // each for have, each in pairs if each), default=0))
