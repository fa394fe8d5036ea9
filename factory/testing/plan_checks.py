"""Books against which a plan is checked: plain sums over the rows, sharing nothing with the kernel's indices.

`Books` follows the same changes as the snapshot and finds what is wrong with a plan: a node, a device or a quota given
twice, a gang that is not whole, a place that the job may not have, a preemption that does not admit or that takes from
a queue what is its own. A change costs what it touches, so that a benchmark can check every cycle of a big factory.

Quota: the tree of Kueue's `resource_node.go`, restated from its formulas, with the pool as the root: it bounds nothing
but what some queues do not lend. A queue that names no quota for a pool has nothing of its own there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from factory.domain.ids import JobId, NodeId, PoolName, QueueName
from factory.domain.jobs import Allocation, AttemptState, Job, JobSpec, JobState, Topology
from factory.domain.pools import Isolation, Node, NodeState, Pool
from factory.domain.resources import Resources, slots_milli
from factory.domain.tenancy import Queue, Quota
from factory.domain.time import Instant
from factory.scheduling.planning import Admit, Plan, Preempt
from factory.scheduling.snapshot import (
    Change,
    JobChanged,
    NodeChanged,
    PoolChanged,
    QueueChanged,
    Rows,
    RunnerChanged,
)

__all__ = ["Books", "Fault"]

WHOLE = 1000  # thousandths of one GPU


@dataclass(frozen=True, slots=True)
class Fault:
    """One promise that a plan broke."""

    rule: str  # "capacity", "device", "quota", "gang", "place", "turn", "preemption", "legality"
    text: str


@dataclass(slots=True)
class _Use:
    """What live attempts hold of one node."""

    cpu_milli: int = 0
    memory_bytes: int = 0
    gpu_milli: int = 0
    devices: dict[int, int] = field(default_factory=dict[int, int])

    def add(self, asked: Resources, shares: Iterable[tuple[int, int]], sign: int) -> None:
        self.cpu_milli += sign * asked.cpu_milli
        self.memory_bytes += sign * asked.memory_bytes
        self.gpu_milli += sign * asked.gpu_milli
        for index, milli in shares:
            self.devices[index] = self.devices.get(index, 0) + sign * milli


class Books:
    """Who holds what, from the rows alone."""

    def __init__(self, rows: Rows) -> None:
        self.pools: dict[PoolName, Pool] = {pool.name: pool for pool in rows.pools}
        self.nodes: dict[NodeId, Node] = {node.id: node for node in rows.nodes}
        self.queues: dict[QueueName, Queue] = {queue.name: queue for queue in rows.queues}
        self.jobs: dict[JobId, Job] = {}
        self.runners = {runner.id: runner for runner in rows.runners}
        self._use: defaultdict[NodeId, _Use] = defaultdict(_Use)
        self._used: defaultdict[tuple[QueueName, PoolName], int] = defaultdict(int)  # own jobs of a queue, slots_milli
        self._tree = _Tree(self.queues)
        self._stopping: set[JobId] = set()  # jobs whose live attempt was told to stop
        for job in rows.jobs:
            self._put(job.id, job)

    def rows(self) -> Rows:
        """Return the rows as they are now, in no particular order."""
        return Rows(
            tuple(self.pools.values()),
            tuple(self.nodes.values()),
            tuple(self.queues.values()),
            tuple(self.jobs.values()),
            tuple(self.runners.values()),
        )

    def apply(self, changes: Iterable[Change]) -> None:
        """Follow the changes."""
        for change in changes:
            match change:
                case JobChanged(id, job):
                    self._put(id, job)
                case NodeChanged(id, node):
                    _set(self.nodes, id, node)
                case PoolChanged(name, pool):
                    _set(self.pools, name, pool)
                case QueueChanged(name, queue):
                    _set(self.queues, name, queue)
                    self._tree = _Tree(self.queues)
                case RunnerChanged(id, runner):
                    _set(self.runners, id, runner)

    def held_milli(self, pool: PoolName) -> int:
        """Return the slots that live attempts hold in a pool."""
        return sum(slots for (_, name), slots in self._used.items() if name == pool)

    def used(self, node: NodeId) -> Resources:
        """Return what live attempts hold of a node."""
        use = self._use[node]
        return Resources(use.cpu_milli, use.memory_bytes, use.gpu_milli)

    def held_by(self, queue: QueueName, pool: PoolName) -> int:
        """Return the slots_milli of a pool that the queue's own jobs hold."""
        return self._used.get((queue, pool), 0)

    def available_milli(self, queue: QueueName, pool: PoolName) -> int | None:
        """Return how much more of the pool the queue may hold now; None = no quota bounds it."""
        return self._tree.available(queue, pool, self._used, lambda: self._capacity_milli(pool))

    def _capacity_milli(self, name: PoolName) -> int:
        """Return the slots of the ready nodes: their scarcest resource decides."""
        slot, total = self.pools[name].flavor.slot, Resources()
        for node in self.nodes.values():
            if node.pool == name and node.state is NodeState.READY:
                total += node.capacity
        pairs = (
            (total.cpu_milli, slot.cpu_milli),
            (total.memory_bytes, slot.memory_bytes),
            (total.gpu_milli, slot.gpu_milli),
        )
        return min((have * 1000 // each for have, each in pairs if each), default=0)

    def faults(self, plan: Plan, now: Instant) -> list[Fault]:
        """Return every promise that the plan breaks, given the rows as they are. The books stay as they are."""
        admits = [decision for decision in plan.decisions if isinstance(decision, Admit)]
        preempts = [decision for decision in plan.decisions if isinstance(decision, Preempt)]
        found: list[Fault] = []
        decided: set[JobId] = set()
        for decision in plan.decisions:
            if decision.job_id in decided:
                found.append(Fault("turn", f"two decisions about {decision.job_id}"))
            decided.add(decision.job_id)
        for admit in admits:
            found += self._admit_faults(admit, now)
        good = [admit for admit in admits if admit.job_id in self.jobs]
        for admit in good:
            self._count(self.jobs[admit.job_id].spec.queue, admit.allocation, 1)
        try:
            found += self._room_faults(good)
            found += self._preempt_faults(preempts, {admit.job_id for admit in good})
        finally:
            for admit in good:
                self._count(self.jobs[admit.job_id].spec.queue, admit.allocation, -1)
        return found

    # -- admissions --------------------------------------------------------------------------------------------------

    def _admit_faults(self, admit: Admit, now: Instant) -> Iterator[Fault]:
        job = self.jobs.get(admit.job_id)
        if job is None:
            yield Fault("turn", f"{admit.job_id} is admitted, and there is no such job")
            return
        if job.state is not JobState.QUEUED or job.live_attempt is not None:
            yield Fault("turn", f"{job.id} is admitted while {job.state.value}")
        if job.not_before is not None and job.not_before > now:
            yield Fault("turn", f"{job.id} is admitted before its time")
        yield from self._place_faults(job, admit)
        yield from _gang_faults(job.spec, admit.allocation)
        if job.spec.topology is not Topology.ANY:
            yield from self._topology_faults(job, admit.allocation)

    def _place_faults(self, job: Job, admit: Admit) -> Iterator[Fault]:
        pool = self.pools.get(admit.allocation.pool)
        if pool is None or not may_use(job, pool):
            yield Fault("place", f"{job.id} may not use pool {admit.allocation.pool}")
            return
        if pool.runner != admit.runner:
            yield Fault("place", f"{job.id} is sent to {admit.runner}, but {pool.name} belongs to {pool.runner}")
        placements = admit.allocation.placements
        if admit.allocation.slots_milli != slots_milli(job.spec.resources, pool.flavor.slot) * len(placements):
            yield Fault("quota", f"{job.id} is counted as {admit.allocation.slots_milli} thousandths of a slot")
        for placement in placements:
            node = self.nodes.get(placement.node)
            if node is None or node.pool != pool.name or node.state is not NodeState.READY:
                yield Fault("place", f"{job.id} is put on {placement.node}, which is no ready node of {pool.name}")
            elif job.spec.gpu_models and node.gpu_model not in job.spec.gpu_models:
                yield Fault("place", f"{job.id} is put on {placement.node}, whose GPU is {node.gpu_model!r}")

    def _topology_faults(self, job: Job, allocation: Allocation) -> Iterator[Fault]:
        nodes = [placement.node for placement in allocation.placements]
        zones = {node.zone for id in nodes if (node := self.nodes.get(id)) is not None}
        match job.spec.topology:
            case Topology.ONE_NODE if len(set(nodes)) > 1:
                yield Fault("gang", f"{job.id} wants one node and gets {len(set(nodes))}")
            case Topology.SPREAD if len(set(nodes)) < len(nodes):
                yield Fault("gang", f"{job.id} wants each replica on a node of its own")
            case Topology.SAME_ZONE if len(zones) > 1:
                yield Fault("gang", f"{job.id} wants one zone and gets {sorted(zones)}")
            case _:
                pass

    def _room_faults(self, admits: list[Admit]) -> Iterator[Fault]:
        """Look at what the admissions touch, after all of them: sums only grow in between."""
        touched = {placement.node for admit in admits for placement in admit.allocation.placements}
        for id in sorted(touched):
            node, use = self.nodes.get(id), self._use[id]
            if node is None:
                continue
            if not Resources(use.cpu_milli, use.memory_bytes, use.gpu_milli).fits_in(node.capacity):
                yield Fault("capacity", f"node {id} gives {use} of {node.capacity}")
            for index, milli in sorted(use.devices.items()):
                if milli > WHOLE or (milli and index >= node.devices):
                    yield Fault("device", f"device {index} of node {id} gives {milli} thousandths")
        asked = {(self.jobs[admit.job_id].spec.queue, admit.allocation.pool) for admit in admits}
        for queue, pool in sorted(asked):
            left = self.available_milli(queue, pool)
            if left is not None and left < 0:
                yield Fault("quota", f"queue {queue} is {-left} over what it may hold of {pool}")

    # -- preemptions -------------------------------------------------------------------------------------------------

    def _preempt_faults(self, preempts: list[Preempt], admitted: set[JobId]) -> Iterator[Fault]:
        victims: list[tuple[Preempt, Job, Allocation]] = []
        for preempt in preempts:
            job = self.jobs.get(preempt.job_id)
            live = None if job is None else job.live_attempt
            if job is None or live is None or live.id != preempt.attempt_id or live.stop is not None:
                yield Fault("preemption", f"{preempt.attempt_id} is stopped, and is no attempt that runs")
                continue
            winner = self.jobs.get(preempt.for_job)
            if winner is None or winner.state is not JobState.QUEUED or winner.id in admitted:
                yield Fault("preemption", f"{job.id} is stopped for {preempt.for_job}, which does not wait for it")
                continue
            victims.append((preempt, job, live.allocation))
        if victims:
            yield from self._swap_faults(victims)

    def _swap_faults(self, victims: list[tuple[Preempt, Job, Allocation]]) -> Iterator[Fault]:
        """Free what is being stopped already, then the victims in order; each preemptor must then fit.

        Each victim of another queue must be borrowed at its turn: the earlier ones are gone by then, and those for
        whom they went count as if they had started. Preemptors are looked at one by one.
        """
        freed = [(job.spec.queue, held) for id in sorted(self._stopping) if (held := _held(job := self.jobs[id]))]
        for queue, held in freed:
            self._count(queue, held, -1)
        claims = [claim for id in sorted(self._stopping) if (claim := self._claim(self.jobs[id])) is not None]
        claims = list(dict.fromkeys(claims))
        for claim in claims:
            self._promise(*claim, 1)
        try:
            for at, (preempt, job, held) in enumerate(victims):
                winner = self.jobs[preempt.for_job]
                lends = job.spec.queue == winner.spec.queue
                if not lends and not self._tree.borrows(job.spec.queue, winner.spec.queue, held.pool, self._used):
                    yield Fault("legality", f"{job.id} is stopped for {winner.id}, but its queue is within its quota")
                self._count(job.spec.queue, held, -1)
                freed.append((job.spec.queue, held))
                if at + 1 == len(victims) or victims[at + 1][0].for_job != winner.id:
                    claims.append((winner.id, held.pool))
                    self._promise(winner.id, held.pool, 1)
            for claim in claims:
                self._promise(*claim, -1)
            claims.clear()
            touched = dict.fromkeys(placement.node for _, held in freed for placement in held.placements)
            order = [*touched, *(id for id in self.nodes if id not in touched)]  # where room is likely first
            for id in sorted({preempt.for_job for preempt, _, _ in victims}):
                job = self.jobs[id]
                if not any(self._would_fit(job, pool, order) for pool in self.pools.values()):
                    yield Fault("preemption", f"attempts are stopped for {id}, which still does not fit")
        finally:
            for claim in claims:
                self._promise(*claim, -1)
            for queue, held in freed:
                self._count(queue, held, 1)

    def _claim(self, stopping: Job) -> tuple[JobId, PoolName] | None:
        """Return for whom the attempt is being stopped, if that job still waits, and in which pool."""
        live = stopping.live_attempt
        winner = None if live is None or live.stop is None else self.jobs.get(JobId(live.stop.by))
        if live is None or winner is None or winner.live_attempt is not None:
            return None
        return winner.id, live.allocation.pool

    def _promise(self, id: JobId, pool: PoolName, sign: int) -> None:
        """Count (or no longer) what a preemptor will hold as held."""
        spec = self.jobs[id].spec
        least = spec.replicas if spec.min_replicas is None else spec.min_replicas
        self._used[spec.queue, pool] += sign * slots_milli(spec.resources, self.pools[pool].flavor.slot) * least
        self._tree.forget(pool)

    def _would_fit(self, job: Job, pool: Pool, order: list[NodeId]) -> bool:
        if not may_use(job, pool):
            return False
        spec = job.spec
        least = spec.replicas if spec.min_replicas is None else spec.min_replicas
        left = self.available_milli(spec.queue, pool.name)
        if left is not None and left < slots_milli(spec.resources, pool.flavor.slot) * least:
            return False
        rooms: defaultdict[str, int] = defaultdict(int)  # replicas that fit, by what must hold all of them together
        for id in order:
            node = self.nodes.get(id)
            if node is None or node.pool != pool.name or node.state is not NodeState.READY:
                continue
            if spec.gpu_models and node.gpu_model not in spec.gpu_models:
                continue
            room = self._copies(node, spec.resources, least)
            match spec.topology:
                case Topology.ANY:
                    where = ""
                case Topology.SPREAD:
                    where, room = "", min(room, 1)
                case Topology.SAME_ZONE:
                    where = node.zone
                case Topology.ONE_NODE:
                    where = id
            rooms[where] += room
            if rooms[where] >= least:
                return True
        return least == 0

    def _copies(self, node: Node, asked: Resources, most: int) -> int:
        use = self._use[node.id]
        bounds = [most]
        if asked.cpu_milli:
            bounds.append((node.capacity.cpu_milli - use.cpu_milli) // asked.cpu_milli)
        if asked.memory_bytes:
            bounds.append((node.capacity.memory_bytes - use.memory_bytes) // asked.memory_bytes)
        if asked.gpu_milli:
            left = [WHOLE - use.devices.get(index, 0) for index in range(node.devices)]
            if asked.gpu_milli < WHOLE:
                bounds.append(sum(max(0, free) // asked.gpu_milli for free in left))
            else:
                bounds.append(left.count(WHOLE) * WHOLE // asked.gpu_milli)
        return max(0, min(bounds))

    # -- sums --------------------------------------------------------------------------------------------------------

    def _put(self, id: JobId, job: Job | None) -> None:
        old = self.jobs.get(id)
        if old is not None and (held := _held(old)) is not None:
            self._count(old.spec.queue, held, -1)
        self._stopping.discard(id)
        if job is None or (job.is_terminal and job.live_attempt is None):
            self.jobs.pop(id, None)
            return
        self.jobs[id] = job
        live = job.live_attempt
        if live is not None and live.stop is not None:
            self._stopping.add(id)
        if (held := _held(job)) is not None:
            self._count(job.spec.queue, held, 1)

    def _count(self, queue: QueueName, held: Allocation, sign: int) -> None:
        for placement in held.placements:
            shares = ((share.index, share.milli) for share in placement.devices)
            self._use[placement.node].add(placement.resources, shares, sign)
        self._used[queue, held.pool] += sign * held.slots_milli
        self._tree.forget(held.pool)


def may_use(job: Job, pool: Pool) -> bool:
    """True if the job may have slots of the pool at all: its name, kind, tenant and what its slot has."""
    spec, slot = job.spec, pool.flavor.slot
    if spec.pool is not None and spec.pool != pool.name:
        return False
    if spec.flavors and pool.flavor.name not in spec.flavors:
        return False
    if pool.isolation is Isolation.TENANT and pool.tenant != job.tenant:
        return False
    asked = spec.resources
    return not (
        (asked.cpu_milli and not slot.cpu_milli)
        or (asked.memory_bytes and not slot.memory_bytes)
        or (asked.gpu_milli and not slot.gpu_milli)
    )


def _gang_faults(spec: JobSpec, allocation: Allocation) -> Iterator[Fault]:
    placements = allocation.placements
    least = spec.replicas if spec.min_replicas is None else spec.min_replicas
    if not least <= len(placements) <= spec.replicas or [p.rank for p in placements] != list(range(len(placements))):
        yield Fault("gang", f"a gang of {least} to {spec.replicas} gets ranks {[p.rank for p in placements]}")
    for placement in placements:
        asked = spec.resources
        shares = [share.milli for share in placement.devices]
        if placement.resources != asked or sum(shares) != asked.gpu_milli:
            yield Fault("device", f"a replica that asks for {asked} gets {placement}")
        if asked.gpu_milli >= WHOLE and any(milli != WHOLE for milli in shares):
            yield Fault("device", f"a replica that asks for whole GPUs gets {shares} of them")
        if 0 < asked.gpu_milli < WHOLE and len(shares) != 1:
            yield Fault("device", f"a fraction of a GPU is spread over {len(shares)} devices")


def _held(job: Job) -> Allocation | None:
    live = job.attempts[-1] if job.attempts else None
    return None if live is None or live.state is AttemptState.ENDED else live.allocation


class _Tree:
    """The quota tree; subtree sums are computed per pool when asked for, and dropped when usage changes."""

    def __init__(self, queues: dict[QueueName, Queue]) -> None:
        self._queues = dict(queues)
        self._children: defaultdict[QueueName | None, list[QueueName]] = defaultdict(list)
        for queue in queues.values():
            parent = queue.parent if queue.parent in queues else None
            self._children[parent].append(queue.name)
        self._supply: dict[PoolName, dict[QueueName, int]] = {}
        self._use: dict[PoolName, dict[QueueName, int]] = {}

    def forget(self, pool: PoolName) -> None:
        self._use.pop(pool, None)

    def quota(self, queue: QueueName, pool: PoolName) -> Quota | None:
        return next((quota for quota in self._queues[queue].quotas if quota.pool == pool), None)

    def line(self, queue: QueueName) -> list[QueueName]:
        """The queue and those above it, root last."""
        found: list[QueueName] = []
        at: QueueName | None = queue
        while at is not None and at in self._queues and at not in found:
            found.append(at)
            at = self._queues[at].parent
        return found

    def available(
        self,
        queue: QueueName,
        pool: PoolName,
        used: dict[tuple[QueueName, PoolName], int],
        capacity: Callable[[], int],
    ) -> int | None:
        """From the top down. Above the queues without a parent is the pool, which bounds what some do not lend."""
        supply, use = self._sums(pool, used)
        tops = self._children[None]
        kept = sum(self._local(top, pool, supply) for top in tops)
        left: int | None = None
        if kept:
            borrowed = sum(max(0, use[top] - self._local(top, pool, supply)) for top in tops)
            left = capacity() - kept - borrowed
        for level in reversed(self.line(queue)):
            quota = self.quota(level, pool)
            mine, local = use.get(level, 0), self._local(level, pool, supply)
            if level in tops and left is not None and mine <= local:
                left = max(0, left)  # what others borrowed too much of takes nothing from what is kept
            if quota is not None and quota.borrowing_milli is not None:
                bound = supply.get(level, 0) - local - max(0, mine - local) + quota.borrowing_milli
                left = bound if left is None else min(left, bound)
            left = None if left is None else max(0, local - mine) + left
        return left

    def borrows(
        self, victim: QueueName, winner: QueueName, pool: PoolName, used: dict[tuple[QueueName, PoolName], int]
    ) -> bool:
        """True if some level of the victim's side, below what both share, holds more than its own supply."""
        shared = set(self.line(winner))
        supply, use = self._sums(pool, used)
        return any(use.get(at, 0) > supply.get(at, 0) for at in self.line(victim) if at not in shared)

    def _local(self, queue: QueueName, pool: PoolName, supply: dict[QueueName, int]) -> int:
        quota = self.quota(queue, pool)
        if quota is None or quota.lending_milli is None:
            return 0
        return max(0, supply.get(queue, 0) - quota.lending_milli)

    def _sums(
        self, pool: PoolName, used: dict[tuple[QueueName, PoolName], int]
    ) -> tuple[dict[QueueName, int], dict[QueueName, int]]:
        if pool not in self._supply:
            supply: dict[QueueName, int] = {}
            for name in self._bottom_up():
                quota = self.quota(name, pool)
                lent = sum(supply[c] - self._local(c, pool, supply) for c in self._children[name])
                supply[name] = (0 if quota is None else quota.nominal_milli) + lent
            self._supply[pool] = supply
        if pool not in self._use:
            use: dict[QueueName, int] = {}
            for name in self._bottom_up():
                above = sum(max(0, use[c] - self._local(c, pool, self._supply[pool])) for c in self._children[name])
                use[name] = used.get((name, pool), 0) + above
            self._use[pool] = use
        return self._supply[pool], self._use[pool]

    def _bottom_up(self) -> list[QueueName]:
        order: list[QueueName] = []
        stack = list(self._children[None])
        while stack:
            name = stack.pop()
            order.append(name)
            stack.extend(self._children[name])
        order.reverse()
        return order


def _set(rows: dict, key: object, value: object | None) -> None:
    if value is None:
        rows.pop(key, None)
    else:
        rows[key] = value
