"""Could a job ever run here? Asked at submit, to refuse what never could, and again in every plan and explanation.

A job is feasible in a pool if the pool's slot has what it asks for, the pool's nodes, idle, could hold the whole gang,
and no quota on the way up is smaller than the gang. Nodes count whatever their state, because a lost node may come
back; of a pool that has no nodes yet nothing is known, so nothing is ruled out.
"""

from __future__ import annotations

from collections.abc import Collection

from factory.domain.ids import TenantId
from factory.domain.jobs import JobSpec, Waiting, WaitReason
from factory.domain.pools import Isolation, NodeState, Pool
from factory.domain.resources import Resources
from factory.errors import did_you_mean
from factory.scheduling.placement import WHOLE, copies, slots_of
from factory.scheduling.quota import exceeded, limits
from factory.scheduling.reasons import counted, described, kinds, listed, precedence, slots, vector, waiting
from factory.scheduling.snapshot import Lane, Snapshot, lane_of

__all__ = ["check_feasible", "eligible_pools", "idle_capacity", "mismatch", "obstacle"]

_ANY_STATE = frozenset(NodeState)


def check_feasible(snapshot: Snapshot, spec: JobSpec, tenant: TenantId) -> Waiting | None:
    """Return why `spec` could never run for `tenant`, not even on the idle factory; None if it could."""
    pools = eligible_pools(snapshot, lane_of(spec, tenant))
    if (fault := mismatch(snapshot, spec, tenant, pools)) is not None:
        return fault
    found: list[Waiting] = []
    for pool in pools:
        fault = obstacle(snapshot, spec, pool)
        if fault is None:
            return None
        found.append(fault)
    return min(found, key=lambda fault: precedence(fault.reason))


def mismatch(snapshot: Snapshot, spec: JobSpec, tenant: TenantId, eligible: tuple[Pool, ...]) -> Waiting | None:
    """Return what is wrong with the spec itself or that no pool is `eligible` for it; None if all is well."""
    if (fault := _misconfigured(snapshot, spec)) is not None:
        return fault
    return None if eligible else _no_matching_flavor(snapshot, spec, tenant)


def eligible_pools(snapshot: Snapshot, lane: Lane) -> tuple[Pool, ...]:
    """Return the pools that jobs of `lane` may use, best first: those that waste no GPU or other kind come first."""
    asked = {name for name, asks in (("gpu", lane.gpu), ("cpu", lane.cpu), ("memory", lane.memory)) if asks}
    pools = [
        pool
        for pool in _usable(snapshot, lane.tenant)
        if (not lane.pool or pool.name == lane.pool) and asked.issubset(kinds(pool.flavor.slot))
    ]
    return tuple(sorted(pools, key=lambda pool: (*_wasted(pool, lane), pool.name)))


def obstacle(snapshot: Snapshot, spec: JobSpec, pool: Pool) -> Waiting | None:
    """Return why `spec` could never run in this pool, which must be eligible for it; None if it could."""
    needed = slots_of(spec, pool)
    limit = exceeded(limits(snapshot, spec.queue, pool.name), needed)
    if limit is not None:
        return waiting(
            WaitReason.EXCEEDS_MAX_QUOTA,
            f"needs {described(spec, needed)} in pool '{pool.name}', but queue '{limit.queue}' may never hold more "
            f"than {slots(limit.most_milli)} there ({slots(limit.nominal_milli)} nominal, "
            f"{slots(limit.borrowing_milli)} borrowed)",
            "ask for less, or ask an operator for more quota (see: factory queues)",
            pool=pool.name,
            queue=limit.queue,
            asked_milli=needed,
            potential_milli=limit.most_milli,
        )
    nodes = snapshot.index(pool.name).count(*NodeState)
    largest = idle_capacity(snapshot, spec, pool, _ANY_STATE)
    if nodes == 0 or largest >= spec.replicas:
        return None
    return waiting(
        WaitReason.GANG_DOES_NOT_FIT,
        f"needs {spec.replicas} x {vector(spec.resources)} at once, but {counted(nodes, 'node')} of pool '{pool.name}' "
        f"could hold at most {largest} when idle",
        f"ask for at most {counted(largest, 'replica')}"
        if largest
        else "ask for less per replica (see: factory nodes)",
        pool=pool.name,
        asked_replicas=spec.replicas,
        largest_gang=largest,
        nodes=nodes,
    )


def idle_capacity(snapshot: Snapshot, spec: JobSpec, pool: Pool, states: Collection[NodeState]) -> int:
    """Return how many replicas of `spec` the pool's nodes in `states` could hold if nothing else ran on them."""
    total = 0
    for (state, capacity, devices), count in snapshot.index(pool.name).shapes.items():
        if state in states:
            room = copies(spec.resources, capacity, (WHOLE,) * devices)
            total += count * (spec.replicas if room is None else room)
    return total


def _usable(snapshot: Snapshot, tenant: TenantId) -> list[Pool]:
    """Return the pools whose isolation admits `tenant`; the others do not exist for it (rule 9)."""
    return [
        pool
        for _, pool in sorted(snapshot.pools.items())
        if pool.isolation is Isolation.SHARED or pool.tenant == tenant
    ]


def _wasted(pool: Pool, lane: Lane) -> tuple[bool, bool]:
    """Rank a pool by what its slots have that the lane does not ask for: GPUs first of all."""
    slot = pool.flavor.slot
    return bool(slot.gpu_milli) and not lane.gpu, bool(slot.memory_bytes) and not lane.memory


def _misconfigured(snapshot: Snapshot, spec: JobSpec) -> Waiting | None:
    asked = spec.resources
    if spec.queue not in snapshot.queues:
        return waiting(
            WaitReason.MISCONFIGURED, f"there is no queue '{spec.queue}'", "see: factory queues", field="queue"
        )
    if spec.replicas < 1:
        return waiting(
            WaitReason.MISCONFIGURED, f"replicas is {spec.replicas}; a gang has at least 1", field="replicas"
        )
    if asked.is_negative():
        return waiting(WaitReason.MISCONFIGURED, "asks for less than nothing of a resource", field="resources")
    if asked.gpu_milli > WHOLE and asked.gpu_milli % WHOLE:
        return waiting(
            WaitReason.MISCONFIGURED,
            f"asks for {vector(Resources(gpu_milli=asked.gpu_milli))}; above one GPU only whole GPUs can be given",
            f"ask for {asked.gpu_milli // WHOLE} or {asked.gpu_milli // WHOLE + 1}",
            field="resources.gpu",
            asked_milli=asked.gpu_milli,
        )
    return None


def _no_matching_flavor(snapshot: Snapshot, spec: JobSpec, tenant: TenantId) -> Waiting:
    pools = _usable(snapshot, tenant)
    names = [pool.name for pool in pools]
    if spec.pool is not None and spec.pool not in names:
        return waiting(
            WaitReason.NO_MATCHING_FLAVOR,
            f"there is no pool '{spec.pool}'{did_you_mean(spec.pool, names)}",
            "see: factory pools",
            pool=spec.pool,
        )
    offered = [pool for pool in pools if spec.pool in (None, pool.name)]
    what = (
        "; ".join(f"pool '{pool.name}' offers {listed(kinds(pool.flavor.slot))}" for pool in offered)
        or "no pool has joined"
    )
    return waiting(
        WaitReason.NO_MATCHING_FLAVOR,
        f"asks for {listed(kinds(spec.resources) or ('nothing',))} on one node; {what}",
        "see: factory pools",
        asked=",".join(kinds(spec.resources)),
        offered=",".join(pool.name for pool in offered),
    )
