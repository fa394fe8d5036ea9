"""The second look before slots are given: rule 3 checked on the transaction's own rows, whatever the plan believed.

`Ledger` holds the snapshot of the very state that the transaction will change, and counts in each admission of the
group on top of it. It trusts nothing of the decision but what the allocation names.
"""

from __future__ import annotations

from enum import StrEnum

from factory.domain.ids import NodeId, PoolName, QueueName
from factory.domain.jobs import Allocation, DeviceShare, Job, JobState, Placement
from factory.domain.pools import Isolation, NodeState
from factory.domain.resources import slots_in, slots_milli
from factory.domain.time import Instant
from factory.scheduling.holding import Holding, hold, load_of
from factory.scheduling.quota import available, bubble
from factory.scheduling.snapshot import Snapshot

__all__ = ["Ledger", "Refusal"]


class Refusal(StrEnum):
    """Why a decision of the plan was not applied. It is no error: the next plan sees the newer rows."""

    STALE = "stale"  # the job changed since the plan saw it
    NOT_QUEUED = "not_queued"
    BACKS_OFF = "backs_off"
    POOL = "pool"  # gone, another runner's, or not for this tenant
    NOT_WHOLE = "not_whole"  # not one placement of the asked vector per rank
    NODE = "node"  # gone, or not ready
    CAPACITY = "capacity"
    DEVICE = "device"
    QUOTA = "quota"
    GATE = "gate"  # an input's gate has shut since


class Ledger:
    """What is held at this moment of one transaction."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot  # before the group's own admissions
        self._holdings: dict[NodeId, Holding | None] = {}  # of nodes on which something was admitted
        self._more: dict[tuple[QueueName, PoolName], int] = {}  # slots_milli on top of the snapshot's, queues below too

    def refuses(self, job: Job, allocation: Allocation, now: Instant) -> Refusal | None:
        """Return why `job` may not be given `allocation` now; None if it may."""
        if job.state is not JobState.QUEUED or job.live_attempt is not None:
            return Refusal.NOT_QUEUED
        if (job.not_before or 0) > now:
            return Refusal.BACKS_OFF
        pool = self.snapshot.pools.get(allocation.pool)
        if pool is None or (pool.isolation is Isolation.TENANT and pool.tenant != job.tenant):
            return Refusal.POOL
        asked = job.spec
        count = len(allocation.placements)
        least = asked.replicas if asked.min_replicas is None else asked.min_replicas
        if (
            not least <= count <= asked.replicas
            or [p.rank for p in allocation.placements] != list(range(count))
            or any(
                p.resources != asked.resources or sum(d.milli for d in p.devices) != asked.resources.gpu_milli
                for p in allocation.placements
            )
        ):
            return Refusal.NOT_WHOLE
        if (wrong := self._nodes_refuse(allocation)) is not None:
            return wrong
        try:
            slots = slots_milli(asked.resources, pool.flavor.slot) * count
        except ValueError:  # the flavor was changed to one that has none of what is asked
            return Refusal.POOL
        tree = self.snapshot.trees[pool.name]
        if slots != allocation.slots_milli or asked.queue not in tree:
            return Refusal.QUOTA
        capacity = slots_in(self.snapshot.fleet(pool.name).capacity(), pool.flavor.slot)
        if slots > available(tree, asked.queue, lambda q: self._used(q, pool.name), capacity):
            return Refusal.QUOTA
        return None

    def admit(self, queue: QueueName, allocation: Allocation) -> None:
        """Count in what was given to a job of `queue`."""
        for placement in allocation.placements:
            self._holdings[placement.node] = hold(self._held(placement.node), placement, 1)
        pool = allocation.pool
        for name, amount in bubble(
            self.snapshot.trees[pool], queue, allocation.slots_milli, lambda q: self._used(q, pool)
        ):
            self._more[name, pool] = self._more.get((name, pool), 0) + amount

    def _used(self, queue: QueueName, pool: PoolName) -> int:
        return self.snapshot.tree_used.get((queue, pool), 0) + self._more.get((queue, pool), 0)

    def _held(self, node: NodeId) -> Holding | None:
        return self._holdings[node] if node in self._holdings else self.snapshot.holdings.get(node)

    def _nodes_refuse(self, allocation: Allocation) -> Refusal | None:
        placed: dict[str, list[Placement]] = {}
        for placement in allocation.placements:
            placed.setdefault(placement.node, []).append(placement)
        for placements in placed.values():
            node = self.snapshot.nodes.get(placements[0].node)
            if node is None or node.state is not NodeState.READY or node.pool != allocation.pool:
                return Refusal.NODE
            load = load_of(node, self._held(node.id))
            if not sum((p.resources for p in placements), start=node.capacity * 0).fits_in(load.free):
                return Refusal.CAPACITY
            if not _devices_fit([share for p in placements for share in p.devices], load.devices):
                return Refusal.DEVICE
        return None


def _devices_fit(shares: list[DeviceShare], free: tuple[int, ...]) -> bool:
    left = list(free)
    for share in shares:
        if not 0 <= share.index < len(left) or share.milli <= 0 or share.milli > left[share.index]:
            return False
        left[share.index] -= share.milli
    return True
