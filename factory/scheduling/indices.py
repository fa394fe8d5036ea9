"""What live attempts hold on each node, and what that leaves of each pool.

Each change of a node gives a new value and touches only that node's path; sums are kept, never counted again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from factory.domain.ids import NodeId
from factory.domain.jobs import Placement
from factory.domain.pools import Node, NodeState
from factory.domain.resources import Resources
from factory.scheduling.persistent import SortedMap, sorted_map
from factory.scheduling.placement import WHOLE, NodeLoad

__all__ = ["NO_NODES", "Holding", "NodeShape", "PoolIndex", "hold", "index_of", "load_of", "reindexed"]


@dataclass(frozen=True, slots=True)
class Holding:
    """What live attempts hold on one node, whether or not its row is there."""

    resources: Resources
    devices: tuple[tuple[int, int], ...]  # (index, thousandths), by index, none zero
    replicas: int


NodeShape: TypeAlias = tuple[NodeState, Resources, int]  # state, capacity, devices


@dataclass(frozen=True, slots=True)
class PoolIndex:
    """Nodes of one pool by id with what is left of them, and how many there are of each shape."""

    loads: SortedMap[NodeId, NodeLoad]
    shapes: Mapping[NodeShape, int]
    free: Resources  # over ready nodes, what is below zero left out

    def capacity(self) -> Resources:
        """Return the capacity of all ready nodes."""
        total = Resources()
        for (state, each, _), count in self.shapes.items():
            if state is NodeState.READY:
                total += each * count
        return total

    def count(self, *states: NodeState) -> int:
        """Return how many nodes are in one of `states`."""
        return sum(count for (state, _, _), count in self.shapes.items() if state in states)


NO_NODES = PoolIndex(SortedMap(), {}, Resources())


def hold(holding: Holding | None, placement: Placement, sign: int) -> Holding | None:
    """Return the holding with one replica more (sign 1) or less (-1); None if no replica is left."""
    resources, devices, replicas = Resources(), dict[int, int](), 0
    if holding is not None:
        resources, devices, replicas = holding.resources, dict(holding.devices), holding.replicas
    for share in placement.devices:
        devices[share.index] = devices.get(share.index, 0) + sign * share.milli
    if replicas + sign == 0:
        return None
    named = tuple(sorted((index, milli) for index, milli in devices.items() if milli))
    return Holding(resources + placement.resources * sign, named, replicas + sign)


def load_of(node: Node, holding: Holding | None) -> NodeLoad:
    """Return what `holding` leaves of the node."""
    if holding is None:
        return NodeLoad(node, node.capacity, (WHOLE,) * node.devices)
    left = [WHOLE] * node.devices
    for index, milli in holding.devices:
        if index < node.devices:  # a device that the node no longer reports has nothing left to give
            left[index] -= milli
    return NodeLoad(node, node.capacity - holding.resources, tuple(left))


def index_of(loads: list[NodeLoad]) -> PoolIndex:
    """Index the nodes of one pool at once."""
    shapes = Counter(_shape(load.node) for load in loads)
    free = sum(map(_offered, loads), start=Resources())
    return PoolIndex(sorted_map((load.node.id, load) for load in loads), dict(shapes), free)


def reindexed(index: PoolIndex, moved: list[tuple[NodeId, NodeLoad | None, NodeLoad | None]]) -> PoolIndex:
    """Return the index after nodes went from one load (None = not there) to another."""
    loads, shapes, free = index.loads, dict(index.shapes), index.free
    for id, before, after in moved:
        if before is not None:
            shapes[_shape(before.node)] -= 1
            free -= _offered(before)
        if after is not None:
            shapes[_shape(after.node)] = shapes.get(_shape(after.node), 0) + 1
            free += _offered(after)
        loads = loads.discard(id) if after is None else loads.insert(id, after)
    return PoolIndex(loads, {shape: count for shape, count in shapes.items() if count}, free)


def _shape(node: Node) -> NodeShape:
    return node.state, node.capacity, node.devices


def _offered(load: NodeLoad) -> Resources:
    """What a node adds to its pool's free sum."""
    if load.node.state is not NodeState.READY:
        return Resources()
    return Resources(max(0, load.free.cpu_milli), max(0, load.free.memory_bytes), max(0, load.free.gpu_milli))
