"""Whose turn it is: a tournament between queues, level by level, from the root down.

Rules (docs/adr/0009)
    Q1  At each inner queue the child goes first whose head does not borrow: quota comes before what is lent.
    Q2  Then the child whose share is least *after* its head is admitted. The share is the dominant one: the largest
        over pools of (usage above quota / slots of the pool), per weight. Weight 0: after all others.
    Q3  Then whoever has used least of late per weight (`spending`), then the policy's key, time of submission, id.
    Q4  In a pool whose policy does not share (`fifo`) the policy's key alone decides.

Source: dominant resource fairness (Ghodsi et al., NSDI'11) on borrowed quota, as Kueue's fair sharing (KEP-1714).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from heapq import heapify, heappop, heappush
from math import lcm
from typing import TypeAlias

from factory.domain.ids import QueueName
from factory.scheduling.cycle import Cycle, Stock
from factory.scheduling.quota import ENDLESS, ROOT, Tree
from factory.scheduling.spending import weight
from factory.scheduling.waiting import Line, Turn

__all__ = ["Head", "Shares", "Tournament", "dominant_share"]

_Key: TypeAlias = tuple[bool, int, int, Turn, Line]


@dataclass(frozen=True, slots=True)
class Head:
    """The next job of a line: what decides whose turn it is."""

    line: Line
    turn: Turn
    stock: Stock  # the pool that it would use
    slots: int  # that it would hold there


class Tournament:
    """The heads of all lines, and who is first of them.

    A head that changes costs its own path to the root: each inner queue keeps its children in a heap, in which entries
    that were overtaken are passed over.
    """

    def __init__(self, cycle: Cycle, heads: Iterable[Head]) -> None:
        self._cycle = cycle
        self._weight = weight(cycle.now, cycle.snapshot.since)
        self._shares = Shares(cycle)
        self._heads: dict[QueueName, dict[str, Head]] = {}
        self._heaps: dict[QueueName, list[tuple[_Key, QueueName]]] = {ROOT: []}
        self._keys: dict[QueueName, _Key] = {}  # of the queue among its siblings, as it counts now
        self._tree: Tree | None = None  # any pool's: they differ in numbers, not in who is above whom
        queues: set[QueueName] = set()
        for head in heads:
            self._tree = head.stock.tree
            self._heads.setdefault(head.line[0], {})[head.line[1]] = head
            queues.add(head.line[0])
        depths: dict[QueueName, int] = {}
        for queue in queues:
            path = self._path(queue)
            for above, name in enumerate(reversed(path)):
                depths[name] = above
        for name in sorted(depths, key=lambda name: (-depths[name], name)):
            self._heaps.setdefault(name, [])
            heapify(self._heaps[name])
            self._rank(name, push=False)
        for heap in self._heaps.values():
            heapify(heap)

    def first(self) -> Head | None:
        """Return whose turn it is; None if nobody is left."""
        return self._best(ROOT)

    def replace(self, line: Line, head: Head | None) -> None:
        """Set the next job of a line, whose queue may hold more than before; None = the line is done."""
        queue, policy = line
        heads = self._heads.setdefault(queue, {})
        if head is None:
            heads.pop(policy, None)
        else:
            heads[policy] = head
        for name in self._path(queue):
            self._rank(name, push=True)

    def _path(self, queue: QueueName) -> tuple[QueueName, ...]:
        """Return the queue and those above it, the root left out."""
        tree = self._tree
        if tree is None or queue not in tree:
            return (queue,)
        return tuple(level.queue for level in tree.path(queue)[:-1])

    def _parent(self, queue: QueueName) -> QueueName:
        return self._tree[queue].parent if self._tree is not None and queue in self._tree else ROOT

    def _rank(self, queue: QueueName, *, push: bool) -> None:
        """Find again the queue's place among its siblings."""
        best = self._best(queue)
        heap = self._heaps.setdefault(self._parent(queue), [])
        if best is None:
            self._keys.pop(queue, None)
            return
        key = self._key(queue, best)
        if self._keys.get(queue) == key:
            return
        self._keys[queue] = key
        if push:
            heappush(heap, (key, queue))
        else:
            heap.append((key, queue))

    def _best(self, queue: QueueName) -> Head | None:
        """Return the first of the queue's own heads and those below it."""
        heap = self._heaps.get(queue, [])
        below: Head | None = None
        while heap:
            key, child = heap[0]
            if self._keys.get(child) == key:
                below = self._best(child)
                break
            heappop(heap)
        own = list(self._heads.get(queue, {}).values())
        if not own:
            return below
        mine = min(own, key=lambda head: self._own_key(queue, head))
        if below is None:
            return mine
        return min((mine, below), key=lambda head: self._own_key(queue, head))

    def _own_key(self, queue: QueueName, head: Head) -> tuple[Turn, Line]:
        return head.turn, head.line

    def _key(self, queue: QueueName, head: Head) -> _Key:
        stock = head.stock
        if not stock.order.shares or queue not in stock.tree:
            return False, 0, 0, head.turn, head.line  # rule Q4
        borrows = stock.over(queue) + head.slots > 0
        share = self._shares.after(queue, stock, head.slots)
        return borrows, share, self._spent(queue, stock.tree[queue].weight), head.turn, head.line

    def _spent(self, queue: QueueName, weight: int) -> int:
        """Return what the queue and those below it have used of late, per weight (rule Q3)."""
        snapshot = self._cycle.snapshot
        live = snapshot.tree_slots.get(queue, 0) * self._weight
        return (snapshot.tree_spent.get(queue, 0) + live) // max(1, weight)


class Shares:
    """The shares of queues, as whole numbers of a unit that divides them all: compared exactly, and fast."""

    def __init__(self, cycle: Cycle) -> None:
        self._stocks = cycle.stocks
        weights = {queue.weight for queue in cycle.snapshot.queues.values() if queue.weight}
        capacities = {stock.capacity for stock in self._stocks if stock.capacity}
        self.unit = lcm(*weights) * lcm(*capacities)  # that many of the unit are the whole of a pool, at weight 1
        self._units: dict[tuple[int, int], int] = {}

    def after(self, queue: QueueName, stock: Stock | None = None, slots: int = 0) -> int:
        """Return the queue's largest share over all pools if it held `slots` more of one (rule Q2)."""
        share = 0
        for other in self._stocks:
            if queue not in other.tree:
                return 0  # its row is gone
            over = other.over(queue) + (slots if other is stock else 0)
            if over > 0:
                share = max(share, over * self._unit(other, queue))
        return share

    def _unit(self, stock: Stock, queue: QueueName) -> int:
        weight = stock.tree[queue].weight
        if not weight:
            return self.unit * ENDLESS
        key = (stock.capacity, weight)
        unit = self._units.get(key)
        if unit is None:
            unit = self._units[key] = self.unit // (max(1, stock.capacity) * weight)
        return unit


def dominant_share(cycle: Cycle, queue: QueueName) -> Fraction:
    """Return the queue's largest share over all pools, above its quota, per weight (rule Q2)."""
    shares = Shares(cycle)
    return Fraction(shares.after(queue), shares.unit)
