"""The transaction of the store in memory: dictionaries changed in place, and a log that takes every change back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from factory.control.ports import FeedEntry, FeedKind, Lease
from factory.domain.datasets import Dataset, DatasetVersion, Upload, UploadState, VersionState
from factory.domain.endpoints import Endpoint
from factory.domain.events import Event, Recorded
from factory.domain.ids import (
    AttemptId,
    DatasetName,
    EndpointName,
    JobId,
    KeyId,
    ModelName,
    NodeId,
    PoolName,
    QueueName,
    RunnerId,
    TenantId,
    UploadId,
    VersionId,
)
from factory.domain.jobs import GroupKind, Job, JobState
from factory.domain.models import Model, ModelVersion
from factory.domain.pools import Isolation, Node, Pool, Runner
from factory.domain.tenancy import PLATFORM, Key, Queue, Scope, Tenant
from factory.domain.time import Instant
from factory.errors import ConflictError, FeedPrunedError, NotFoundError, StaleWriteError
from factory.jobs.ports import AttemptProgress, IdempotencyRecord, JobFilter
from factory.storage.history import check_events

__all__ = ["AuditRow", "MemoryTx", "Rows"]

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

_ABSENT: Any = object()


class Versioned(Protocol):
    """A frozen value with the optimistic guard `version`."""

    @property
    def version(self) -> int: ...


V = TypeVar("V", bound=Versioned)


@dataclass(slots=True)
class AuditRow:
    """One line of the audit log."""

    at: Instant
    principal: str
    tenant: TenantId | None
    action: str
    detail_json: str


@dataclass(slots=True)
class Rows:
    """Everything that is committed."""

    tenants: dict[TenantId, Tenant] = field(default_factory=dict)
    queues: dict[QueueName, Queue] = field(default_factory=dict)
    keys: dict[KeyId, Key] = field(default_factory=dict)
    audit: dict[int, AuditRow] = field(default_factory=dict)
    pools: dict[PoolName, Pool] = field(default_factory=dict)
    nodes: dict[NodeId, Node] = field(default_factory=dict)
    runners: dict[RunnerId, Runner] = field(default_factory=dict)
    jobs: dict[JobId, Job] = field(default_factory=dict)
    open_jobs: dict[JobId, Job] = field(default_factory=dict)
    live_jobs: dict[JobId, Job] = field(default_factory=dict)
    group_jobs: dict[tuple[GroupKind, str], tuple[JobId, ...]] = field(default_factory=dict)
    attempts: dict[AttemptId, JobId] = field(default_factory=dict)
    events: dict[tuple[JobId, int], Event] = field(default_factory=dict)
    progress: dict[AttemptId, AttemptProgress] = field(default_factory=dict)
    idempotency: dict[tuple[TenantId, str, str, str], IdempotencyRecord] = field(default_factory=dict)
    datasets: dict[tuple[TenantId, DatasetName], Dataset] = field(default_factory=dict)
    uploads: dict[UploadId, Upload] = field(default_factory=dict)
    versions: dict[VersionId, DatasetVersion] = field(default_factory=dict)
    version_numbers: dict[tuple[TenantId, DatasetName, int], VersionId] = field(default_factory=dict)
    models: dict[tuple[TenantId, ModelName], Model] = field(default_factory=dict)
    model_versions: dict[tuple[TenantId, ModelName, int], ModelVersion] = field(default_factory=dict)
    endpoints: dict[tuple[TenantId, EndpointName], Endpoint] = field(default_factory=dict)
    feed: dict[int, FeedEntry] = field(default_factory=dict)
    # "holder", "epoch", "expires_at" of the lease; "head" and "pruned" of the feed
    scalars: dict[str, Any] = field(
        default_factory=lambda: {"holder": "", "epoch": 0, "expires_at": 0, "head": 0, "pruned": 0}
    )


class _Session:
    """The undo log, and the guarded put that every table shares."""

    def __init__(self, rows: Rows, *, writable: bool) -> None:
        self._rows = rows
        self._writable = writable
        self._undo: list[tuple[dict[Any, Any], Any, Any]] = []
        self._changes: dict[tuple[FeedKind, str], None] = {}

    def undo(self) -> None:
        """Take every write back, the last one first."""
        for table, key, old in reversed(self._undo):
            if old is _ABSENT:
                table.pop(key, None)
            else:
                table[key] = old

    def end(self) -> None:
        """The transaction is over; what still uses this object gets an error."""
        self._rows = _ENDED

    def flush_feed(self) -> None:
        """Append the changes to the feed, as the last thing before the commit."""
        head = self._rows.scalars["head"]
        for kind, key in self._changes:
            head += 1
            self._set(self._rows.feed, head, FeedEntry(head, kind, key))
        if self._changes:
            self._set(self._rows.scalars, "head", head)

    def _set(self, table: dict[K, T], key: K, value: T) -> None:
        if not self._writable:
            raise RuntimeError("this is a read; writes belong in transact")
        self._undo.append((table, key, table.get(key, _ABSENT)))
        table[key] = value

    def _delete(self, table: dict[K, Any], key: K) -> None:
        if not self._writable:
            raise RuntimeError("this is a read; writes belong in transact")
        if key in table:
            self._undo.append((table, key, table.pop(key)))

    def _changed(self, kind: FeedKind, key: str) -> None:
        self._changes[kind, key] = None

    def _put(self, table: dict[K, V], key: K, value: V, what: str) -> V:
        old = table.get(key)
        if value.version == 0 and old is not None:
            raise ConflictError(f"{what} exists already", facts={"what": what})
        if value.version != 0 and (old is None or old.version != value.version):
            raise StaleWriteError(
                f"{what} changed since it was read", hint="load it again and retry", facts={"what": what}
            )
        stored = replace(value, version=value.version + 1)  # pyright: ignore[reportArgumentType]  # frozen dataclass
        self._set(table, key, stored)
        return stored


class _Ended:
    """Stands where the rows were once the transaction is over."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("this transaction has ended; use the tx only inside the function that was given it")


_ENDED: Any = _Ended()


def _visible(values: Iterable[T], scope: Scope) -> tuple[T, ...]:
    """Those of values with a tenant that `scope` covers."""
    if scope.tenant is None:
        return tuple(values)
    return tuple([value for value in values if value.tenant == scope.tenant])  # pyright: ignore[reportAttributeAccessIssue]


def _if_visible(value: T | None, scope: Scope) -> T | None:
    if value is None or scope.tenant is None:
        return value
    return value if value.tenant == scope.tenant else None  # pyright: ignore[reportAttributeAccessIssue]


def _sorted(table: dict[Any, T]) -> list[T]:
    return [table[key] for key in sorted(table)]


class _Jobs(_Session):
    """JobReader and JobTx."""

    def job(self, scope: Scope, job_id: JobId) -> Job | None:
        return _if_visible(self._rows.jobs.get(job_id), scope)

    def jobs_of(self, scope: Scope, ids: Collection[JobId]) -> dict[JobId, Job]:
        found = ((job_id, self.job(scope, job_id)) for job_id in ids)
        return {job_id: job for job_id, job in found if job is not None}

    def job_of_attempt(self, scope: Scope, attempt_id: AttemptId) -> Job | None:
        job_id = self._rows.attempts.get(attempt_id)
        return None if job_id is None else self.job(scope, job_id)

    def jobs(self, scope: Scope, where: JobFilter) -> tuple[Job, ...]:
        ids = self._rows.jobs if where.group is None else self._rows.group_jobs.get(where.group, ())
        found: list[Job] = []
        for job_id in sorted(ids, reverse=True):
            job = self._rows.jobs[job_id]
            if scope.covers(job.tenant) and _matches(job, where):
                found.append(job)
                if len(found) == where.limit:
                    break
        return tuple(found)

    def open_jobs(self, scope: Scope) -> tuple[Job, ...]:
        return _visible(_sorted(self._rows.open_jobs), scope)

    def live_jobs(self, scope: Scope, runner: RunnerId) -> tuple[Job, ...]:
        jobs = [j for j in _sorted(self._rows.live_jobs) if j.live_attempt and j.live_attempt.runner == runner]
        return _visible(jobs, scope)

    def count_jobs(self, scope: Scope) -> dict[JobState, int]:
        counts: dict[str, int] = {}
        for job in _visible(self._rows.jobs.values(), scope):
            counts[job.state] = counts.get(job.state, 0) + 1
        return {JobState(state): counts[state] for state in sorted(counts)}

    def events(self, scope: Scope, job_id: JobId, *, after: int = 0, limit: int = 1000) -> tuple[Recorded, ...]:
        job = self.job(scope, job_id)
        if job is None:
            return ()
        numbers = range(max(after, 0) + 1, min(job.seq, max(after, 0) + limit) + 1)
        return tuple([Recorded(job_id, seq, self._rows.events[job_id, seq]) for seq in numbers])

    def progress(self, scope: Scope, job_id: JobId) -> AttemptProgress | None:
        job = self.job(scope, job_id)
        for attempt in reversed(job.attempts if job else ()):
            if attempt.id in self._rows.progress:
                return self._rows.progress[attempt.id]
        return None

    def idempotency(self, tenant: TenantId, principal: str, route: str, key: str) -> IdempotencyRecord | None:
        return self._rows.idempotency.get((tenant, principal, route, key))

    def idempotency_of(
        self, tenant: TenantId, principal: str, route: str, keys: Collection[str]
    ) -> dict[str, IdempotencyRecord]:
        found = ((key, self.idempotency(tenant, principal, route, key)) for key in keys)
        return {key: record for key, record in found if record is not None}

    def queues(self, scope: Scope) -> tuple[Queue, ...]:
        return _visible(_sorted(self._rows.queues), scope)

    def insert_job(self, job: Job, events: Sequence[Recorded]) -> None:
        check_events(job, events, after=0)
        if job.id in self._rows.jobs:
            raise ConflictError(f"job {job.id} exists already", facts={"job": job.id})
        if job.group is not None:
            group = (job.group.kind, job.group.id)
            self._set(self._rows.group_jobs, group, (*self._rows.group_jobs.get(group, ()), job.id))
        self._store(job, events)

    def insert_jobs(self, new: Sequence[tuple[Job, Sequence[Recorded]]]) -> None:
        ids = [job.id for job, _ in new]
        there = sorted(self.jobs_of(PLATFORM, ids))
        if there or len(set(ids)) < len(ids):
            raise ConflictError(f"job {(there or ids)[0]} exists already", facts={"jobs": there or ids})
        for job, events in new:
            self.insert_job(job, events)

    def update_job(self, job: Job, events: Sequence[Recorded], *, expected_seq: int) -> None:
        check_events(job, events, after=expected_seq)
        if not self._is_current(job, expected_seq):
            raise StaleWriteError(
                f"job {job.id} changed since it was read",
                hint="load it again and retry",
                facts={"job": job.id, "expected_seq": expected_seq},
            )
        self._store(job, events)

    def pin_job(self, job: Job) -> None:
        if not self._is_current(job, job.seq):
            raise StaleWriteError(f"job {job.id} changed since it was read", hint="load it again and retry")

    def put_progress(self, progress: AttemptProgress) -> None:
        if self._rows.attempts.get(progress.attempt_id) != progress.job_id:
            raise NotFoundError("attempt", progress.attempt_id)
        old = self._rows.progress.get(progress.attempt_id)
        if old is None or old.at <= progress.at:  # a late report does not undo a newer one
            self._set(self._rows.progress, progress.attempt_id, progress)

    def remember(self, record: IdempotencyRecord) -> None:
        key = (record.tenant, record.principal, record.route, record.key)
        if key in self._rows.idempotency:
            raise ConflictError(f"idempotency key '{record.key}' was used already", facts={"key": record.key})
        self._set(self._rows.idempotency, key, record)

    def remember_all(self, records: Sequence[IdempotencyRecord]) -> None:
        keys = {(r.tenant, r.principal, r.route, r.key) for r in records}
        if len(keys) < len(records) or any(key in self._rows.idempotency for key in keys):
            raise ConflictError("one of these idempotency keys was used already", facts={"keys": sorted(keys)})
        for record in records:
            self.remember(record)

    def _is_current(self, job: Job, expected_seq: int) -> bool:
        old = self._rows.jobs.get(job.id)
        return old is not None and old.seq == expected_seq

    def _store(self, job: Job, events: Sequence[Recorded]) -> None:
        rows = self._rows
        self._set(rows.jobs, job.id, job)
        if job.is_terminal:
            self._delete(rows.open_jobs, job.id)
        else:
            self._set(rows.open_jobs, job.id, job)
        if job.live_attempt is None:
            self._delete(rows.live_jobs, job.id)
        else:
            self._set(rows.live_jobs, job.id, job)
        for attempt in job.attempts:
            if attempt.id not in rows.attempts:
                self._set(rows.attempts, attempt.id, job.id)
        for recorded in events:
            self._set(rows.events, (job.id, recorded.seq), recorded.event)
        self._changed(FeedKind.JOB, job.id)


def _matches(job: Job, where: JobFilter) -> bool:
    return (
        (not where.states or job.state in where.states)
        and (where.queue is None or job.spec.queue == where.queue)
        and (where.name is None or job.spec.name == where.name)
        and (where.before is None or job.id < where.before)
    )


class _Pools(_Session):
    """PoolReader and PoolTx."""

    def pools(self, scope: Scope) -> tuple[Pool, ...]:
        return tuple([pool for pool in _sorted(self._rows.pools) if _sees_pool(scope, pool)])

    def nodes(self, scope: Scope) -> tuple[Node, ...]:
        nodes = _sorted(self._rows.nodes)
        if scope.tenant is None:
            return tuple(nodes)
        names = {pool.name for pool in self.pools(scope)}
        return tuple([node for node in nodes if node.pool in names])

    def runners(self, scope: Scope) -> tuple[Runner, ...]:
        runners = _sorted(self._rows.runners)
        if scope.tenant is None:
            return tuple(runners)
        ids = {pool.runner for pool in self.pools(scope)}
        return tuple([runner for runner in runners if runner.id in ids])

    def put_pool(self, pool: Pool) -> Pool:
        stored = self._put(self._rows.pools, pool.name, pool, f"pool '{pool.name}'")
        self._changed(FeedKind.POOL, pool.name)
        return stored

    def put_node(self, node: Node) -> Node:
        stored = self._put(self._rows.nodes, node.id, node, f"node '{node.id}'")
        self._changed(FeedKind.NODE, node.id)
        return stored

    def put_runner(self, runner: Runner) -> Runner:
        stored = self._put(self._rows.runners, runner.id, runner, f"runner '{runner.id}'")
        self._changed(FeedKind.RUNNER, runner.id)
        return stored

    def delete_pool(self, scope: Scope, name: PoolName) -> None:
        pool = self._rows.pools.get(name)
        if pool is not None and _owns_pool(scope, pool):
            self._delete(self._rows.pools, name)
            self._changed(FeedKind.POOL, name)

    def delete_node(self, scope: Scope, node_id: NodeId) -> None:
        node = self._rows.nodes.get(node_id)
        if node is None:
            return
        pool = self._rows.pools.get(node.pool)
        if scope.tenant is None or (pool is not None and _owns_pool(scope, pool)):
            self._delete(self._rows.nodes, node_id)
            self._changed(FeedKind.NODE, node_id)

    def delete_runner(self, scope: Scope, runner_id: RunnerId) -> None:
        if scope.tenant is None and runner_id in self._rows.runners:
            self._delete(self._rows.runners, runner_id)
            self._changed(FeedKind.RUNNER, runner_id)


def _owns_pool(scope: Scope, pool: Pool) -> bool:
    return scope.tenant is None or (pool.isolation is Isolation.TENANT and pool.tenant == scope.tenant)


def _sees_pool(scope: Scope, pool: Pool) -> bool:
    return _owns_pool(scope, pool) or pool.isolation is Isolation.SHARED


class _Tenants(_Session):
    """TenantReader (but for `queues`) and TenantTx."""

    def tenants(self, scope: Scope) -> tuple[Tenant, ...]:
        return tuple([tenant for tenant in _sorted(self._rows.tenants) if scope.covers(tenant.id)])

    def keys(self, scope: Scope) -> tuple[Key, ...]:
        return _visible(_sorted(self._rows.keys), scope)

    def key(self, scope: Scope, key_id: KeyId) -> Key | None:
        return _if_visible(self._rows.keys.get(key_id), scope)

    def put_tenant(self, tenant: Tenant) -> Tenant:
        return self._put(self._rows.tenants, tenant.id, tenant, f"tenant '{tenant.id}'")

    def put_queue(self, queue: Queue) -> Queue:
        stored = self._put(self._rows.queues, queue.name, queue, f"queue '{queue.name}'")
        self._changed(FeedKind.QUEUE, queue.name)
        return stored

    def put_key(self, key: Key) -> Key:
        return self._put(self._rows.keys, key.id, key, f"key '{key.id}'")

    def delete_queue(self, scope: Scope, name: QueueName) -> None:
        queue = self._rows.queues.get(name)
        if queue is not None and scope.covers(queue.tenant):
            self._delete(self._rows.queues, name)
            self._changed(FeedKind.QUEUE, name)

    def put_audit(self, at: Instant, principal: str, tenant: TenantId | None, action: str, detail_json: str) -> None:
        row = AuditRow(at, principal, tenant, action, detail_json)
        self._set(self._rows.audit, len(self._rows.audit) + 1, row)


class _Datasets(_Session):
    """DatasetReader and DatasetTx."""

    def datasets(self, scope: Scope) -> tuple[Dataset, ...]:
        return _visible(_sorted(self._rows.datasets), scope)

    def dataset(self, scope: Scope, tenant: TenantId, name: DatasetName) -> Dataset | None:
        return _if_visible(self._rows.datasets.get((tenant, name)), scope)

    def version(self, scope: Scope, version_id: VersionId) -> DatasetVersion | None:
        return _if_visible(self._rows.versions.get(version_id), scope)

    def version_by_number(
        self, scope: Scope, tenant: TenantId, name: DatasetName, number: int
    ) -> DatasetVersion | None:
        version_id = self._rows.version_numbers.get((tenant, name, number))
        return None if version_id is None else self.version(scope, version_id)

    def versions(self, scope: Scope, tenant: TenantId, name: DatasetName) -> tuple[DatasetVersion, ...]:
        own = [v for v in self._rows.versions.values() if v.tenant == tenant and v.dataset == name]
        return _visible(sorted(own, key=lambda v: v.number), scope)

    def version_by_request(
        self, scope: Scope, tenant: TenantId, name: DatasetName, request_digest: str
    ) -> DatasetVersion | None:
        for version in reversed(self.versions(scope, tenant, name)):
            same = request_digest and version.request_digest == request_digest
            if same and version.state is not VersionState.FAILED:
                return version
        return None

    def versions_of_job(self, scope: Scope, job_id: JobId) -> tuple[DatasetVersion, ...]:
        return _visible([v for v in _sorted(self._rows.versions) if v.job == job_id], scope)

    def versions_from(self, scope: Scope, parent: VersionId) -> tuple[DatasetVersion, ...]:
        return _visible([v for v in _sorted(self._rows.versions) if parent in v.parents], scope)

    def upload(self, scope: Scope, upload_id: UploadId) -> Upload | None:
        return _if_visible(self._rows.uploads.get(upload_id), scope)

    def put_dataset(self, dataset: Dataset) -> Dataset:
        key = (dataset.tenant, dataset.name)
        return self._put(self._rows.datasets, key, dataset, f"dataset '{dataset.name}'")

    def put_version(self, version: DatasetVersion) -> DatasetVersion:
        number = (version.tenant, version.dataset, version.number)
        what = f"version {version.number} of dataset '{version.dataset}'"
        if self._rows.version_numbers.get(number, version.id) != version.id:
            raise ConflictError(f"{what} exists already", facts={"what": what})
        stored = self._put(self._rows.versions, version.id, version, what)
        self._set(self._rows.version_numbers, number, version.id)
        self._changed(FeedKind.VERSION, version.id)
        return stored

    def upload_by_digest(self, scope: Scope, tenant: TenantId, sha256: str, format: str) -> Upload | None:
        same = [u for u in _sorted(self._rows.uploads) if (u.tenant, u.sha256, u.format) == (tenant, sha256, format)]
        best = max(same, key=lambda u: (u.state is not UploadState.REMOVED, u.id), default=None)
        return _if_visible(best, scope)

    def uploads_with_bytes(
        self, scope: Scope, *, after: UploadId | None = None, limit: int = 100
    ) -> tuple[Upload, ...]:
        there = [u for u in _sorted(self._rows.uploads) if u.state is not UploadState.REMOVED and u.id > (after or "")]
        return _visible(there, scope)[:limit]

    def put_upload(self, upload: Upload) -> Upload:
        return self._put(self._rows.uploads, upload.id, upload, f"upload {upload.id}")

    def delete_upload(self, upload: Upload) -> None:
        stored = self._rows.uploads.get(upload.id)
        if stored is None or stored.version != upload.version:
            raise StaleWriteError(f"upload {upload.id} changed since it was read", hint="load it again")
        self._delete(self._rows.uploads, upload.id)


class _Models(_Session):
    """ModelReader and ModelTx."""

    def models(self, scope: Scope) -> tuple[Model, ...]:
        return _visible(_sorted(self._rows.models), scope)

    def model(self, scope: Scope, tenant: TenantId, name: ModelName) -> Model | None:
        return _if_visible(self._rows.models.get((tenant, name)), scope)

    def model_version(self, scope: Scope, tenant: TenantId, name: ModelName, number: int) -> ModelVersion | None:
        return _if_visible(self._rows.model_versions.get((tenant, name, number)), scope)

    def model_versions(self, scope: Scope, tenant: TenantId, name: ModelName) -> tuple[ModelVersion, ...]:
        return self._versions(scope, lambda v: v.tenant == tenant and v.model == name)

    def models_of_job(self, scope: Scope, job_id: JobId) -> tuple[ModelVersion, ...]:
        return self._versions(scope, lambda v: v.lineage.job == job_id)

    def models_from(self, scope: Scope, dataset_version: VersionId) -> tuple[ModelVersion, ...]:
        return self._versions(scope, lambda v: dataset_version in v.lineage.dataset_versions)

    def unprojected(self, scope: Scope, limit: int = 100) -> tuple[ModelVersion, ...]:
        return self._versions(scope, lambda v: not v.mlflow_version)[:limit]

    def put_model(self, model: Model) -> Model:
        stored = self._put(self._rows.models, (model.tenant, model.name), model, f"model '{model.name}'")
        self._changed(FeedKind.MODEL, f"{model.tenant}/{model.name}")
        return stored

    def put_model_version(self, version: ModelVersion) -> ModelVersion:
        key = (version.tenant, version.model, version.number)
        stored = self._put(
            self._rows.model_versions, key, version, f"version {version.number} of model '{version.model}'"
        )
        self._changed(FeedKind.MODEL, f"{version.tenant}/{version.model}")
        return stored

    def _versions(self, scope: Scope, holds: Callable[[ModelVersion], bool]) -> tuple[ModelVersion, ...]:
        return _visible([v for v in _sorted(self._rows.model_versions) if holds(v)], scope)


class _Endpoints(_Session):
    """EndpointReader and EndpointTx."""

    def endpoints(self, scope: Scope) -> tuple[Endpoint, ...]:
        return _visible(_sorted(self._rows.endpoints), scope)

    def endpoint(self, scope: Scope, tenant: TenantId, name: EndpointName) -> Endpoint | None:
        return _if_visible(self._rows.endpoints.get((tenant, name)), scope)

    def put_endpoint(self, endpoint: Endpoint) -> Endpoint:
        key = (endpoint.tenant, endpoint.name)
        stored = self._put(self._rows.endpoints, key, endpoint, f"endpoint '{endpoint.name}'")
        self._changed(FeedKind.ENDPOINT, f"{endpoint.tenant}/{endpoint.name}")
        return stored

    def delete_endpoint(self, scope: Scope, tenant: TenantId, name: EndpointName) -> None:
        if scope.covers(tenant) and (tenant, name) in self._rows.endpoints:
            self._delete(self._rows.endpoints, (tenant, name))
            self._changed(FeedKind.ENDPOINT, f"{tenant}/{name}")


class _Control(_Session):
    """The feed and the lease."""

    def feed(self, after: int, limit: int = 10_000) -> tuple[FeedEntry, ...]:
        pruned, head = self._rows.scalars["pruned"], self._rows.scalars["head"]
        if after < pruned:
            raise FeedPrunedError(
                f"the change feed begins after {pruned}, the reader stands at {after}",
                hint="read every row and feed_head in one transaction, then go on from there",
                facts={"after": after, "pruned": pruned},
            )
        return tuple([self._rows.feed[seq] for seq in range(after + 1, min(head, after + limit) + 1)])

    def feed_head(self) -> int:
        return self._rows.scalars["head"]

    def lease(self) -> Lease | None:
        lease = self._rows.scalars
        return Lease(lease["holder"], lease["epoch"], lease["expires_at"]) if lease["holder"] else None

    def acquire_lease(self, holder: str, now: Instant, ttl_ms: int, *, proven_dead: bool = False) -> Lease | None:
        held = self.lease()
        epoch = self._rows.scalars["epoch"]
        if held is None or held.holder != holder:
            if held is not None and held.expires_at > now and not proven_dead:
                return None
            epoch += 1
        self._set_lease(holder, epoch, now + ttl_ms)
        return Lease(holder, epoch, now + ttl_ms)

    def release_lease(self, holder: str) -> None:
        held = self.lease()
        if held is not None and held.holder == holder:
            self._set_lease("", held.epoch, 0)

    def prune_feed(self, before_seq: int) -> None:
        before = min(before_seq, self._rows.scalars["head"])
        pruned = self._rows.scalars["pruned"]
        for seq in range(pruned + 1, before):
            self._delete(self._rows.feed, seq)
        if before - 1 > pruned:
            self._set(self._rows.scalars, "pruned", before - 1)

    def _set_lease(self, holder: str, epoch: int, expires_at: Instant) -> None:
        for name, value in (("holder", holder), ("epoch", epoch), ("expires_at", expires_at)):
            self._set(self._rows.scalars, name, value)


class MemoryTx(_Jobs, _Pools, _Tenants, _Datasets, _Models, _Endpoints, _Control):
    """What `read(fn)` and `transact(fn)` give to `fn`; usable only inside it."""
