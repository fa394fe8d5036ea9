"""Keeps endpoints as their owners want them: decides which replica jobs to submit and to cancel, and what to forget.

Rules
    E1  Each index 0..replicas-1 of the wanted revision has one open job.
    E2  An older revision's jobs are cancelled only when every replica of the wanted one is ready, so that something
        always answers; the stop lets them drain.
    E3  A replica whose job ended is made again after a back-off: 1 s, doubled per end of the last ten minutes, at most
        60 s.
    E4  A backend is forgotten when its attempt is no longer live, and only then: what drains still answers.
    E5  An endpoint that is deleted goes when its last job has ended.

`decide` is pure; `Keeper` reads the rows, and performs it in one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from factory.control.ports import ControlTx, ReplicaSubmitter
from factory.domain.endpoints import Endpoint, EndpointState, Revision
from factory.domain.events import CancelRequested
from factory.domain.ids import AttemptId
from factory.domain.jobs import (
    TERMINAL_STATES,
    AttemptState,
    GroupKind,
    GroupRef,
    Job,
    JobSpec,
    JobState,
    ModelRef,
    RetryPolicy,
    ServiceEntry,
)
from factory.domain.tenancy import PLATFORM, Scope
from factory.domain.time import SECOND, Instant
from factory.jobs.applying import apply_event
from factory.jobs.ports import EndedHook, JobFilter

__all__ = ["EndpointPlan", "Kept", "decide", "group_id", "keep_endpoints"]

_BACKOFF_CAP_S = 60
_REMEMBERED_S = 600  # an end longer ago says nothing about the next one
_LOOK_BACK = 50  # ended jobs of an endpoint that the back-off counts over
_RETRY = RetryPolicy(max_retries=5, backoff_s=1)  # of one replica job; then it ends, and E3 takes over


@dataclass(frozen=True, slots=True)
class EndpointPlan:
    """What to do about one endpoint."""

    endpoint: Endpoint  # as it shall be stored; the same value = no write
    submit: tuple[int, ...] = ()  # indices of the wanted revision
    cancel: tuple[tuple[Job, str], ...] = ()  # with the reason
    delete: bool = False
    look_again_at: Instant | None = None  # a back-off ends


@dataclass(frozen=True, slots=True)
class Kept:
    """What came of one round over all endpoints."""

    submitted: int = 0
    cancelled: int = 0
    look_again_at: Instant | None = None

    @property
    def changed(self) -> bool:
        """True if anything was asked of the rest of the loop."""
        return bool(self.submitted or self.cancelled)


def group_id(endpoint: Endpoint) -> str:
    """Return the id of the group of an endpoint's replica jobs."""
    return f"{endpoint.tenant}/{endpoint.name}"


def decide(endpoint: Endpoint, open_jobs: Sequence[Job], ended_jobs: Sequence[Job], now: Instant) -> EndpointPlan:
    """Decide on one endpoint.

    Args:
        open_jobs: its replica jobs that have not ended, of every revision.
        ended_jobs: its latest ended ones, newest first (for the back-off).
    """
    live = {attempt.id: attempt for job in open_jobs if (attempt := job.live_attempt) is not None}
    backends = tuple(backend for backend in endpoint.backends if backend.attempt in live)  # rule E4
    serving = tuple(backend for backend in backends if live[AttemptId(backend.attempt)].stop is None)
    if endpoint.state is EndpointState.DELETING:
        cancel = tuple((job, "its endpoint is deleted") for job in open_jobs if _may_be_cancelled(job))
        return EndpointPlan(replace(endpoint, backends=backends), cancel=cancel, delete=not open_jobs)  # rule E5
    wanted = endpoint.revisions[-1]
    kept, cancel = _sort_out(wanted, open_jobs)
    ready = {backend.job for backend in serving if backend.revision == wanted.number}
    is_ready = all(index in kept and kept[index].id in ready for index in range(wanted.replicas))
    if is_ready:  # rule E2
        why = f"revision {wanted.number} has taken over"
        cancel.extend((job, why) for job in open_jobs if _revision(job) != wanted.number and _may_be_cancelled(job))
    missing = [index for index in range(wanted.replicas) if index not in kept]
    submit, again = _due(wanted, missing, ended_jobs, now)
    needed = {_revision(job) for job in open_jobs} | {wanted.number}
    answers = any(_answers(live[AttemptId(backend.attempt)].state) for backend in serving)
    after = replace(
        endpoint,
        state=EndpointState.READY if answers else EndpointState.DEPLOYING,
        backends=backends,
        revisions=tuple(revision for revision in endpoint.revisions if not is_ready or revision.number in needed),
    )
    return EndpointPlan(after, tuple(submit), tuple(cancel), look_again_at=again)


def keep_endpoints(tx: ControlTx, submitter: ReplicaSubmitter, now: Instant, on_ended: EndedHook | None = None) -> Kept:
    """Look at every endpoint and do what `decide` says, in the caller's transaction.

    Raises:
        StaleWriteError: an endpoint or a job changed under the transaction; try again.
    """
    round_ = _Round(tx, submitter, now, on_ended)
    for endpoint in tx.endpoints(PLATFORM):
        round_.keep(endpoint)
    return Kept(round_.submitted, round_.cancelled, min(round_.again, default=None))


class _Round:
    def __init__(self, tx: ControlTx, submitter: ReplicaSubmitter, now: Instant, on_ended: EndedHook | None) -> None:
        self._tx = tx
        self._submitter = submitter
        self._now = now
        self._on_ended = on_ended
        self.submitted = 0
        self.cancelled = 0
        self.again: list[Instant] = []

    def keep(self, endpoint: Endpoint) -> None:
        still = self._jobs(endpoint, frozenset(JobState) - TERMINAL_STATES, 1000)
        found = decide(endpoint, still, self._jobs(endpoint, TERMINAL_STATES, _LOOK_BACK), self._now)
        for job, why in found.cancel:
            apply_event(self._tx, job, CancelRequested(self._now, "control", why), self._now, self._on_ended)
            self.cancelled += 1
        for index in found.submit:
            self._submit(endpoint, endpoint.revisions[-1], index)
        if found.look_again_at is not None:
            self.again.append(found.look_again_at)
        if found.delete:
            self._tx.delete_endpoint(Scope(endpoint.tenant), endpoint.tenant, endpoint.name)
        elif found.endpoint != endpoint:
            self._tx.put_endpoint(found.endpoint)

    def _jobs(self, endpoint: Endpoint, states: frozenset[JobState], limit: int) -> tuple[Job, ...]:
        where = JobFilter(states=states, group=(GroupKind.ENDPOINT, group_id(endpoint)), limit=limit)
        return self._tx.jobs(Scope(endpoint.tenant), where)

    def _submit(self, endpoint: Endpoint, revision: Revision, index: int) -> None:
        model = self._tx.model_version(Scope(endpoint.tenant), endpoint.tenant, revision.model, revision.model_version)
        if model is None:
            return  # it shows as deploying; a deploy of a model that is there replaces the revision
        spec = JobSpec(
            name=f"{endpoint.name}-r{revision.number}-{index}",
            entry=ServiceEntry(
                endpoint.name,
                revision.number,
                ModelRef(revision.model, revision.model_version),
                model.lineage.algorithm,
                model.lineage.algorithm_version,
            ),
            queue=endpoint.queue,
            resources=revision.resources,
            pool=endpoint.pool,
            retry=_RETRY,
        )
        group = GroupRef(GroupKind.ENDPOINT, group_id(endpoint), index)
        self._submitter.submit_service(
            self._tx, endpoint.tenant, spec, group=group, by=endpoint.created_by, now=self._now
        )
        self.submitted += 1


def _sort_out(wanted: Revision, open_jobs: Sequence[Job]) -> tuple[dict[int, Job], list[tuple[Job, str]]]:
    """Rule E1: one job per index, the oldest; the others of this revision are too many."""
    kept: dict[int, Job] = {}
    surplus: list[tuple[Job, str]] = []
    for job in sorted(open_jobs, key=lambda j: (j.submitted_at, j.id)):
        if _revision(job) != wanted.number or not _may_be_cancelled(job):
            continue  # what is being cancelled no longer counts, and needs no second cancel
        index = job.group.index if job.group is not None else -1
        if index in kept or not 0 <= index < wanted.replicas:
            surplus.append((job, f"revision {wanted.number} has {wanted.replicas} replicas"))
        else:
            kept[index] = job
    return kept, surplus


def _due(
    wanted: Revision, missing: Sequence[int], ended_jobs: Sequence[Job], now: Instant
) -> tuple[list[int], Instant | None]:
    """Rule E3: which missing replicas may be submitted now, and when to look again for the others."""
    due: list[int] = []
    later: list[Instant] = []
    for index in missing:
        ends = [
            job.ended_at
            for job in ended_jobs
            if _revision(job) == wanted.number
            and job.group is not None
            and job.group.index == index
            and job.ended_at is not None
            and now - job.ended_at < _REMEMBERED_S * SECOND
            and job.state is not JobState.CANCELLED
        ]
        wait_s = min(1 << min(len(ends) - 1, 16), _BACKOFF_CAP_S) if ends else 0
        not_before = max(ends, default=now) + wait_s * SECOND
        if not_before <= now:
            due.append(index)
        else:
            later.append(not_before)
    return due, min(later, default=None)


def _may_be_cancelled(job: Job) -> bool:
    return job.state is not JobState.CANCELLING and not job.is_terminal


def _revision(job: Job) -> int:
    return job.spec.entry.revision if isinstance(job.spec.entry, ServiceEntry) else -1


def _answers(state: AttemptState) -> bool:
    return state is AttemptState.RUNNING or state is AttemptState.UNKNOWN
