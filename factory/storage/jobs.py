"""Jobs, their attempts, events, progress and idempotency records (jobs/ports.py)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from sqlalchemy import bindparam, func, or_, select, text, update
from sqlalchemy.dialects import postgresql

from factory.control.ports import FeedKind
from factory.domain.events import Recorded
from factory.domain.ids import AttemptId, JobId, RunnerId, TenantId
from factory.domain.jobs import Attempt, Job, JobState
from factory.domain.tenancy import Queue, Scope
from factory.errors import ConflictError, NotFoundError, StaleWriteError
from factory.jobs.ports import AttemptProgress, IdempotencyRecord, JobFilter
from factory.storage import codec
from factory.storage.history import check_events
from factory.storage.session import SqlSession
from factory.storage.sql import Query, Sql, compiled, insert_new, replace_guarded, scoped, upsert_new
from factory.storage.tables import attempts, events, idempotency, jobs, progress, queues

__all__ = ["JobSql"]

# Constants stand in the text: only then does the planner see that a partial index covers the query.
_IS_OPEN = text("is_open = 1")
_IS_LIVE = text("live_runner IS NOT NULL")

_JOB = compiled(select(jobs.c.body, jobs.c.tenant).where(jobs.c.id == bindparam("id")))
_JOB_OF_ATTEMPT = compiled(
    select(jobs.c.body, jobs.c.tenant)
    .join_from(attempts, jobs, attempts.c.job_id == jobs.c.id)
    .where(attempts.c.id == bindparam("id"))
)
_OPEN_JOBS = scoped(select(jobs.c.body).where(_IS_OPEN).order_by(jobs.c.id), jobs.c.tenant)
_LIVE_JOBS = scoped(
    select(jobs.c.body).where(_IS_LIVE, jobs.c.live_runner == bindparam("runner")).order_by(jobs.c.id), jobs.c.tenant
)
_COUNT = scoped(select(jobs.c.state, func.count().label("n")).group_by(jobs.c.state), jobs.c.tenant)
_INSERT_JOB = insert_new(jobs)
_UPDATE_JOB = replace_guarded(jobs, "state", "is_open", "live_runner", "body", guard="seq")
# written although nothing changes: only a write meets a neighbour's write (PostgreSQL, REPEATABLE READ)
_PIN_JOB = compiled(
    update(jobs).where(jobs.c.id == bindparam("job_id"), jobs.c.seq == bindparam("expected")).values(seq=jobs.c.seq)
)
_UPSERT_ATTEMPT = upsert_new(attempts, "runner", "state")

_EVENTS = scoped(
    select(events.c.seq, events.c.body)
    .join_from(events, jobs, events.c.job_id == jobs.c.id)
    .where(events.c.job_id == bindparam("job_id"), events.c.seq > bindparam("after"))
    .order_by(events.c.seq),
    jobs.c.tenant,
    limited=True,
)
_INSERT_EVENT = insert_new(events)

_PROGRESS = compiled(
    select(progress.c.body, jobs.c.tenant)
    .join_from(attempts, progress, progress.c.attempt_id == attempts.c.id)
    .join(jobs, attempts.c.job_id == jobs.c.id)
    .where(attempts.c.job_id == bindparam("job_id"))
    .order_by(attempts.c.ordinal.desc()),
    limited=True,
)
_ATTEMPT_OF_JOB = compiled(
    select(attempts.c.id).where(attempts.c.id == bindparam("attempt_id"), attempts.c.job_id == bindparam("job_id"))
)
_put_progress = postgresql.insert(progress)
_PUT_PROGRESS = compiled(
    _put_progress.on_conflict_do_update(
        index_elements=[progress.c.attempt_id],
        set_={"at": _put_progress.excluded.at, "body": _put_progress.excluded.body},
        where=_put_progress.excluded.at >= progress.c.at,  # a late report does not undo a newer one
    )
)

_IDEMPOTENCY = compiled(
    select(idempotency.c.fingerprint, idempotency.c.result, idempotency.c.created_at).where(
        idempotency.c.tenant == bindparam("tenant"),
        idempotency.c.principal == bindparam("principal"),
        idempotency.c.route == bindparam("route"),
        idempotency.c.key == bindparam("key"),
    )
)
_REMEMBER = insert_new(idempotency)

_QUEUES = scoped(select(queues.c.body).order_by(queues.c.name), queues.c.tenant)


class JobSql(SqlSession):
    """JobReader and JobTx."""

    def job(self, scope: Scope, job_id: JobId) -> Job | None:
        return self._one(codec.JOB, _JOB, scope, id=job_id)

    def job_of_attempt(self, scope: Scope, attempt_id: AttemptId) -> Job | None:
        return self._one(codec.JOB, _JOB_OF_ATTEMPT, scope, id=attempt_id)

    def jobs(self, scope: Scope, where: JobFilter) -> tuple[Job, ...]:
        states = sorted(where.states)
        statement = _jobs_where(
            scope.tenant is not None,
            len(states),
            where.queue is not None,
            where.group is not None,
            where.name is not None,
            where.before is not None,
        )
        kind, group = where.group or (None, None)
        params: dict[str, object] = {f"state_{n}": state.value for n, state in enumerate(states)}
        params |= {
            "tenant": scope.tenant,
            "queue": where.queue,
            "group_kind": None if kind is None else kind.value,
            "group_id": group,
            "name": where.name,
            "before": where.before,
            "limit": where.limit,
        }
        return tuple([codec.JOB.load(row[0]) for row in self._rows(statement, params)])

    def open_jobs(self, scope: Scope) -> tuple[Job, ...]:
        return self._list(codec.JOB, _OPEN_JOBS, scope)

    def live_jobs(self, scope: Scope, runner: RunnerId) -> tuple[Job, ...]:
        return self._list(codec.JOB, _LIVE_JOBS, scope, runner=runner)

    def count_jobs(self, scope: Scope) -> dict[JobState, int]:
        rows = self._rows(_COUNT.of(scope), {"tenant": scope.tenant})
        return {JobState(state): count for state, count in sorted(rows)}

    def events(self, scope: Scope, job_id: JobId, *, after: int = 0, limit: int = 1000) -> tuple[Recorded, ...]:
        params = {"tenant": scope.tenant, "job_id": job_id, "after": after, "limit": limit}
        rows = self._rows(_EVENTS.of(scope), params)
        return tuple([Recorded(job_id, seq, codec.EVENT.load(body)) for seq, body in rows])

    def progress(self, scope: Scope, job_id: JobId) -> AttemptProgress | None:
        return self._one(codec.PROGRESS, _PROGRESS, scope, job_id=job_id, limit=1)

    def idempotency(self, tenant: TenantId, principal: str, route: str, key: str) -> IdempotencyRecord | None:
        row = self._row(_IDEMPOTENCY, {"tenant": tenant, "principal": principal, "route": route, "key": key})
        return None if row is None else IdempotencyRecord(tenant, principal, route, key, row[0], row[1], row[2])

    def queues(self, scope: Scope) -> tuple[Queue, ...]:
        return self._list(codec.QUEUE, _QUEUES, scope)

    def insert_job(self, job: Job, events: Sequence[Recorded]) -> None:
        check_events(job, events, after=0)
        spec, group = job.spec, job.group
        params = {
            **_mutable(job),
            "tenant": job.tenant,
            "queue": spec.queue,
            "name": spec.name,
            "group_kind": None if group is None else group.kind.value,
            "group_id": None if group is None else group.id,
        }
        if not self._write(_INSERT_JOB, params):
            raise ConflictError(f"job {job.id} exists already", facts={"job": job.id})
        self._append(job, job.attempts, events)

    def update_job(self, job: Job, events: Sequence[Recorded], *, expected_seq: int) -> None:
        check_events(job, events, after=expected_seq)
        if not self._write(_UPDATE_JOB, {**_mutable(job), "expected": expected_seq}):
            raise _stale(job, expected_seq)
        # Only attempts that an event names can have changed, or the last one (a cancel names none).
        named = {getattr(recorded.event, "attempt_id", None) for recorded in events}
        last = job.attempts[-1:]
        self._append(job, (*(a for a in job.attempts[:-1] if a.id in named), *last), events)

    def pin_job(self, job: Job) -> None:
        if not self._write(_PIN_JOB, {"job_id": job.id, "expected": job.seq}):
            raise _stale(job, job.seq)

    def put_progress(self, progress: AttemptProgress) -> None:
        params = {"attempt_id": progress.attempt_id, "job_id": progress.job_id}
        if self._row(_ATTEMPT_OF_JOB, params) is None:
            raise NotFoundError("attempt", progress.attempt_id)
        self._write(_PUT_PROGRESS, {**params, "at": progress.at, "body": codec.PROGRESS.dump(progress)})

    def remember(self, record: IdempotencyRecord) -> None:
        params = {
            "tenant": record.tenant,
            "principal": record.principal,
            "route": record.route,
            "key": record.key,
            "fingerprint": record.fingerprint,
            "result": record.result,
            "created_at": record.created_at,
        }
        if not self._write(_REMEMBER, params):
            raise ConflictError(f"idempotency key '{record.key}' was used already", facts={"key": record.key})

    def _append(self, job: Job, changed: Iterable[Attempt], events: Sequence[Recorded]) -> None:
        for attempt in changed:
            params = {
                "id": attempt.id,
                "job_id": job.id,
                "ordinal": attempt.ordinal,
                "runner": attempt.runner,
                "state": attempt.state.value,
            }
            self._write(_UPSERT_ATTEMPT, params)
        for recorded in events:
            params = {"job_id": job.id, "seq": recorded.seq, "body": codec.EVENT.dump(recorded.event)}
            if not self._write(_INSERT_EVENT, params):
                raise StaleWriteError(f"event {recorded.seq} of job {job.id} exists already", facts={"job": job.id})
        self._changed(FeedKind.JOB, job.id)


def _stale(job: Job, expected_seq: int) -> StaleWriteError:
    return StaleWriteError(
        f"job {job.id} changed since it was read",
        hint="load it again and retry",
        facts={"job": job.id, "expected_seq": expected_seq},
    )


def _mutable(job: Job) -> dict[str, object]:
    live = job.live_attempt
    return {
        "id": job.id,
        "state": job.state.value,
        "is_open": 0 if job.is_terminal else 1,
        "live_runner": None if live is None else live.runner,
        "seq": job.seq,
        "body": codec.JOB.dump(job),
    }


@lru_cache(maxsize=256)
def _jobs_where(own: bool, states: int, queue: bool, group: bool, name: bool, before: bool) -> Sql:
    """The listing with just the conditions that are given; at most 2 · 13 · 16 texts exist."""
    query: Query = select(jobs.c.body)
    if own:
        query = query.where(jobs.c.tenant == bindparam("tenant"))
    if states:
        options = [jobs.c.state == bindparam(f"state_{n}") for n in range(states)]
        query = query.where(or_(*options))
    if queue:
        query = query.where(jobs.c.queue == bindparam("queue"))
    if group:
        query = query.where(jobs.c.group_kind == bindparam("group_kind"), jobs.c.group_id == bindparam("group_id"))
    if name:
        query = query.where(jobs.c.name == bindparam("name"))
    if before:
        query = query.where(jobs.c.id < bindparam("before"))
    return compiled(query.order_by(jobs.c.id.desc()), limited=True)
