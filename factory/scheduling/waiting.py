"""Who waits, in what order: the waitlists that a snapshot carries.

A queue has one waitlist for each policy that its jobs wait under (nearly always one). In it all jobs are in order, and
those that ask for the very same, a lane, are in order by themselves, so that a plan can pass over a whole lane at once:
what cannot start now is tried once, however many wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from factory.domain.ids import JobId, PoolName, QueueName, TenantId
from factory.domain.jobs import Job, JobSpec, JobState, Topology
from factory.domain.pools import Isolation, Pool
from factory.domain.resources import Resources
from factory.domain.time import Instant
from factory.scheduling.estimating import RunTimes, remaining_ms
from factory.scheduling.fleet import WHOLE, Shape
from factory.scheduling.persistent import SortedMap, Trie, sorted_map
from factory.scheduling.policies.order import Key
from factory.scheduling.policies.registry import DEFAULT, policy_named
from factory.scheduling.reasons import kinds

__all__ = [
    "NOBODY",
    "Lane",
    "Line",
    "Place",
    "Turn",
    "Waitlist",
    "eligible_pools",
    "is_sound",
    "lane_of",
    "policy_of",
    "shape_of",
    "turn_of",
    "waits",
]

Line: TypeAlias = tuple[QueueName, str]  # a queue, and the policy that jobs wait under
Turn: TypeAlias = tuple[Key, Instant, JobId]  # order inside a line: the policy's key, submitted at, id; least first


class Lane(NamedTuple):
    """All that decides whether a waiting job can start, but its turn: jobs of one lane can, or cannot, alike."""

    tenant: TenantId
    pool: str  # "" = any
    flavors: tuple[str, ...]  # best first; empty = any
    gpu_models: tuple[str, ...]
    cpu_milli: int
    memory_bytes: int
    gpu_milli: int
    replicas: int
    least: int  # replicas that it can start with
    topology: Topology
    length: int  # binary digits of the seconds that it is expected to run, -1 = unknown

    @property
    def asked(self) -> Resources:
        """What one replica asks for."""
        return Resources(self.cpu_milli, self.memory_bytes, self.gpu_milli)

    @property
    def shape(self) -> Shape:
        """What one replica asks for, as placement sees it."""
        return Shape(self.asked, self.gpu_models)


class Place(NamedTuple):
    """Where a job waits."""

    line: Line
    lane: Lane
    turn: Turn


@dataclass(frozen=True, slots=True)
class Waitlist:
    """Jobs of one line that wait for slots: all in order, and each lane in order."""

    order: SortedMap[Turn, Lane]
    lanes: Mapping[Lane, SortedMap[Turn, JobId]]

    def __len__(self) -> int:
        return len(self.order)

    def position(self, turn: Turn) -> int:
        """Return how many jobs of the line go before `turn`, plus one."""
        return 1 + self.order.rank(turn)

    def joined(self, place: Place) -> Waitlist:
        """Return the waitlist with one more job."""
        lane: SortedMap[Turn, JobId] = self.lanes.get(place.lane, SortedMap())
        lanes = {**self.lanes, place.lane: lane.insert(place.turn, place.turn[2])}
        return Waitlist(self.order.insert(place.turn, place.lane), lanes)

    def left(self, place: Place) -> Waitlist:
        """Return the waitlist without a job."""
        lane: SortedMap[Turn, JobId] = self.lanes[place.lane].discard(place.turn)
        lanes = {**self.lanes, place.lane: lane}
        if not lane:
            del lanes[place.lane]
        return Waitlist(self.order.discard(place.turn), lanes)

    @classmethod
    def of(cls, places: list[Place]) -> Waitlist:
        """Return the waitlist of jobs of one line."""
        lanes: dict[Lane, list[tuple[Turn, JobId]]] = {}
        for place in places:
            lanes.setdefault(place.lane, []).append((place.turn, place.turn[2]))
        return cls(
            sorted_map((place.turn, place.lane) for place in places),
            {lane: sorted_map(jobs) for lane, jobs in lanes.items()},
        )


NOBODY = Waitlist(SortedMap(), {})


def waits(job: Job) -> bool:
    """Return whether a job waits for slots. A live attempt rules the next one out (rule 4)."""
    return job.state is JobState.QUEUED and job.live_attempt is None


def shape_of(spec: JobSpec) -> Shape:
    """Return what one replica asks for."""
    return Shape(spec.resources, spec.gpu_models)


def lane_of(spec: JobSpec, tenant: TenantId, expected_ms: int | None = None) -> Lane:
    """Return the lane that a job of `tenant` waits in."""
    asked = spec.resources
    return Lane(
        tenant,
        spec.pool or "",
        spec.flavors,
        spec.gpu_models,
        asked.cpu_milli,
        asked.memory_bytes,
        asked.gpu_milli,
        spec.replicas,
        spec.replicas if spec.min_replicas is None else spec.min_replicas,
        spec.topology,
        -1 if expected_ms is None else (expected_ms // 1000).bit_length(),
    )


def turn_of(job: Job, policy: str, times: RunTimes) -> Turn:
    """Return the job's place in the order of its line; it keeps it while it waits."""
    return policy_named(policy).waiting(job, remaining_ms(job, times)), job.submitted_at, job.id


def is_sound(lane: Lane) -> bool:
    """Return whether what is asked for makes sense: above one GPU only whole ones can be given."""
    gpus_are_whole = lane.gpu_milli <= WHOLE or lane.gpu_milli % WHOLE == 0
    return 1 <= lane.least <= lane.replicas and gpus_are_whole and not lane.asked.is_negative()


def policy_of(pools: tuple[Pool, ...]) -> str:
    """Return the policy that jobs with these eligible pools, best first, wait under: that of the best."""
    return policy_named(pools[0].policy).name if pools else DEFAULT.name


def eligible_pools(pools: Trie[PoolName, Pool], lane: Lane) -> tuple[Pool, ...]:
    """Return the pools that jobs of `lane` may use, best first: by the order of its flavors, else the least wasteful."""
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


def _preference(pool: Pool, lane: Lane) -> tuple[int, bool, bool]:
    """Rank a pool: by the job's own list, then by what its slots have that the job does not ask for, GPUs above all."""
    listed = lane.flavors.index(pool.flavor.name) if lane.flavors else 0
    slot = pool.flavor.slot
    return listed, bool(slot.gpu_milli) and not lane.gpu_milli, bool(slot.memory_bytes) and not lane.memory_bytes
