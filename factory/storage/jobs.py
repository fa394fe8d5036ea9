"""Jobs, their attempts, events, progress and idempotency records (jobs/ports.py)."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache

from sqlalchemy import bindparam, func, or_, select, text, update
from sqlalchemy.dialects import postgresql

from factory.control.ports import FeedKind
from factory.domain.events import Event, Recorded
from factory.domain.ids import AttemptId, JobId, RunnerId, TenantId
from factory.domain.jobs import Attempt, Job, JobState
from factory.domain.tenancy import PLATFORM, Queue, Scope
from factory.errors import ConflictError, NotFoundError, StaleWriteError
from factory.jobs.ports import AttemptProgress, IdempotencyRecord, JobFilter
from factory.storage import codec
from factory.storage.bodies import JobBodies
from factory.storage.history import check_events
from factory.storage.session import Cursor, SqlSession
from factory.storage.sql import Params, Query, Row, Sql, compiled, insert_many, replace_many, scoped
from factory.storage.tables import attempts, events, idempotency, jobs, progress, queues

__all__ = ["JobSql"]

# Constants stand in the text: only then does the planner see that a partial index covers the query.
_IS_OPEN = text("is_open = 1")
_IS_LIVE = text("live_runner IS NOT NULL")

_ROW = select(jobs.c.id, jobs.c.body)
_JOB = compiled(_ROW.where(jobs.c.id == bindparam("id")))
# A list of ids is one parameter: JSON on SQLite, an array on PostgreSQL.
_JOBS_OF = Sql(
    "SELECT id, body FROM jobs WHERE id IN (SELECT value FROM json_each(:ids))",
    "SELECT id, body FROM jobs WHERE id = ANY(%(ids)s)",
)
_JOB_OF_ATTEMPT = compiled(
    _ROW.join_from(attempts, jobs, attempts.c.job_id == jobs.c.id).where(attempts.c.id == bindparam("id"))
)
_OPEN_JOBS = scoped(_ROW.where(_IS_OPEN).order_by(jobs.c.id), jobs.c.tenant)
_LIVE_JOBS = scoped(_ROW.where(_IS_LIVE, jobs.c.live_runner == bindparam("runner")).order_by(jobs.c.id), jobs.c.tenant)
_COUNT = scoped(select(jobs.c.state, func.count().label("n")).group_by(jobs.c.state), jobs.c.tenant)
_INSERT_JOBS = insert_many(
    jobs, "state", "is_open", "live_runner", "seq", "body", "id", "tenant", "queue", "name", "group_kind", "group_id"
)
_UPDATE_JOBS = replace_many(jobs, "state", "is_open", "live_runner", "seq", "body", guard="seq")
# written although nothing changes: only a write meets a neighbour's write (PostgreSQL, REPEATABLE READ)
_PIN_JOB = compiled(
    update(jobs).where(jobs.c.id == bindparam("job_id"), jobs.c.seq == bindparam("expected")).values(seq=jobs.c.seq)
)
_PUT_ATTEMPTS = insert_many(attempts, "id", "job_id", "ordinal", "runner", "state", overwrites=("runner", "state"))

_EVENTS = scoped(
    select(events.c.seq, events.c.body)
    .join_from(events, jobs, events.c.job_id == jobs.c.id)
    .where(events.c.job_id == bindparam("job_id"), events.c.seq > bindparam("after"))
    .order_by(events.c.seq),
    jobs.c.tenant,
    limited=True,
)
_INSERT_EVENTS = insert_many(events, "job_id", "seq", "body")

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

_IDEMPOTENCY = Sql(
    "SELECT key, fingerprint, result, created_at FROM idempotency WHERE tenant = :tenant AND principal = :principal "
    "AND route = :route AND key IN (SELECT value FROM json_each(:keys))",
    "SELECT key, fingerprint, result, created_at FROM idempotency WHERE tenant = %(tenant)s "
    "AND principal = %(principal)s AND route = %(route)s AND key = ANY(%(keys)s)",
)
_REMEMBER = insert_many(idempotency, "tenant", "principal", "route", "key", "fingerprint", "result", "created_at")

_QUEUES = scoped(select(queues.c.body).order_by(queues.c.name), queues.c.tenant)


class JobSql(SqlSession):
    """JobReader and JobTx.

    A transaction sees one state of the rows, its own writes included, so each job is read once and then known. What
    updates make of jobs waits until a statement needs it or the commit comes, and is then written in few statements:
    thousands of small ones a second would each cost a turn at the interpreter's lock.
    """

    def __init__(self, cursor: Cursor, *, is_postgresql: bool, writable: bool, bodies: JobBodies | None = None) -> None:
        super().__init__(cursor, is_postgresql=is_postgresql, writable=writable)
        self._bodies = JobBodies() if bodies is None else bodies
        self._known: dict[JobId, Job] = {}  # as this transaction sees them
        self._updated: dict[JobId, tuple[int, Job]] = {}  # (seq of the stored row, as it is to become)
        self._attempted: dict[AttemptId, Row] = {}
        self._happened: list[tuple[JobId, int, Event]] = []

    def job(self, scope: Scope, job_id: JobId) -> Job | None:
        known = self._known.get(job_id)
        if known is None:
            found = self._decoded(_JOB, {"id": job_id})
            known = found[0] if found else None
        return known if known is not None and scope.covers(known.tenant) else None

    def jobs_of(self, scope: Scope, ids: Collection[JobId]) -> dict[JobId, Job]:
        missing = sorted(id for id in ids if id not in self._known)
        if missing:
            self._decoded(_JOBS_OF, {"ids": missing if self._is_postgresql else json.dumps(missing)})
        found = ((id, self._known.get(id)) for id in ids)
        return {id: job for id, job in found if job is not None and scope.covers(job.tenant)}

    def job_of_attempt(self, scope: Scope, attempt_id: AttemptId) -> Job | None:
        known = self._known.get(JobId(attempt_id.rpartition(".")[0]))  # lifecycle.next_attempt_id; else the row says
        if known is None or all(attempt.id != attempt_id for attempt in known.attempts):
            found = self._decoded(_JOB_OF_ATTEMPT, {"id": attempt_id})
            known = found[0] if found else None
        return known if known is not None and scope.covers(known.tenant) else None

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
        return self._decoded(statement, params)

    def open_jobs(self, scope: Scope) -> tuple[Job, ...]:
        return self._decoded(_OPEN_JOBS.of(scope), {"tenant": scope.tenant})

    def live_jobs(self, scope: Scope, runner: RunnerId) -> tuple[Job, ...]:
        return self._decoded(_LIVE_JOBS.of(scope), {"tenant": scope.tenant, "runner": runner})

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
        return self.idempotency_of(tenant, principal, route, (key,)).get(key)

    def idempotency_of(
        self, tenant: TenantId, principal: str, route: str, keys: Collection[str]
    ) -> dict[str, IdempotencyRecord]:
        asked = sorted(set(keys))
        params = {
            "tenant": tenant,
            "principal": principal,
            "route": route,
            "keys": asked if self._is_postgresql else json.dumps(asked),
        }
        return {
            key: IdempotencyRecord(tenant, principal, route, key, fingerprint, result, created_at)
            for key, fingerprint, result, created_at in self._rows(_IDEMPOTENCY, params)
        }

    def queues(self, scope: Scope) -> tuple[Queue, ...]:
        return self._list(codec.QUEUE, _QUEUES, scope)

    def insert_job(self, job: Job, events: Sequence[Recorded]) -> None:
        self.insert_jobs([(job, events)])

    def insert_jobs(self, new: Sequence[tuple[Job, Sequence[Recorded]]]) -> None:
        self._require_writable()
        for job, recorded in new:
            check_events(job, recorded, after=0)
        ids = [job.id for job, _ in new]
        there = self.jobs_of(PLATFORM, ids)
        rows = [(*self._mutable(job), job.id, *_immutable(job)) for job, _ in new]
        if there or len(set(ids)) < len(ids) or self._write_all(_INSERT_JOBS, rows) < len(rows):
            raise _exists(*(sorted(there) or ids))
        for job, recorded in new:
            self._await(job, job.attempts, recorded)
        self._settle()

    def update_job(self, job: Job, events: Sequence[Recorded], *, expected_seq: int) -> None:
        self._require_writable()
        check_events(job, events, after=expected_seq)
        before = self.job(PLATFORM, job.id)
        if before is None or before.seq != expected_seq:
            raise _stale(job.id, expected_seq)
        stored_seq = self._updated[job.id][0] if job.id in self._updated else expected_seq
        self._updated[job.id] = (stored_seq, job)
        # Only attempts that an event names can have changed, or the last one (a cancel names none).
        named = {getattr(recorded.event, "attempt_id", None) for recorded in events}
        last = job.attempts[-1:]
        self._await(job, (*(a for a in job.attempts[:-1] if a.id in named), *last), events)

    def pin_job(self, job: Job) -> None:
        if not self._write(_PIN_JOB, {"job_id": job.id, "expected": job.seq}):
            raise _stale(job.id, job.seq)

    def put_progress(self, progress: AttemptProgress) -> None:
        params = {"attempt_id": progress.attempt_id, "job_id": progress.job_id}
        if self._row(_ATTEMPT_OF_JOB, params) is None:
            raise NotFoundError("attempt", progress.attempt_id)
        self._write(_PUT_PROGRESS, {**params, "at": progress.at, "body": codec.PROGRESS.dump(progress)})

    def remember(self, record: IdempotencyRecord) -> None:
        self.remember_all([record])

    def remember_all(self, records: Sequence[IdempotencyRecord]) -> None:
        rows = [(r.tenant, r.principal, r.route, r.key, r.fingerprint, r.result, r.created_at) for r in records]
        keys = [record.key for record in records]
        if len(rows) > 1:
            first = records[0]
            if there := self.idempotency_of(first.tenant, first.principal, first.route, keys):
                raise _used(*sorted(there))
        if self._write_all(_REMEMBER, rows) < len(rows):
            raise _used(*keys)

    def _await(self, job: Job, changed: Iterable[Attempt], events: Sequence[Recorded]) -> None:
        self._known[job.id] = job
        for attempt in changed:
            self._attempted[attempt.id] = (attempt.id, job.id, attempt.ordinal, attempt.runner, attempt.state.value)
        self._happened.extend((job.id, recorded.seq, recorded.event) for recorded in events)
        self._changed(FeedKind.JOB, job.id)

    def _settle(self) -> None:
        if not self._happened:
            return  # every change of a job has an event
        updated, self._updated = list(self._updated.values()), {}
        attempted, self._attempted = list(self._attempted.values()), {}
        happened, self._happened = self._happened, []
        moved = [(*self._mutable(job), job.id, seq) for seq, job in updated]
        if self._write_all(_UPDATE_JOBS, moved) < len(moved):
            raise _stale(updated[0][1].id, updated[0][0])
        self._write_all(_PUT_ATTEMPTS, attempted)
        rows = [(id, seq, self._bodies.dump_event(id, event)) for id, seq, event in happened]
        if self._write_all(_INSERT_EVENTS, rows) < len(rows):
            raise StaleWriteError("one of these events exists already", facts={"jobs": sorted({r[0] for r in rows})})

    def _mutable(self, job: Job) -> Row:
        live = job.live_attempt
        body = self._bodies.dump(job)
        return (job.state.value, 0 if job.is_terminal else 1, None if live is None else live.runner, job.seq, body)

    def _decoded(self, statement: Sql, params: Params) -> tuple[Job, ...]:
        """Return the jobs of rows (id, body); from now on this transaction knows them."""
        found: list[Job] = []
        for id, body in self._rows(statement, params):
            job = self._known.get(id)
            if job is None:
                job = self._known[id] = self._bodies.load(id, body)
            found.append(job)
        return tuple(found)


def _immutable(job: Job) -> Row:
    group = job.group
    kind, group_id = (None, None) if group is None else (group.kind.value, group.id)
    return (job.tenant, job.spec.queue, job.spec.name, kind, group_id)


def _exists(*ids: JobId) -> ConflictError:
    return ConflictError(
        f"job {ids[0]} exists already" if len(ids) == 1 else f"one of {len(ids)} new jobs exists already",
        facts={"jobs": list(ids)},
    )


def _stale(id: JobId, expected_seq: int) -> StaleWriteError:
    return StaleWriteError(
        f"job {id} changed since it was read",
        hint="load it again and retry",
        facts={"job": id, "expected_seq": expected_seq},
    )


def _used(*keys: str) -> ConflictError:
    what = f"idempotency key '{keys[0]}'" if len(keys) == 1 else f"one of {len(keys)} idempotency keys"
    return ConflictError(f"{what} was used already", facts={"keys": list(keys)})


@lru_cache(maxsize=256)
def _jobs_where(own: bool, states: int, queue: bool, group: bool, name: bool, before: bool) -> Sql:
    """The listing with just the conditions that are given; at most 2 · 13 · 16 texts exist."""
    query: Query = _ROW
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
