"""What the scheduler sees: the rows at one moment, with the indices that make a plan cheap.

A snapshot is a persistent value. `build` is O(n) but for sorting; `evolve` costs O(log n) a change, shares all else
with the snapshot it came from, and leaves that one valid. Both give the same indices: `plan(evolve(s, c)) ==
plan(build(rows after c))`. Rare changes cost more: a queue's row makes its tree again, another policy of a pool lines
up again all who wait, and a lesson about run times all jobs of that kind.

Slots of a live attempt are held, whatever its state: only proof of death frees them (DESIGN §2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar, assert_never

from factory.domain.ids import JobId, NodeId, PoolName, QueueName, RunnerId
from factory.domain.jobs import Allocation, Attempt, EndReason, Job
from factory.domain.pools import Node, Pool, Runner
from factory.domain.tenancy import Queue
from factory.domain.time import SECOND, Instant
from factory.scheduling.changes import (
    Change,
    JobChanged,
    NodeChanged,
    PoolChanged,
    QueueChanged,
    Rows,
    RunnerChanged,
)
from factory.scheduling.estimating import (
    KEPT_RUNS,
    UNKNOWN,
    Kind,
    Run,
    RunTimes,
    kind_of,
    learned,
    remaining_ms,
    run_of,
)
from factory.scheduling.fleet import Fleet, Shape
from factory.scheduling.fragmentation import Typical
from factory.scheduling.holding import Holding, NodeLoad, hold, load_of
from factory.scheduling.persistent import SortedMap, Trie, sorted_map
from factory.scheduling.quota import Tree, bubble
from factory.scheduling.spending import HALF_LIFE_S, spent
from factory.scheduling.waiting import (
    NOBODY,
    Gang,
    Line,
    Place,
    Routes,
    Waitlist,
    policy_of,
    shape_of,
    turn_of,
    waits,
)

__all__ = [
    "Account",
    "Change",
    "Holder",
    "JobChanged",
    "NodeChanged",
    "PoolChanged",
    "QueueChanged",
    "Rows",
    "RunnerChanged",
    "Snapshot",
    "ending_of",
]

K = TypeVar("K")
V = TypeVar("V")

Account: TypeAlias = tuple[QueueName, PoolName]
Holder: TypeAlias = tuple[int, JobId]  # rank of the job's priority class, id
_Ending: TypeAlias = tuple[PoolName, Instant]
_Claim: TypeAlias = tuple[JobId, ...]

_NO_NODES = Fleet.build(())
_GRID = 64 * HALF_LIFE_S * SECOND


class Trees(Mapping[PoolName, Tree]):
    """The quota trees of a set of queues, each made when it is first asked for."""

    def __init__(self, queues: Trie[QueueName, Queue]) -> None:
        self._queues = queues
        self._made: dict[PoolName, Tree] = {}

    def __getitem__(self, pool: PoolName) -> Tree:
        tree = self._made.get(pool)
        if tree is None:
            tree = self._made[pool] = Tree(self._queues, pool)
        return tree

    def __iter__(self) -> Iterator[PoolName]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The rows at one moment and their indices; make it with `build`, change it with `evolve`."""

    pools: Trie[PoolName, Pool]
    nodes: Trie[NodeId, Node]
    queues: Trie[QueueName, Queue]
    jobs: Trie[JobId, Job]  # those that have not ended
    runners: Trie[RunnerId, Runner]
    holdings: Trie[NodeId, Holding]
    fleets: Trie[PoolName, Fleet]  # of every pool that has nodes
    trees: Trees
    routes: Routes
    used: Trie[Account, int]  # slots_milli held by the queue's own jobs; no zeros
    tree_used: Trie[Account, int]  # U of `quota`, with the pool itself under `ROOT`; no zeros
    holders: Trie[Account, SortedMap[Holder, int]]  # who holds how many slots_milli, the lowest class first
    waiting: Trie[Line, Waitlist]  # of every line in which a job waits
    places: Trie[JobId, Place]  # of every job that waits
    gangs: Trie[Gang, int]  # how many jobs wait as each
    endings: Trie[JobId, _Ending]  # of every attempt that is expected to end
    ends: Trie[PoolName, SortedMap[tuple[Instant, JobId], None]]  # the same in order of time
    stopping: Trie[JobId, None]  # jobs whose live attempt was told to stop
    claims: Trie[JobId, _Claim]  # for whom jobs were preempted that have not started since, and which
    shapes: Trie[Shape, int]  # how many replicas of each shape are asked for, waiting or running
    runs: Trie[Kind, RunTimes]
    members: Trie[Kind, Trie[JobId, None]]  # jobs that have not ended, by kind
    since: Instant
    spent: Trie[QueueName, int]  # of late, by the queue's own jobs (`spending`); no zeros
    tree_spent: Trie[QueueName, int]  # the same with all queues below it
    tree_slots: Trie[QueueName, int]  # slots_milli held in all pools, by the queue and all below it; no zeros

    @classmethod
    def build(cls, rows: Rows) -> Snapshot:
        """Index all rows at once."""
        return _build(rows)

    def evolve(self, changes: Iterable[Change]) -> Snapshot:
        """Return the snapshot after `changes`, in their order; this one stays as it is."""
        draft = _Draft(self)
        for change in changes:
            draft.apply(change)
        return draft.finish()

    def rows(self) -> Rows:
        """Return the rows, each kind by id, and what was learned."""
        gone: Counter[QueueName] = Counter(dict(self.spent.items()))
        for job in self.jobs.values():
            gone[job.spec.queue] -= spent(job, self.since)
        return Rows(
            pools=tuple(pool for _, pool in sorted(self.pools.items())),
            nodes=tuple(node for _, node in sorted(self.nodes.items())),
            queues=tuple(queue for _, queue in sorted(self.queues.items())),
            jobs=tuple(job for _, job in sorted(self.jobs.items())),
            runners=tuple(runner for _, runner in sorted(self.runners.items())),
            since=self.since,
            spent=tuple((queue, value) for queue, value in sorted(gone.items()) if value),
            runs=tuple((kind, times.runs) for kind, times in sorted(self.runs.items())),
        )

    def fleet(self, pool: PoolName) -> Fleet:
        """Return the nodes of `pool`; an empty fleet if it has none."""
        return self.fleets.get(pool, _NO_NODES)

    def typical(self) -> Typical:
        """Return the shapes that the workload asks for most; rounded, so that it changes seldom (ADR 8)."""
        return Typical.of({shape: _rounded(count) for shape, count in self.shapes.items()})

    def times(self, job: Job) -> RunTimes:
        """Return what is known of how long jobs like this run."""
        return self.runs.get(kind_of(job), UNKNOWN)

    def remaining_ms(self, job: Job) -> int | None:
        """Return how long its next attempt, or the present one in all, is expected to run; None = unknown."""
        return remaining_ms(job, self.times(job))

    def lines(self, queue: QueueName) -> tuple[tuple[str, Waitlist], ...]:
        """Return who waits in the queue, by policy."""
        return tuple((line[1], waitlist) for line, waitlist in sorted(self.waiting.items()) if line[0] == queue)

    def waitlist(self, line: Line) -> Waitlist:
        """Return who waits in a line."""
        return self.waiting.get(line, NOBODY)

    def chain(self, queue: QueueName) -> tuple[Queue, ...]:
        """Return the queue and those above it, up to the root; empty if there is no such queue."""
        return tuple(self.queues[name] for name in _chain(self.queues, queue) if name in self.queues)


def ending_of(job: Job, times: RunTimes) -> _Ending | None:
    """Return where and when the live attempt is expected to end; None = there is none, or nobody knows."""
    live = job.live_attempt
    if live is None:
        return None
    if live.stop is not None:
        return live.allocation.pool, live.stop.at + job.spec.grace_s * SECOND
    left = remaining_ms(job, times)
    if left is None:
        return None
    begin = live.running_at if live.running_at is not None else live.admitted_at
    return live.allocation.pool, begin + left


def _build(rows: Rows) -> Snapshot:
    jobs = {job.id: job for job in rows.jobs if _matters(job)}
    pools, queues = Trie({pool.name: pool for pool in rows.pools}), Trie({queue.name: queue for queue in rows.queues})
    nodes = {node.id: node for node in rows.nodes}
    since = rows.since if rows.since is not None else _since(rows.jobs)
    runs = _runs(rows)
    routes = Routes(pools)
    held: dict[NodeId, Holding | None] = {}
    used: Counter[Account] = Counter()
    spendings: Counter[QueueName] = Counter()
    holders: dict[Account, list[tuple[Holder, int]]] = {}
    places: dict[JobId, Place] = {}
    endings: dict[JobId, _Ending] = {}
    claims: dict[JobId, list[JobId]] = {}
    stopping: dict[JobId, None] = {}
    members: dict[Kind, dict[JobId, None]] = {}
    shapes: Counter[Shape] = Counter()
    for queue, value in rows.spent:
        spendings[queue] += value
    for job in rows.jobs:
        if job.attempts:
            spendings[job.spec.queue] += spent(job, since)
    for job in jobs.values():
        kind = kind_of(job)
        times = runs.get(kind, UNKNOWN)
        members.setdefault(kind, {})[job.id] = None
        shapes[shape_of(job.spec)] += job.spec.replicas
        if (place := _place_of(job, times, routes)) is not None:
            places[job.id] = place
        if not job.attempts:
            continue
        if (kept := _kept(job)) is not None:
            for placement in kept.placements:
                held[placement.node] = hold(held.get(placement.node), placement, 1)
            used[job.spec.queue, kept.pool] += kept.slots_milli
            holder = (job.spec.priority.rank, job.id)
            holders.setdefault((job.spec.queue, kept.pool), []).append((holder, kept.slots_milli))
        if (ending := ending_of(job, times)) is not None:
            endings[job.id] = ending
        if _is_stopping(job):
            stopping[job.id] = None
        if (preemptor := _preempted_for(job)) is not None:
            claims.setdefault(preemptor, []).append(job.id)
    holdings = {id: holding for id, holding in held.items() if holding is not None}
    loads: dict[PoolName, list[NodeLoad]] = {}
    for node in nodes.values():
        loads.setdefault(node.pool, []).append(load_of(node, holdings.get(node.id)))
    waiting: dict[Line, list[Place]] = {}
    for place in places.values():
        waiting.setdefault(place.line, []).append(place)
    ends: dict[PoolName, list[tuple[tuple[Instant, JobId], None]]] = {}
    for id, (pool, end) in endings.items():
        ends.setdefault(pool, []).append(((end, id), None))
    own = {account: slots for account, slots in used.items() if slots}
    trees = Trees(queues)
    return Snapshot(
        pools=pools,
        nodes=Trie(nodes),
        queues=queues,
        jobs=Trie(jobs),
        runners=Trie({runner.id: runner for runner in rows.runners}),
        holdings=Trie(holdings),
        fleets=Trie({pool: Fleet.build(members_) for pool, members_ in loads.items()}),
        trees=trees,
        routes=routes,
        used=Trie(own),
        tree_used=_summed(trees, own),
        holders=Trie({account: sorted_map(jobs_) for account, jobs_ in holders.items()}),
        waiting=Trie({line: Waitlist.of(places_) for line, places_ in waiting.items()}),
        places=Trie(places),
        gangs=Trie(Counter(place.lane.gang for place in places.values())),
        endings=Trie(endings),
        ends=Trie({pool: sorted_map(entries) for pool, entries in ends.items()}),
        stopping=Trie(stopping),
        claims=Trie({preemptor: tuple(sorted(victims)) for preemptor, victims in claims.items()}),
        shapes=Trie({shape: count for shape, count in shapes.items() if count}),
        runs=runs,
        members=Trie({kind: Trie(ids) for kind, ids in members.items()}),
        since=since,
        spent=Trie({queue: value for queue, value in spendings.items() if value}),
        tree_spent=_up(queues, spendings),
        tree_slots=_up(queues, _by_queue(own)),
    )


def _place_of(job: Job, times: RunTimes, routes: Routes) -> Place | None:
    """Return where the job waits; None if it is no candidate."""
    if not waits(job):
        return None
    lane = routes.lane(job.spec, job.tenant, remaining_ms(job, times))
    policy = policy_of(routes[lane])
    return Place((job.spec.queue, policy), lane, turn_of(job, policy, times))


class _Draft:
    """A snapshot under change. Nodes, trees, and who must be lined up again are settled once, in `finish`."""

    def __init__(self, base: Snapshot) -> None:
        self._base = base
        self._pools = base.pools
        self._nodes = base.nodes
        self._queues = base.queues
        self._jobs = base.jobs
        self._runners = base.runners
        self._holdings = base.holdings
        self._trees = base.trees
        self._used = base.used
        self._tree_used = base.tree_used
        self._holders = base.holders
        self._waiting = base.waiting
        self._places = base.places
        self._gangs = base.gangs
        self._endings = base.endings
        self._ends = base.ends
        self._stopping = base.stopping
        self._claims = base.claims
        self._shapes = base.shapes
        self._runs = base.runs
        self._members = base.members
        self._spent = base.spent
        self._tree_spent = base.tree_spent
        self._tree_slots = base.tree_slots
        self._routes = base.routes
        self._touched: set[NodeId] = set()
        self._taught: set[Kind] = set()
        self._tree_changed = False
        self._pools_changed = False
        self._offers_changed = False

    def apply(self, change: Change) -> None:
        match change:
            case PoolChanged(name, pool):
                old = self._pools.get(name)
                self._pools = _put(self._pools, name, pool)
                self._pools_changed |= old != pool
                self._offers_changed |= old is None or pool is None or _offer(old) != _offer(pool)
            case RunnerChanged(id, runner):
                self._runners = _put(self._runners, id, runner)
            case NodeChanged(id, node):
                self._nodes = _put(self._nodes, id, node)
                self._touched.add(id)
            case QueueChanged(name, queue):
                self._queues = _put(self._queues, name, queue)
                self._tree_changed = True
            case JobChanged(id, job):
                self._change_job(id, job)
            case _:
                assert_never(change)

    def finish(self) -> Snapshot:
        if self._pools_changed:
            self._routes = Routes(self._pools)
        if self._offers_changed:
            self._line_up(sorted(self._places))
        for kind in sorted(self._taught):
            self._line_up(sorted(self._members.get(kind, ())))
        if self._tree_changed:
            self._trees = Trees(self._queues)
            self._tree_used = _summed(self._trees, self._used)
            self._tree_spent = _up(self._queues, self._spent)
            self._tree_slots = _up(self._queues, _by_queue(self._used))
        return Snapshot(
            pools=self._pools,
            nodes=self._nodes,
            queues=self._queues,
            jobs=self._jobs,
            runners=self._runners,
            holdings=self._holdings,
            fleets=self._settled_fleets(),
            trees=self._trees,
            routes=self._routes,
            used=self._used,
            tree_used=self._tree_used,
            holders=self._holders,
            waiting=self._waiting,
            places=self._places,
            gangs=self._gangs,
            endings=self._endings,
            ends=self._ends,
            stopping=self._stopping,
            claims=self._claims,
            shapes=self._shapes,
            runs=self._runs,
            members=self._members,
            since=self._base.since,
            spent=self._spent,
            tree_spent=self._tree_spent,
            tree_slots=self._tree_slots,
        )

    def _change_job(self, id: JobId, job: Job | None) -> None:
        old = self._jobs.get(id)
        new = job if job is not None and _matters(job) else None
        self._jobs = _put(self._jobs, id, new)
        self._enrol(old, new)
        if job is not None and new is None:
            self._learn(job)
        if _attempts(old) is not _attempts(job) or new is None:
            self._change_attempts(old, job, new)
        self._put_place(id, None if new is None else _place_of(new, self._times(new), self._routes))
        self._put_ending(id, None if new is None else ending_of(new, self._times(new)))

    def _change_attempts(self, old: Job | None, job: Job | None, new: Job | None) -> None:
        before = None if old is None else (old.spec.queue, _kept(old))
        after = None if new is None else (new.spec.queue, _kept(new))
        if before != after and old is not None:
            self._count((old.spec.priority.rank, old.id), before, -1)
        if before != after and new is not None:
            self._count((new.spec.priority.rank, new.id), after, 1)
        if old is not None and _is_stopping(old):
            self._stopping = self._stopping.discard(old.id)
        if new is not None and _is_stopping(new):
            self._stopping = self._stopping.insert(new.id, None)
        claimed = None if old is None else _preempted_for(old)
        claims = None if new is None else _preempted_for(new)
        if claimed != claims:
            self._claim(old, claimed, joins=False)
            self._claim(new, claims, joins=True)
        last = job if job is not None else _without_live(old)
        if last is not None and (old is not None or new is not None):  # an end that is told again is not counted again
            already = 0 if old is None else spent(old, self._base.since)
            self._spend(last.spec.queue, spent(last, self._base.since) - already)

    def _spend(self, queue: QueueName, value: int) -> None:
        if not value:
            return
        self._spent = _added(self._spent, queue, value)
        for name in _chain(self._queues, queue):
            self._tree_spent = _added(self._tree_spent, name, value)

    def _enrol(self, old: Job | None, new: Job | None) -> None:
        """Count the job among those of its kind and shape."""
        if old is not None and new is not None and old.spec is new.spec:
            return
        for job, sign in ((old, -1), (new, 1)):
            if job is None:
                continue
            kind, shape = kind_of(job), shape_of(job.spec)
            ids: Trie[JobId, None] = self._members.get(kind, Trie())
            ids = ids.insert(job.id, None) if sign > 0 else ids.discard(job.id)
            self._members = _put(self._members, kind, ids if len(ids) else None)
            self._shapes = _added(self._shapes, shape, sign * job.spec.replicas)

    def _learn(self, ended: Job) -> None:
        run = run_of(ended)
        if run is None:
            return
        kind = kind_of(ended)
        known = self._runs.get(kind, UNKNOWN)
        times = known.with_run(run)
        self._runs = self._runs.insert(kind, times)
        if (times.typical_ms, times.stretch_milli) != (known.typical_ms, known.stretch_milli):
            self._taught.add(kind)

    def _times(self, job: Job) -> RunTimes:
        return self._runs.get(kind_of(job), UNKNOWN)

    def _line_up(self, ids: Iterable[JobId]) -> None:
        """Find again where jobs wait and when they end: pools, or what is known of run times, changed."""
        for id in ids:
            job = self._jobs[id]
            self._put_place(id, _place_of(job, self._times(job), self._routes))
            self._put_ending(id, ending_of(job, self._times(job)))

    def _count(self, holder: Holder, keeps: tuple[QueueName, Allocation | None] | None, sign: int) -> None:
        if keeps is None or keeps[1] is None:
            return
        queue, kept = keeps[0], keeps[1]
        for placement in kept.placements:
            holding = hold(self._holdings.get(placement.node), placement, sign)
            self._holdings = _put(self._holdings, placement.node, holding)
            self._touched.add(placement.node)
        pool, account = kept.pool, (queue, kept.pool)
        self._used = _added(self._used, account, sign * kept.slots_milli)
        for name in _chain(self._queues, queue):
            self._tree_slots = _added(self._tree_slots, name, sign * kept.slots_milli)
        if not self._tree_changed:
            used = self._tree_used
            for name, amount in bubble(
                self._trees[pool], queue, sign * kept.slots_milli, lambda name: used.get((name, pool), 0)
            ):
                self._tree_used = _added(self._tree_used, (name, pool), amount)
        jobs: SortedMap[Holder, int] = self._holders.get(account, SortedMap())
        jobs = jobs.insert(holder, kept.slots_milli) if sign > 0 else jobs.discard(holder)
        self._holders = _put(self._holders, account, jobs or None)

    def _claim(self, job: Job | None, preemptor: JobId | None, *, joins: bool) -> None:
        if job is None or preemptor is None:
            return
        victims = set(self._claims.get(preemptor, ()))
        victims = victims | {job.id} if joins else victims - {job.id}
        self._claims = _put(self._claims, preemptor, tuple(sorted(victims)) or None)

    def _put_place(self, id: JobId, now: Place | None) -> None:
        was = self._places.get(id)
        if was == now:
            return
        if was is not None:
            self._gangs = _added(self._gangs, was.lane.gang, -1)
            waitlist = self._waiting[was.line].left(was)
            self._waiting = _put(self._waiting, was.line, waitlist if len(waitlist) else None)
        if now is not None:
            self._gangs = _added(self._gangs, now.lane.gang, 1)
            self._waiting = self._waiting.insert(now.line, self._waiting.get(now.line, NOBODY).joined(now))
        self._places = _put(self._places, id, now)

    def _put_ending(self, id: JobId, now: _Ending | None) -> None:
        was = self._endings.get(id)
        if was == now:
            return
        if was is not None:
            order = self._ends[was[0]].discard((was[1], id))
            self._ends = _put(self._ends, was[0], order or None)
        if now is not None:
            order = self._ends.get(now[0], SortedMap[tuple[Instant, JobId], None]())
            self._ends = self._ends.insert(now[0], order.insert((now[1], id), None))
        self._endings = _put(self._endings, id, now)

    def _settled_fleets(self) -> Trie[PoolName, Fleet]:
        fleets = self._base.fleets
        moved: dict[PoolName, dict[NodeId, NodeLoad | None]] = {}
        for id in sorted(self._touched):
            old, new = self._base.nodes.get(id), self._nodes.get(id)
            if old is not None and (new is None or new.pool != old.pool):
                moved.setdefault(old.pool, {})[id] = None
            if new is not None:
                moved.setdefault(new.pool, {})[id] = load_of(new, self._holdings.get(id))
        for pool, loads in moved.items():
            fleet = fleets.get(pool, _NO_NODES).evolve(loads)
            fleets = _put(fleets, pool, fleet if fleet.nodes else None)
        return fleets


def _chain(queues: Mapping[QueueName, Queue], queue: QueueName) -> list[QueueName]:
    """Return the queue and those above it, up to the root; of one whose row is gone, itself."""
    chain = [queue]
    row = queues.get(queue)
    while row is not None and row.parent is not None and row.parent in queues and row.parent not in chain:
        chain.append(row.parent)  # a circle of parents ends where it began
        row = queues.get(row.parent)
    return chain


def _up(queues: Mapping[QueueName, Queue], values: Mapping[QueueName, int]) -> Trie[QueueName, int]:
    """Sum values of queues up their chains."""
    sums: Counter[QueueName] = Counter()
    for queue, value in values.items():
        for name in _chain(queues, queue):
            sums[name] += value
    return Trie({queue: value for queue, value in sums.items() if value})


def _by_queue(used: Mapping[Account, int]) -> Counter[QueueName]:
    sums: Counter[QueueName] = Counter()
    for (queue, _), slots in used.items():
        sums[queue] += slots
    return sums


def _put(trie: Trie[K, V], key: K, value: V | None) -> Trie[K, V]:
    """Set `key`, or remove it if there is no value."""
    return trie.discard(key) if value is None else trie.insert(key, value)


def _added(trie: Trie[K, int], key: K, amount: int) -> Trie[K, int]:
    """Add to a number; zero is not kept."""
    return _put(trie, key, trie.get(key, 0) + amount or None) if amount else trie


def _rounded(count: int) -> int:
    """Round down to two binary digits."""
    shift = max(0, count.bit_length() - 2)
    return count >> shift << shift


def _matters(job: Job) -> bool:
    """An ended job does not, unless an attempt of it is not proven dead: its slots must not be given twice."""
    return not job.is_terminal or job.live_attempt is not None


def _attempts(job: Job | None) -> tuple[Attempt, ...] | None:
    return None if job is None else job.attempts


def _without_live(job: Job | None) -> Job | None:
    """A job whose row was deleted: what has ended was used, what was live is forgotten."""
    if job is None or job.live_attempt is None:
        return job
    return replace(job, attempts=job.attempts[:-1])


def _kept(job: Job) -> Allocation | None:
    """Return what the job's live attempt holds."""
    live = job.live_attempt
    return None if live is None else live.allocation


def _is_stopping(job: Job) -> bool:
    live = job.live_attempt
    return live is not None and live.stop is not None


def _preempted_for(job: Job) -> JobId | None:
    """Return the job that its last attempt was stopped for, whether or not it has ended yet."""
    stop = job.attempts[-1].stop if job.attempts else None
    return JobId(stop.by) if stop is not None and stop.reason is EndReason.PREEMPTED else None


def _offer(pool: Pool) -> tuple[object, ...]:
    """What of a pool decides who may use it, and in what order."""
    return pool.policy, pool.flavor, pool.isolation, pool.tenant


def _since(jobs: Iterable[Job]) -> Instant:
    first = min((attempt.admitted_at for job in jobs for attempt in job.attempts), default=0)
    return max(0, first - first % _GRID)


def _runs(rows: Rows) -> Trie[Kind, RunTimes]:
    runs: dict[Kind, set[Run]] = {kind: set(known) for kind, known in rows.runs}
    for job in rows.jobs:
        if not _matters(job) and (run := run_of(job)) is not None:
            runs.setdefault(kind_of(job), set()).add(run)
    return Trie({kind: learned(tuple(sorted(known)[-KEPT_RUNS:])) for kind, known in runs.items()})


def _summed(trees: Trees, used: Mapping[Account, int]) -> Trie[Account, int]:
    """Sum the usage of every queue up its tree."""
    sums: dict[Account, int] = {}
    for (queue, pool), slots in sorted(used.items()):
        for name, amount in bubble(trees[pool], queue, slots, lambda name: sums.get((name, pool), 0)):  # noqa: B023  # used up within the loop
            sums[name, pool] = sums.get((name, pool), 0) + amount
    return Trie({account: slots for account, slots in sums.items() if slots})
