"""/runner: a runner joins, long-polls its wish, reports facts and ships logs (schemas/runner.py)."""

from __future__ import annotations

import re
import time
from typing import Annotated, Literal

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Query, Request

from factory import __version__
from factory.api.auth import Reach, needs
from factory.api.bodies import JsonRoute, limited
from factory.api.problems import problem_responses
from factory.api.routes.datasets import RAW_BODY
from factory.api.serving import Serving, plane_of, serving_of
from factory.api.wakes import FLEET, logs_topic
from factory.control.desired import Desired, revision_of, runner_desired
from factory.control.ports import ControlReader, ControlTx
from factory.control.reports import Applied, apply_report
from factory.domain.ids import AttemptId, RunnerId
from factory.domain.tenancy import PLATFORM, Principal, Role
from factory.errors import NotFoundError, StaleWriteError
from factory.pools.runners import own_attempt, own_runner
from factory.schemas.common import PROTOCOL
from factory.schemas.runner import (
    DesiredAttempt,
    DesiredReply,
    IngressWire,
    JoinReply,
    JoinRequest,
    LogReply,
    ReportBatch,
    ReportReply,
    RouteWire,
    ServerWire,
)

__all__ = ["router"]

router = APIRouter(tags=["runner"], route_class=JsonRoute, responses=problem_responses(401, 403, 404, 409, 422))
RunnerKey = Annotated[Principal, Depends(needs(Role.RUNNER, Reach.ALL))]
Stream = Annotated[Literal["stdout", "stderr"], Query()]
Rank = Annotated[int, Query(ge=0, lt=100_000)]
_ATTEMPT = re.compile(r"[a-z0-9][a-z0-9-]{0,80}\.[1-9][0-9]{0,5}")
_TRIES = 5  # of a report's transaction when rows change under it


@router.post("/runner/join")
def join(request: Request, body: JoinRequest, principal: RunnerKey) -> JoinReply:
    """A runner process starts; every older process of this runner is answered 409 `stale_runner` from now on."""
    plane = plane_of(request)
    joined = plane.pools.join(principal, body, now=plane.clock.now())
    serving_of(request).hub.publish([FLEET])
    settings = plane.settings
    return JoinReply(
        protocol=PROTOCOL,
        release=__version__,
        poll_s=settings.poll_s,
        silence_s=settings.runner_silence_s,
        notes=joined.notes,
    )


@router.get("/runner/desired")
async def desired(
    request: Request,
    principal: RunnerKey,
    runner: str,
    incarnation: str,
    after: str = "",
    wait_s: Annotated[float, Query(ge=0)] = 0.0,
) -> DesiredReply:
    """The whole wish; a long poll that answers at once when the wish differs from revision `after`."""
    serving = serving_of(request)
    hub = serving.hub
    deadline = time.monotonic() + min(wait_s, serving.plane.settings.poll_s)
    with hub.subscribe(FLEET) as news:
        while True:
            wish = await run_sync(lambda: _wish(serving, principal, RunnerId(runner), incarnation))
            revision = revision_of(wish)
            left = deadline - time.monotonic()
            if revision != after or left <= 0 or hub.is_closed:
                return _wire(serving, wish, revision)
            await news.wait(min(left, hub.nap_s))


@router.post("/runner/reports")
def reports(request: Request, batch: ReportBatch, principal: RunnerKey) -> ReportReply:
    """Facts since the last batch. A late or doubled one changes nothing and is no error."""
    plane = plane_of(request)

    def work(tx: ControlTx) -> Applied:
        own_runner(tx, principal, RunnerId(batch.runner), batch.incarnation)
        return apply_report(tx, batch, plane.clock.now(), plane.on_ended)

    def take() -> Applied:
        for left in range(_TRIES - 1, -1, -1):
            try:
                return plane.store.transact(work)
            except StaleWriteError:
                if not left:
                    raise
        raise AssertionError("the last try returns or raises")

    done = take()
    ignored = {str(attempt): why.value for attempt, why in done.ignored}
    for report in batch.attempts:
        plane.metrics.reports.labels(report.kind).inc()
        if report.kind == "running" and report.attempt not in ignored:
            _observe_wait(serving_of(request), AttemptId(report.attempt))
    return ReportReply(ignored=ignored)


@router.post("/runner/logs", openapi_extra=RAW_BODY, responses=problem_responses(413))
async def append_log(
    request: Request,
    principal: RunnerKey,
    attempt: str,
    rank: Rank,
    stream: Stream,
    offset: Annotated[int, Query(ge=0, lt=10**16)],
) -> LogReply:
    """Append bytes. If they do not start where the stored log ends nothing is stored; the answer says where that is."""
    serving = serving_of(request)
    limit = serving.plane.settings.log_chunk_limit_bytes
    data = b"".join([chunk async for chunk in limited(request, limit, "log chunks")])

    def store() -> int:
        _known(serving, principal, attempt)
        return serving.logs.append(attempt, (rank, stream), offset, data)

    following = await run_sync(store)
    if following == offset + len(data) and data:
        serving.plane.metrics.log_bytes.inc(len(data))
        serving.hub.publish([logs_topic(attempt)])
    return LogReply(next_offset=following)


@router.get("/runner/logs")
def log_offset(request: Request, principal: RunnerKey, attempt: str, rank: Rank, stream: Stream) -> LogReply:
    """How much of a stream is stored."""
    serving = serving_of(request)
    _known(serving, principal, attempt)
    return LogReply(next_offset=serving.logs.next_offset(attempt, (rank, stream)))


def _observe_wait(serving: Serving, attempt: AttemptId) -> None:
    job = serving.plane.store.read(lambda tx: tx.job_of_attempt(PLATFORM, attempt))
    first = job.attempts[0] if job is not None and job.attempts else None
    if job is not None and first is not None and first.id == attempt and first.running_at is not None:
        serving.plane.metrics.queue_wait.observe(max(0, first.running_at - job.submitted_at) / 1000)


def _known(serving: Serving, principal: Principal, attempt: str) -> None:
    """Go on only with an attempt of the caller's runner. Raises: NotFoundError."""
    # the id becomes part of an object's key: it has an attempt's form, and there is one
    if not _ATTEMPT.fullmatch(attempt):
        raise NotFoundError("attempt", attempt[:100])
    found = serving.plane.store.read(
        lambda tx: own_attempt(tx, principal, tx.job_of_attempt(PLATFORM, AttemptId(attempt)), attempt)
    )
    if found is None:
        raise NotFoundError("attempt", attempt)


def _wish(serving: Serving, principal: Principal, runner: RunnerId, incarnation: str) -> Desired:
    plane = serving.plane
    keys = tuple(sorted(plane.tenants.ingress_keys(now=plane.clock.now()).items()))

    def look(reader: ControlReader) -> Desired:
        own_runner(reader, principal, runner, incarnation)
        return runner_desired(reader, runner, warm_per_node=plane.settings.warm_per_node, keys=keys)

    return plane.store.read(look)


def _wire(serving: Serving, wish: Desired, revision: str) -> DesiredReply:
    tokens = serving.plane.tokens
    fences = dict(wish.fences)
    attempts = tuple(
        DesiredAttempt(
            attempt=a.id,
            job=a.job,
            tenant=a.tenant,
            ordinal=a.ordinal,
            state=a.state.value,
            spec=a.spec,
            placements=a.allocation.placements,
            stop=a.stop,
            token=tokens.token_of(a.id),
            queued_at=a.queued_at,
            self_fence_s=fences.get(a.allocation.pool),
        )
        for a in wish.state.attempts
    )
    routes = tuple(
        RouteWire(
            tenant=r.tenant,
            endpoint=r.endpoint,
            servers=tuple(
                ServerWire(name=s.name, host=s.host, port=s.port, weight=s.weight, draining=s.draining)
                for s in r.servers
            ),
        )
        for r in wish.ingress.routes
    )
    return DesiredReply(
        revision=revision,
        attempts=attempts,
        warm_per_node=wish.state.warm_per_node,
        ingress=IngressWire(routes=routes, keys=dict(wish.ingress.keys)),
        self_fence=bool(fences),
    )
