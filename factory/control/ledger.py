"""The second look before slots are given: rule 3 checked on the transaction's own rows, whatever the plan believed.

`Ledger` holds the snapshot of the very state that the transaction will change, and counts in each admission of the
group. It trusts nothing of the decision but what the allocation names.
"""

from __future__ import annotations

from enum import StrEnum

from factory.domain.jobs import Allocation, DeviceShare, Job, JobState, Placement
from factory.domain.pools import Isolation, NodeState
from factory.domain.resources import slots_milli
from factory.domain.time import Instant
from factory.scheduling.changes import JobChanged
from factory.scheduling.cycle import whole_slots
from factory.scheduling.holding import load_of
from factory.scheduling.quota import available
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
        self.snapshot = snapshot

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
        if not least <= count <= asked.replicas or [p.rank for p in allocation.placements] != list(range(count)) or any(
            p.resources != asked.resources or sum(d.milli for d in p.devices) != asked.resources.gpu_milli
            for p in allocation.placements
        ):
            return Refusal.NOT_WHOLE
        if (wrong := self._nodes_refuse(allocation)) is not None:
            return wrong
        try:
            slots = slots_milli(asked.resources, pool.flavor.slot) * count
        except ValueError:  # the flavor was changed to one that has none of what is asked
            return Refusal.POOL
        if slots != allocation.slots_milli or asked.queue not in self.snapshot.trees[pool.name]:
            return Refusal.QUOTA
        capacity = whole_slots(self.snapshot.fleet(pool.name).capacity(), pool.flavor.slot)
        used = self.snapshot.tree_used
        free = available(self.snapshot.trees[pool.name], asked.queue, lambda q: used.get((q, pool.name), 0), capacity)
        if slots > free:
            return Refusal.QUOTA
        return None

    def admit(self, job: Job) -> None:
        """Count in a job that was given its allocation."""
        self.snapshot = self.snapshot.evolve([JobChanged(job.id, job)])

    def _nodes_refuse(self, allocation: Allocation) -> Refusal | None:
        placed: dict[str, list[Placement]] = {}
        for placement in allocation.placements:
            placed.setdefault(placement.node, []).append(placement)
        for placements in placed.values():
            node = self.snapshot.nodes.get(placements[0].node)
            if node is None or node.state is not NodeState.READY or node.pool != allocation.pool:
                return Refusal.NODE
            load = load_of(node, self.snapshot.holdings.get(node.id))
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
