"""Jobs: submit, batch, cancel, suspend, resume, look, explain.

One request, one transaction: it is judged and stored there, with its events and its idempotency record, or refused with
nothing stored. The life of a job moves only through `lifecycle.record`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from factory.algorithms.catalogue import Catalogue
from factory.domain.datasets import DatasetVersion
from factory.domain.events import (
    AttemptEnded,
    CancelRequested,
    Event,
    PriorityChanged,
    Recorded,
    ResumeRequested,
    Submitted,
    SuspendRequested,
)
from factory.domain.ids import AttemptId, IdSource, JobId, NodeId, TenantId, VersionId
from factory.domain.jobs import (
    Attempt,
    EndReason,
    GroupRef,
    IngestEntry,
    Job,
    JobState,
    Outcome,
    PriorityClass,
    RetryPolicy,
    Waiting,
)
from factory.domain.jobs import JobSpec as Asked
from factory.domain.resources import GIB, Resources
from factory.domain.tenancy import PLATFORM, WRITERS, Principal, Role, Scope
from factory.domain.time import Instant
from factory.errors import ConflictError, IdempotencyConflictError, InvalidRequestError, NotFoundError
from factory.jobs import views
from factory.jobs.applying import apply_event
from factory.jobs.dry_run import forecast
from factory.jobs.explanations import Explanations
from factory.jobs.normalising import Normaliser
from factory.jobs.ports import (
    AttemptProgress,
    BundleStore,
    EndedHook,
    IdempotencyRecord,
    JobFilter,
    JobTx,
    Snapshots,
    SubmissionReader,
    SubmissionStore,
    SubmissionTx,
)
from factory.jobs.snapshots import BuiltSnapshots
from factory.lifecycle.liveness import job_of, require_live
from factory.lifecycle.stepping import record
from factory.scheduling.explaining import explain
from factory.scheduling.planning import Policy
from factory.schemas.attempt import ProgressRequest
from factory.schemas.common import Page
from factory.schemas.jobs import BatchItem, EventView, ExplanationView, JobSpec, JobView, PlanView

__all__ = ["JobService", "LiveAttempt", "Submission"]

BATCH_LIMIT = 1000
_ROUTE = "POST /jobs"  # a key of a batch is a key of its items: the same job may come either way
_KEY_LENGTH = 200
# fields of the spec that the first release did not have, and their defaults as they stand in JSON
_LATER_FIELDS: dict[str, object] = {
    "min_replicas": None,
    "flavors": [],
    "gpu_models": [],
    "topology": "any",
    "estimate_s": None,
}
_PUBLISH_RETRY = RetryPolicy(max_retries=10, user_errors=True)  # with the back-off's cap about five minutes in all
_INGEST = Resources(cpu_milli=1000, memory_bytes=GIB)  # of one ingest job; DuckDB spills to disk above it


@dataclass(frozen=True, slots=True)
class Submission:
    """The answer to a submit; `replayed`: the idempotency key had been used with the same body before."""

    job: Job
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class LiveAttempt:
    """The attempt that a worker's token names, checked to be the job's live one."""

    job: Job
    attempt: Attempt


_EventOf = Callable[[Job], Event | None]


class JobService:
    """What people, and other capabilities, may do with jobs."""

    def __init__(
        self,
        store: SubmissionStore,
        *,
        ids: IdSource,
        bundles: BundleStore,
        catalogue: Catalogue,
        snapshots: Snapshots | None = None,
        on_ended: EndedHook | None = None,
        policy: Policy | None = None,
    ) -> None:
        """Join the service.

        Args:
            snapshots: where explanations get the scheduler's view; None = built from the rows each time.
            on_ended: called in the transaction that ends a job (bootstrap: datasets.settling.settle).
            policy: what the control loop plans with; None = the defaults.
        """
        self._store = store
        self._ids = ids
        self._bundles = bundles
        self._catalogue = catalogue
        self._snapshots = snapshots or BuiltSnapshots()
        self._policy = policy or Policy()
        self._explanations = Explanations(self._policy)
        self._on_ended = on_ended

    # --- submit -----------------------------------------------------------------------------------------------------

    def submit(
        self, principal: Principal, spec: JobSpec, *, idempotency_key: str | None = None, now: Instant
    ) -> Submission:
        """Accept one job; a key that was used with the same body answers the job that it made.

        Raises: InvalidRequestError and its kin, NotFoundError, ForbiddenError: nothing was stored.
        """
        return self._submit_all(principal, [(idempotency_key, spec)], now)[0]

    def submit_batch(self, principal: Principal, items: Sequence[BatchItem], *, now: Instant) -> tuple[Submission, ...]:
        """Accept up to 1,000 jobs in one transaction: all or none, in the order of the items.

        Raises: as `submit`; `facts["item"]` is the index of the item that was refused.
        """
        if not 1 <= len(items) <= BATCH_LIMIT:
            raise InvalidRequestError(f"a batch has 1 to {BATCH_LIMIT} jobs; this one has {len(items)}")
        return self._submit_all(principal, [(item.key, item.spec) for item in items], now)

    def _submit_all(
        self, principal: Principal, wanted: Sequence[tuple[str | None, JobSpec]], now: Instant
    ) -> tuple[Submission, ...]:
        principal.require(*WRITERS)
        tenant = principal.acting_tenant()
        prints = [_fingerprint(spec) if key is not None else "" for key, spec in wanted]
        for key, _ in wanted:
            _check_key(key)

        def work(tx: SubmissionTx) -> tuple[Submission, ...]:
            normaliser = self._normaliser(tx, tenant)
            keys = [key for key, _ in wanted if key is not None]
            known = tx.idempotency_of(tenant, principal.id, _ROUTE, keys) if keys else {}
            new: dict[JobId, tuple[Job, tuple[Recorded, ...]]] = {}
            records: list[IdempotencyRecord] = []
            made: list[Submission] = []
            for index, ((key, spec), fingerprint) in enumerate(zip(wanted, prints, strict=True)):
                try:
                    if key is not None and (before := known.get(key)) is not None:
                        _check_same(before, fingerprint)
                        job_id = JobId(before.result)
                        job = new[job_id][0] if job_id in new else _found(tx, principal, job_id)
                        made.append(Submission(job, replayed=True))
                        continue
                    normal = normaliser.normalise(spec)
                except (InvalidRequestError, NotFoundError) as exc:
                    if len(wanted) > 1:
                        exc.facts["item"] = index
                    raise
                job, recorded = self._made(tenant, normal.spec, principal.id, now, hold=normal.hold)
                new[job.id] = job, recorded
                made.append(Submission(job))
                if key is not None:
                    known[key] = IdempotencyRecord(tenant, principal.id, _ROUTE, key, fingerprint, job.id, now)
                    records.append(known[key])
            tx.insert_jobs(list(new.values()))
            tx.remember_all(records)
            return tuple(made)

        return self._store.transact(work)

    def submit_ingest(
        self, tx: object, principal: Principal, tenant: TenantId, version_id: VersionId, queue: str | None, now: Instant
    ) -> Job:
        """Insert the platform job that ingests a staged version (datasets.ports.JobSubmitter).

        Args:
            tx: the caller's transaction; the same object satisfies `SubmissionTx` (bootstrap).
        """
        opened: SubmissionTx = tx  # pyright: ignore[reportAssignmentType]  # one store satisfies every port
        version = opened.version(principal.scope, version_id)
        if version is None:
            raise NotFoundError("dataset version", version_id)
        normaliser = self._normaliser(opened, tenant)
        spec = Asked(
            name=f"ingest-{version.dataset}"[:63].rstrip("-"),
            entry=IngestEntry(version_id),
            queue=normaliser.queue(queue),
            resources=_INGEST,
            pool=normaliser.pool_for(version.contract, None),
        )
        normaliser.check_feasible(spec)
        return self._insert(opened, tenant, spec, principal.id, now)

    def submit_publish(self, tx: object, ended: Job, version: DatasetVersion, now: Instant) -> Job:
        """Insert the platform job that publishes what `ended` left validated (datasets.ports.JobSubmitter, ADR 7).

        It is not judged, since the transaction that ends a job must not be refused; queue and pool are those of
        `ended`, which were fit for this data. It is tried again whatever ended it: its only step is idempotent.
        """
        opened: SubmissionTx = tx  # pyright: ignore[reportAssignmentType]  # one store satisfies every port
        spec = Asked(
            name=f"publish-{version.dataset}"[:63].rstrip("-"),
            entry=IngestEntry(version.id),
            queue=ended.spec.queue,
            resources=_INGEST,
            pool=ended.spec.pool,
            priority=ended.spec.priority,
            retry=_PUBLISH_RETRY,
        )
        return self._insert(opened, version.tenant, spec, "control", now)

    def submit_service(
        self, tx: JobTx, tenant: TenantId, spec: Asked, *, group: GroupRef, by: str, now: Instant
    ) -> Job:
        """Insert one replica job of an endpoint, in the control loop's transaction; it is not judged for feasibility,
        so that the endpoint's job itself says why it waits.
        """
        return self._insert(tx, tenant, spec, by, now, group=group)

    def _insert(
        self,
        tx: JobTx,
        tenant: TenantId,
        spec: Asked,
        by: str,
        now: Instant,
        *,
        group: GroupRef | None = None,
    ) -> Job:
        job, recorded = self._made(tenant, spec, by, now, group=group)
        tx.insert_job(job, recorded)
        return job

    def _made(
        self,
        tenant: TenantId,
        spec: Asked,
        by: str,
        now: Instant,
        *,
        group: GroupRef | None = None,
        hold: Waiting | None = None,
    ) -> tuple[Job, tuple[Recorded, ...]]:
        event = Submitted(now, JobId(self._ids.new("job")), tenant, by, spec, group, hold)
        job, recorded, _ = record(None, event)
        return job, (recorded,)

    def _normaliser(self, reader: SubmissionReader, tenant: TenantId) -> Normaliser:
        return Normaliser(reader, tenant, catalogue=self._catalogue, bundles=self._bundles)

    def plan(self, principal: Principal, spec: JobSpec, *, now: Instant) -> PlanView:
        """Return what would come of a job if it were submitted now; nothing is stored.

        Raises: as `submit`, but for code that is not there yet and for what can never run, which it answers.
        """
        tenant = principal.acting_tenant()

        def look(reader: SubmissionReader) -> PlanView:
            normaliser = Normaliser(reader, tenant, catalogue=self._catalogue, bundles=self._bundles, dry=True)
            normal = normaliser.normalise(spec)
            # sorts behind every id there is
            submitted = Submitted(now, JobId("job-~"), tenant, principal.id, normal.spec)
            job, _, _ = record(None, submitted)
            snapshot = self._snapshots.at(reader)
            found = forecast(snapshot, job, self._policy, now)
            veil = views.veil_for(snapshot, Scope(tenant))
            found = replace(
                found,
                waiting=None if found.waiting is None else veil.waiting(found.waiting),
                helps=tuple(veil.over(text) for text in found.helps),
            )
            pool = snapshot.pools.get(found.allocation.pool) if found.allocation is not None else None
            stopped = [snapshot.jobs[id] for id in found.preempts]
            return views.plan_view(
                normal.spec,
                found,
                hold=normal.hold,
                flavor=None if pool is None else pool.flavor.name,
                own={job.id for job in stopped if job.tenant == tenant},
            )

        return self._store.read(look)

    # --- change -----------------------------------------------------------------------------------------------------

    def cancel(self, principal: Principal, job_id: JobId, *, reason: str = "", now: Instant) -> Job:
        """Cancel for good; a job that is already cancelled or being cancelled is returned as it is.

        Raises: NotFoundError; ConflictError: it has ended otherwise.
        """

        def event(job: Job) -> Event | None:
            if job.state in (JobState.CANCELLED, JobState.CANCELLING):
                return None
            if job.is_terminal:
                raise ConflictError(
                    f"job {job.id} has already {job.state.value}", hint="nothing to cancel", facts={"state": job.state}
                )
            return CancelRequested(now, principal.id, reason)

        return self._change(principal, job_id, event, now)

    def suspend(self, principal: Principal, job_id: JobId, *, now: Instant) -> Job:
        """Hold it; a live attempt is stopped first. Raises: NotFoundError, IllegalTransitionError."""
        return self._change(principal, job_id, lambda _: SuspendRequested(now, principal.id), now)

    def resume(self, principal: Principal, job_id: JobId, *, now: Instant) -> Job:
        """Let it go on. Raises: NotFoundError, IllegalTransitionError."""
        return self._change(principal, job_id, lambda _: ResumeRequested(now, principal.id), now)

    def set_priority(self, principal: Principal, job_id: JobId, priority: PriorityClass, *, now: Instant) -> Job:
        """Move a job that waits to another priority class; one that has it already is returned as it is.

        Raises: NotFoundError; ConflictError: it runs, or has ended.
        """

        def event(job: Job) -> Event | None:
            if job.is_terminal:
                raise ConflictError(
                    f"job {job.id} has already {views.spoken(job.state)}: its priority decides nothing any more",
                    hint="submit it again with the priority that it shall have",
                    facts={"state": job.state},
                )
            if job.live_attempt is not None:
                raise ConflictError(
                    f"job {job.id} is {job.state.value}: a priority decides when a job starts, and this one has slots",
                    hint="it can be changed when the job waits again (after a preemption or a retry)",
                    facts={"state": job.state},
                )
            return None if job.spec.priority is priority else PriorityChanged(now, principal.id, priority)

        return self._change(principal, job_id, event, now)

    def fence_node(self, principal: Principal, node: NodeId, *, reason: str, now: Instant) -> tuple[Job, ...]:
        """An admin says that nothing runs on the node any more: ends its attempts with proof "fenced" (audited).

        Raises: ForbiddenError; NotFoundError; InvalidRequestError: no reason is given.
        """
        principal.require(Role.PLATFORM)
        if not reason.strip():
            raise InvalidRequestError("fencing a node needs a reason", hint="say how you know that nothing runs on it")

        def work(tx: SubmissionTx) -> tuple[Job, ...]:
            known = [n.id for n in tx.nodes(PLATFORM)]
            if node not in known:
                raise NotFoundError("node", node, known, hint="see: factory nodes")
            ended: list[Job] = []
            for job in tx.open_jobs(PLATFORM):
                live = job.live_attempt
                if live is None or all(p.node != node for p in live.allocation.placements):
                    continue
                message = f"node {node} was fenced by {principal.id}: {reason}"
                event = AttemptEnded(now, live.id, Outcome(EndReason.NODE_LOST, message), "fenced")
                ended.append(apply_event(tx, job, event, now, self._on_ended))
            detail = json.dumps({"node": node, "reason": reason, "jobs": [job.id for job in ended]})
            tx.put_audit(now, principal.id, None, "node.fence", detail)
            return tuple(ended)

        return self._store.transact(work)

    def _change(self, principal: Principal, job_id: JobId, event_of: _EventOf, now: Instant) -> Job:
        principal.require(*WRITERS)

        def work(tx: SubmissionTx) -> Job:
            job = _found(tx, principal, job_id)
            event = event_of(job)
            return job if event is None else apply_event(tx, job, event, now, self._on_ended)

        return self._store.transact(work)

    # --- look -------------------------------------------------------------------------------------------------------

    def get(self, principal: Principal, job_id: JobId) -> Job:
        """Return the job (cheap: for long polls). Raises: NotFoundError."""
        return self._store.read(lambda reader: _found(reader, principal, job_id))

    def view(self, principal: Principal, job_id: JobId, *, now: Instant) -> JobView:
        """Return all of it: result, progress, what it wrote, why it waits. Raises: NotFoundError."""

        def look(reader: SubmissionReader) -> JobView:
            job = _found(reader, principal, job_id)
            scope = principal.scope
            return views.job_view(
                job,
                waiting=self._why(reader, principal, job, now),
                progress=reader.progress(scope, job_id),
                with_result=True,
                datasets=tuple(f"{v.dataset}@{v.number}" for v in reader.versions_of_job(scope, job_id)),
                models=tuple(f"{m.model}@{m.number}" for m in reader.models_of_job(scope, job_id)),
                preemptors={
                    id: scope.covers(other.tenant)
                    for id, other in reader.jobs_of(PLATFORM, views.preemptors_of(job)).items()
                },
            )

        return self._store.read(look)

    def list(self, principal: Principal, where: JobFilter) -> Page[JobView]:
        """Return jobs, newest first; `where.before` is the cursor."""
        limit = max(1, min(where.limit, 1000))
        # one more than asked tells whether there is a next page
        found = self._store.read(lambda r: r.jobs(principal.scope, replace(where, limit=limit + 1)))
        shown = found[:limit]
        return Page[JobView](
            items=tuple(views.job_view(job) for job in shown), next_cursor=shown[-1].id if len(found) > limit else None
        )

    def events(
        self, principal: Principal, job_id: JobId, *, after: int = 0, limit: int = 1000
    ) -> tuple[EventView, ...]:
        """Return its events with numbers above `after`. Raises: NotFoundError."""

        def look(reader: SubmissionReader) -> tuple[EventView, ...]:
            _found(reader, principal, job_id)
            events = reader.events(principal.scope, job_id, after=after, limit=limit)
            return tuple(views.event_view(e, for_platform=principal.role is Role.PLATFORM) for e in events)

        return self._store.read(look)

    def explain(self, principal: Principal, job_id: JobId, *, now: Instant) -> ExplanationView:
        """Say why the job is where it is, with numbers. Raises: NotFoundError."""

        def look(reader: SubmissionReader) -> ExplanationView:
            job = _found(reader, principal, job_id)
            if job.is_terminal:
                return views.explanation_view(job, None)
            snapshot = self._snapshots.at(reader)
            said = explain(snapshot, job_id, now, self._policy)
            veil = views.veil_for(snapshot, principal.scope)
            said = replace(
                said,
                waiting=None if said.waiting is None else veil.waiting(said.waiting),
                helps=tuple(veil.over(text) for text in said.helps),
            )
            return views.explanation_view(job, said)

        return self._store.read(look)

    def _why(self, reader: SubmissionReader, principal: Principal, job: Job, now: Instant) -> Waiting | None:
        if job.state is not JobState.QUEUED:
            return job.hold
        snapshot = self._snapshots.at(reader)
        why = self._explanations.why(snapshot, job, now)
        return None if why is None else views.veil_for(snapshot, principal.scope).waiting(why)

    # --- what attempts do -------------------------------------------------------------------------------------------

    def live_attempt(self, attempt_id: AttemptId) -> LiveAttempt:
        """Return the attempt that a (verified) token names. Raises: UnauthenticatedError: it is over."""
        job = self._store.read(lambda reader: reader.job(PLATFORM, job_of(attempt_id)))
        return LiveAttempt(*require_live(job, attempt_id))

    def put_progress(self, attempt_id: AttemptId, request: ProgressRequest, *, now: Instant) -> None:
        """Overwrite the attempt's live figures; metrics that it does not name keep their last value.

        Raises: UnauthenticatedError: the attempt is over.
        """

        def work(tx: SubmissionTx) -> None:
            job, attempt = require_live(tx.job(PLATFORM, job_of(attempt_id)), attempt_id)
            last = tx.progress(PLATFORM, job.id)
            metrics = json.loads(last.metrics_json) if last is not None and last.attempt_id == attempt.id else {}
            for point in request.metrics:
                metrics[point.name] = {"step": point.step, "value": point.value}
            text = json.dumps(metrics, sort_keys=True)
            tx.put_progress(AttemptProgress(attempt.id, job.id, request.fraction, request.message, text, now))

        self._store.transact(work)


def _found(reader: SubmissionReader, principal: Principal, job_id: JobId) -> Job:
    job = reader.job(principal.scope, job_id)
    if job is None:
        raise NotFoundError("job", job_id, hint="see: factory jobs list")
    return job


def _check_same(known: IdempotencyRecord, fingerprint: str) -> None:
    if known.fingerprint != fingerprint:
        raise IdempotencyConflictError(
            f"the idempotency key '{known.key}' was used before with another body, for job {known.result}",
            hint="use a fresh key for another job, or send the same body again",
            facts={"key": known.key, "job": known.result},
        )


def _fingerprint(spec: JobSpec) -> str:
    body = spec.model_dump(mode="json")
    for name, default in _LATER_FIELDS.items():
        if body[name] == default:  # a key that the first release took still names the same body
            del body[name]
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _check_key(key: str | None) -> None:
    if key is not None and not 1 <= len(key) <= _KEY_LENGTH:
        raise InvalidRequestError(
            f"an idempotency key has 1 to {_KEY_LENGTH} characters; this one has {len(key)}", hint="e.g. a UUID"
        )
