"""/jobs: submit, look, wait, stop."""

from __future__ import annotations

import time
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import Response

from factory.api.auth import Caller, Reach, needs
from factory.api.bodies import JsonRoute
from factory.api.lineage import job_lineage
from factory.api.paging import Cursor, Limit
from factory.api.problems import problem_responses
from factory.api.serving import plane_of, serving_of
from factory.api.wakes import job_topic
from factory.domain.ids import JobId, QueueName
from factory.domain.jobs import GroupKind, JobState
from factory.domain.tenancy import Principal, Role
from factory.errors import FactoryError, InvalidRequestError
from factory.jobs.ports import JobFilter
from factory.jobs.views import job_view
from factory.schemas.common import API, Page
from factory.schemas.datasets import LineageView
from factory.schemas.jobs import (
    BatchReply,
    BatchRequest,
    EventView,
    ExplanationView,
    JobPatch,
    JobSpec,
    JobView,
    PlanView,
)

__all__ = ["router"]

router = APIRouter(tags=["jobs"], route_class=JsonRoute, responses=problem_responses(401, 403, 404, 422, 503))
Operator = Annotated[Principal, Depends(needs(Role.OPERATOR))]
ById = Annotated[Principal, Depends(needs(Role.VIEWER, Reach.ALL))]
OperatorById = Annotated[Principal, Depends(needs(Role.OPERATOR, Reach.ALL))]


@router.post("/jobs", status_code=201, responses=problem_responses(409, 413))
def submit(
    request: Request,
    response: Response,
    spec: JobSpec,
    principal: Operator,
    idempotency_key: Annotated[
        str | None, Header(min_length=1, max_length=200, description="The same key and body give the same job.")
    ] = None,
) -> JobView:
    """Accept a job; once this answers 201 it is never lost."""
    plane = plane_of(request)
    try:
        done = plane.jobs.submit(principal, spec, idempotency_key=idempotency_key, now=plane.clock.now())
    except FactoryError as exc:
        plane.metrics.rejections.labels(exc.code).inc()
        raise
    response.headers["Location"] = f"{API}/jobs/{done.job.id}"
    if done.replayed:
        response.headers["Idempotency-Replayed"] = "true"
    else:
        plane.metrics.submissions.labels(_kind(spec)).inc()
    return job_view(done.job)


@router.post("/jobs:batch", status_code=201, responses=problem_responses(409, 413))
def submit_batch(request: Request, batch: BatchRequest, principal: Operator) -> BatchReply:
    """Accept up to 1,000 jobs in one transaction: all or none."""
    plane = plane_of(request)
    try:
        done = plane.jobs.submit_batch(principal, batch.items, now=plane.clock.now())
    except FactoryError as exc:
        plane.metrics.rejections.labels(exc.code).inc()
        raise
    for item, submission in zip(batch.items, done, strict=True):
        if not submission.replayed:
            plane.metrics.submissions.labels(_kind(item.spec)).inc()
    replayed = tuple(i.key for i, s in zip(batch.items, done, strict=True) if s.replayed)
    return BatchReply(jobs=tuple(job_view(s.job) for s in done), replayed=replayed)


@router.post("/jobs:plan", responses=problem_responses(413))
def plan_job(request: Request, spec: JobSpec, principal: Caller) -> PlanView:
    """Dry run: would this job start now, where, whom would it stop, when else, what would it cost? Nothing is stored.

    The code that it names need not be uploaded. Jobs of other tenants are counted, not named.
    """
    plane = plane_of(request)
    return plane.jobs.plan(principal, spec, now=plane.clock.now())


@router.get("/jobs")
def list_jobs(
    request: Request,
    principal: ById,
    state: Annotated[str | None, Query(description="States, comma-separated.")] = None,
    queue: str | None = None,
    name: str | None = None,
    group: Annotated[str | None, Query(description="Kind and id: endpoint/<name> or map/<id>.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[JobView]:
    """Jobs, newest first."""
    where = JobFilter(
        states=_states(state),
        queue=QueueName(queue) if queue else None,
        name=name,
        group=_group(group),
        before=JobId(cursor) if cursor else None,
        limit=limit,
    )
    return plane_of(request).jobs.list(principal, where)


@router.get("/jobs/{job_id}")
def get_job(request: Request, job_id: str, principal: ById) -> JobView:
    """One job with all its attempts, and what came of it."""
    plane = plane_of(request)
    return plane.jobs.view(principal, JobId(job_id), now=plane.clock.now())


@router.patch("/jobs/{job_id}", responses=problem_responses(409))
def change_job(request: Request, job_id: str, body: JobPatch, principal: OperatorById) -> JobView:
    """Move it to another priority class while it waits; 409 when it runs or has ended."""
    plane = plane_of(request)
    return job_view(plane.jobs.set_priority(principal, JobId(job_id), body.priority, now=plane.clock.now()))


@router.get("/jobs/{job_id}/events")
def events(
    request: Request,
    job_id: str,
    principal: ById,
    after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    limit: Limit = 200,
    cursor: Cursor = None,
) -> Page[EventView]:
    """Everything that happened to it, in order."""
    start = _number(cursor) if cursor else after
    found = plane_of(request).jobs.events(principal, JobId(job_id), after=start, limit=limit)
    return Page(items=found, next_cursor=str(found[-1].seq) if len(found) == limit else None)


@router.get("/jobs/{job_id}/explain")
def explain(request: Request, job_id: str, principal: ById) -> ExplanationView:
    """Why it is where it is, with numbers."""
    plane = plane_of(request)
    return plane.jobs.explain(principal, JobId(job_id), now=plane.clock.now())


@router.get("/jobs/{job_id}/wait")
async def wait(
    request: Request,
    job_id: str,
    principal: ById,
    timeout_s: Annotated[float, Query(ge=0)] = 25.0,
    after: Annotated[int | None, Query(ge=0, description="Answer once the job's seq is above this.")] = None,
    progress_at: Annotated[int | None, Query(ge=0, description="… or its progress is newer than this.")] = None,
    states: Annotated[str | None, Query(description="… or it is in one of these, comma-separated.")] = None,
) -> JobView:
    """Long poll: answers at the first change that was asked for, at the end of the job, or when the time is over."""
    plane, hub = plane_of(request), serving_of(request).hub
    asked = _states(states)
    ident = JobId(job_id)
    deadline = time.monotonic() + min(timeout_s, plane.settings.poll_s)

    def is_news() -> bool:
        job = plane.jobs.get(principal, ident)
        if job.is_terminal or job.state in asked or (after is not None and job.seq > after):
            return True
        if progress_at is None:
            return False
        progress = plane.store.read(lambda tx: tx.progress(principal.scope, ident))
        return progress is not None and progress.at > progress_at

    with hub.subscribe(job_topic(job_id)) as news:
        while not await run_sync(is_news):
            left = deadline - time.monotonic()
            if left <= 0 or hub.is_closed:
                break
            # naps: what another control plane took in may ring no bell here
            await news.wait(min(left, hub.nap_s))
    return await run_sync(lambda: plane.jobs.view(principal, ident, now=plane.clock.now()))


@router.post("/jobs/{job_id}:cancel", responses=problem_responses(409))
def cancel(
    request: Request, job_id: str, principal: OperatorById, reason: Annotated[str, Query(max_length=500)] = ""
) -> JobView:
    """Cancel it; once this answers 200 no attempt of it starts any more."""
    plane = plane_of(request)
    return job_view(plane.jobs.cancel(principal, JobId(job_id), reason=reason, now=plane.clock.now()))


@router.post("/jobs/{job_id}:suspend", responses=problem_responses(409))
def suspend(request: Request, job_id: str, principal: OperatorById) -> JobView:
    """Hold it; a live attempt is stopped first."""
    plane = plane_of(request)
    return job_view(plane.jobs.suspend(principal, JobId(job_id), now=plane.clock.now()))


@router.post("/jobs/{job_id}:resume", responses=problem_responses(409))
def resume(request: Request, job_id: str, principal: OperatorById) -> JobView:
    """Let it go on."""
    plane = plane_of(request)
    return job_view(plane.jobs.resume(principal, JobId(job_id), now=plane.clock.now()))


@router.get("/jobs/{job_id}/lineage")
def lineage(request: Request, job_id: str, principal: ById) -> LineageView:
    """What it read and what came of it."""
    return job_lineage(plane_of(request), principal, JobId(job_id))


def _kind(spec: JobSpec) -> str:
    return next(k for k in ("function", "command", "algorithm") if getattr(spec, k) is not None)


def _states(text: str | None) -> frozenset[JobState]:
    try:
        return frozenset(JobState(s.strip()) for s in (text or "").split(",") if s.strip())
    except ValueError as exc:
        known = ", ".join(s.value for s in JobState)
        raise InvalidRequestError(f"state: {exc}", hint=f"states are: {known}") from exc


def _group(text: str | None) -> tuple[GroupKind, str] | None:
    if not text:
        return None
    kind, _, ident = text.partition("/")
    if kind not in tuple(GroupKind) or not ident:
        raise InvalidRequestError(f"group: '{text}' names no group", hint="write endpoint/<name> or map/<id>")
    return GroupKind(kind), ident


def _number(cursor: str) -> int:
    if not cursor.isdigit() or len(cursor) > 18:
        raise InvalidRequestError("this is not a cursor of this list", hint="take `next_cursor` of the last page")
    return int(cursor)
