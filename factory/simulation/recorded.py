"""The recorded history as the API exports it, as values that `replay` works with."""

from __future__ import annotations

from collections.abc import Iterable

from factory.domain.ids import JobId, NodeId, PoolName, QueueName, RunnerId, TenantId
from factory.domain.jobs import CommandEntry, JobSpec
from factory.domain.pools import Flavor, Isolation, Node, NodeState, Pool
from factory.domain.resources import Resources
from factory.domain.tenancy import Queue, Quota
from factory.domain.time import Instant
from factory.schemas.history import HistoryFleet, HistoryJob
from factory.simulation.replay import Fleet, Period, Work

__all__ = ["fleet_of", "period_of"]


def period_of(jobs: Iterable[HistoryJob], since: Instant, until: Instant) -> Period:
    """Return the period; a job that comes twice, because pages moved, counts once."""
    works = {job.id: _work(job) for job in jobs}
    return Period(since, until, tuple(works[id] for id in sorted(works)))


def fleet_of(rows: HistoryFleet) -> Fleet:
    """Return the fleet; a node that is draining now takes part, one that is lost does not."""
    return Fleet(
        pools=tuple(
            Pool(
                PoolName(p.name),
                Flavor(p.flavor, Resources(p.slot_cpu_milli, p.slot_memory_bytes, p.slot_gpu_milli)),
                RunnerId(p.runner),
                Isolation.SHARED if p.tenant is None else Isolation.TENANT,
                None if p.tenant is None else TenantId(p.tenant),
                p.policy,
            )
            for p in rows.pools
        ),
        nodes=tuple(
            Node(
                NodeId(n.id),
                PoolName(n.pool),
                RunnerId(n.runner),
                Resources(n.cpu_milli, n.memory_bytes, 1000 * n.devices),
                n.devices,
                NodeState.LOST if n.state is NodeState.LOST else NodeState.READY,
                n.gpu_model,
                n.zone,
            )
            for n in rows.nodes
        ),
        queues=tuple(
            Queue(
                QueueName(q.name),
                TenantId(q.tenant),
                None if q.parent is None else QueueName(q.parent),
                q.weight,
                tuple(Quota(PoolName(x.pool), x.nominal_milli, x.borrowing_milli, x.lending_milli) for x in q.quotas),
            )
            for q in rows.queues
        ),
    )


def _work(job: HistoryJob) -> Work:
    spec = JobSpec(
        name=job.name,
        entry=CommandEntry(("replayed",)),
        queue=QueueName(job.queue),
        resources=Resources(job.cpu_milli, job.memory_bytes, job.gpu_milli),
        replicas=job.replicas,
        min_replicas=job.min_replicas,
        pool=None if job.pool is None else PoolName(job.pool),
        flavors=job.flavors,
        gpu_models=job.gpu_models,
        topology=job.topology,
        estimate_s=job.estimate_s,
        priority=job.priority,
    )
    return Work(
        id=JobId(job.id),
        tenant=TenantId(job.tenant),
        spec=spec,
        submitted_at=job.submitted_at,
        queued_at=job.queued_at,
        held_ms=job.held_ms,
        started_at=job.started_at,
        withdrawn_at=job.withdrawn_at,
    )
