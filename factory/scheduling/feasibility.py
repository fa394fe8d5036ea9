"""Could a job ever run here? Asked at submit, to refuse what never could, and again in every explanation.

A job is feasible in a pool if the pool's slot has what it asks for, the pool's nodes, idle, could hold the gang (or as
many of it as it can start with), and its queue's potential, with all that may be borrowed, is not smaller. Nodes count
whatever their state, because a lost node may come back; of a pool that has no nodes yet nothing is known, so nothing is
ruled out.
"""

from __future__ import annotations

from factory.domain.ids import TenantId
from factory.domain.jobs import JobSpec, Topology, Waiting, WaitReason
from factory.domain.pools import Isolation, NodeState, Pool
from factory.domain.resources import Resources, slots_in
from factory.errors import did_you_mean
from factory.scheduling.cycle import slots_of
from factory.scheduling.fleet import WHOLE
from factory.scheduling.quota import ENDLESS, potential
from factory.scheduling.reasons import counted, described, kinds, listed, precedence, slots, vector, waiting
from factory.scheduling.snapshot import Snapshot
from factory.scheduling.waiting import eligible_pools, lane_of, shape_of

__all__ = ["check_feasible", "least_of", "mismatch", "obstacle"]

_ANY_STATE = frozenset(NodeState)


def check_feasible(snapshot: Snapshot, spec: JobSpec, tenant: TenantId) -> Waiting | None:
    """Return why `spec` could never run for `tenant`, not even on the idle factory; None if it could."""
    pools = eligible_pools(snapshot.pools, lane_of(spec, tenant))
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


def obstacle(snapshot: Snapshot, spec: JobSpec, pool: Pool) -> Waiting | None:
    """Return why `spec` could never run in this pool, which must be eligible for it; None if it could."""
    least = least_of(spec)
    needed = slots_of(spec.resources, least, pool)
    fleet, tree = snapshot.fleet(pool.name), snapshot.trees[pool.name]
    most = potential(tree, spec.queue, slots_in(fleet.capacity(), pool.flavor.slot))
    if needed > most:
        level = tree[spec.queue]
        borrowed = "" if level.borrowing >= ENDLESS else f", {slots(level.borrowing)} of it borrowed at most"
        return waiting(
            WaitReason.EXCEEDS_MAX_QUOTA,
            f"needs {described(spec.resources, least, needed)} in pool '{pool.name}', but queue '{spec.queue}' may "
            f"never hold more than {slots(max(0, most))} there ({slots(level.subtree)} nominal{borrowed})",
            "ask for less, or ask an operator for more quota (see: factory queues)",
            pool=pool.name,
            queue=spec.queue,
            asked_milli=needed,
            potential_milli=max(0, most),
        )
    nodes = fleet.count(*NodeState)
    shape = shape_of(spec)
    if nodes == 0 or fleet.could_fit(shape, least, spec.topology, _ANY_STATE):
        return None
    largest = fleet.largest_gang(shape, spec.topology, _ANY_STATE)
    how = {
        Topology.ANY: "at once",
        Topology.ONE_NODE: "on one node",
        Topology.SAME_ZONE: "in one zone",
        Topology.SPREAD: "on nodes of their own",
    }[spec.topology]
    models = f" on {listed(spec.gpu_models)}" if spec.gpu_models else ""
    return waiting(
        WaitReason.GANG_DOES_NOT_FIT,
        f"needs {least} x {vector(spec.resources)}{models} {how}, but {counted(nodes, 'node')} of pool '{pool.name}' "
        f"could hold at most {largest} when idle",
        f"ask for at most {counted(largest, 'replica')}"
        if largest
        else "ask for less per replica (see: factory nodes)",
        pool=pool.name,
        asked_replicas=least,
        largest_gang=largest,
        nodes=nodes,
    )


def least_of(spec: JobSpec) -> int:
    """Return how many replicas the job can start with."""
    return spec.replicas if spec.min_replicas is None else spec.min_replicas


def _usable(snapshot: Snapshot, tenant: TenantId) -> list[Pool]:
    """Return the pools whose isolation admits `tenant`; the others do not exist for it (rule 9)."""
    return [
        pool
        for _, pool in sorted(snapshot.pools.items())
        if pool.isolation is Isolation.SHARED or pool.tenant == tenant
    ]


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
    if not 1 <= least_of(spec) <= spec.replicas:
        return waiting(
            WaitReason.MISCONFIGURED,
            f"min_replicas is {spec.min_replicas}; it must be from 1 to replicas, which is {spec.replicas}",
            field="min_replicas",
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
    flavors = sorted({pool.flavor.name for pool in pools})
    unknown = [name for name in spec.flavors if name not in flavors]
    if spec.flavors and len(unknown) == len(spec.flavors):
        named = listed([repr(name) for name in unknown])
        return waiting(
            WaitReason.NO_MATCHING_FLAVOR,
            f"there is no flavor {named}{did_you_mean(unknown[0], flavors)}",
            "see: factory pools",
            asked=",".join(spec.flavors),
            offered=",".join(flavors),
        )
    offered = [
        pool
        for pool in pools
        if spec.pool in (None, pool.name) and (not spec.flavors or pool.flavor.name in spec.flavors)
    ]
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
