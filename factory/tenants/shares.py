"""How one pool is shared among the queues right now: used, borrowed, lent to whom, fair share. For people.

The kernel decides with quotas; this says what they come to. Quotas form a tree (Kueue's `resource_node.go`): a queue
offers upwards what it does not need of its nominal, at most its lending limit, and takes from there what it needs more.
Above the roots stands the pool itself with the slots that no quota names. Slots are fungible, so "lent to whom" is a
reckoning: what is borrowed at a level is drawn from the parent's own nominal first, then from the idle siblings in
proportion to what they offer, and each lender lends to the borrowers in proportion to what they take.

All amounts are thousandths of a slot; remainders go to the largest, then by name (rule 11).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from factory.domain.ids import PoolName, QueueName
from factory.domain.tenancy import Queue, Quota

__all__ = ["Standing", "split", "standings"]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one queue stands in one pool."""

    quota: Quota | None  # None = unlimited by itself
    used_milli: int  # held by its jobs and by those of the queues below it
    borrowed_milli: int  # above what it and the queues below it may call their own; 0 without a quota
    lent_milli: int  # of its nominal, in use by others
    lent_to: tuple[tuple[QueueName, int], ...]  # by name
    fair_milli: int  # nominal, and by weight its part of what no quota names


def split(total: int, parts: Mapping[QueueName, int]) -> dict[QueueName, int]:
    """Divide `total` in proportion to `parts`, exactly; no part gets more than itself.

    >>> split(5, {"a": 3, "b": 3})
    {'a': 3, 'b': 2}
    """
    whole = sum(parts.values())
    total = min(total, whole)
    if total <= 0:
        return {}
    shares = {name: total * part // whole for name, part in parts.items()}
    by_remainder = sorted(parts, key=lambda name: (-(total * parts[name] % whole), name))
    for name in by_remainder[: total - sum(shares.values())]:
        shares[name] += 1
    return {name: shares[name] for name in sorted(shares) if shares[name]}


def standings(
    queues: Iterable[Queue], used: Mapping[QueueName, int], pool: PoolName, capacity_milli: int
) -> dict[QueueName, Standing]:
    """Return every queue's standing in `pool`.

    Args:
        used: what each queue's own jobs hold there.
        capacity_milli: what the pool's ready nodes offer.
    """
    tree = _Tree({queue.name: queue for queue in queues}, used, pool)
    tree.reckon(capacity_milli)
    return {
        name: Standing(
            quota=level.quota,
            used_milli=level.held,
            borrowed_milli=level.need if level.quota is not None else 0,
            lent_milli=sum(level.lent.values()),
            lent_to=tuple(sorted(level.lent.items())),
            fair_milli=level.fair,
        )
        for name, level in sorted(tree.levels.items())
    }


class _Level:
    """One queue of the tree, for one pool."""

    def __init__(self, weight: int, quota: Quota | None, own: int) -> None:
        self.weight = weight
        self.quota = quota
        self.own = own  # held by its own jobs
        self.nominal = quota.nominal_milli if quota is not None else 0
        self.held = own  # with all below
        self.named = self.nominal  # nominal of it and of all below
        self.supply = self.nominal  # what it may call its own: nominal, and what those below offer
        self.usage = own  # own, and what those below take from it
        self.offer = 0  # to its parent
        self.need = 0  # from its parent
        self.lent: dict[QueueName, int] = {}
        self.fair = 0

    def close(self) -> None:
        """Fix offer and need, when all below is added."""
        lending = self.quota.lending_milli if self.quota is not None else None
        free = max(0, self.supply - self.usage)
        self.offer = free if lending is None else min(free, lending)
        self.need = max(0, self.usage - self.supply)

    @property
    def most(self) -> int | None:
        """What it may hold at most; None = without a limit of its own."""
        if self.quota is None or self.quota.borrowing_milli is None:
            return None
        return self.named + self.quota.borrowing_milli


class _Tree:
    def __init__(self, queues: dict[QueueName, Queue], used: Mapping[QueueName, int], pool: PoolName) -> None:
        self.levels = {
            name: _Level(
                queue.weight, next((q for q in queue.quotas if q.pool == pool), None), used.get(QueueName(name), 0)
            )
            for name, queue in queues.items()
        }
        self._below: dict[QueueName | None, list[QueueName]] = {}
        for name in sorted(queues):
            parent = queues[name].parent
            self._below.setdefault(parent if parent in queues else None, []).append(name)

    def reckon(self, capacity: int) -> None:
        roots = self._below.get(None, [])
        for name in roots:
            self._add_up(name)
        top = _Level(1, None, 0)
        top.nominal = max(0, capacity - sum(self.levels[name].named for name in roots))
        self._lend(None, top, roots, {})
        self._share(roots, capacity)

    def _add_up(self, name: QueueName) -> None:
        level = self.levels[name]
        for child_name in self._below.get(name, []):
            self._add_up(child_name)
            child = self.levels[child_name]
            level.held += child.held
            level.named += child.named
            lending = child.quota.lending_milli if child.quota is not None else None
            kept = 0 if lending is None else max(0, child.supply - lending)  # never lent: it stays with the child
            level.supply += child.supply - kept
            level.usage += max(0, child.usage - kept)
        level.close()

    def _lend(
        self, name: QueueName | None, level: _Level, below: list[QueueName], outside: dict[QueueName, int]
    ) -> None:
        """Say who of `below` lends what, to each other, to `level` itself and to those `outside` that it lends to."""
        takers = {child: self.levels[child].need for child in below if self.levels[child].need}
        if name is not None and level.own > level.nominal:
            takers[name] = level.own - level.nominal
        for other, amount in outside.items():
            takers[other] = takers.get(other, 0) + amount
        wanted = min(level.own, level.nominal) + sum(takers.values()) - level.need
        offers = {child: self.levels[child].offer for child in below if self.levels[child].offer}
        drawn = split(max(0, wanted - level.nominal), offers)
        # each draws from every lender alike, so that the sums hold on both sides
        left = split(sum(drawn.values()), takers)
        for child, amount in drawn.items():
            lender = self.levels[child]
            lender.lent = split(amount, left)
            for taker, part in lender.lent.items():
                left[taker] -= part
            left = {taker: part for taker, part in left.items() if part}
        for child in below:
            self._lend(child, self.levels[child], self._below.get(child, []), self.levels[child].lent)

    def _share(self, below: list[QueueName], total: int) -> None:
        """Give each its nominal, and what is left by weight to those whose limit is not reached."""
        shares = {name: self.levels[name].named for name in below}
        left = total - sum(shares.values())
        while left > 0:
            room = {
                name: self.levels[name].weight
                for name in below
                if self.levels[name].weight and (self.levels[name].most is None or shares[name] < self._most(name))
            }
            if not room:
                break
            weights = sum(room.values())
            given = 0
            for name, weight in room.items():
                part = left * weight // weights
                if self.levels[name].most is not None:
                    part = min(part, self._most(name) - shares[name])
                shares[name] += part
                given += part
            if not given:
                break
            left -= given
        for name in below:
            level = self.levels[name]
            level.fair = shares[name]
            self._share(self._below.get(name, []), shares[name] - level.nominal)

    def _most(self, name: QueueName) -> int:
        most = self.levels[name].most
        return most if most is not None else 0
