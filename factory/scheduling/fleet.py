"""The nodes of one pool as columns of numbers, in the order of their ids: what placement looks at.

A fleet is a value: `evolve` gives a new one and leaves the old one as it was. What it costs follows the nodes that
changed, plus a copy of the columns (a megabyte at 10,000 nodes of 8 GPUs); nodes that come or go cost some more.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from factory.domain.ids import NodeId
from factory.domain.jobs import Topology
from factory.domain.pools import Node, NodeState
from factory.domain.resources import Resources

__all__ = ["UNBOUNDED", "WHOLE", "Bits", "Columns", "Fleet", "Ints", "Load", "NodeKind", "Shape"]

Ints: TypeAlias = NDArray[np.int64]
Bits: TypeAlias = NDArray[np.bool_]
T = TypeVar("T", np.int64, np.bool_)

WHOLE = 1000  # thousandths of one GPU
UNBOUNDED = 1 << 31  # how many replicas that ask for nothing fit on a node; a pool's sum stays far below 2^63


class Load(Protocol):
    """A node and what is left of it; below zero if its capacity shrank under what it holds."""

    @property
    def node(self) -> Node: ...
    @property
    def free(self) -> Resources: ...
    @property
    def devices(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """What one replica asks for."""

    resources: Resources
    gpu_models: tuple[str, ...] = ()  # `Node.gpu_model` values that will do; empty = any


@dataclass(frozen=True, slots=True, order=True)
class NodeKind:
    """What two nodes have in common that are alike when idle."""

    state: NodeState
    capacity: Resources
    devices: int
    gpu_model: str
    zone: str

    def room(self, shape: Shape) -> int:
        """Return how many replicas fit on such a node when nothing runs on it."""
        if shape.gpu_models and self.gpu_model not in shape.gpu_models:
            return 0
        asked, bounds = shape.resources, [UNBOUNDED]
        if asked.cpu_milli:
            bounds.append(self.capacity.cpu_milli // asked.cpu_milli)
        if asked.memory_bytes:
            bounds.append(self.capacity.memory_bytes // asked.memory_bytes)
        if asked.gpu_milli:
            whole = asked.gpu_milli // WHOLE
            bounds.append(self.devices // whole if whole else self.devices * (WHOLE // asked.gpu_milli))
        return max(0, min(bounds))


@dataclass(frozen=True, slots=True)
class Columns:
    """What is left of each node, one entry per node."""

    cpu: Ints  # thousandths
    memory: Ints  # bytes
    gpu: Ints  # thousandths, over all devices
    devices: Ints  # [node, device]: free thousandths of each device; 0 where the node has none

    def copy(self) -> Columns:
        """Return columns that can be written without changing these."""
        return Columns(self.cpu.copy(), self.memory.copy(), self.gpu.copy(), self.devices.copy())

    def at(self, rows: Ints) -> Columns:
        """Return the columns of some nodes."""
        return Columns(self.cpu[rows], self.memory[rows], self.gpu[rows], self.devices[rows])


@dataclass(frozen=True, eq=False)
class Fleet:
    """Nodes of one pool by id; make it with `build`, change it with `evolve`. Its arrays are never written."""

    nodes: tuple[Node, ...]
    rows: Mapping[NodeId, int]
    free: Columns
    sizes: Ints  # devices of each node
    ready: Bits
    models: tuple[str, ...]  # names of the codes; a name that no node has any more may stay
    model: Ints  # code of each node's GPU model
    zones: tuple[str, ...]
    zone: Ints
    kinds: Mapping[NodeKind, int]  # how many nodes there are of each kind

    @classmethod
    def build(cls, loads: Iterable[Load]) -> Fleet:
        """Arrange the nodes of one pool; their order does not matter."""
        ordered = sorted(loads, key=lambda load: load.node.id)
        nodes = tuple(load.node for load in ordered)
        models = tuple(sorted({node.gpu_model for node in nodes}))
        zones = tuple(sorted({node.zone for node in nodes}))
        free = Columns(
            np.array([load.free.cpu_milli for load in ordered], np.int64),
            np.array([load.free.memory_bytes for load in ordered], np.int64),
            np.array([load.free.gpu_milli for load in ordered], np.int64),
            _matrix([load.devices for load in ordered]),
        )
        return cls(
            nodes=nodes,
            rows={node.id: row for row, node in enumerate(nodes)},
            free=free,
            sizes=np.array([len(load.devices) for load in ordered], np.int64),
            ready=np.array([node.state is NodeState.READY for node in nodes], np.bool_),
            models=models,
            model=_codes(models, [node.gpu_model for node in nodes]),
            zones=zones,
            zone=_codes(zones, [node.zone for node in nodes]),
            kinds=dict(Counter(map(kind_of, nodes))),
        )

    def evolve(self, moved: Mapping[NodeId, Load | None]) -> Fleet:
        """Return the fleet after some nodes changed, came, or went (None)."""
        stays = {id: load for id, load in moved.items() if load is not None and id in self.rows}
        gone = [id for id, load in moved.items() if load is None and id in self.rows]
        new = {id: load for id, load in moved.items() if load is not None and id not in self.rows}
        fleet = self._resized(gone, list(new.values())) if gone or new else self
        return fleet._rewritten(stays) if stays else fleet

    def count(self, *states: NodeState) -> int:
        """Return how many nodes are in one of `states`."""
        return sum(count for kind, count in self.kinds.items() if kind.state in states)

    def capacity(self) -> Resources:
        """Return the capacity of all ready nodes."""
        ready = (kind.capacity * count for kind, count in self.kinds.items() if kind.state is NodeState.READY)
        return sum(ready, start=Resources())

    @cached_property
    def capacities(self) -> tuple[Resources, ...]:
        """The capacity of the ready nodes of each GPU model, in the order of `models`."""
        sums = dict.fromkeys(self.models, Resources())
        for kind, count in self.kinds.items():
            if kind.state is NodeState.READY:
                sums[kind.gpu_model] += kind.capacity * count
        return tuple(sums.values())

    @cached_property
    def offered(self) -> Resources:
        """What the ready nodes have left together; what is below zero left out."""
        cpu, memory, gpu = (
            int(np.maximum(column[self.ready], 0).sum()) for column in (self.free.cpu, self.free.memory, self.free.gpu)
        )
        return Resources(cpu, memory, gpu)

    def idle_room(self, shape: Shape, states: Collection[NodeState]) -> int:
        """Return how many replicas the nodes in `states` could hold if nothing ran on them."""
        return sum(kind.room(shape) * count for kind, count in self.kinds.items() if kind.state in states)

    def could_fit(self, shape: Shape, replicas: int, topology: Topology, states: Collection[NodeState]) -> bool:
        """Return whether the gang would fit if nothing ran on the nodes in `states`."""
        return self.largest_gang(shape, topology, states) >= replicas

    def largest_gang(self, shape: Shape, topology: Topology, states: Collection[NodeState]) -> int:
        """Return how many replicas would fit together if nothing ran on the nodes in `states`."""
        zones: Counter[str] = Counter()
        for kind, count in self.kinds.items():
            if kind.state not in states or (room := kind.room(shape)) == 0:
                continue
            if topology is Topology.ONE_NODE:
                zones[""] = max(zones[""], room)
            else:
                zone = kind.zone if topology is Topology.SAME_ZONE else ""
                zones[zone] += count * (1 if topology is Topology.SPREAD else room)
        return max(zones.values(), default=0)

    def _rewritten(self, loads: Mapping[NodeId, Load]) -> Fleet:
        """Return the fleet with other loads of nodes that it has."""
        nodes, kinds, free = list(self.nodes), Counter(self.kinds), self.free.copy()
        devices, sizes, ready = free.devices, self.sizes.copy(), self.ready.copy()
        devices = _widened(devices, max(len(load.devices) for load in loads.values()))
        models, model = _recoded(self.models, self.model, [load.node.gpu_model for load in loads.values()])
        zones, zone = _recoded(self.zones, self.zone, [load.node.zone for load in loads.values()])
        for id, load in loads.items():
            row, node = self.rows[id], load.node
            if (old := nodes[row]) is not node:
                kinds[kind_of(old)] -= 1
                kinds[kind_of(node)] += 1
                nodes[row], ready[row] = node, node.state is NodeState.READY
                model[row], zone[row] = models.index(node.gpu_model), zones.index(node.zone)
            free.cpu[row], free.memory[row], free.gpu[row] = _vector(load.free)
            devices[row], sizes[row] = 0, len(load.devices)
            devices[row, : len(load.devices)] = load.devices
        return replace(
            self,
            nodes=tuple(nodes),
            free=replace(free, devices=devices),
            sizes=sizes,
            ready=ready,
            models=models,
            model=model,
            zones=zones,
            zone=zone,
            kinds={kind: count for kind, count in kinds.items() if count},
        )

    def _resized(self, gone: Collection[NodeId], new: Collection[Load]) -> Fleet:
        """Return the fleet without some nodes and with others."""
        fresh = Fleet.build(new)
        stays = np.ones(len(self.nodes), np.bool_)
        stays[[self.rows[id] for id in gone]] = False
        kept = [node for node, keep in zip(self.nodes, stays.tolist(), strict=True) if keep]
        ids = [node.id for node in kept]
        at = [bisect_left(ids, node.id) for node in fresh.nodes]

        def merged(old: NDArray[T], more: NDArray[T]) -> NDArray[T]:
            return np.insert(old[stays], at, more, axis=0)

        nodes = tuple(sorted([*kept, *fresh.nodes], key=lambda node: node.id))
        kinds = Counter(self.kinds) + Counter(fresh.kinds) - Counter(kind_of(self.nodes[self.rows[id]]) for id in gone)
        widest = max(self.free.devices.shape[1], fresh.free.devices.shape[1])
        models, model = _recoded(self.models, self.model, fresh.models)
        zones, zone = _recoded(self.zones, self.zone, fresh.zones)
        return Fleet(
            nodes=nodes,
            rows={node.id: row for row, node in enumerate(nodes)},
            free=Columns(
                merged(self.free.cpu, fresh.free.cpu),
                merged(self.free.memory, fresh.free.memory),
                merged(self.free.gpu, fresh.free.gpu),
                merged(_widened(self.free.devices, widest), _widened(fresh.free.devices, widest)),
            ),
            sizes=merged(self.sizes, fresh.sizes),
            ready=merged(self.ready, fresh.ready),
            models=models,
            model=merged(model, _codes(models, [node.gpu_model for node in fresh.nodes])),
            zones=zones,
            zone=merged(zone, _codes(zones, [node.zone for node in fresh.nodes])),
            kinds=dict(kinds),
        )


def kind_of(node: Node) -> NodeKind:
    """Return the kind of a node."""
    return NodeKind(node.state, node.capacity, node.devices, node.gpu_model, node.zone)


def _vector(resources: Resources) -> tuple[int, int, int]:
    return resources.cpu_milli, resources.memory_bytes, resources.gpu_milli


def _matrix(devices: Sequence[tuple[int, ...]]) -> Ints:
    matrix = np.zeros((len(devices), max(map(len, devices), default=0)), np.int64)
    for row, free in enumerate(devices):
        matrix[row, : len(free)] = free
    return matrix


def _widened(devices: Ints, width: int) -> Ints:
    """Return the matrix with columns for so many devices, if it had fewer."""
    missing = width - devices.shape[1]
    return np.pad(devices, ((0, 0), (0, missing))) if missing > 0 else devices


def _codes(names: Sequence[str], of: Sequence[str]) -> Ints:
    known = {name: code for code, name in enumerate(names)}
    return np.array([known[name] for name in of], np.int64)


def _recoded(names: tuple[str, ...], codes: Ints, needed: Sequence[str]) -> tuple[tuple[str, ...], Ints]:
    """Return the names with those of `needed` that were missing, in order, and a copy of the codes by them."""
    missing = set(needed).difference(names)
    if not missing:
        return names, codes.copy()
    merged = tuple(sorted({*names, *missing}))
    return merged, _codes(merged, names)[codes]
