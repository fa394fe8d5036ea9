"""A fleet as one plan gives it away: how many replicas fit, where a gang goes, what is left after.

Where a gang goes (ADR 8): on as few nodes as can take it, and of those where the pool keeps most of its worth to the
workload's typical shapes. Ties end in the node's id. Every number is exact.

What is known of a shape is kept and brought up to date from a journal of the nodes that changed since it was last
asked for: a plan pays for what it changes, not for what is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from factory.domain.ids import NodeId
from factory.domain.jobs import Placement, Topology
from factory.domain.resources import Resources
from factory.scheduling.devices import after, grant
from factory.scheduling.fleet import UNBOUNDED, WHOLE, Bits, Columns, Fleet, Ints, Shape
from factory.scheduling.fragmentation import Typical, Worth, whole_devices, worth_of

__all__ = ["Floor"]

_UNKNOWN = -1  # of a worth, which is never below zero
_EVER = np.iinfo(np.int64).max  # a loss that is not known yet


@dataclass(slots=True)
class _Standing:
    """What is known of one shape."""

    allowed: Bits  # the nodes that it may use: ready, of a model that will do
    copies: Ints  # how many fit on each node
    loss: Ints  # what the first of them would cost; _EVER = not known
    total: int
    seen: int  # how much of the journal it knows

    def copy(self) -> _Standing:
        return _Standing(self.allowed, self.copies.copy(), self.loss.copy(), self.total, self.seen)


class Floor:
    """What is left of a fleet while a plan gives it away. Nothing is copied before it is touched."""

    def __init__(self, fleet: Fleet, typical: Typical) -> None:
        self.fleet = fleet
        self.typical = typical
        self._worth: Worth = worth_of(typical, fleet.models)
        self._free: Columns = fleet.free
        self._values: Ints | None = None  # worth of each node now; _UNKNOWN = not asked for yet
        self._own: bool = False  # may `_free` and `_values` be written?
        self._journal: list[int] = []  # rows that changed, in order
        self._standings: dict[Shape, _Standing] = {}
        self._shared: set[Shape] = set()  # standings that another floor knows too

    def retype(self, typical: Typical) -> None:
        """Score by other typical shapes from now on."""
        self.typical, self._worth, self._values = typical, worth_of(typical, self.fleet.models), None
        for shape, standing in self._standings.items():
            if shape not in self._shared:
                standing.loss[:] = _EVER
        self._standings = {
            shape: replace(standing, loss=np.full_like(standing.loss, _EVER)) if shape in self._shared else standing
            for shape, standing in self._standings.items()
        }

    def copy(self) -> Floor:
        """Return a floor that starts as this one is now; neither sees the other's changes."""
        other = Floor(self.fleet, self.typical)
        other._free, other._values, other._journal = self._free, self._values, list(self._journal)
        other._standings = dict(self._standings)
        self._own = False
        self._shared = set(self._standings)
        other._shared = set(self._standings)
        return other

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
        return any(room >= replicas for _, room in self._zones(standing))

    def place(self, shape: Shape, replicas: int, topology: Topology = Topology.ANY) -> tuple[Placement, ...] | None:
        """Return where the whole gang goes, by rank, or None if it does not fit. It is not taken yet."""
        if not self.can_fit(shape, replicas, topology):
            return None
        standing = self._standing(shape)
        rows = np.flatnonzero(standing.copies)
        if topology is Topology.SAME_ZONE:
            rows = self._best_zone(shape, standing, replicas)
        copies = standing.copies[rows]
        if topology is Topology.SPREAD:
            copies = np.ones_like(copies)
        placements: list[Placement] = []
        for row, count in self._shares(shape, standing, rows, copies, replicas):
            node = self.fleet.nodes[row]
            devices = tuple(self._free.devices[row, : self.fleet.sizes[row]].tolist())
            for shares in grant(devices, shape.resources.gpu_milli, count):
                placements.append(Placement(len(placements), node.id, shape.resources, shares))
        return tuple(placements)

    def take(self, placements: Iterable[Placement]) -> None:
        """Give the placements away, whether they fit or not; those on nodes that are not there count for nothing."""
        self._move(placements, -1)

    def give(self, placements: Iterable[Placement]) -> None:
        """Take placements back: undoes `take` exactly."""
        self._move(placements, 1)

    def free_of(self, node: NodeId) -> tuple[Resources, tuple[int, ...]]:
        """Return what is left of a node, and of each of its devices."""
        row = self.fleet.rows[node]
        free = Resources(int(self._free.cpu[row]), int(self._free.memory[row]), int(self._free.gpu[row]))
        return free, tuple(self._free.devices[row, : self.fleet.sizes[row]].tolist())

    def restrict(self, node: NodeId, free: Resources, devices: tuple[int, ...]) -> None:
        """Leave at most `free` and `devices` of a node."""
        row, columns = self.fleet.rows[node], self._writable()
        for column, most in (
            (columns.cpu, free.cpu_milli),
            (columns.memory, free.memory_bytes),
            (columns.gpu, free.gpu_milli),
        ):
            column[row] = min(int(column[row]), most)
        for index, most in enumerate(devices):
            columns.devices[row, index] = min(int(columns.devices[row, index]), most)
        self._touch([row])

    def _move(self, placements: Iterable[Placement], sign: int) -> None:
        columns, rows, sizes = self._writable(), self.fleet.rows, self.fleet.sizes
        touched: dict[int, None] = {}
        for placement in placements:
            row = rows.get(placement.node)
            if row is None:
                continue
            asked = placement.resources
            columns.cpu[row] += sign * asked.cpu_milli
            columns.memory[row] += sign * asked.memory_bytes
            columns.gpu[row] += sign * asked.gpu_milli
            for share in placement.devices:
                if share.index < sizes[row]:  # a device that the node no longer reports has nothing to give
                    columns.devices[row, share.index] += sign * share.milli
            touched[row] = None
        self._touch(list(touched))

    def _writable(self) -> Columns:
        if not self._own:
            self._free, self._own = self._free.copy(), True
            self._values = None if self._values is None else self._values.copy()
        return self._free

    def _touch(self, rows: list[int]) -> None:
        self._journal += rows
        if self._values is not None:
            self._values[rows] = _UNKNOWN

    def _standing(self, shape: Shape) -> _Standing:
        """Return what is known of the shape, brought up to date."""
        standing = self._standings.get(shape)
        if standing is None:
            standing = self._standings[shape] = self._surveyed(shape)
            return standing
        news = self._journal[standing.seen :]
        if news:
            if shape in self._shared:
                self._shared.discard(shape)
                standing = self._standings[shape] = standing.copy()
            rows = np.array(sorted(set(news)), np.int64)
            fresh = self._copies(shape, self._free.at(rows), standing.allowed[rows])
            standing.total += int(fresh.sum()) - int(standing.copies[rows].sum())
            standing.copies[rows] = fresh
            standing.loss[rows] = _EVER
            standing.seen = len(self._journal)
        return standing

    def _surveyed(self, shape: Shape) -> _Standing:
        fleet, free, asked = self.fleet, self._free, shape.resources
        allowed = fleet.ready
        if shape.gpu_models:
            allowed = allowed & np.array([model in shape.gpu_models for model in fleet.models], np.bool_)[fleet.model]
        fits = allowed
        for column, least in (
            (free.cpu, asked.cpu_milli),
            (free.memory, asked.memory_bytes),
            (free.gpu, asked.gpu_milli),
        ):
            if least:
                fits = fits & (column >= least)
        copies = np.zeros(len(fits), np.int64)
        rows = np.flatnonzero(fits)
        copies[rows] = self._copies(shape, free.at(rows), allowed[rows])
        return _Standing(allowed, copies, np.full(len(fits), _EVER), int(copies.sum()), len(self._journal))

    def _copies(self, shape: Shape, free: Columns, allowed: Bits) -> Ints:
        """Return how many replicas fit on each node."""
        asked = shape.resources
        copies = np.full(len(allowed), UNBOUNDED, np.int64)
        if asked.cpu_milli:
            np.minimum(copies, free.cpu // asked.cpu_milli, out=copies)
        if asked.memory_bytes:
            np.minimum(copies, free.memory // asked.memory_bytes, out=copies)
        if asked.gpu_milli:
            np.minimum(copies, free.gpu // asked.gpu_milli, out=copies)
            if asked.gpu_milli < WHOLE:
                np.minimum(copies, (np.maximum(free.devices, 0) // asked.gpu_milli).sum(axis=1), out=copies)
            else:
                np.minimum(copies, whole_devices(free.devices) // (asked.gpu_milli // WHOLE), out=copies)
        return np.maximum(copies, 0, out=copies) * allowed

    def _zones(self, standing: _Standing) -> list[tuple[int, int]]:
        """Return the code of each zone with how many replicas fit in it."""
        zone = self.fleet.zone
        return [(code, int(standing.copies[zone == code].sum())) for code in range(len(self.fleet.zones))]

    def _best_zone(self, shape: Shape, standing: _Standing, replicas: int) -> Ints:
        """Return the nodes of the zone that takes the gang on the fewest nodes, at the least loss; ties by its name."""
        best: tuple[int, int] | None = None
        chosen: Ints = np.zeros(0, np.int64)
        for code, room in self._zones(standing):  # codes are in the order of the names
            if room < replicas:
                continue
            rows = np.flatnonzero((self.fleet.zone == code) & (standing.copies > 0))
            shares = self._shares(shape, standing, rows, standing.copies[rows], replicas)
            at, counts = (np.array(part, np.int64) for part in zip(*shares, strict=True))
            rank = len(shares), int(self._losses(shape, at, counts).sum())
            if best is None or rank < best:
                best, chosen = rank, rows
        return chosen

    def _shares(
        self, shape: Shape, standing: _Standing, rows: Ints, copies: Ints, replicas: int
    ) -> list[tuple[int, int]]:
        """Return how many replicas each chosen node takes: as few nodes as can be, then those that lose least."""
        missing, filled = replicas, list[tuple[int, int]]()
        if int(copies.max()) < missing:
            order = np.argsort(-copies, kind="stable")
            sums = np.cumsum(copies[order])
            nodes = int(np.searchsorted(sums, missing)) + 1
            level = int(copies[order[nodes - 1]])  # the room of the last of as few nodes as can be
            above, equal = rows[copies > level], rows[copies == level]
            filled = [(int(row), int(room)) for row, room in zip(above, copies[copies > level], strict=True)]
            more = nodes - 1 - len(above)
            losses = (
                self._first_losses(shape, standing, equal)
                if level == 1
                else self._losses(shape, equal, np.full(len(equal), level))
            )
            filled += [(int(row), level) for row in equal[np.argsort(losses, kind="stable")[:more]]]
            missing -= sum(count for _, count in filled)
            if missing == 0:
                return filled
            used = np.isin(rows, [row for row, _ in filled])
            rows, copies = rows[~used], copies[~used]
        rows = rows[copies >= missing]
        losses = (
            self._first_losses(shape, standing, rows)
            if missing == 1
            else self._losses(shape, rows, np.full(len(rows), missing))
        )
        return [*filled, (int(rows[losses.argmin()]), missing)]

    def _first_losses(self, shape: Shape, standing: _Standing, rows: Ints) -> Ints:
        """Return what one replica would cost on each node; kept until the node changes."""
        losses = standing.loss[rows]
        unknown = rows[losses == _EVER]
        if len(unknown):
            if shape in self._shared:
                self._shared.discard(shape)
                standing = self._standings[shape] = standing.copy()
            standing.loss[unknown] = self._losses(shape, unknown, np.ones(len(unknown), np.int64))
            losses = standing.loss[rows]
        return losses

    def _losses(self, shape: Shape, rows: Ints, counts: Ints) -> Ints:
        """Return what so many replicas would cost on each node, in worth."""
        asked, free, model = shape.resources, self._free.at(rows), self.fleet.model[rows]
        left = Columns(
            free.cpu - asked.cpu_milli * counts,
            free.memory - asked.memory_bytes * counts,
            free.gpu - asked.gpu_milli * counts,
            after(free.devices, asked.gpu_milli, counts),
        )
        return self._values_of(rows, free, model) - self._worth.of(left, model)

    def _values_of(self, rows: Ints, free: Columns, model: Ints) -> Ints:
        """Return what the nodes are worth now; kept until they change."""
        if self._values is None:
            self._values = np.full(len(self.fleet.nodes), _UNKNOWN, np.int64)
        values = self._values[rows]
        unknown = np.flatnonzero(values == _UNKNOWN)
        if len(unknown):
            self._writable()  # the memo may be another floor's too
            self._values[rows[unknown]] = values[unknown] = self._worth.of(free.at(unknown), model[unknown])
        return values
