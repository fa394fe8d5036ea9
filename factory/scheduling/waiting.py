"""Who waits, in what order: the waitlists that a snapshot carries.

A queue has one waitlist for each policy that its jobs wait under (nearly always one). In it all jobs are in order, and
those that ask for the very same, a lane, are in order by themselves, so that a plan can pass over a whole lane at once:
what cannot start now is tried once, however many wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import merge
from itertools import chain, takewhile
from typing import NamedTuple, TypeAlias, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from factory.domain.ids import JobId, PoolName, QueueName, TenantId
from factory.domain.jobs import Job, JobSpec, JobState, Topology
from factory.domain.pools import Isolation, Pool
from factory.domain.resources import Resources
from factory.domain.time import SECOND, Instant
from factory.scheduling.estimating import RunTimes, remaining_ms
from factory.scheduling.fleet import WHOLE, Shape
from factory.scheduling.persistent import SortedMap, Trie, sorted_map
from factory.scheduling.policies.order import Key, capped
from factory.scheduling.policies.registry import DEFAULT, policy_named
from factory.scheduling.reasons import kinds

__all__ = [
    "NOBODY",
    "Gang",
    "Lane",
    "Line",
    "Place",
    "Routes",
    "Turn",
    "Waitlist",
    "counts_as",
    "eligible_pools",
    "gang_of",
    "in_order",
    "is_sound",
    "lane_of",
    "policy_of",
    "shape_of",
    "turn_of",
    "waits",
]

V = TypeVar("V")

Route: TypeAlias = tuple[()] | tuple[str, tuple[str, ...]]  # name of a pool ("" = any), flavors (empty = any)

Line: TypeAlias = tuple[QueueName, str]  # a queue, and the policy that jobs wait under
Turn: TypeAlias = tuple[Key, Instant, JobId]  # order inside a line: the policy's key, submitted at, id; least first


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Gang:
    """What has to fit together. Equal gangs are one object: they are compared, and hashed, by identity."""

    shape: Shape
    replicas: int
    topology: Topology
    route: Route = ()  # the pools to which it is bound

    def may_use(self, pool: Pool) -> bool:
        """Return whether the pool is one of those that the gang is bound to."""
        if not self.route:
            return True
        name, flavors = self.route
        return name in ("", pool.name) and (not flavors or pool.flavor.name in flavors)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Lane:
    """All that decides whether a waiting job can start, but its turn: jobs of one lane can, or cannot, alike.

    Equal lanes are one object, made by `lane_of`: a plan looks up thousands of them.
    """

    tenant: str  # "" where no pool is one tenant's own: then it does not matter
    pool: str  # "" = any
    flavors: tuple[str, ...]  # best first; empty = any
    replicas: int
    gang: Gang  # the least that it can start with
    length: int  # binary digits of the seconds that it is expected to run, -1 = unknown

    @property
    def asked(self) -> Resources:
        """What one replica asks for."""
        return self.gang.shape.resources

    @property
    def shape(self) -> Shape:
        """What one replica asks for, as placement sees it."""
        return self.gang.shape

    @property
    def least(self) -> int:
        """How many replicas it can start with."""
        return self.gang.replicas

    @property
    def topology(self) -> Topology:
        """How the replicas must lie to each other."""
        return self.gang.topology

    @property
    def shortest_ms(self) -> int:
        """The least that its jobs are expected to run, if that is known."""
        return (1 << (self.length - 1)) * SECOND if self.length > 0 else 0


_GANGS: WeakValueDictionary[tuple[Shape, int, Topology, Route], Gang] = WeakValueDictionary()
_LANES: WeakValueDictionary[tuple[object, ...], Lane] = WeakValueDictionary()


class Place(NamedTuple):
    """Where a job waits."""

    line: Line
    lane: Lane
    turn: Turn


@dataclass(frozen=True, slots=True)
class Waitlist:
    """Jobs of one line that wait for slots: all in order, and each lane in order, lanes by what has to fit."""

    order: SortedMap[Turn, Lane]
    lanes: Mapping[Gang, Mapping[Lane, SortedMap[Turn, JobId]]]
    submitted: int = 0  # sum of the times of submission

    def __len__(self) -> int:
        return len(self.order)

    def position(self, turn: Turn) -> int:
        """Return how many jobs of the line go before `turn`, plus one."""
        return 1 + self.order.rank(turn)

    def joined(self, place: Place) -> Waitlist:
        """Return the waitlist with one more job."""
        alike = self.lanes.get(place.lane.gang, {})
        jobs: SortedMap[Turn, JobId] = alike.get(place.lane, SortedMap())
        alike = {**alike, place.lane: jobs.insert(place.turn, place.turn[2])}
        lanes = {**self.lanes, place.lane.gang: alike}
        return Waitlist(self.order.insert(place.turn, place.lane), lanes, self.submitted + place.turn[1])

    def left(self, place: Place) -> Waitlist:
        """Return the waitlist without a job."""
        alike, lanes = dict(self.lanes[place.lane.gang]), dict(self.lanes)
        jobs = alike[place.lane].discard(place.turn)
        if jobs:
            alike[place.lane] = jobs
        else:
            del alike[place.lane]
        if alike:
            lanes[place.lane.gang] = alike
        else:
            del lanes[place.lane.gang]
        return Waitlist(self.order.discard(place.turn), lanes, self.submitted - place.turn[1])

    @classmethod
    def of(cls, places: list[Place]) -> Waitlist:
        """Return the waitlist of jobs of one line."""
        lanes: dict[Gang, dict[Lane, list[tuple[Turn, JobId]]]] = {}
        for place in places:
            lanes.setdefault(place.lane.gang, {}).setdefault(place.lane, []).append((place.turn, place.turn[2]))
        return cls(
            sorted_map((place.turn, place.lane) for place in places),
            {gang: {lane: sorted_map(jobs) for lane, jobs in alike.items()} for gang, alike in lanes.items()},
            sum(place.turn[1] for place in places),
        )


NOBODY = Waitlist(SortedMap(), {})


def in_order(jobs: SortedMap[Turn, V], horizon: int | None, after: Turn | None = None) -> Iterator[tuple[Turn, V]]:
    """Iterate over jobs in the order that counts: keys from the horizon on are equal in their first part."""
    if horizon is None:
        yield from jobs.items() if after is None else jobs.after(after)
        return
    below: list[Iterator[tuple[Turn, V]]] = []
    above: list[Iterator[tuple[Turn, V]]] = []
    first = next(jobs.items(), None)
    while first is not None:
        level = first[0][0][0]
        (below if level < horizon else above).append(_of_level(jobs, first, level))
        first = next(jobs.after(((level + 1,), 0, JobId(""))), None)
    merged = merge(*above, key=lambda item: (item[0][0][1:], item[0][1:]))
    for turn, value in chain(*below, merged):
        if after is None or counts_as(turn, horizon) > counts_as(after, horizon):
            yield turn, value


def counts_as(turn: Turn, horizon: int | None) -> Turn:
    """Return the turn as it counts below a horizon."""
    return capped(turn[0], horizon), turn[1], turn[2]


def _of_level(jobs: SortedMap[Turn, V], first: tuple[Turn, V], level: int) -> Iterator[tuple[Turn, V]]:
    yield first
    yield from takewhile(lambda item: item[0][0][0] == level, jobs.after(first[0]))


def waits(job: Job) -> bool:
    """Return whether a job waits for slots. A live attempt rules the next one out (rule 4)."""
    return job.state is JobState.QUEUED and job.live_attempt is None


def shape_of(spec: JobSpec) -> Shape:
    """Return what one replica asks for."""
    return Shape(spec.resources, spec.gpu_models)


def gang_of(shape: Shape, replicas: int, topology: Topology, route: Route = ()) -> Gang:
    """Return the gang of so many replicas."""
    key = (shape, replicas, topology, route)
    gang = _GANGS.get(key)
    return gang if gang is not None else _GANGS.setdefault(key, Gang(*key))


def lane_of(spec: JobSpec, tenant: TenantId | str, expected_ms: int | None = None) -> Lane:
    """Return the lane that a job of `tenant` waits in; "" = whoever's."""
    least = spec.replicas if spec.min_replicas is None else spec.min_replicas
    length = -1 if expected_ms is None else (expected_ms // SECOND).bit_length()
    asked = spec.resources
    key = (
        tenant,
        spec.pool,
        spec.flavors,
        spec.gpu_models,
        asked.cpu_milli,
        asked.memory_bytes,
        asked.gpu_milli,
        spec.replicas,
        least,
        spec.topology,
        length,
    )
    lane = _LANES.get(key)
    if lane is None:
        route = (spec.pool or "", spec.flavors) if spec.pool or spec.flavors else ()
        gang = gang_of(shape_of(spec), least, spec.topology, route)
        lane = _LANES.setdefault(key, Lane(tenant, spec.pool or "", spec.flavors, spec.replicas, gang, length))
    return lane


def turn_of(job: Job, policy: str, times: RunTimes) -> Turn:
    """Return the job's place in the order of its line; it keeps it while it waits."""
    return policy_named(policy).waiting(job, remaining_ms(job, times)), job.submitted_at, job.id


def is_sound(lane: Lane) -> bool:
    """Return whether what is asked for makes sense: above one GPU only whole ones can be given."""
    gpu_milli = lane.asked.gpu_milli
    gpus_are_whole = gpu_milli <= WHOLE or gpu_milli % WHOLE == 0
    return 1 <= lane.least <= lane.replicas and gpus_are_whole and not lane.asked.is_negative()


def policy_of(pools: tuple[Pool, ...]) -> str:
    """Return the policy that jobs with these eligible pools, best first, wait under: that of the best."""
    return policy_named(pools[0].policy).name if pools else DEFAULT.name


def eligible_pools(pools: Trie[PoolName, Pool], lane: Lane) -> tuple[Pool, ...]:
    """Return the pools that jobs of `lane` may use, best first: as it lists its flavors, then the least wasteful."""
    asked = set(kinds(lane.asked))
    found = [
        pool
        for _, pool in sorted(pools.items())
        if (pool.isolation is Isolation.SHARED or pool.tenant == lane.tenant)
        and (not lane.pool or pool.name == lane.pool)
        and (not lane.flavors or pool.flavor.name in lane.flavors)
        and asked.issubset(kinds(pool.flavor.slot))
    ]
    return tuple(sorted(found, key=lambda pool: (*_preference(pool, lane), pool.name)))


class Routes:
    """The pools that each lane may use, best first, found out once for a set of pools."""

    def __init__(self, pools: Trie[PoolName, Pool]) -> None:
        self._pools = pools
        self._found: WeakKeyDictionary[Lane, tuple[Pool, ...]] = WeakKeyDictionary()
        self._are_shared = all(pool.isolation is Isolation.SHARED for pool in pools.values())

    def lane(self, spec: JobSpec, tenant: TenantId, expected_ms: int | None) -> Lane:
        """Return the lane of a job: where all pools are shared, those of all tenants are the same."""
        return lane_of(spec, "" if self._are_shared else tenant, expected_ms)

    def __getitem__(self, lane: Lane) -> tuple[Pool, ...]:
        pools = self._found.get(lane)
        if pools is None:
            pools = self._found[lane] = eligible_pools(self._pools, lane) if is_sound(lane) else ()
        return pools


def _preference(pool: Pool, lane: Lane) -> tuple[int, bool, bool]:
    """Rank a pool: by the job's own list, then by what its slots have that the job does not ask for, GPUs above all."""
    listed = lane.flavors.index(pool.flavor.name) if lane.flavors else 0
    slot = pool.flavor.slot
    return (
        listed,
        bool(slot.gpu_milli) and not lane.asked.gpu_milli,
        bool(slot.memory_bytes) and not lane.asked.memory_bytes,
    )
