"""What each queue is entitled to: the yardstick that a scheduler's shares are measured against.

Independent of the kernel and of history: from capacity, quotas, weights and who wants how much at one moment. Per pool
and level of the tree, water is filled in (KAI-Scheduler's fair share, docs/fairness; max-min fairness, Bertsekas &
Gallager, Data Networks, §6.5.2):

1. Each queue gets what it wants, up to its nominal quota (of an inner queue: with those below it). If that is more
   than there is (nodes are down), it is filled in proportion to the quotas.
2. The rest, less what queues do not lend, goes by weight to those that still want, up to what they want or may borrow.
3. An inner queue's amount is filled into its children in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from factory.domain.ids import PoolName, QueueName
from factory.domain.tenancy import Queue, Quota

__all__ = ["entitlements", "water_fill"]


def entitlements(
    queues: Sequence[Queue], pool: PoolName, capacity_milli: int, wanted_milli: Mapping[QueueName, int]
) -> dict[QueueName, float]:
    """Return the slots_milli of `pool` that each queue with jobs is entitled to.

    Args:
        wanted_milli: what the queue's own jobs hold and wait for; queues that want nothing may be left out.
    """
    return _Level(queues, pool, wanted_milli).fill(None, float(capacity_milli))


def water_fill(amount: float, weights: Sequence[float], most: Sequence[float]) -> list[float]:
    """Give out `amount` in proportion to `weights`, to nobody more than `most`; weight 0 gets nothing.

    >>> water_fill(10, [1, 1, 2], [1, 9, 9])
    [1, 3.0, 6.0]
    """
    given: list[float] = [0.0] * len(weights)
    thirsty = [i for i, weight in enumerate(weights) if weight > 0 and most[i] > 0]
    while thirsty and amount > 1e-9:
        level = amount / sum(weights[i] for i in thirsty)
        full = [i for i in thirsty if most[i] <= level * weights[i]]
        if not full:
            for i in thirsty:
                given[i] = level * weights[i]
            break
        for i in full:
            given[i] = most[i]
            amount -= most[i]
        thirsty = [i for i in thirsty if i not in full]
    return given


class _Level:
    """The tree for one pool at one moment."""

    def __init__(self, queues: Sequence[Queue], pool: PoolName, wanted: Mapping[QueueName, int]) -> None:
        self._pool = pool
        self._wanted = wanted
        self._children: dict[QueueName | None, list[Queue]] = {}
        names = {queue.name for queue in queues}
        for queue in sorted(queues, key=lambda queue: queue.name):
            parent = queue.parent if queue.parent in names else None
            self._children.setdefault(parent, []).append(queue)

    def fill(self, parent: QueueName | None, amount: float) -> dict[QueueName, float]:
        children = self._children.get(parent, [])
        wants = [float(self._wants(queue)) for queue in children]
        nominal = [float(self._nominal(queue)) for queue in children]
        deserved = [min(want, quota) for want, quota in zip(wants, nominal, strict=True)]
        if sum(deserved) > amount:
            given = water_fill(amount, nominal, deserved)
        else:
            kept = [self._kept(queue, quota) for queue, quota in zip(children, nominal, strict=True)]
            rest = amount - sum(max(pair) for pair in zip(deserved, kept, strict=True))
            most = [min(w, self._most(q, n)) - d for q, w, n, d in zip(children, wants, nominal, deserved, strict=True)]
            more = water_fill(max(0.0, rest), [float(queue.weight) for queue in children], most)
            given = [d + m for d, m in zip(deserved, more, strict=True)]
        found: dict[QueueName, float] = {}
        for queue, milli in zip(children, given, strict=True):
            if queue.name in self._children:
                found |= self.fill(queue.name, milli)
            else:
                found[queue.name] = milli
        return found

    def _wants(self, queue: Queue) -> int:
        below = self._children.get(queue.name)
        return self._wanted.get(queue.name, 0) if below is None else sum(map(self._wants, below))

    def _nominal(self, queue: Queue) -> int:
        own = self._quota(queue)
        return (0 if own is None else own.nominal_milli) + sum(map(self._nominal, self._children.get(queue.name, ())))

    def _kept(self, queue: Queue, nominal: float) -> float:
        """Return what the queue lends to nobody."""
        quota = self._quota(queue)
        return 0.0 if quota is None or quota.lending_milli is None else max(0.0, nominal - quota.lending_milli)

    def _most(self, queue: Queue, nominal: float) -> float:
        quota = self._quota(queue)
        return float("inf") if quota is None or quota.borrowing_milli is None else nominal + quota.borrowing_milli

    def _quota(self, queue: Queue) -> Quota | None:
        return next((quota for quota in queue.quotas if quota.pool == self._pool), None)
