"""Where the replicas of a gang go: all of them or none, on vectors and named devices (rule 3).

Best fit, in whole numbers: a gang goes to the node that is left with the least, if one node takes all of it; else to
the roomiest nodes first, so that it spans few. A share of a GPU goes to the fullest device that still takes it, whole
GPUs to wholly free devices, lowest index first. Ties end in the node's id. Replicas are alike and bound by nothing but
room, so the sum of what the nodes take tells exactly whether the gang fits.

Source: best fit as the baseline of FGD (Weng et al., ATC'23); expected fragmentation replaces it with the scheduler
issue.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from factory.domain.ids import NodeId
from factory.domain.jobs import Allocation, DeviceShare, JobSpec, Placement
from factory.domain.pools import Node, NodeState, Pool
from factory.domain.resources import Resources, slots_milli

__all__ = ["WHOLE", "NodeLoad", "capacity", "copies", "place", "slots_of"]

WHOLE = 1000  # thousandths of one GPU


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """A node and what is left of it. Below zero if its capacity shrank under what it holds."""

    node: Node
    free: Resources
    devices: tuple[int, ...]  # free thousandths of each device

    def take(self, placement: Placement) -> NodeLoad:
        """Return the load with one more replica on it."""
        devices = list(self.devices)
        for share in placement.devices:
            devices[share.index] -= share.milli
        return NodeLoad(self.node, self.free - placement.resources, tuple(devices))


def copies(asked: Resources, free: Resources, devices: tuple[int, ...]) -> int | None:
    """Return how many replicas of `asked` fit side by side; None = any number, because nothing is asked for."""
    bounds: list[int] = []
    if asked.cpu_milli:
        bounds.append(free.cpu_milli // asked.cpu_milli)
    if asked.memory_bytes:
        bounds.append(free.memory_bytes // asked.memory_bytes)
    if asked.gpu_milli:
        bounds.append(free.gpu_milli // asked.gpu_milli)
        if asked.gpu_milli < WHOLE:
            bounds.append(sum(max(left, 0) // asked.gpu_milli for left in devices))
        else:
            bounds.append(devices.count(WHOLE) // (asked.gpu_milli // WHOLE))
    return max(0, min(bounds)) if bounds else None


def capacity(loads: Iterable[NodeLoad], spec: JobSpec) -> int:
    """Return how many replicas of `spec` the ready nodes could start now.

    A spec that asks for nothing fits any number of times: then the answer is its own gang size.
    """
    total = 0
    for load in loads:
        if load.node.state is NodeState.READY:
            room = copies(spec.resources, load.free, load.devices)
            total += spec.replicas if room is None else room
    return total


def slots_of(spec: JobSpec, pool: Pool) -> int:
    """Return the thousandths of a slot that the whole gang occupies.

    Raises: ValueError: it asks for a resource that the pool's slot does not have.
    """
    return slots_milli(spec.resources, pool.flavor.slot) * spec.replicas


def place(loads: Iterable[NodeLoad], pool: Pool, spec: JobSpec) -> Allocation | None:
    """Return the allocation of the whole gang on the ready nodes of `loads`, or None if it does not fit.

    The order of `loads` does not matter.
    """
    rooms: list[tuple[int, NodeLoad]] = []
    total = 0
    for load in loads:
        if load.node.state is not NodeState.READY:
            continue
        room = copies(spec.resources, load.free, load.devices)
        room = spec.replicas if room is None else room
        if room > 0:
            rooms.append((room, load))
            total += room
    if total < spec.replicas:
        return None
    placements: list[Placement] = []
    for count, load in _shares(rooms, pool.flavor.slot, spec):
        granted, _ = _grant(load.devices, spec.resources.gpu_milli, count)
        for devices in granted:
            placements.append(Placement(len(placements), load.node.id, spec.resources, devices))
    return Allocation(pool.name, slots_of(spec, pool), tuple(placements))


def _shares(rooms: list[tuple[int, NodeLoad]], slot: Resources, spec: JobSpec) -> list[tuple[int, NodeLoad]]:
    """Return how many replicas each chosen node gets; together they have room for the gang."""
    chosen: list[tuple[int, NodeLoad]] = []
    missing, roomiest = spec.replicas, rooms
    if all(room < missing for room, _ in rooms):
        roomiest = sorted(rooms, key=lambda r: (-r[0], *_leftover(r[1], slot, spec.resources, r[0])))
        taken = 0
        while roomiest[taken][0] < missing:
            chosen.append(roomiest[taken])
            missing -= roomiest[taken][0]
            taken += 1
        roomiest = roomiest[taken:]
    last = min(
        (load for room, load in roomiest if room >= missing),
        key=lambda load: _leftover(load, slot, spec.resources, missing),
    )
    return [*chosen, (missing, last)]


def _leftover(load: NodeLoad, slot: Resources, asked: Resources, count: int) -> tuple[int, int, NodeId]:
    """Rank a node by what `count` replicas would leave: on the shared devices, in thousandths of slots, then its id."""
    _, shared = _grant(load.devices, asked.gpu_milli, count) if asked.gpu_milli % WHOLE else ((), 0)
    free, rest = load.free, 0  # no vector is made here: this runs for every node with room, at every placement
    if slot.cpu_milli:
        rest += (free.cpu_milli - asked.cpu_milli * count) * 1000 // slot.cpu_milli
    if slot.memory_bytes:
        rest += (free.memory_bytes - asked.memory_bytes * count) * 1000 // slot.memory_bytes
    if slot.gpu_milli:
        rest += (free.gpu_milli - asked.gpu_milli * count) * 1000 // slot.gpu_milli
    return shared, rest, load.node.id


def _grant(devices: tuple[int, ...], gpu_milli: int, count: int) -> tuple[list[tuple[DeviceShare, ...]], int]:
    """Name the devices of `count` replicas on one node that has room for them.

    Returns: per replica its shares, and the thousandths left on the devices that are now shared.
    """
    if gpu_milli == 0:
        return [()] * count, 0
    if gpu_milli % WHOLE == 0:
        whole = iter([index for index, left in enumerate(devices) if left == WHOLE])
        return [tuple(DeviceShare(next(whole), WHOLE) for _ in range(gpu_milli // WHOLE)) for _ in range(count)], 0
    left = list(devices)
    granted: list[tuple[DeviceShare, ...]] = []
    for _ in range(count):
        index = min((i for i, free in enumerate(left) if free >= gpu_milli), key=lambda i: (left[i], i))
        left[index] -= gpu_milli
        granted.append((DeviceShare(index, gpu_milli),))
    touched = {shares[0].index for shares in granted}
    return granted, sum(left[i] for i in touched)
