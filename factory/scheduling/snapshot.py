"""What the scheduler sees: the rows at one moment, with the indices that make a plan cheap.

A snapshot is a persistent value. `build` is O(n) but for sorting; `evolve` costs O(log n) a change, shares all else
with the snapshot it came from, and leaves that one valid. Both give the same indices: `plan(evolve(s, c)) ==
plan(build(rows after c))`. One change costs more: a queue that comes, goes or gets another parent sums the quota tree
again.

Slots of a live attempt are held, whatever its state: only proof of death frees them (DESIGN §2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar, assert_never

from factory.domain.ids import JobId, NodeId, PoolName, QueueName, RunnerId, TenantId
from factory.domain.jobs import Allocation, Job, JobSpec, JobState
from factory.domain.pools import Node, Pool, Runner
from factory.domain.tenancy import Queue
from factory.domain.time import Instant
from factory.scheduling.indices import NO_NODES, Holding, PoolIndex, hold, index_of, load_of, reindexed
from factory.scheduling.persistent import SortedMap, Trie, sorted_map
from factory.scheduling.placement import NodeLoad

__all__ = [
    "Change",
    "JobChanged",
    "Lane",
    "NodeChanged",
    "PoolChanged",
    "QueueChanged",
    "Rows",
    "RunnerChanged",
    "Snapshot",
    "Turn",
    "Waitlist",
    "lane_of",
    "turn_of",
]

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Rows:
    """All rows that scheduling depends on; ids are unique in each. Jobs that have ended may be left out."""

    pools: tuple[Pool, ...] = ()
    nodes: tuple[Node, ...] = ()
    queues: tuple[Queue, ...] = ()
    jobs: tuple[Job, ...] = ()
    runners: tuple[Runner, ...] = ()


@dataclass(frozen=True, slots=True)
class PoolChanged:
    """The pool is now so; None = removed."""

    name: PoolName
    pool: Pool | None


@dataclass(frozen=True, slots=True)
class NodeChanged:
    """The node is now so; None = removed."""

    id: NodeId
    node: Node | None


@dataclass(frozen=True, slots=True)
class QueueChanged:
    """The queue is now so; None = removed."""

    name: QueueName
    queue: Queue | None


@dataclass(frozen=True, slots=True)
class JobChanged:
    """The job is now so; None or an ended job = removed."""

    id: JobId
    job: Job | None


@dataclass(frozen=True, slots=True)
class RunnerChanged:
    """The runner is now so; None = removed."""

    id: RunnerId
    runner: Runner | None


Change: TypeAlias = PoolChanged | NodeChanged | QueueChanged | JobChanged | RunnerChanged

Turn: TypeAlias = tuple[int, Instant, JobId]  # order inside a queue: (-priority rank, submitted at, id), least first


@dataclass(frozen=True, slots=True, order=True)
class Lane:
    """What decides, beside size, which pools a waiting job may use; jobs of one lane may use the same pools."""

    pool: str  # "" = any
    cpu: bool  # asks for CPUs
    memory: bool
    gpu: bool
    tenant: TenantId


@dataclass(frozen=True, slots=True)
class Waitlist:
    """Jobs of one queue that wait for slots, by lane; `length` is their number."""

    lanes: Mapping[Lane, SortedMap[Turn, JobId]]
    length: int

    def position(self, turn: Turn) -> int:
        """Return how many jobs of the queue go before `turn`, plus one."""
        return 1 + sum(order.rank(turn) for order in self.lanes.values())


_NOBODY = Waitlist({}, 0)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The rows at one moment and their indices; make it with `build`, change it with `evolve`."""

    pools: Trie[PoolName, Pool]
    nodes: Trie[NodeId, Node]
    queues: Trie[QueueName, Queue]
    jobs: Trie[JobId, Job]  # those that have not ended
    runners: Trie[RunnerId, Runner]
    holdings: Trie[NodeId, Holding]
    indices: Trie[PoolName, PoolIndex]  # of every pool that has nodes
    used: Trie[tuple[QueueName, PoolName], int]  # slots_milli held by the queue's own jobs; no zeros
    tree_used: Trie[tuple[QueueName, PoolName], int]  # the same with all queues below it
    holders: Trie[tuple[QueueName, PoolName], SortedMap[JobId, int]]  # who holds how many slots_milli
    waiting: Trie[QueueName, Waitlist]  # of every queue in which a job waits for slots

    @classmethod
    def build(cls, rows: Rows) -> Snapshot:
        """Index all rows at once."""
        jobs = {job.id: job for job in rows.jobs if _matters(job)}
        queues = _trie({queue.name: queue for queue in rows.queues})
        nodes = {node.id: node for node in rows.nodes}
        held: dict[NodeId, Holding | None] = {}
        used: dict[tuple[QueueName, PoolName], int] = {}
        holders: dict[tuple[QueueName, PoolName], list[tuple[JobId, int]]] = {}
        turns: dict[QueueName, dict[Lane, list[tuple[Turn, JobId]]]] = {}
        for job in jobs.values():
            if (kept := _kept(job)) is not None:
                for placement in kept.placements:
                    held[placement.node] = hold(held.get(placement.node), placement, 1)
                at = (job.spec.queue, kept.pool)
                used[at] = used.get(at, 0) + kept.slots_milli
                holders.setdefault(at, []).append((job.id, kept.slots_milli))
            elif (place := _place_in_line(job)) is not None:
                queue, lane, turn = place
                turns.setdefault(queue, {}).setdefault(lane, []).append((turn, job.id))
        holdings = {id: holding for id, holding in held.items() if holding is not None}
        loads: dict[PoolName, list[NodeLoad]] = {}
        for node in nodes.values():
            loads.setdefault(node.pool, []).append(load_of(node, holdings.get(node.id)))
        own: dict[tuple[QueueName, PoolName], int] = {at: slots for at, slots in used.items() if slots}
        return cls(
            pools=_trie({pool.name: pool for pool in rows.pools}),
            nodes=_trie(nodes),
            queues=queues,
            jobs=_trie(jobs),
            runners=_trie({runner.id: runner for runner in rows.runners}),
            holdings=_trie(holdings),
            indices=_trie({pool: index_of(members) for pool, members in loads.items()}),
            used=_trie(own),
            tree_used=_summed(queues, own),
            holders=_trie({at: sorted_map(jobs) for at, jobs in holders.items()}),
            waiting=_trie({queue: _waitlist(lanes) for queue, lanes in turns.items()}),
        )

    def evolve(self, changes: Iterable[Change]) -> Snapshot:
        """Return the snapshot after `changes`, in their order; this one stays as it is."""
        draft = _Draft(self)
        for change in changes:
            draft.apply(change)
        return draft.finish()

    def rows(self) -> Rows:
        """Return the rows, each kind by id."""
        return Rows(
            pools=tuple(pool for _, pool in sorted(self.pools.items())),
            nodes=tuple(node for _, node in sorted(self.nodes.items())),
            queues=tuple(queue for _, queue in sorted(self.queues.items())),
            jobs=tuple(job for _, job in sorted(self.jobs.items())),
            runners=tuple(runner for _, runner in sorted(self.runners.items())),
        )

    def index(self, pool: PoolName) -> PoolIndex:
        """Return the nodes of `pool`; an empty index if it has none."""
        return self.indices.get(pool, NO_NODES)

    def waitlist(self, queue: QueueName) -> Waitlist:
        """Return who waits for slots in `queue`."""
        return self.waiting.get(queue, _NOBODY)

    def chain(self, queue: QueueName) -> tuple[Queue, ...]:
        """Return the queue and those above it, up to the root; empty if there is no such queue."""
        return _chain(self.queues, queue)


def turn_of(job: Job) -> Turn:
    """Return the job's place in the order of its queue; a job that is queued again keeps it."""
    return (-job.spec.priority.rank, job.submitted_at, job.id)


def lane_of(spec: JobSpec, tenant: TenantId) -> Lane:
    """Return the lane that a job of `tenant` waits in."""
    asked = spec.resources
    return Lane(spec.pool or "", asked.cpu_milli > 0, asked.memory_bytes > 0, asked.gpu_milli > 0, tenant)


class _Draft:
    """A snapshot under change. Nodes and the quota tree are settled once, in `finish`."""

    def __init__(self, base: Snapshot) -> None:
        self._base = base
        self._pools = base.pools
        self._nodes = base.nodes
        self._queues = base.queues
        self._jobs = base.jobs
        self._runners = base.runners
        self._holdings = base.holdings
        self._used = base.used
        self._tree_used = base.tree_used
        self._holders = base.holders
        self._waiting = base.waiting
        self._touched: set[NodeId] = set()
        self._tree_changed = False

    def apply(self, change: Change) -> None:
        match change:
            case PoolChanged(name, pool):
                self._pools = _put(self._pools, name, pool)
            case RunnerChanged(id, runner):
                self._runners = _put(self._runners, id, runner)
            case NodeChanged(id, node):
                self._nodes = _put(self._nodes, id, node)
                self._touched.add(id)
            case QueueChanged(name, queue):
                old = self._queues.get(name)
                self._queues = _put(self._queues, name, queue)
                self._tree_changed |= old is None or queue is None or old.parent != queue.parent
            case JobChanged(id, job):
                self._change_job(id, job)
            case _:
                assert_never(change)

    def finish(self) -> Snapshot:
        return Snapshot(
            pools=self._pools,
            nodes=self._nodes,
            queues=self._queues,
            jobs=self._jobs,
            runners=self._runners,
            holdings=self._holdings,
            indices=self._settled_indices(),
            used=self._used,
            tree_used=_summed(self._queues, self._used) if self._tree_changed else self._tree_used,
            holders=self._holders,
            waiting=self._waiting,
        )

    def _change_job(self, id: JobId, job: Job | None) -> None:
        old = self._jobs.get(id)
        new = job if job is not None and _matters(job) else None
        self._jobs = _put(self._jobs, id, new)
        before = None if old is None else (old.spec.queue, _kept(old))
        after = None if new is None else (new.spec.queue, _kept(new))
        if before != after:
            self._count(id, before, -1)
            self._count(id, after, 1)
        was = None if old is None else _place_in_line(old)
        now = None if new is None else _place_in_line(new)
        if was != now:
            self._line_up(id, was, joins=False)
            self._line_up(id, now, joins=True)

    def _count(self, id: JobId, keeps: tuple[QueueName, Allocation | None] | None, sign: int) -> None:
        if keeps is None or keeps[1] is None:
            return
        queue, kept = keeps[0], keeps[1]
        for placement in kept.placements:
            holding = hold(self._holdings.get(placement.node), placement, sign)
            self._holdings = _put(self._holdings, placement.node, holding)
            self._touched.add(placement.node)
        at = (queue, kept.pool)
        self._used = _added(self._used, at, sign * kept.slots_milli)
        for name in _line(self._queues, queue):
            self._tree_used = _added(self._tree_used, (name, kept.pool), sign * kept.slots_milli)
        jobs: SortedMap[JobId, int] = self._holders.get(at, SortedMap())
        jobs = jobs.insert(id, kept.slots_milli) if sign > 0 else jobs.discard(id)
        self._holders = _put(self._holders, at, jobs or None)

    def _line_up(self, id: JobId, place: tuple[QueueName, Lane, Turn] | None, *, joins: bool) -> None:
        if place is None:
            return
        queue, lane, turn = place
        waitlist = self._waiting.get(queue, _NOBODY)
        order: SortedMap[Turn, JobId] = waitlist.lanes.get(lane, SortedMap())
        order = order.insert(turn, id) if joins else order.discard(turn)
        lanes = {**waitlist.lanes, lane: order}
        if not order:
            del lanes[lane]
        changed = Waitlist(lanes, waitlist.length + (1 if joins else -1))
        self._waiting = _put(self._waiting, queue, changed if lanes else None)

    def _settled_indices(self) -> Trie[PoolName, PoolIndex]:
        indices = self._base.indices
        moved: dict[PoolName, list[tuple[NodeId, NodeLoad | None, NodeLoad | None]]] = {}
        for id in sorted(self._touched):
            old, new = self._base.nodes.get(id), self._nodes.get(id)
            before = None if old is None else load_of(old, self._base.holdings.get(id))
            after = None if new is None else load_of(new, self._holdings.get(id))
            if old is not None and new is not None and old.pool == new.pool:
                moved.setdefault(old.pool, []).append((id, before, after))
                continue
            if old is not None:
                moved.setdefault(old.pool, []).append((id, before, None))
            if new is not None:
                moved.setdefault(new.pool, []).append((id, None, after))
        for pool, loads in moved.items():
            index = reindexed(indices.get(pool, NO_NODES), loads)
            indices = _put(indices, pool, index if index.loads else None)
        return indices


def _trie(items: Mapping[K, V]) -> Trie[K, V]:
    return Trie(items)


def _put(trie: Trie[K, V], key: K, value: V | None) -> Trie[K, V]:
    """Set `key`, or remove it if there is no value."""
    return trie.discard(key) if value is None else trie.insert(key, value)


def _added(trie: Trie[K, int], key: K, amount: int) -> Trie[K, int]:
    """Add to a number; zero is not kept."""
    return _put(trie, key, trie.get(key, 0) + amount or None)


def _matters(job: Job) -> bool:
    """An ended job does not, unless an attempt of it is not proven dead: its slots must not be given twice."""
    return not job.is_terminal or job.live_attempt is not None


def _kept(job: Job) -> Allocation | None:
    """Return what the job's live attempt holds."""
    live = job.live_attempt
    return None if live is None else live.allocation


def _place_in_line(job: Job) -> tuple[QueueName, Lane, Turn] | None:
    """Return where the job waits; None if it is no candidate. A live attempt rules the next one out (rule 4)."""
    if job.state is not JobState.QUEUED or job.live_attempt is not None:
        return None
    return job.spec.queue, lane_of(job.spec, job.tenant), turn_of(job)


def _waitlist(lanes: dict[Lane, list[tuple[Turn, JobId]]]) -> Waitlist:
    return Waitlist({lane: sorted_map(jobs) for lane, jobs in lanes.items()}, sum(map(len, lanes.values())))


def _chain(queues: Mapping[QueueName, Queue], name: QueueName) -> tuple[Queue, ...]:
    chain: dict[QueueName, Queue] = {}
    queue = queues.get(name)
    while queue is not None and queue.name not in chain:  # a circle of parents ends where it began
        chain[queue.name] = queue
        queue = queues.get(queue.parent) if queue.parent is not None else None
    return tuple(chain.values())


def _line(queues: Mapping[QueueName, Queue], name: QueueName) -> tuple[QueueName, ...]:
    """Return the names that usage of `name` counts for; of a queue that is gone, its own."""
    return tuple(queue.name for queue in _chain(queues, name)) or (name,)


def _summed(
    queues: Mapping[QueueName, Queue], used: Mapping[tuple[QueueName, PoolName], int]
) -> Trie[tuple[QueueName, PoolName], int]:
    """Sum the usage of every queue up its line."""
    sums: dict[tuple[QueueName, PoolName], int] = {}
    for (name, pool), slots in used.items():
        for above in _line(queues, name):
            sums[above, pool] = sums.get((above, pool), 0) + slots
    return _trie(sums)
