"""Builders of domain values for tests: say what matters, the rest gets a plain default.

CPUs, GPUs and slots are given as numbers (`cpu=0.5`), memory in GiB; the values hold integers. The defaults agree with
each other: `job("a")` of tenant and queue `mobility` fits `node("n1")` of pool `cpu` under runner `runner-1`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from factory.domain.ids import AttemptId, JobId, NodeId, PoolName, QueueName, RunnerId, TenantId
from factory.domain.jobs import (
    Allocation,
    Attempt,
    AttemptState,
    CommandEntry,
    DeviceShare,
    Entry,
    Job,
    JobSpec,
    JobState,
    Placement,
    PriorityClass,
    RetryPolicy,
    Waiting,
)
from factory.domain.pools import Flavor, Isolation, Node, NodeState, Pool, Runner
from factory.domain.resources import GIB, Resources, slots_milli
from factory.domain.tenancy import Queue, Quota, Tenant
from factory.domain.time import Instant
from factory.scheduling.snapshot import Rows, Snapshot

__all__ = [
    "allocation",
    "attempt",
    "job",
    "node",
    "pool",
    "queue",
    "resources",
    "rows",
    "runner",
    "running",
    "snapshot",
    "spec",
    "tenant",
]

_JOB_STATE_OF = {
    AttemptState.DESIRED: JobState.ADMITTED,
    AttemptState.STARTING: JobState.STARTING,
    AttemptState.RUNNING: JobState.RUNNING,
    AttemptState.STOPPING: JobState.PREEMPTING,
    AttemptState.UNKNOWN: JobState.RUNNING,
}


def resources(cpu: float = 0, memory_gib: float = 0, gpu: float = 0) -> Resources:
    """A vector from whole or fractional CPUs, GiB and GPUs.

    >>> resources(cpu=0.5, gpu=1)
    Resources(cpu_milli=500, memory_bytes=0, gpu_milli=1000)
    """
    return Resources(round(cpu * 1000), round(memory_gib * GIB), round(gpu * 1000))


def tenant(id: str = "mobility", *, title: str = "") -> Tenant:
    """A department."""
    return Tenant(TenantId(id), title)


def runner(id: str = "runner-1", *, incarnation: str = "inc-1", seen_at: Instant = 0) -> Runner:
    """A runner that joined."""
    return Runner(RunnerId(id), incarnation, seen_at)


def pool(
    name: str = "cpu",
    *,
    cpu: float = 1,
    memory_gib: float = 4,
    gpu: float = 0,
    runner: str = "runner-1",
    tenant: str | None = None,
    flavor: str | None = None,
) -> Pool:
    """A pool whose slot is {cpu, memory, gpu}; with `tenant` it is isolated for that tenant."""
    return Pool(
        name=PoolName(name),
        flavor=Flavor(flavor or name, resources(cpu, memory_gib, gpu)),
        runner=RunnerId(runner),
        isolation=Isolation.SHARED if tenant is None else Isolation.TENANT,
        tenant=None if tenant is None else TenantId(tenant),
    )


def node(
    id: str,
    *,
    pool: str = "cpu",
    cpu: float = 8,
    memory_gib: float = 64,
    gpus: int = 0,
    state: NodeState = NodeState.READY,
    runner: str = "runner-1",
    zone: str = "",
    gpu_model: str = "",
    seen_at: Instant = 0,
) -> Node:
    """A node with `gpus` whole devices."""
    return Node(
        id=NodeId(id),
        pool=PoolName(pool),
        runner=RunnerId(runner),
        capacity=resources(cpu, memory_gib, gpus),
        devices=gpus,
        state=state,
        gpu_model=gpu_model,
        zone=zone,
        host="127.0.0.1",
        seen_at=seen_at,
    )


def queue(
    name: str = "mobility",
    *,
    tenant: str | None = None,
    parent: str | None = None,
    weight: int = 1,
    quota: Mapping[str, float] | None = None,
    borrowing: float | None = 0,
    lending: float | None = None,
) -> Queue:
    """A queue, by default of the tenant of the same name.

    Args:
        quota: slots per pool, e.g. `{"cpu": 4}`; a pool that is not named is not limited.
        borrowing: slots above each quota; None = no limit (then the quota does not bind in this queue itself).
        lending: slots of each quota that may be lent; None = all.
    """
    borrowed = None if borrowing is None else round(borrowing * 1000)
    lent = None if lending is None else round(lending * 1000)
    return Queue(
        name=QueueName(name),
        tenant=TenantId(tenant or name),
        parent=None if parent is None else QueueName(parent),
        weight=weight,
        quotas=tuple(Quota(PoolName(p), round(n * 1000), borrowed, lent) for p, n in sorted((quota or {}).items())),
    )


def spec(
    name: str = "job",
    *,
    cpu: float = 1,
    memory_gib: float = 0,
    gpu: float = 0,
    replicas: int = 1,
    queue: str = "mobility",
    pool: str | None = None,
    priority: PriorityClass = PriorityClass.NORMAL,
    entry: Entry | None = None,
    timeout_s: int | None = None,
    retry: RetryPolicy | None = None,
    after: Sequence[str] = (),
) -> JobSpec:
    """What a job asks for; resources are per replica."""
    return JobSpec(
        name=name,
        entry=entry or CommandEntry(("true",)),
        queue=QueueName(queue),
        resources=resources(cpu, memory_gib, gpu),
        replicas=replicas,
        pool=None if pool is None else PoolName(pool),
        priority=priority,
        retry=retry or RetryPolicy(),
        timeout_s=timeout_s,
        after=tuple(JobId(j) for j in after),
    )


def job(
    id: str = "job-a",
    *,
    spec: JobSpec | None = None,
    cpu: float = 1,
    memory_gib: float = 0,
    gpu: float = 0,
    replicas: int = 1,
    queue: str = "mobility",
    tenant: str | None = None,
    pool: str | None = None,
    priority: PriorityClass = PriorityClass.NORMAL,
    state: JobState = JobState.QUEUED,
    submitted_at: Instant = 0,
    not_before: Instant | None = None,
    hold: Waiting | None = None,
    retries: int = 0,
    seq: int = 1,
    attempts: Sequence[Attempt] = (),
) -> Job:
    """A queued job of one replica and one CPU unless said otherwise; its tenant is named like its queue.

    With `spec` the arguments that describe what is asked for are not used.
    """
    asked = spec or _spec(id, cpu, memory_gib, gpu, replicas, queue, pool, priority)
    return Job(
        id=JobId(id),
        tenant=TenantId(tenant or asked.queue),
        spec=asked,
        state=state,
        submitted_at=submitted_at,
        submitted_by="key-test",
        seq=seq,
        state_since=submitted_at,
        attempts=tuple(attempts),
        retries=retries,
        not_before=not_before,
        hold=hold,
    )


def allocation(
    nodes: Sequence[str],
    *,
    pool: Pool,
    cpu: float = 1,
    memory_gib: float = 0,
    gpu: float = 0,
    devices: Sequence[Sequence[tuple[int, int]]] = (),
) -> Allocation:
    """One replica of the same vector on each of `nodes`, in rank order.

    Args:
        devices: per rank the (index, milli) shares that it holds.
    """
    vector = resources(cpu, memory_gib, gpu)
    shares = [tuple(DeviceShare(i, m) for i, m in held) for held in devices] or [() for _ in nodes]
    return Allocation(
        pool=pool.name,
        slots_milli=slots_milli(vector, pool.flavor.slot) * len(nodes),
        placements=tuple(
            Placement(rank, NodeId(name), vector, held)
            for rank, (name, held) in enumerate(zip(nodes, shares, strict=True))
        ),
    )


def attempt(
    job_id: str = "job-a",
    held: Allocation | None = None,
    *,
    ordinal: int = 1,
    state: AttemptState = AttemptState.RUNNING,
    runner: str = "runner-1",
    admitted_at: Instant = 0,
) -> Attempt:
    """One try at a job; without `held` it holds one CPU of node `n1`."""
    started = state in (AttemptState.RUNNING, AttemptState.STOPPING, AttemptState.UNKNOWN, AttemptState.ENDED)
    return Attempt(
        id=AttemptId(f"{job_id}.{ordinal}"),
        ordinal=ordinal,
        state=state,
        runner=RunnerId(runner),
        allocation=held or allocation(["n1"], pool=pool()),
        admitted_at=admitted_at,
        starting_at=None if state is AttemptState.DESIRED else admitted_at,
        running_at=admitted_at if started else None,
        ended_at=admitted_at if state is AttemptState.ENDED else None,
    )


def running(
    base: Job, held: Allocation, *, state: AttemptState = AttemptState.RUNNING, runner: str = "runner-1"
) -> Job:
    """`base` with one more attempt that holds `held`, in the job state that goes with the attempt's."""
    tried = attempt(base.id, held, ordinal=len(base.attempts) + 1, state=state, runner=runner)
    return replace(base, state=_JOB_STATE_OF[state], attempts=(*base.attempts, tried), seq=base.seq + 1)


def rows(*things: Pool | Node | Queue | Job | Runner) -> Rows:
    """The rows of a snapshot, given in any order and mix."""
    return Rows(
        pools=tuple(thing for thing in things if isinstance(thing, Pool)),
        nodes=tuple(thing for thing in things if isinstance(thing, Node)),
        queues=tuple(thing for thing in things if isinstance(thing, Queue)),
        jobs=tuple(thing for thing in things if isinstance(thing, Job)),
        runners=tuple(thing for thing in things if isinstance(thing, Runner)),
    )


def snapshot(*things: Pool | Node | Queue | Job | Runner) -> Snapshot:
    """A snapshot of the rows, given in any order and mix."""
    return Snapshot.build(rows(*things))


def _spec(
    name: str,
    cpu: float,
    memory_gib: float,
    gpu: float,
    replicas: int,
    queue: str,
    pool: str | None,
    priority: PriorityClass,
) -> JobSpec:
    # `job` has a parameter `spec`, which hides the builder of that name
    return spec(
        name,
        cpu=cpu,
        memory_gib=memory_gib,
        gpu=gpu,
        replicas=replicas,
        queue=queue,
        pool=pool,
        priority=priority,
    )
