"""Room that is kept: for a gang that must not be starved, for a preemptor, and when a quota opens.

The start of a reservation is worked out on the vectors of nodes, not on counts: the first moment at which the expected
ends of running jobs leave room for the whole gang (EASY backfilling; Lifka 1995). Where ends are not known it is kept
on the nodes that are the freest already: what is free there, and becomes free, is for the gang.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from factory.domain.ids import JobId, NodeId, PoolName, QueueName
from factory.domain.jobs import Attempt, DeviceShare, Job, Placement, Topology
from factory.domain.pools import Node
from factory.domain.time import Instant
from factory.scheduling.cycle import READY, Cycle, Reservation, Stock
from factory.scheduling.fleet import WHOLE, Fleet, kind_of
from factory.scheduling.floor import Floor
from factory.scheduling.holding import load_of
from factory.scheduling.quota import available, bubble
from factory.scheduling.waiting import Lane, Place

__all__ = ["Claims", "quota_opens_at", "reserve"]

_BATCH = 16


def reserve(cycle: Cycle, job: Job, lane: Lane, stock: Stock) -> None:
    """Keep room for a gang that would fit on the idle nodes (rule P2 of `planning`)."""
    found = _first_room(cycle, lane, stock)
    if found is not None:
        starts_at, room = found
        placements = room.place(lane.shape, lane.least, lane.topology)
        if placements is not None:
            room.take(placements)
            stock.reserve(Reservation(job.id, job.spec.queue, placements, starts_at, is_claim=False), room)
            return
    idle = Floor(Fleet.build(load_of(node, None) for node in _freest(lane, stock)), stock.typical)
    placements = idle.place(lane.shape, lane.least, lane.topology)
    if placements is not None:
        placements = _on_freest_devices(placements, stock.floor)
        room = stock.floor.copy()
        room.take(placements)  # what is free there now, and becomes free, is for the gang until it fits
        stock.reserve(Reservation(job.id, job.spec.queue, placements, None, is_claim=False), room)


def _first_room(cycle: Cycle, lane: Lane, stock: Stock) -> tuple[Instant, Floor] | None:
    """Return when the gang first fits by the expected ends of running jobs, and what is free then."""
    ends = stock.expected_ends(cycle.policy.lookahead)
    room = stock.floor.copy()
    for first in range(0, len(ends), _BATCH):
        batch = ends[first : first + _BATCH]
        for _, placements in batch:
            room.give(placements)
        if not room.can_fit(lane.shape, lane.least, lane.topology):
            continue
        for _, placements in batch:
            room.take(placements)
        for end, placements in batch:
            room.give(placements)
            if room.can_fit(lane.shape, lane.least, lane.topology):
                return end, room
    return None


def _on_freest_devices(placements: tuple[Placement, ...], floor: Floor) -> tuple[Placement, ...]:
    """Name those of a node's devices for whole GPUs that are the freest now."""
    left: dict[NodeId, Iterator[int]] = {}
    named: list[Placement] = []
    for placement in placements:
        if any(share.milli < WHOLE for share in placement.devices):
            named.append(placement)
            continue
        if placement.node not in left:
            free = floor.free_of(placement.node)[1]
            left[placement.node] = iter([index for _, index in sorted((-milli, at) for at, milli in enumerate(free))])
        devices = tuple(DeviceShare(next(left[placement.node]), WHOLE) for _ in placement.devices)
        named.append(replace(placement, devices=devices))
    return tuple(named)


def _freest(lane: Lane, stock: Stock) -> list[Node]:
    """Return the freest of the nodes on which the gang could go if they were empty, as few as it needs."""
    fleet, slot = stock.fleet, stock.pool.flavor.slot
    free = np.full(len(fleet.nodes), np.iinfo(np.int64).max, np.int64)
    for column, each in (
        (fleet.free.cpu, slot.cpu_milli),
        (fleet.free.memory, slot.memory_bytes),
        (fleet.free.gpu, slot.gpu_milli),
    ):
        if each:
            np.minimum(free, column * 1000 // each, out=free)
    groups: dict[str, tuple[int, list[Node]]] = {}  # by zone, if it matters: how many replicas fit on which nodes
    freest_first: list[int] = np.argsort(-free, kind="stable").tolist()
    for row in freest_first:
        node = fleet.nodes[row]
        room = kind_of(node).room(lane.shape) if node.state in READY else 0
        if room == 0 or (lane.topology is Topology.ONE_NODE and room < lane.least):
            continue
        zone = node.zone if lane.topology is Topology.SAME_ZONE else ""
        so_far, nodes = groups.get(zone, (0, []))
        groups[zone] = so_far + (1 if lane.topology is Topology.SPREAD else room), [*nodes, node]
        if groups[zone][0] >= lane.least:
            return groups[zone][1]
    return []


class Claims:
    """What others were preempted for jobs that have not started yet."""

    def __init__(self, cycle: Cycle) -> None:
        self._cycle = cycle
        self._rooms: dict[PoolName, Floor] = {}  # what is free when all victims are gone, less what is kept of it
        self._victims: dict[JobId, list[Attempt]] = {}  # by preemptor
        places: list[Place] = []
        for id in cycle.snapshot.claims:
            place = cycle.snapshot.places.get(id)
            if place is not None and (victims := list(self._of(cycle.snapshot.jobs[id]))):
                places.append(place)
                self._victims[id] = victims
        for id in cycle.snapshot.stopping:
            job = cycle.snapshot.jobs[id]
            leaving = job.attempts[-1].allocation
            if leaving.pool in cycle.snapshot.pools:
                cycle.stock(leaving.pool).expect(job.spec.queue, -leaving.slots_milli)
        self.places = sorted(places, key=lambda place: (place.turn, place.line))  # of the preemptors, first one first

    def pools(self, id: JobId) -> tuple[Stock, ...]:
        """Return the pools in which others were preempted for the job."""
        return tuple(self._cycle.stock(pool) for pool in sorted({v.allocation.pool for v in self._victims[id]}))

    def keep(self, job: Job, lane: Lane, stock: Stock) -> bool:
        """Keep what is being freed; False if nothing is any more, or the job would not fit even then."""
        leaving = [v for v in self._victims[job.id] if v.ended_at is None and v.allocation.pool == stock.pool.name]
        if not leaving:
            return False
        room = self._room(stock)
        placements = room.place(lane.shape, lane.least, lane.topology)
        if placements is None:
            return False
        room.take(placements)
        stock.reserve(Reservation(job.id, job.spec.queue, placements, None, is_claim=True), room)
        needed = stock.slots_of(lane.asked) * lane.least
        more = max(0, needed - sum(attempt.allocation.slots_milli for attempt in leaving))
        stock.count(job.spec.queue, more)  # what the victims hold still is counted as theirs
        stock.expect(job.spec.queue, needed - more)
        return True

    def _of(self, job: Job) -> Iterator[Attempt]:
        """Return the attempts that were stopped for the job since its own last attempt."""
        since = job.attempts[-1].ended_at if job.attempts else None
        for id in self._cycle.snapshot.claims[job.id]:
            last = self._cycle.snapshot.jobs[id].attempts[-1]
            in_pool = last.allocation.pool in self._cycle.snapshot.pools
            if in_pool and last.stop is not None and (since is None or last.stop.at >= since):
                yield last

    def _room(self, stock: Stock) -> Floor:
        room = self._rooms.get(stock.pool.name)
        if room is None:
            room = self._rooms[stock.pool.name] = stock.floor.copy()
            for victims in self._victims.values():
                for victim in victims:
                    if victim.ended_at is None and victim.allocation.pool == stock.pool.name:
                        room.give(victim.allocation.placements)
        return room


def quota_opens_at(cycle: Cycle, stock: Stock, queue: QueueName, slots: int) -> Instant | None:
    """Return when the expected ends of the queue's own jobs leave it so much quota; None = not known."""
    holders = cycle.snapshot.holders.get((queue, stock.pool.name))
    ends: list[tuple[Instant, JobId, int]] = []
    for (_, id), held in holders.items() if holders is not None else ():
        left = cycle.running_ms(cycle.snapshot.jobs[id])
        if left is not None:
            ends.append((cycle.now + left, id, held))
    freed: dict[QueueName, int] = {}

    def used(name: QueueName) -> int:
        return freed.get(name, stock.used(name))

    for end, _, held in sorted(ends):
        for name, amount in bubble(stock.tree, queue, -held, used):
            freed[name] = used(name) + amount
        if available(stock.tree, queue, used, stock.capacity) >= slots:
            return end
    return None
