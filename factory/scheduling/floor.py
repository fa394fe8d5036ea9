"""A fleet as one plan gives it away: how many replicas fit, where a gang goes, what is left after.

Where a gang goes (ADR 8): on as few nodes as can take it, and of those where it costs the pool least (`fragmentation`).
Ties end in the node's id. Every number is exact.

How many replicas of a shape fit where is kept, and brought up to date from a journal of the nodes that changed since it
was last asked for: a plan pays for what it changes, not for what is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from factory.domain.ids import NodeId
from factory.domain.jobs import Placement, Topology
from factory.domain.resources import Resources
from factory.scheduling.devices import cut_cost, grant
from factory.scheduling.fleet import UNBOUNDED, WHOLE, Bits, Columns, Fleet, Ints, Shape
from factory.scheduling.fragmentation import Costs, Typical, costs_of

__all__ = ["Floor"]


@dataclass(slots=True)
class _Standing:
    """How many replicas of one shape fit, as of some moment."""

    allowed: Bits  # the nodes that it may use: ready, of a model that will do
    copies: Ints  # how many fit on each node
    total: int
    seen: int  # how much of the journal is counted in

    def copy(self) -> _Standing:
        return _Standing(self.allowed, self.copies.copy(), self.total, self.seen)


class Floor:
    """What is left of a fleet while a plan gives it away. Nothing is copied before it is touched."""

    def __init__(self, fleet: Fleet, typical: Typical) -> None:
        self.fleet = fleet
        self._costs: Costs = costs_of(typical, fleet.models, fleet.capacities)
        self._free: Columns = fleet.free
        self._own: bool = False  # may `_free` be written?
        self._journal: list[int] = []  # rows that changed, in order
        self._standings: dict[Shape, _Standing] = {}
        self._shared: set[Shape] = set()  # standings that another floor knows too

    def copy(self) -> Floor:
        """Return a floor that starts as this one is now; neither sees the other's changes."""
        other = Floor.__new__(Floor)
        other.fleet, other._costs, other._free, other._own = self.fleet, self._costs, self._free, False
        other._journal, other._standings = list(self._journal), dict(self._standings)
        self._own, self._shared, other._shared = False, set(self._standings), set(self._standings)
        return other

    def retype(self, typical: Typical) -> None:
        """Judge by other typical shapes from now on."""
        self._costs = costs_of(typical, self.fleet.models, self.fleet.capacities)

    def room(self, shape: Shape, most: int | None = None) -> int:
        """Return how many replicas fit now, at most `most`."""
        total = self._standing(shape).total
        return total if most is None else min(total, most)

    def can_fit(self, shape: Shape, replicas: int, topology: Topology = Topology.ANY) -> bool:
        """Return whether the whole gang fits now."""
        standing = self._standing(shape)
        if topology is Topology.ANY or standing.total < replicas:
            return standing.total >= replicas
        if topology is Topology.ONE_NODE:
            return int(standing.copies.max(initial=0)) >= replicas
        if topology is Topology.SPREAD:
            return int(np.count_nonzero(standing.copies)) >= replicas
        return any(int(standing.copies[rows].sum()) >= replicas for rows in self._zones(standing))

    def place(self, shape: Shape, replicas: int, topology: Topology = Topology.ANY) -> tuple[Placement, ...] | None:
        """Return where the whole gang goes, by rank, or None if it does not fit. It is not taken yet."""
        if not self.can_fit(shape, replicas, topology):
            return None
        standing = self._standing(shape)
        if topology is Topology.SAME_ZONE:
            shares = self._zone_shares(shape, standing, replicas)
        else:
            rows = np.flatnonzero(standing.copies)
            copies = np.ones(len(rows), np.int64) if topology is Topology.SPREAD else standing.copies[rows]
            shares = self._shares(shape, rows, copies, replicas)
        placements: list[Placement] = []
        asked, cuts = shape.resources, self._cuts(shape)
        for row, count in shares:
            node = self.fleet.nodes[row].id
            for devices in grant(self._devices(row), asked.gpu_milli, count, cuts):
                placements.append(Placement(len(placements), node, asked, devices))
        return tuple(placements)

    def take(self, placements: Iterable[Placement]) -> None:
        """Give the placements away, whether they fit or not; those on nodes that are not there count for nothing."""
        self._move(placements, -1)

    def give(self, placements: Iterable[Placement]) -> None:
        """Take placements back: undoes `take` exactly."""
        self._move(placements, 1)

    def free_of(self, node: NodeId) -> tuple[Resources, tuple[int, ...]]:
        """Return what is left of a node, and of each of its devices."""
        row, free = self.fleet.rows[node], self._free
        return Resources(int(free.cpu[row]), int(free.memory[row]), int(free.gpu[row])), self._devices(row)

    def restrict(self, node: NodeId, free: Resources, devices: tuple[int, ...]) -> None:
        """Leave at most `free` and `devices` of a node."""
        row, columns = self.fleet.rows[node], self._writable()
        columns.cpu[row] = min(int(columns.cpu[row]), free.cpu_milli)
        columns.memory[row] = min(int(columns.memory[row]), free.memory_bytes)
        columns.gpu[row] = min(int(columns.gpu[row]), free.gpu_milli)
        for index, most in enumerate(devices):
            columns.devices[row, index] = min(int(columns.devices[row, index]), most)
        self._journal.append(row)

    def _devices(self, row: int) -> tuple[int, ...]:
        return tuple(self._free.devices[row, : self.fleet.sizes[row]].tolist())

    def _cuts(self, shape: Shape) -> Ints | None:
        """Return what cutting the shape's share off a device costs; None if it is not a share."""
        gpu = shape.resources.gpu_milli
        return self._costs.cuts(gpu) if 0 < gpu < WHOLE else None

    def _move(self, placements: Iterable[Placement], sign: int) -> None:
        free, rows, sizes = self._writable(), self.fleet.rows, self.fleet.sizes
        at: list[int] = []
        amounts: list[tuple[int, int, int]] = []
        devices: list[tuple[int, int, int]] = []
        for placement in placements:
            if (row := rows.get(placement.node)) is not None:
                asked = placement.resources
                at.append(row)
                amounts.append((sign * asked.cpu_milli, sign * asked.memory_bytes, sign * asked.gpu_milli))
                devices += [(row, share.index, sign * share.milli) for share in placement.devices]
        if not at:
            return
        for column, change in zip((free.cpu, free.memory, free.gpu), np.array(amounts, np.int64).T, strict=True):
            np.add.at(column, at, change)
        if devices:
            of, index, milli = np.array(devices, np.int64).T
            known = index < sizes[of]  # a device that the node no longer reports has nothing to give
            np.add.at(free.devices, (of[known], index[known]), milli[known])
        self._journal += at

    def _writable(self) -> Columns:
        if not self._own:
            self._free, self._own = self._free.copy(), True
        return self._free

    def _standing(self, shape: Shape) -> _Standing:
        """Return how many replicas of the shape fit now."""
        standing = self._standings.get(shape)
        if standing is None:
            standing = self._standings[shape] = self._surveyed(shape)
        elif standing.seen < len(self._journal):
            if shape in self._shared:
                self._shared.discard(shape)
                standing = self._standings[shape] = standing.copy()
            rows = np.array(sorted(set(self._journal[standing.seen :])), np.int64)
            fresh = _copies(shape.resources, self._free.at(rows)) * standing.allowed[rows]
            standing.total += int(fresh.sum()) - int(standing.copies[rows].sum())
            standing.copies[rows] = fresh
            standing.seen = len(self._journal)
        return standing

    def _surveyed(self, shape: Shape) -> _Standing:
        fleet, free, asked = self.fleet, self._free, shape.resources
        allowed = fleet.ready
        if shape.gpu_models:
            allowed = allowed & np.array([model in shape.gpu_models for model in fleet.models], np.bool_)[fleet.model]
        fits = allowed
        pairs = ((free.cpu, asked.cpu_milli), (free.memory, asked.memory_bytes), (free.gpu, asked.gpu_milli))
        for column, least in pairs:
            if least:
                fits = fits & (column >= least)
        copies = np.zeros(len(fits), np.int64)
        rows = np.flatnonzero(fits)
        copies[rows] = _copies(asked, free.at(rows))
        return _Standing(allowed, copies, int(copies.sum()), len(self._journal))

    def _zones(self, standing: _Standing) -> Iterable[Ints]:
        """Return for each zone, by name, its nodes that have room; nodes that name no zone are one."""
        room = standing.copies > 0
        return (np.flatnonzero(room & (self.fleet.zone == code)) for code in range(len(self.fleet.zones)))

    def _zone_shares(self, shape: Shape, standing: _Standing, replicas: int) -> list[tuple[int, int]]:
        """Return the shares in the zone that takes the gang on fewest nodes, at the least cost; ties by its name."""
        found: list[tuple[int, int, int, list[tuple[int, int]]]] = []
        for code, rows in enumerate(self._zones(standing)):
            copies = standing.copies[rows]
            if int(copies.sum()) < replicas:
                continue
            shares = self._shares(shape, rows, copies, replicas)
            at, counts = np.array(shares, np.int64).T
            found.append((len(shares), int(self._cost(shape, at, counts).sum()), code, shares))
        return min(found)[3]

    def _shares(self, shape: Shape, rows: Ints, copies: Ints, replicas: int) -> list[tuple[int, int]]:
        """Return how many replicas each chosen node takes: as few nodes as can be, of these the least costly.

        Args:
            rows: nodes to choose from, each with room for so many `copies`; together they have room for the gang.
        """
        filled: list[tuple[int, int]] = []
        may_be_last = copies >= replicas
        if not may_be_last.any():
            level, whole = _fill(copies, replicas)
            full = np.flatnonzero(copies > level)
            if whole:
                equal = np.flatnonzero(copies == level)
                if whole < len(equal):
                    equal = equal[np.argsort(self._cost(shape, rows[equal], copies[equal]), kind="stable")[:whole]]
                full = np.concatenate([full, equal])
            filled = list(zip(rows[full].tolist(), copies[full].tolist(), strict=True))
            replicas -= int(copies[full].sum())
            may_be_last = copies >= replicas
            may_be_last[full] = False
        rows = rows[may_be_last]
        cost = self._cost(shape, rows, np.full(len(rows), replicas))
        return [*filled, (int(rows[cost.argmin()]), replicas)]

    def _cost(self, shape: Shape, rows: Ints, counts: Ints) -> Ints:
        """Return what so many replicas would cost on each node."""
        asked, free = shape.resources, self._free.at(rows)
        cost = self._costs.of(asked, free, self.fleet.model[rows], counts)
        if (cuts := self._cuts(shape)) is not None:
            cost += cut_cost(free.devices, asked.gpu_milli, counts, cuts) * self._costs.unit
        return cost


def _fill(copies: Ints, replicas: int) -> tuple[int, int]:
    """Return how the fewest nodes hold the gang, which fits no single one: those with room for more than `level` and
    so many with room for `level` are filled, and one more takes the rest.
    """
    numbers = np.bincount(copies).tolist()
    level = len(numbers) - 1
    while numbers[level] * level < replicas:
        replicas -= numbers[level] * level
        level -= 1
    return level, (replicas - 1) // level


def _copies(asked: Resources, free: Columns) -> Ints:
    """Return how many replicas fit on each node."""
    copies = np.full(len(free.cpu), UNBOUNDED, np.int64)
    if asked.cpu_milli:
        np.minimum(copies, free.cpu // asked.cpu_milli, out=copies)
    if asked.memory_bytes:
        np.minimum(copies, free.memory // asked.memory_bytes, out=copies)
    if asked.gpu_milli:
        np.minimum(copies, free.gpu // asked.gpu_milli, out=copies)
        if asked.gpu_milli < WHOLE:
            on_devices = (np.maximum(free.devices, 0) // asked.gpu_milli).sum(axis=1)
        else:
            on_devices = np.count_nonzero(free.devices == WHOLE, axis=1) // (asked.gpu_milli // WHOLE)
        np.minimum(copies, on_devices, out=copies)
    return np.maximum(copies, 0, out=copies)
