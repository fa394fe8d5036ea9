"""What live attempts hold on each node, and what that leaves of it.

Each change of a node gives a new value and touches only that node; sums are kept, never counted again.
"""

from __future__ import annotations

from dataclasses import dataclass

from factory.domain.jobs import Placement
from factory.domain.pools import Node
from factory.domain.resources import Resources
from factory.scheduling.fleet import WHOLE

__all__ = ["Holding", "NodeLoad", "hold", "load_of"]


@dataclass(frozen=True, slots=True)
class Holding:
    """What live attempts hold on one node, whether or not its row is there."""

    resources: Resources
    devices: tuple[tuple[int, int], ...]  # (index, thousandths), by index, none zero
    replicas: int


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """A node and what is left of it. Below zero if its capacity shrank under what it holds."""

    node: Node
    free: Resources
    devices: tuple[int, ...]  # free thousandths of each device


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
