"""How much of a pool a queue may hold: its own quota, and that of every queue above it.

First form: a queue that names a quota for a pool may hold nominal + borrowing there, itself and all queues below it
together (None = borrows without limit: that level does not bind). Sums are strict; what siblings lend (Kueue's
`resource_node.go`, see the notes on scheduling) comes with the scheduler issue.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from factory.domain.ids import PoolName, QueueName
from factory.domain.tenancy import Quota
from factory.scheduling.snapshot import Snapshot

__all__ = ["Limit", "exceeded", "limits", "quota_of", "reached"]


@dataclass(frozen=True, slots=True)
class Limit:
    """What one queue may hold of one pool, all queues below it included."""

    queue: QueueName
    nominal_milli: int
    borrowing_milli: int

    @property
    def most_milli(self) -> int:
        """Never more than this at once."""
        return self.nominal_milli + self.borrowing_milli


def quota_of(snapshot: Snapshot, queue: QueueName, pool: PoolName) -> Quota | None:
    """Return the queue's own quota for the pool; None = it has none, and is not limited by itself."""
    row = snapshot.queues.get(queue)
    return next((quota for quota in row.quotas if quota.pool == pool), None) if row is not None else None


def limits(snapshot: Snapshot, queue: QueueName, pool: PoolName) -> tuple[Limit, ...]:
    """Return every limit that binds jobs of `queue` in `pool`: its own first, then up to the root."""
    return tuple(
        Limit(level.name, quota.nominal_milli, quota.borrowing_milli)
        for level in snapshot.chain(queue)
        for quota in level.quotas
        if quota.pool == pool and quota.borrowing_milli is not None
    )


def exceeded(bounds: tuple[Limit, ...], asked_milli: int) -> Limit | None:
    """Return the first limit that `asked_milli` is over even when nothing is held."""
    return next((limit for limit in bounds if asked_milli > limit.most_milli), None)


def reached(bounds: tuple[Limit, ...], used_milli: Callable[[QueueName], int], asked_milli: int) -> Limit | None:
    """Return the first limit that `asked_milli` more would break.

    Args:
        used_milli: what a queue and all below it hold now.
    """
    return next((limit for limit in bounds if used_milli(limit.queue) + asked_milli > limit.most_milli), None)
