"""Jobs: submit, batch, cancel, suspend, resume, look, explain.

One request, one transaction: it is judged and stored there, with its events and its idempotency record, or refused with
nothing stored. The life of a job moves only through `lifecycle.record`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from factory.domain.ids import AttemptId, IdSource, JobId, NodeId, TenantId, VersionId
from factory.domain.jobs import Attempt, GroupRef, Job
from factory.domain.jobs import JobSpec as Asked
from factory.domain.tenancy import Principal
from factory.domain.time import Instant
from factory.jobs.ports import (
    BundleStore,
    EndedHook,
    JobFilter,
    JobTx,
    Signals,
    Snapshots,
    SubmissionStore,
    SubmissionTx,
)
from factory.schemas.attempt import ProgressRequest
from factory.schemas.common import Page
from factory.schemas.jobs import BatchItem, EventView, ExplanationView, JobSpec, JobView

__all__ = ["JobService", "LiveAttempt", "Submission"]


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


class JobService:
    """What people, and other capabilities, may do with jobs."""

    def __init__(
        self,
        store: SubmissionStore,
        *,
        ids: IdSource,
        bundles: BundleStore,
        snapshots: Snapshots | None = None,
        on_ended: EndedHook | None = None,
        signals: Signals | None = None,
    ) -> None: ...

    def submit(
        self, principal: Principal, spec: JobSpec, *, idempotency_key: str | None = None, now: Instant
    ) -> Submission:
        """Accept one job. Raises: InvalidRequestError and its kin, NotFoundError, ForbiddenError: nothing was stored."""
        ...

    def submit_batch(self, principal: Principal, items: Sequence[BatchItem], *, now: Instant) -> tuple[Submission, ...]:
        """Accept up to 1,000 jobs in one transaction: all or none, in the order of the items."""
        ...

    def submit_ingest(
        self, tx: object, principal: Principal, tenant: TenantId, version_id: VersionId, queue: str | None, now: Instant
    ) -> Job:
        """Insert the platform job that ingests a staged version (datasets.ports.JobSubmitter)."""
        ...

    def submit_service(
        self, tx: JobTx, tenant: TenantId, spec: Asked, *, group: GroupRef, by: str, now: Instant
    ) -> Job:
        """Insert one replica job of an endpoint, in the control loop's transaction."""
        ...

    def cancel(self, principal: Principal, job_id: JobId, *, reason: str = "", now: Instant) -> Job:
        """Cancel for good; a job that is already cancelled or being cancelled is returned as it is.

        Raises: NotFoundError; ConflictError: it has ended otherwise.
        """
        ...

    def suspend(self, principal: Principal, job_id: JobId, *, now: Instant) -> Job:
        """Hold it; a live attempt is stopped first. Raises: NotFoundError, IllegalTransitionError."""
        ...

    def resume(self, principal: Principal, job_id: JobId, *, now: Instant) -> Job:
        """Let it go on. Raises: NotFoundError, IllegalTransitionError."""
        ...

    def fence_node(self, principal: Principal, node: NodeId, *, reason: str, now: Instant) -> tuple[Job, ...]:
        """An admin says that nothing runs on the node any more: ends its attempts with proof "fenced" (audited)."""
        ...

    def get(self, principal: Principal, job_id: JobId) -> Job:
        """Return the job (cheap: for long polls). Raises: NotFoundError."""
        ...

    def view(self, principal: Principal, job_id: JobId, *, now: Instant) -> JobView:
        """Return all of it: result, progress, what it wrote, why it waits. Raises: NotFoundError."""
        ...

    def list(self, principal: Principal, where: JobFilter) -> Page[JobView]:
        """Return jobs, newest first; `where.before` is the cursor."""
        ...

    def events(
        self, principal: Principal, job_id: JobId, *, after: int = 0, limit: int = 1000
    ) -> tuple[EventView, ...]:
        """Return its events from `after` on. Raises: NotFoundError."""
        ...

    def explain(self, principal: Principal, job_id: JobId, *, now: Instant) -> ExplanationView:
        """Say why the job is where it is, with numbers. Raises: NotFoundError."""
        ...

    def live_attempt(self, attempt_id: AttemptId) -> LiveAttempt:
        """Return the attempt that a (verified) token names. Raises: UnauthenticatedError: it is over."""
        ...

    def put_progress(self, attempt_id: AttemptId, request: ProgressRequest, *, now: Instant) -> None:
        """Overwrite the attempt's live figures. Raises: UnauthenticatedError."""
        ...
