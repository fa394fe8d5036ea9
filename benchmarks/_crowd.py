"""A big factory in the middle of its day, generated as it stands: what runs holds its slots, the rest waits.

Nothing here is planned: 60,000 allocations are written down directly, node by node, so that the benchmark starts in
seconds. Everything is drawn from `rng`; the same seed gives the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from factory.domain.ids import AttemptId, JobId, NodeId, PoolName, QueueName, RunnerId, TenantId
from factory.domain.jobs import (
    Allocation,
    Attempt,
    AttemptState,
    CommandEntry,
    DeviceShare,
    Job,
    JobSpec,
    JobState,
    Placement,
    PriorityClass,
    Topology,
)
from factory.domain.pools import Flavor, Node, NodeState, Pool, Runner
from factory.domain.resources import GIB, Resources, slots_milli
from factory.domain.tenancy import Queue, Quota
from factory.domain.time import SECOND, Instant
from factory.scheduling.snapshot import Rows

__all__ = ["Crowd", "Kind", "Shape", "allocated", "build_crowd"]

WHOLE = 1000
ZONES = 8
ENTRY = CommandEntry(("true",))


@dataclass(frozen=True, slots=True)
class Kind:
    """A pool, and what its nodes are like."""

    name: str
    share: float  # of all nodes
    node: Resources
    slot: Resources

    @property
    def slots(self) -> int:
        """Slots of one node; every resource gives the same number."""
        return max(self.node.cpu_milli // self.slot.cpu_milli, self.node.gpu_milli // max(1, self.slot.gpu_milli))


@dataclass(frozen=True, slots=True)
class Shape:
    """What a job may ask for."""

    kind: str  # of the pool that it is for
    asked: Resources  # per replica
    replicas: int = 1
    often: float = 1.0  # weight in the mix


def _vector(cpu: float, memory_gib: float, gpu: float = 0) -> Resources:
    return Resources(round(cpu * 1000), round(memory_gib * GIB), round(gpu * 1000))


KINDS = (
    Kind("cpu", 0.30, _vector(64, 256), _vector(1, 4)),
    Kind("highmem", 0.10, _vector(64, 1024), _vector(1, 16)),
    Kind("l4", 0.20, _vector(48, 192, 4), _vector(12, 48, 1)),
    Kind("a100", 0.20, _vector(96, 1024, 8), _vector(12, 128, 1)),
    Kind("h100", 0.20, _vector(192, 2048, 8), _vector(24, 256, 1)),
)
BY_KIND = {kind.name: kind for kind in KINDS}


def _shapes() -> tuple[Shape, ...]:
    found: list[Shape] = []
    for cpu, often in ((0.5, 2), (1, 6), (2, 6), (4, 5), (8, 3), (16, 2), (32, 0.5)):
        found += [Shape("cpu", _vector(cpu, cpu * memory), 1, often) for memory in (2, 4)]
    found += [Shape("cpu", _vector(cpu, 4 * cpu), size, 0.3) for cpu in (2, 8) for size in (2, 4, 16, 64)]
    for cpu, often in ((1, 3), (2, 3), (4, 2), (8, 1), (16, 0.5)):
        found += [Shape("highmem", _vector(cpu, cpu * memory), 1, often) for memory in (16, 24)]
    found += [Shape("highmem", _vector(8, 128), size, 0.2) for size in (2, 8)]
    for part, often in ((0.1, 3), (0.2, 3), (0.25, 3), (0.5, 4), (0.75, 1)):
        found.append(Shape("l4", _vector(12 * part, 32 * part, part), 1, often))
    found += [Shape("l4", _vector(10 * gpu, 40 * gpu, gpu), 1, often) for gpu, often in ((1, 8), (2, 3), (4, 1))]
    found += [Shape("l4", _vector(10, 40, 1), size, 0.4) for size in (2, 4, 8)]
    for kind, cpu, memory in (("a100", 11, 110), ("h100", 22, 220)):
        found += [Shape(kind, _vector(cpu * part, memory * part, part), 1, 1) for part in (0.25, 0.5)]
        for gpu, often in ((1, 8), (2, 4), (3, 0.3), (4, 3), (5, 0.1), (6, 0.1), (7, 0.1), (8, 2)):
            found.append(Shape(kind, _vector(cpu * gpu, memory * gpu, gpu), 1, often))
        for gpu, size, often in ((1, 2, 0.5), (1, 4, 0.5), (8, 2, 0.4), (8, 4, 0.3), (8, 16, 0.05), (8, 64, 0.01)):
            found.append(Shape(kind, _vector(cpu * gpu, memory * gpu, gpu), size, often))
        found.append(Shape(kind, _vector(4 * cpu, 4 * memory, 4), 32, 0.03))
    return tuple(found)


SHAPES = _shapes()
FILLERS = {  # what the last gaps of a node are filled with
    "cpu": (Shape("cpu", _vector(4, 16)), Shape("cpu", _vector(1, 4))),
    "highmem": (Shape("highmem", _vector(4, 64)), Shape("highmem", _vector(1, 16))),
    "l4": (Shape("l4", _vector(10, 40, 1)), Shape("l4", _vector(3, 8, 0.25))),
    "a100": (Shape("a100", _vector(11, 110, 1)), Shape("a100", _vector(2.75, 27.5, 0.25))),
    "h100": (Shape("h100", _vector(22, 220, 1)), Shape("h100", _vector(5.5, 55, 0.25))),
}


class Crowd:
    """The rows, and a source of more jobs like those."""

    def __init__(self, rng: Random, rows: Rows, tenants: list[tuple[Queue, float]], mean_s: float) -> None:
        self.rows = rows
        self.mean_s = mean_s  # of a job's running time, seconds
        self._rng = rng
        self._queues = [queue for queue, _ in tenants]
        self._draws = _cumulated([weight for _, weight in tenants])
        self._often = {kind.name: _cumulated([s.often for s in SHAPES if s.kind == kind.name]) for kind in KINDS}
        self._of_kind = {kind.name: [s for s in SHAPES if s.kind == kind.name] for kind in KINDS}
        self._kinds = _cumulated([4.0, 1.0, 3.0, 3.0, 3.0])
        self._most = {(q.name, quota.pool): _most(quota) for q in self._queues for quota in q.quotas}
        self._count = 0

    def waiting(self, at: Instant) -> Job:
        """Draw a job that waits since `at`: of some queue, of a shape that the queue may ever hold."""
        rng = self._rng
        queue = rng.choices(self._queues, cum_weights=self._draws)[0]
        for _ in range(20):
            kind = rng.choices(KINDS, cum_weights=self._kinds)[0]
            shape = rng.choices(self._of_kind[kind.name], cum_weights=self._often[kind.name])[0]
            most = self._most[queue.name, PoolName(kind.name)]
            if slots_milli(shape.asked, kind.slot) * shape.replicas <= most:
                return self.job(shape, queue, at)
        return self.job(Shape("cpu", _vector(0.5, 1)), queue, at)

    def job(self, shape: Shape, queue: Queue, at: Instant) -> Job:
        """A job of this shape that waits in the queue."""
        rng = self._rng
        self._count += 1
        id = f"job-{self._count:07d}"
        topology = Topology.ANY
        if shape.replicas > 1 and rng.random() < 0.15:
            topology = rng.choice((Topology.SAME_ZONE, Topology.SPREAD))
        elastic = shape.replicas >= 4 and rng.random() < 0.25
        spec = JobSpec(
            name=id,
            entry=ENTRY,
            queue=queue.name,
            resources=shape.asked,
            replicas=shape.replicas,
            min_replicas=shape.replicas // 2 if elastic else None,
            pool=PoolName(shape.kind) if rng.random() < 0.5 else None,
            flavors=_flavors(shape, rng),
            topology=topology,
            estimate_s=self.estimate_s() if rng.random() < 0.6 else None,
            priority=rng.choices(tuple(PriorityClass), cum_weights=(1, 8, 10))[0],
        )
        return Job(JobId(id), queue.tenant, spec, JobState.QUEUED, at, "key-1", 1, at)

    def estimate_s(self) -> int:
        """What somebody declares; its error against what comes is that of two draws."""
        return 1 + round(self._rng.expovariate(1 / self.mean_s))


def build_crowd(rng: Random, *, queued: int, tenants: int, nodes: int, now: Instant, ends_per_s: float) -> Crowd:
    """Generate the factory: its nodes nearly full, `queued` jobs waiting, running times that give `ends_per_s`."""
    pools = tuple(Pool(PoolName(k.name), Flavor(k.name, k.slot), RunnerId("runner-1")) for k in KINDS)
    machines = tuple(node for kind in KINDS for node in _nodes(kind, round(kind.share * nodes)))
    leaves, inner = _queues(rng, tenants, nodes)
    rows = Rows(
        pools, machines, (*inner, *(queue for queue, _ in leaves)), (), (Runner(RunnerId("runner-1"), "a", now),)
    )
    crowd = Crowd(rng, rows, leaves, mean_s=600)
    running = _fill(rng, crowd, leaves, machines, now)
    crowd.mean_s = len(running) / ends_per_s
    running = [_begun(rng, job, crowd, now) for job in running]
    hours = 6 * 3600 * SECOND
    waiting = [crowd.waiting(now - rng.randrange(hours)) for _ in range(queued)]
    crowd.rows = replace(rows, jobs=(*running, *waiting))
    return crowd


def allocated(rows_nodes: list[Node], held: dict[PoolName, Resources]) -> dict[PoolName, float]:
    """Return per pool the share of its ready nodes that is given out, of the resource that is given out most."""
    total: dict[PoolName, Resources] = {}
    for node in rows_nodes:
        if node.state is NodeState.READY:
            total[node.pool] = total.get(node.pool, Resources()) + node.capacity
    found: dict[PoolName, float] = {}
    for pool, all_of_it in sorted(total.items()):
        given = held.get(pool, Resources())
        found[pool] = max(
            given.cpu_milli / all_of_it.cpu_milli if not all_of_it.gpu_milli else 0.0,
            given.memory_bytes / all_of_it.memory_bytes if not all_of_it.gpu_milli else 0.0,
            given.gpu_milli / all_of_it.gpu_milli if all_of_it.gpu_milli else 0.0,
        )
    return found


def _nodes(kind: Kind, count: int) -> list[Node]:
    return [
        Node(
            id=NodeId(f"{kind.name}-{i:05d}"),
            pool=PoolName(kind.name),
            runner=RunnerId("runner-1"),
            capacity=kind.node,
            devices=kind.node.gpu_milli // WHOLE,
            gpu_model=kind.name if kind.node.gpu_milli else "",
            zone=f"zone-{i * ZONES // max(1, count)}",
        )
        for i in range(count)
    ]


def _queues(rng: Random, tenants: int, nodes: int) -> tuple[list[tuple[Queue, float]], list[Queue]]:
    """A tree of three levels: city, departments of 50 tenants, one queue per tenant; sizes fall off as a power."""
    weights = [(i + 1) ** -0.6 for i in range(tenants)]
    rng.shuffle(weights)
    whole = sum(weights)
    city = Queue(QueueName("city"), TenantId("platform"))
    departments = [
        Queue(QueueName(f"department-{i:02d}"), TenantId("platform"), city.name) for i in range(max(1, tenants // 50))
    ]
    leaves: list[tuple[Queue, float]] = []
    for i, weight in enumerate(weights):
        quotas: list[Quota] = []
        for kind in KINDS:
            milli = int(round(kind.share * nodes) * kind.slots * WHOLE * weight / whole)
            borrowing = rng.choice((milli, milli, 3 * milli, None))
            quotas.append(Quota(PoolName(kind.name), milli, borrowing, rng.choice((None, None, None, milli // 2))))
        queue = Queue(
            QueueName(f"queue-{i:04d}"),
            TenantId(f"tenant-{i:04d}"),
            departments[i % len(departments)].name,
            weight=rng.choice((1, 1, 1, 2, 4)),
            quotas=tuple(quotas),
        )
        leaves.append((queue, weight / whole))
    return leaves, [city, *departments]


def _fill(
    rng: Random, crowd: Crowd, leaves: list[tuple[Queue, float]], nodes: tuple[Node, ...], now: Instant
) -> list[Job]:
    """Write down what runs: queues take from 0.5 to 1.5 times their nominal quota, together nearly all there is."""
    eager = {queue.name: rng.choice((0.5, 0.8, 1.0, 1.3, 1.5)) for queue, _ in leaves}
    running: list[Job] = []
    for kind in KINDS:
        name = PoolName(kind.name)
        mine = [node for node in nodes if node.pool == name]
        asks = sum(_quota(queue, name).nominal_milli * eager[queue.name] for queue, _ in leaves)
        scale = len(mine) * kind.slots * WHOLE / max(1.0, asks)
        left = [
            min(int(quota.nominal_milli * eager[queue.name] * scale), _most(quota))
            for queue, _ in leaves
            for quota in (_quota(queue, name),)
        ]
        packer = _Packer(rng, crowd, [queue for queue, _ in leaves], left, kind)
        running += packer.fill(mine, now)
    return running


class _Packer:
    """Fills the nodes of one pool one after the other, keeping a window of them open."""

    WINDOW = 12

    def __init__(self, rng: Random, crowd: Crowd, queues: list[Queue], left: list[int], kind: Kind) -> None:
        self._rng = rng
        self._crowd = crowd
        self._queues = queues
        self._left = left  # slots_milli that each queue may still get here
        self._draws = _cumulated([float(milli) for milli in left])
        self._kind = kind

    def fill(self, nodes: list[Node], now: Instant) -> list[Job]:
        shapes = [shape for shape in SHAPES if shape.kind == self._kind.name]
        often = _cumulated([shape.often for shape in shapes])
        fresh = iter(nodes)
        window = [_Room(node) for node in (next(fresh, None) for _ in range(self.WINDOW)) if node is not None]
        jobs: list[Job] = []
        while window:
            shape = self._rng.choices(shapes, cum_weights=often)[0]
            started = self._start(shape, window, now)
            jobs += started
            fullest = min(window, key=lambda room: room.slots_left(self._kind))
            if not started or fullest.slots_left(self._kind) <= self._kind.slots // 4:
                jobs += self._top_up(fullest, now)
                window.remove(fullest)
                if (node := next(fresh, None)) is not None:
                    window.append(_Room(node))
        return jobs

    def _top_up(self, room: _Room, now: Instant) -> list[Job]:
        jobs: list[Job] = []
        for filler in FILLERS[self._kind.name]:
            while more := self._start(filler, [room], now):
                jobs += more
        return jobs

    def _start(self, shape: Shape, window: list[_Room], now: Instant) -> list[Job]:
        replicas = shape.replicas
        rooms = [(room, room.copies(shape.asked)) for room in window]
        while replicas > sum(count for _, count in rooms):
            replicas //= 2
        if replicas == 0:
            return []
        slots = slots_milli(shape.asked, self._kind.slot) * replicas
        at = self._queue(slots)
        if at is None:
            return []
        self._left[at] -= slots
        placements: list[Placement] = []
        for room, count in rooms:
            for _ in range(min(count, replicas - len(placements))):
                placements.append(Placement(len(placements), room.node.id, shape.asked, room.take(shape.asked)))
        plain = Shape(shape.kind, shape.asked, replicas)
        job = self._crowd.job(plain, self._queues[at], now)
        job = replace(job, spec=replace(job.spec, topology=Topology.ANY, min_replicas=None))
        held = Allocation(PoolName(self._kind.name), slots, tuple(placements))
        attempt = Attempt(
            AttemptId(f"{job.id}.1"), 1, AttemptState.RUNNING, RunnerId("runner-1"), held, admitted_at=now
        )
        return [replace(job, state=JobState.RUNNING, attempts=(attempt,), seq=4)]

    def _queue(self, slots: int) -> int | None:
        for _ in range(12):
            at = self._rng.choices(range(len(self._queues)), cum_weights=self._draws)[0]
            if self._left[at] >= slots:
                return at
        at = max(range(len(self._left)), key=self._left.__getitem__)
        return at if self._left[at] >= slots else None


class _Room:
    """What is left of a node while it is filled."""

    __slots__ = ("cpu", "devices", "memory", "node")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.cpu, self.memory = node.capacity.cpu_milli, node.capacity.memory_bytes
        self.devices = [WHOLE] * node.devices

    def slots_left(self, kind: Kind) -> int:
        if self.devices:
            return sum(self.devices) // WHOLE
        return min(self.cpu // kind.slot.cpu_milli, self.memory // kind.slot.memory_bytes)

    def copies(self, asked: Resources) -> int:
        bounds = [self.cpu // asked.cpu_milli, self.memory // asked.memory_bytes]
        if asked.gpu_milli >= WHOLE:
            bounds.append(self.devices.count(WHOLE) * WHOLE // asked.gpu_milli)
        elif asked.gpu_milli:
            bounds.append(sum(left // asked.gpu_milli for left in self.devices))
        return min(bounds)

    def take(self, asked: Resources) -> tuple[DeviceShare, ...]:
        self.cpu -= asked.cpu_milli
        self.memory -= asked.memory_bytes
        if asked.gpu_milli >= WHOLE:
            whole = [i for i, left in enumerate(self.devices) if left == WHOLE][: asked.gpu_milli // WHOLE]
            for index in whole:
                self.devices[index] = 0
            return tuple(DeviceShare(index, WHOLE) for index in whole)
        if not asked.gpu_milli:
            return ()
        index = min((i for i, left in enumerate(self.devices) if left >= asked.gpu_milli), key=self.devices.__getitem__)
        self.devices[index] -= asked.gpu_milli
        return (DeviceShare(index, asked.gpu_milli),)


def _begun(rng: Random, job: Job, crowd: Crowd, now: Instant) -> Job:
    """Give a running job a past: it began some time ago, and half of them have saved their state since."""
    began = now - round(rng.random() * 2 * crowd.mean_s * SECOND)
    saved = rng.randrange(began, now) if rng.random() < 0.5 else None
    live = replace(job.attempts[0], admitted_at=began, starting_at=began, running_at=began, checkpointed_at=saved)
    spec = replace(job.spec, estimate_s=None if job.spec.estimate_s is None else crowd.estimate_s())
    return replace(job, spec=spec, submitted_at=began - 60 * SECOND, state_since=began, attempts=(live,))


def _flavors(shape: Shape, rng: Random) -> tuple[str, ...]:
    """Some jobs for a big GPU take another big one, in their order."""
    fits = BY_KIND["a100"].slot
    big = shape.kind == "h100" and shape.asked.cpu_milli * 1000 <= fits.cpu_milli * max(1, shape.asked.gpu_milli) * 2
    if big and rng.random() < 0.3:
        return ("h100", "a100")
    return (shape.kind,) if rng.random() < 0.5 else ()


def _quota(queue: Queue, pool: PoolName) -> Quota:
    return next(quota for quota in queue.quotas if quota.pool == pool)


def _most(quota: Quota) -> int:
    """The most that a queue may hold with all it may borrow; no limit counts as three times more."""
    return quota.nominal_milli + (3 * quota.nominal_milli if quota.borrowing_milli is None else quota.borrowing_milli)


def _cumulated(weights: list[float]) -> list[float]:
    total, found = 0.0, list[float]()
    for weight in weights:
        total += weight
        found.append(total)
    return found
