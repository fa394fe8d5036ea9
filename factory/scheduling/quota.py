"""How much of a pool a queue may hold: nominal quota, borrowing and lending in a tree of queues.

The algebra is that of Kueue's hierarchical cohorts (`resource_node.go`; see docs/adr/0009). Per queue v and pool:

    S(v)      subtree quota: nominal + what the children do not keep for themselves
    local(v)  what v never lends: S - lending limit; 0 without one
    U(v)      usage: of its own jobs and, of each child, what exceeds the child's local part
    avail(v)  = max(0, local - U) + min(avail(parent), S - local - max(0, U - local) + borrowing limit)

Queues without a parent hang under `ROOT`, which stands for the pool itself: it bounds nothing but what some of them
keep for themselves. A queue that names no quota for a pool has nominal 0 there and borrows without limit; with none
named by anybody, a pool is simply shared. Usage below zero of available quota (a quota was cut) admits nothing until
jobs have ended or were reclaimed.

All numbers are thousandths of a slot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from factory.domain.ids import PoolName, QueueName
from factory.domain.tenancy import Queue, Quota

__all__ = ["ENDLESS", "ROOT", "Level", "Tree", "Used", "available", "bubble", "potential", "quota_of"]

ROOT = QueueName("")  # above every queue that has no parent; no queue has this name
ENDLESS = 1 << 62  # no limit

Used: TypeAlias = Callable[[QueueName], int]  # U of a queue


@dataclass(frozen=True, slots=True)
class Level:
    """One queue in one pool: what its row and the tree say, whatever is held."""

    queue: QueueName
    parent: QueueName  # of the root: itself
    children: tuple[QueueName, ...]  # by name
    nominal: int
    subtree: int  # S
    local: int  # never lent
    borrowing: int  # above S; ENDLESS = no limit
    weight: int
    named: bool  # the queue's own row has a quota for the pool


class Tree:
    """The levels of one pool; a value, made once for a set of queues."""

    __slots__ = ("_levels", "is_bounded", "retained")

    def __init__(self, queues: Mapping[QueueName, Queue], pool: PoolName) -> None:
        children: dict[QueueName, list[QueueName]] = {ROOT: []}
        parents: dict[QueueName, QueueName] = {}
        for name, queue in sorted(queues.items()):
            parent = queue.parent if queue.parent in queues and not _is_circle(queues, name) else None
            parents[name] = parent or ROOT
            children.setdefault(parents[name], []).append(name)
        self._levels: dict[QueueName, Level] = {}
        self.is_bounded = False  # somebody named a quota
        stack = [(ROOT, False)]
        while stack:
            name, below_done = stack.pop()
            if not below_done:
                stack.append((name, True))
                stack.extend((child, False) for child in children.get(name, ()))
                continue
            below = tuple(children.get(name, ()))
            quota = quota_of(queues[name], pool) if name != ROOT else None
            self.is_bounded |= quota is not None
            nominal = quota.nominal_milli if quota is not None else 0
            subtree = nominal + sum(self._levels[c].subtree - self._levels[c].local for c in below)
            lending = None if quota is None else quota.lending_milli
            borrowing = None if quota is None else quota.borrowing_milli
            self._levels[name] = Level(
                queue=name,
                parent=parents.get(name, ROOT),
                children=below,
                nominal=nominal,
                subtree=subtree,
                local=0 if lending is None else max(0, subtree - lending),
                borrowing=ENDLESS if borrowing is None else borrowing,
                weight=1 if name == ROOT else queues[name].weight,
                named=quota is not None,
            )
        self.retained = sum(self._levels[child].local for child in children[ROOT])

    def __getitem__(self, queue: QueueName) -> Level:
        return self._levels[queue]

    def __contains__(self, queue: QueueName) -> bool:
        return queue in self._levels

    def __iter__(self) -> Iterator[Level]:
        """Iterate over all levels, children before their parents, the root last."""
        return iter(self._levels.values())

    def path(self, queue: QueueName) -> tuple[Level, ...]:
        """Return the levels from the queue up to the root."""
        levels: list[Level] = []
        while queue != ROOT:
            level = self._levels[queue]
            levels.append(level)
            queue = level.parent
        return (*levels, self._levels[ROOT])


def quota_of(queue: Queue | None, pool: PoolName) -> Quota | None:
    """Return the queue's own quota for the pool; None = it names none."""
    return next((quota for quota in queue.quotas if quota.pool == pool), None) if queue is not None else None


def available(tree: Tree, queue: QueueName, used: Used, capacity: int) -> int:
    """Return how much more the queue may hold now; below zero after a quota was cut.

    Args:
        capacity: slots of the pool's ready nodes; where some queue keeps slots for itself, others borrow only what is
            left of it. What a queue keeps for itself it may use whatever is left: then nodes are short, not quota.
    """
    left = ENDLESS
    for level in reversed(tree.path(queue)):
        held = used(level.queue)
        if level.queue == ROOT:
            left = max(0, capacity - tree.retained - held) if tree.retained else ENDLESS
            continue
        lendable = level.subtree - level.local - max(0, held - level.local)
        above = left if level.borrowing >= ENDLESS else min(left, lendable + level.borrowing)
        left = max(0, level.local - held) + above
    return left


def potential(tree: Tree, queue: QueueName, capacity: int) -> int:
    """Return the most that the queue could ever hold; more is never admitted."""
    return available(tree, queue, lambda _: 0, capacity)


def bubble(tree: Tree, queue: QueueName, amount: int, used: Used) -> Iterable[tuple[QueueName, int]]:
    """Return how U changes, level by level, when the queue's own jobs hold `amount` more (or less)."""
    if queue not in tree:  # its row is gone, its jobs still hold slots: they count for the pool
        yield ROOT, amount
        return
    for level in tree.path(queue):
        if not amount:
            return
        before = used(level.queue)  # read before the caller counts the change in
        yield level.queue, amount
        amount = max(0, before + amount - level.local) - max(0, before - level.local)


def _is_circle(queues: Mapping[QueueName, Queue], name: QueueName) -> bool:
    """True if going up from `name` comes back to it: then it counts as a queue without a parent."""
    above, seen = queues[name].parent, set[QueueName]()
    while above is not None and above in queues and above not in seen:
        if above == name:
            return True
        seen.add(above)
        above = queues[above].parent
    return False
