"""What a city asks of its factory in a week: six departments, three pools, days and nights, nodes that fail.

Pure: everything is drawn from `rng`. The departments differ on purpose, so that each thing that a fair scheduler must
get right happens every day:

- `mobility` works in office hours on small GPUs, and retrains at night on big ones, all at once;
- `water` simulates on CPUs through the night; twice a week a storm brings a burst of flood forecasts;
- `energy` forecasts on every hour, and plans the next day at eleven;
- `health` trains on big GPUs in office hours, more than its quota, and shares small ones in quarters;
- `planning` is quiet, but on Tuesday and Thursday afternoons it wants much at once, in gangs;
- `research` always has something waiting, long and of low priority: it lives on what the others leave.

Nominal quotas sum up to the pools; everybody may borrow, and all but `health` lend everything. Offered load is about
the capacity of the week, above it by day. Run times are lognormal (sigma 0.8), as in published traces of training
clusters (Jeon et al., ATC'19: many short jobs, few long ones); nodes fail as a Poisson process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from factory.domain.ids import NodeId, PoolName, QueueName, RunnerId, TenantId
from factory.domain.jobs import CommandEntry, JobSpec, PriorityClass, RetryPolicy
from factory.domain.pools import Flavor, Node, Pool, Runner
from factory.domain.resources import GIB, Resources
from factory.domain.tenancy import Queue, Quota
from factory.domain.time import SECOND, Instant

__all__ = ["DEPARTMENTS", "MONDAY", "Arrival", "Outage", "Workload", "city_week"]

MONDAY: Instant = 1_699_833_600_000  # Monday, 13 November 2023, 00:00 UTC
HOUR_S = 3600
DAY_S = 24 * HOUR_S
DEPARTMENTS = ("energy", "health", "mobility", "planning", "research", "water")
RUNNER = RunnerId("runner-1")
SIGMA = 0.8  # of the logarithm of run times
LONGEST_S = 20 * HOUR_S
NODE_FAILS_EVERY_S = 12 * DAY_S  # mean, per node
CHECKPOINT_S = 600  # jobs that save their state do it so often

_NOMINAL = {  # slots of (cpu, gpu-small, gpu-big)
    "mobility": (40, 8, 8),
    "water": (56, 4, 4),
    "energy": (32, 8, 4),
    "health": (16, 6, 12),
    "planning": (24, 2, 8),
    "research": (24, 4, 12),
}
_WEIGHTS = {"mobility": 3, "water": 2, "energy": 2, "health": 3, "planning": 2, "research": 2}


@dataclass(frozen=True, slots=True)
class Arrival:
    """A job that somebody submits, and what only the future knows about it."""

    at: Instant
    tenant: TenantId
    spec: JobSpec
    work_s: int  # how long it runs on the gang that it asks for, without any interruption
    checkpoint_s: int | None  # it saves its state so often; None = never: a preemption loses all


@dataclass(frozen=True, slots=True)
class Outage:
    """A node is lost, with all that runs on it, and comes back."""

    node: NodeId
    at: Instant
    until: Instant


@dataclass(frozen=True, slots=True)
class Workload:
    """A factory and what happens to it, sorted by time."""

    pools: tuple[Pool, ...]
    nodes: tuple[Node, ...]
    queues: tuple[Queue, ...]  # inner ones first
    runner: Runner
    arrivals: tuple[Arrival, ...]
    outages: tuple[Outage, ...]
    begin: Instant
    end: Instant


def city_week(rng: Random, days: int = 7) -> Workload:
    """Generate the first `days` days of the week, Monday first; fewer days are the beginning of more."""
    nodes, fork = _nodes(), lambda: Random(rng.getrandbits(64))  # so that no habit moves another's dice
    arrivals = sorted(
        [arrival for stream in _STREAMS for arrival in _arrivals(fork(), stream, days)],
        key=lambda arrival: (arrival.at, arrival.spec.name),
    )
    outages = sorted([o for node in nodes for o in _outages(fork(), node, days)], key=lambda o: (o.at, o.node))
    return Workload(
        pools=_pools(),
        nodes=nodes,
        queues=_queues(),
        runner=Runner(RUNNER, "week", MONDAY),
        arrivals=tuple(arrivals),
        outages=tuple(outages),
        begin=MONDAY,
        end=MONDAY + days * DAY_S * SECOND,
    )


def _pools() -> tuple[Pool, ...]:
    slots = {"cpu": _vector(1, 4), "gpu-small": _vector(12, 48, 1), "gpu-big": _vector(24, 240, 1)}
    return tuple(Pool(PoolName(name), Flavor(name, slot), RUNNER) for name, slot in slots.items())


def _nodes() -> tuple[Node, ...]:
    kinds = (("cpu", 6, _vector(32, 128)), ("gpu-small", 8, _vector(48, 192, 4)), ("gpu-big", 6, _vector(192, 1920, 8)))
    return tuple(
        Node(
            id=NodeId(f"{pool}-{i}"),
            pool=PoolName(pool),
            runner=RUNNER,
            capacity=capacity,
            devices=capacity.gpu_milli // 1000,
            gpu_model=pool if capacity.gpu_milli else "",
            zone=f"hall-{i % 2}",
        )
        for pool, count, capacity in kinds
        for i in range(count)
    )


def _queues() -> tuple[Queue, ...]:
    city = Queue(QueueName("city"), TenantId("platform"))
    inner = tuple(
        Queue(QueueName(name), TenantId("platform"), city.name, weight)
        for name, weight in (("infrastructure", 3), ("services", 2))
    )
    parents = {"mobility": "infrastructure", "water": "infrastructure", "energy": "infrastructure"}
    parents |= {"health": "services", "planning": "services", "research": "city"}
    leaves: list[Queue] = []
    for name in DEPARTMENTS:
        quotas = tuple(
            Quota(PoolName(pool), slots * 1000, None, slots * 750 if name == "health" else None)
            for pool, slots in zip(("cpu", "gpu-small", "gpu-big"), _NOMINAL[name], strict=True)
        )
        leaves.append(Queue(QueueName(name), TenantId(name), QueueName(parents[name]), _WEIGHTS[name], quotas))
    return (city, *inner, *leaves)


@dataclass(frozen=True, slots=True)
class _Stream:
    """One habit of a department."""

    tenant: str
    name: str
    pool: str
    mean_s: int  # of the run time
    shapes: tuple[tuple[Resources, int, int], ...]  # (per replica, replicas, weight)
    rate: Callable[[int, int], float]  # (weekday, hour) -> jobs per hour
    bursts: Callable[[int, int], int] = lambda weekday, hour: 0  # jobs at the full hour, all at once
    priority: PriorityClass = PriorityClass.NORMAL
    checkpoints: bool = True


def _arrivals(rng: Random, stream: _Stream, days: int) -> Iterator[Arrival]:
    count = 0
    for hour in range(days * 24):
        weekday, of_day = divmod(hour, 24)
        began = MONDAY + hour * HOUR_S * SECOND
        times = [began + rng.randrange(120 * SECOND) for _ in range(stream.bursts(weekday % 7, of_day))]
        rate, at = stream.rate(weekday % 7, of_day), 0.0
        while rate > 0 and (at := at + rng.expovariate(rate)) < 1:
            times.append(began + int(at * HOUR_S * SECOND))
        for when in sorted(times):
            count += 1
            yield _arrival(rng, stream, when, count)


def _arrival(rng: Random, stream: _Stream, at: Instant, count: int) -> Arrival:
    asked, replicas, _ = rng.choices(stream.shapes, weights=[weight for *_, weight in stream.shapes])[0]
    median = stream.mean_s / math.exp(SIGMA**2 / 2)
    work_s = max(60, min(LONGEST_S, round(median * math.exp(rng.gauss(0, SIGMA)))))
    guess = work_s * 1.2 * math.exp(rng.gauss(0, 0.3))
    name = f"{stream.tenant}-{stream.name}-{count:04d}"
    spec = JobSpec(
        name=name,
        entry=CommandEntry((stream.name,)),
        queue=QueueName(stream.tenant),
        resources=asked,
        replicas=replicas,
        pool=PoolName(stream.pool),
        estimate_s=300 * max(1, round(guess / 300)) if rng.random() < 0.6 else None,
        priority=stream.priority,
        retry=RetryPolicy(max_retries=20),
    )
    saves = stream.checkpoints and work_s > CHECKPOINT_S
    return Arrival(at, TenantId(stream.tenant), spec, work_s, CHECKPOINT_S if saves else None)


def _outages(rng: Random, node: Node, days: int) -> Iterator[Outage]:
    at = rng.expovariate(1 / NODE_FAILS_EVERY_S)
    while at < days * DAY_S:
        lasts = rng.uniform(20 * 60, 4 * HOUR_S)
        begin = MONDAY + int(at * SECOND)
        yield Outage(node.id, begin, begin + int(lasts * SECOND))
        at += lasts + rng.expovariate(1 / NODE_FAILS_EVERY_S)


def _vector(cpu: float, memory_gib: float, gpu: float = 0) -> Resources:
    return Resources(round(cpu * 1000), round(memory_gib * GIB), round(gpu * 1000))


def _office(per_hour: float, otherwise: float = 0.1) -> Callable[[int, int], float]:
    """So many an hour on weekdays from 8 to 18 o'clock, a part of that at other times."""
    return lambda weekday, hour: per_hour * (1.0 if weekday < 5 and 8 <= hour < 18 else otherwise)


def _night(per_hour: float) -> Callable[[int, int], float]:
    return lambda weekday, hour: per_hour if hour >= 22 or hour < 5 else 0.0


def _always(per_hour: float) -> Callable[[int, int], float]:
    return lambda weekday, hour: per_hour


def _never(weekday: int, hour: int) -> float:
    return 0.0


def _at(jobs: int, hours: tuple[int, ...], weekdays: tuple[int, ...] = tuple(range(7))) -> Callable[[int, int], int]:
    return lambda weekday, hour: jobs if hour in hours and weekday in weekdays else 0


def _cpu(*choices: tuple[float, int, int]) -> tuple[tuple[Resources, int, int], ...]:
    return tuple((_vector(cpu, 4 * cpu), replicas, often) for cpu, replicas, often in choices)


def _small(*choices: tuple[float, int, int]) -> tuple[tuple[Resources, int, int], ...]:
    return tuple((_vector(10 * gpu, 40 * gpu, gpu), replicas, often) for gpu, replicas, often in choices)


def _big(*choices: tuple[float, int, int]) -> tuple[tuple[Resources, int, int], ...]:
    return tuple((_vector(22 * gpu, 220 * gpu, gpu), replicas, often) for gpu, replicas, often in choices)


_ALL_HOURS = tuple(range(24))
_STREAMS = (
    _Stream("mobility", "notebook", "gpu-small", 2700, _small((1, 1, 6), (0.5, 1, 3), (2, 1, 1)), _office(14)),
    _Stream("mobility", "etl", "cpu", 3600, _cpu((2, 1, 3), (4, 1, 4), (8, 1, 2)), _office(9)),
    _Stream("mobility", "retrain", "gpu-big", 7200, _big((2, 1, 2), (4, 1, 3), (1, 4, 1)), _never, _at(12, (1,))),
    _Stream("water", "network", "cpu", 5400, _cpu((8, 1, 6), (4, 1, 3), (8, 4, 1)), _night(9)),
    _Stream("water", "quality", "cpu", 3600, _cpu((2, 1, 2), (4, 1, 2)), _always(4), checkpoints=False),
    _Stream("water", "flood", "gpu-big", 3600, _big((4, 1, 1), (8, 1, 1)), _never, _at(8, (16,), (2, 5)),
            PriorityClass.HIGH),
    _Stream("energy", "forecast", "cpu", 1200, _cpu((2, 1, 3), (1, 1, 2)), _never, _at(6, _ALL_HOURS),
            checkpoints=False),
    _Stream("energy", "nowcast", "gpu-small", 1200, _small((0.5, 1, 2), (0.25, 1, 2)), _never, _at(4, _ALL_HOURS),
            checkpoints=False),
    _Stream("energy", "day-ahead", "gpu-small", 3600, _small((1, 1, 3), (2, 1, 1)), _never, _at(14, (11,))),
    _Stream("energy", "train", "gpu-big", 10800, _big((2, 1, 2), (4, 1, 1)), _office(0.3, 1.0)),
    _Stream("health", "imaging", "gpu-big", 5400, _big((4, 1, 3), (2, 1, 3), (2, 4, 1)), _office(3.8)),
    _Stream("health", "triage", "gpu-small", 3600, _small((0.25, 1, 3), (0.5, 1, 1)), _office(10, 0.3),
            priority=PriorityClass.HIGH),
    _Stream("health", "records", "cpu", 3600, _cpu((4, 1, 1), (2, 1, 1)), _office(3), checkpoints=False),
    _Stream("planning", "scenario", "cpu", 7200, _cpu((4, 1, 3), (4, 4, 1)), _never, _at(36, (14,), (1, 3))),
    _Stream("planning", "render", "gpu-big", 9000, _big((2, 4, 1), (4, 1, 2)), _never, _at(8, (14,), (1, 3))),
    _Stream("planning", "maps", "gpu-small", 2700, _small((1, 1, 1), (0.5, 1, 1)), _office(2)),
    _Stream("research", "sweep", "gpu-big", 14400, _big((1, 1, 4), (2, 1, 4), (4, 1, 2)), _always(3.9),
            priority=PriorityClass.LOW),
    _Stream("research", "probe", "gpu-small", 14400, _small((1, 1, 5), (0.5, 1, 2), (2, 1, 2)), _always(4.2),
            priority=PriorityClass.LOW),
    _Stream("research", "model", "cpu", 10800, _cpu((4, 1, 3), (8, 1, 3), (16, 1, 1), (8, 2, 1)), _always(4.0),
            priority=PriorityClass.LOW),
)  # fmt: skip
