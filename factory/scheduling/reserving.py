"""Room that is kept: for a gang that must not be starved, for a preemptor, and when a quota opens.

The start of a reservation is worked out on the vectors of nodes, not on counts: the first moment at which the expected
ends of running jobs leave room for the whole gang (EASY backfilling; Lifka 1995). Where ends are not known it is kept on
the nodes that are the freest already, which makes them freer still.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from factory.domain.ids import JobId, PoolName, QueueName
from factory.domain.jobs import Job, Placement, Topology
from factory.domain.time import Instant
from factory.scheduling.cycle import READY, Cycle, Reservation, Stock
from factory.scheduling.devices import grant
from factory.scheduling.fleet import WHOLE, Fleet, kind_of
from factory.scheduling.floor import Floor
from factory.scheduling.holding import load_of
from factory.scheduling.quota import available, bubble
from factory.scheduling.waiting import Lane

__all__ = ["Claim", "claim_of", "quota_opens_at", "reserve"]

_BATCH = 16


def reserve(cycle: Cycle, job: Job, lane: Lane, stock: Stock) -> None:
    """Keep room for a gang that would fit on the idle nodes (rule P2 of `planning`)."""
    found = _first_room(cycle, lane, stock)
    if found is not None:
        starts_at, room = found
        placements = room.place(lane.shape, lane.least, lane.topology)
        if placements is not None:
            stock.reserve(Reservation(job.id, job.spec.queue, placements, starts_at, is_claim=False), room)
            return
    room = Floor(_idle(cycle, stock), stock.floor.typical)
    placements = _on_freest(lane, stock)
    if placements:
        stock.reserve(Reservation(job.id, job.spec.queue, placements, None, is_claim=False), room)


def _first_room(cycle: Cycle, lane: Lane, stock: Stock) -> tuple[Instant, Floor] | None:
    """Return when the gang first fits by the expected ends of running jobs, and what is free then."""
    ends = stock.expected_ends(cycle.policy.lookahead)
    ends = list(ends)
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


def _idle(cycle: Cycle, stock: Stock) -> Fleet:
    """Return the pool as if nothing ran on it."""
    return Fleet.build(load_of(node, None) for node in stock.fleet.nodes)


def _on_freest(lane: Lane, stock: Stock) -> tuple[Placement, ...]:
    """Return where the gang could go once the freest nodes are empty; the lowest ids of those that are equally free."""
    fleet, slot = stock.fleet, stock.pool.flavor.slot
    free = np.full(len(fleet.nodes), np.iinfo(np.int64).max, np.int64)
    for column, each in (
        (fleet.free.cpu, slot.cpu_milli),
        (fleet.free.memory, slot.memory_bytes),
        (fleet.free.gpu, slot.gpu_milli),
    ):
        if each:
            np.minimum(free, column * 1000 // each, out=free)
    rooms: dict[str, list[tuple[int, int]]] = {}
    for row in np.argsort(-free, kind="stable").tolist():
        node = fleet.nodes[row]
        if node.state not in READY:
            continue
        room = kind_of(node).room(lane.shape)
        if room:
            zone = node.zone if lane.topology is Topology.SAME_ZONE else ""
            rooms.setdefault(zone, []).append((1 if lane.topology is Topology.SPREAD else room, row))
    for _, members in sorted(rooms.items(), key=lambda entry: (-sum(room for room, _ in entry[1]), entry[0])):
        if lane.topology is Topology.ONE_NODE:
            members = [(room, row) for room, row in members if room >= lane.least][:1]
        missing, placements = lane.least, list[Placement]()
        for room, row in members:
            node = fleet.nodes[row]
            count = min(room, missing)
            for shares in grant((WHOLE,) * node.devices, lane.gpu_milli, count):
                placements.append(Placement(len(placements), node.id, lane.asked, shares))
            missing -= count
            if not missing:
                return tuple(placements)
    return ()


@dataclass(frozen=True, slots=True)
class Claim:
    """What others were preempted for a job that has not started yet."""

    leaving: tuple[Job, ...]  # victims whose attempts have not ended
    pools: frozenset[PoolName]
    slots: int  # that those who are leaving still hold

    @property
    def is_open(self) -> bool:
        """True while a victim still holds what it shall give."""
        return bool(self.leaving)

    def keep(self, cycle: Cycle, job: Job, lane: Lane, stock: Stock) -> bool:
        """Keep what is being freed; False if the job would not fit even then."""
        room = stock.floor.copy()
        for victim in self.leaving:
            live = victim.live_attempt
            if live is not None and live.allocation.pool == stock.pool.name:
                room.give(live.allocation.placements)
        placements = room.place(lane.shape, lane.least, lane.topology)
        if placements is None:
            return False
        stock.reserve(Reservation(job.id, job.spec.queue, placements, None, is_claim=True), room)
        stock.count(job.spec.queue, max(0, stock.slots_of(lane.asked) * lane.least - self.slots))
        return True


def claim_of(cycle: Cycle, job: Job) -> Claim | None:
    """Return what was preempted for the job since its own last attempt; None = nothing."""
    since = job.attempts[-1].ended_at if job.attempts else None
    leaving: list[Job] = []
    pools: set[PoolName] = set()
    slots = 0
    for id in cycle.snapshot.claims.get(job.id, ()):
        victim = cycle.snapshot.jobs[id]
        last = victim.attempts[-1]
        if last.stop is None or (since is not None and last.stop.at < since):
            continue
        pools.add(last.allocation.pool)
        if victim.live_attempt is not None:
            leaving.append(victim)
            slots += last.allocation.slots_milli
    return Claim(tuple(leaving), frozenset(pools), slots) if pools else None


def quota_opens_at(cycle: Cycle, stock: Stock, queue: QueueName, slots: int) -> Instant | None:
    """Return when the expected ends of the queue's own jobs leave it so much quota; None = not known."""
    holders = cycle.snapshot.holders.get((queue, stock.pool.name))
    ends: list[tuple[Instant, JobId, int]] = []
    for id, held in holders.items() if holders is not None else ():
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
