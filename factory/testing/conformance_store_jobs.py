"""The suite of the job store (jobs/ports.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from factory.domain.events import AttemptEnded, Event, Queued, Recorded, Submitted
from factory.domain.ids import AttemptId, JobId, QueueName, RunnerId, TenantId
from factory.domain.jobs import (
    AttemptState,
    EndReason,
    GroupKind,
    GroupRef,
    Job,
    JobState,
    Outcome,
    Waiting,
    WaitReason,
)
from factory.domain.tenancy import PLATFORM, Scope
from factory.errors import ConflictError, NotFoundError, StaleWriteError
from factory.jobs.ports import AttemptProgress, IdempotencyRecord, JobFilter, JobTx
from factory.testing.behaviours import refused
from factory.testing.builders import attempt, job, queue
from factory.testing.conformance_store import NOW, Store

__all__ = ["JobSuite", "history"]

_OTHERS = Scope(TenantId("parks"))


def history(job: Job, *, after: int = 0) -> list[Recorded]:
    """Events that number from `after` to the job's seq; a store keeps them and does not fold them."""
    first: Event = Submitted(job.submitted_at, job.id, job.tenant, job.submitted_by, job.spec, job.group, job.hold)
    return [Recorded(job.id, n, first if n == 1 else Queued(NOW + n)) for n in range(after + 1, job.seq + 1)]


class JobSuite:
    """Every method is a behaviour."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def a_stored_job_is_read_back_whole(self) -> None:
        stored = replace(
            job(
                "job-a", hold=Waiting(WaitReason.DEPENDENCY_PENDING, "waits for job-0", "", (("jobs", 1), ("id", "0")))
            ),
            group=GroupRef(GroupKind.MAP, "map-1", 3),
            attempts=(attempt("job-a", state=AttemptState.ENDED), attempt("job-a", ordinal=2)),
            outcome=Outcome(EndReason.COMPLETED, "é ☃ \n", result_json='{"x":[1,null]}'),
        )
        self._insert(stored)
        assert self._read(stored.id) == stored

    def an_unknown_job_is_none(self) -> None:
        assert self._read(JobId("job-none")) is None
        assert self._store.read(lambda tx: tx.events(PLATFORM, JobId("job-none"))) == ()
        assert self._store.read(lambda tx: tx.job_of_attempt(PLATFORM, AttemptId("job-none.1"))) is None

    def an_id_is_inserted_once(self) -> None:
        self._insert(job("job-a"))
        with refused(ConflictError):
            self._insert(job("job-a", cpu=7))
        assert self._read(JobId("job-a")) == job("job-a")

    def a_job_is_pinned_as_it_is_and_stays_so(self) -> None:
        made = job("job-a")
        self._insert(made)
        self._store.transact(lambda tx: tx.pin_job(made))
        assert self._store.read(lambda tx: tx.job(PLATFORM, made.id)) == made
        self._update(job("job-a", state=JobState.SUSPENDED, seq=2), expected_seq=1)
        with refused(StaleWriteError):
            self._store.transact(lambda tx: tx.pin_job(made))
        with refused(StaleWriteError):
            self._store.transact(lambda tx: tx.pin_job(job("job-b")))

    def jobs_are_inserted_together_or_not_at_all(self) -> None:
        new = [job("job-b"), job("job-c")]
        self._store.transact(lambda tx: tx.insert_jobs([(j, history(j)) for j in new]))
        assert [self._read(j.id) for j in new] == new
        with refused(ConflictError):
            more = [job("job-d"), job("job-b", cpu=7), job("job-e")]
            self._store.transact(lambda tx: tx.insert_jobs([(j, history(j)) for j in more]))
        assert [self._read(j.id) for j in more] == [None, job("job-b"), None]

    def many_jobs_are_read_in_one_look_within_the_scope(self) -> None:
        for stored in (job("job-a"), job("job-b"), job("job-c", queue="parks")):
            self._insert(stored)
        ids = [JobId("job-c"), JobId("job-none"), JobId("job-a")]
        assert self._store.read(lambda tx: tx.jobs_of(PLATFORM, ids)) == {
            "job-a": job("job-a"),
            "job-c": job("job-c", queue="parks"),
        }
        assert list(self._store.read(lambda tx: tx.jobs_of(_OTHERS, ids))) == ["job-c"]
        assert self._store.read(lambda tx: tx.jobs_of(PLATFORM, [])) == {}

    def a_transaction_sees_what_it_has_made_of_its_jobs(self) -> None:
        self._insert(job("job-a"))
        held = attempt("job-a", state=AttemptState.DESIRED)
        moved = replace(job("job-a", state=JobState.ADMITTED, seq=2), attempts=(held,))
        ended = replace(
            job("job-a", state=JobState.SUCCEEDED, seq=3), attempts=(attempt("job-a", state=AttemptState.ENDED),)
        )

        def work(tx: JobTx) -> None:
            tx.update_job(moved, history(moved, after=1), expected_seq=1)
            assert tx.job(PLATFORM, moved.id) == tx.job_of_attempt(PLATFORM, held.id) == moved
            assert tx.jobs(PLATFORM, JobFilter(states=frozenset({JobState.ADMITTED}))) == (moved,)
            assert tx.live_jobs(PLATFORM, held.runner) == (moved,)
            assert tx.count_jobs(PLATFORM) == {JobState.ADMITTED: 1}
            tx.update_job(ended, history(ended, after=2), expected_seq=2)
            assert tx.open_jobs(PLATFORM) == tx.live_jobs(PLATFORM, held.runner) == ()
            assert tx.jobs_of(PLATFORM, [ended.id]) == {ended.id: ended}
            assert tx.events(PLATFORM, ended.id) == tuple(history(ended))

        self._store.transact(work)
        assert self._read(ended.id) == ended
        assert self._store.read(lambda tx: tx.events(PLATFORM, ended.id)) == tuple(history(ended))

    def hundreds_of_jobs_move_in_one_transaction(self) -> None:
        new = [job(f"job-{n:03}") for n in range(299)]  # no round number: every length of statement is used
        moved = [replace(job(j.id, state=JobState.CANCELLED, seq=2), spec=j.spec) for j in new]
        self._store.transact(lambda tx: tx.insert_jobs([(j, history(j)) for j in new]))

        def work(tx: JobTx) -> None:
            for j in moved:
                tx.update_job(j, history(j, after=1), expected_seq=1)

        self._store.transact(work)
        assert self._store.read(lambda tx: tx.jobs_of(PLATFORM, [j.id for j in moved])) == {j.id: j for j in moved}
        assert self._store.read(lambda tx: [len(tx.events(PLATFORM, j.id)) for j in moved]) == [2] * len(moved)

    def a_refused_update_leaves_the_transaction_and_its_jobs_usable(self) -> None:
        self._insert(job("job-a"))
        lost, won = job("job-a", state=JobState.SUSPENDED, seq=3), job("job-a", state=JobState.SUSPENDED, seq=2)

        def work(tx: JobTx) -> None:
            with refused(StaleWriteError):
                tx.update_job(lost, history(lost, after=2), expected_seq=2)
            assert tx.job(PLATFORM, lost.id) == job("job-a")
            tx.update_job(won, history(won, after=1), expected_seq=1)

        self._store.transact(work)
        assert self._read(won.id) == won

    def a_transaction_that_fails_leaves_its_jobs_as_they_were(self) -> None:
        self._insert(job("job-a"))
        moved = job("job-a", state=JobState.SUSPENDED, seq=2)

        def work(tx: JobTx) -> None:
            tx.update_job(moved, history(moved, after=1), expected_seq=1)
            assert tx.jobs(PLATFORM, JobFilter()) == (moved,)
            raise NotFoundError("thing", "x")

        with refused(NotFoundError):
            self._store.transact(work)
        other = job("job-a", state=JobState.CANCELLED, seq=2)
        self._update(other, expected_seq=1)
        assert self._read(other.id) == other

    def an_update_at_the_expected_seq_replaces_the_job(self) -> None:
        self._insert(job("job-a"))
        changed = job("job-a", state=JobState.SUSPENDED, seq=3)
        self._update(changed, expected_seq=1)
        assert self._read(changed.id) == changed
        events = self._store.read(lambda tx: tx.events(PLATFORM, changed.id))
        assert events == tuple(history(changed))

    def a_stale_update_changes_nothing(self) -> None:
        self._insert(job("job-a"))
        winner = job("job-a", state=JobState.SUSPENDED, seq=2)
        self._update(winner, expected_seq=1)
        with refused(StaleWriteError):
            self._update(job("job-a", state=JobState.CANCELLED, seq=2), expected_seq=1)
        assert self._read(winner.id) == winner
        assert len(self._store.read(lambda tx: tx.events(PLATFORM, winner.id))) == 2

    def an_update_of_a_job_that_is_not_there_is_stale(self) -> None:
        with refused(StaleWriteError):
            self._update(job("job-a", seq=2), expected_seq=1)

    def a_history_with_a_gap_is_refused(self) -> None:
        gap = job("job-a", seq=3)
        with refused(ValueError):
            self._store.transact(lambda tx: tx.insert_job(gap, [history(gap)[0], history(gap)[2]]))
        self._insert(job("job-b"))
        stranger = Recorded(JobId("job-x"), 2, Queued(NOW))
        with refused(ValueError):
            self._store.transact(lambda tx: tx.update_job(job("job-b", seq=2), [stranger], expected_seq=1))

    def events_are_read_in_pages_and_in_order(self) -> None:
        long = job("job-a", seq=7)
        self._insert(long)
        pages = self._store.read(
            lambda tx: [[e.seq for e in tx.events(PLATFORM, long.id, after=n, limit=3)] for n in (0, 3, 6, 7)]
        )
        assert pages == [[1, 2, 3], [4, 5, 6], [7], []]

    def open_jobs_are_those_that_have_not_ended_by_id(self) -> None:
        for id, state in (("job-c", JobState.QUEUED), ("job-a", JobState.RUNNING), ("job-b", JobState.FAILED)):
            self._insert(job(id, state=state))
        self._insert(job("job-d"))
        self._update(job("job-d", state=JobState.CANCELLED, seq=2), expected_seq=1)
        assert self._ids(self._store.read(lambda tx: tx.open_jobs(PLATFORM))) == ["job-a", "job-c"]

    def live_jobs_are_those_with_a_live_attempt_on_the_runner(self) -> None:
        ended = attempt("job-c", state=AttemptState.ENDED, runner="r1")
        self._insert(job("job-b", attempts=[attempt("job-b", runner="r1", state=AttemptState.UNKNOWN)]))
        self._insert(job("job-a", attempts=[attempt("job-a", runner="r1", state=AttemptState.DESIRED)]))
        self._insert(job("job-c", attempts=[ended, attempt("job-c", ordinal=2, runner="r2")]))
        self._insert(job("job-d"))
        assert self._live("r1") == ["job-a", "job-b"]
        assert self._live("r2") == ["job-c"]
        self._end(job("job-a", attempts=[attempt("job-a", runner="r1", state=AttemptState.ENDED)], seq=2))
        assert self._live("r1") == ["job-b"]

    def the_job_of_an_attempt_is_found_also_after_its_end(self) -> None:
        self._insert(job("job-a", attempts=[attempt("job-a")]))
        ended = attempt("job-a", state=AttemptState.ENDED)
        after = job("job-a", attempts=[ended, attempt("job-a", ordinal=2)], seq=2)
        self._end(after)
        for id in ("job-a.1", "job-a.2"):
            assert self._store.read(lambda tx, id=id: tx.job_of_attempt(PLATFORM, AttemptId(id))) == after

    def jobs_are_listed_newest_first_in_pages(self) -> None:
        for n in range(5):
            self._insert(job(f"job-{n}"))
        assert self._list(JobFilter(limit=2)) == ["job-4", "job-3"]
        assert self._list(JobFilter(limit=2, before=JobId("job-3"))) == ["job-2", "job-1"]
        assert self._list(JobFilter(before=JobId("job-1"))) == ["job-0"]

    def each_filter_narrows_the_list_and_all_hold_together(self) -> None:
        group = GroupRef(GroupKind.MAP, "m", 0)
        self._insert(job("job-1"))
        self._insert(replace(job("job-2", state=JobState.FAILED), group=group))
        self._insert(replace(job("job-3", queue="night", tenant="mobility"), group=group))
        self._insert(replace(job("job-4"), group=GroupRef(GroupKind.ENDPOINT, "m", 0)))
        named = job("job-5")
        self._insert(replace(named, spec=replace(named.spec, name="train")))
        both = frozenset({JobState.FAILED, JobState.RUNNING})
        assert self._list(JobFilter(states=both)) == ["job-2"]
        assert self._list(JobFilter(queue=QueueName("night"))) == ["job-3"]
        assert self._list(JobFilter(group=(GroupKind.MAP, "m"))) == ["job-3", "job-2"]
        assert self._list(JobFilter(name="train")) == ["job-5"]
        assert self._list(JobFilter(states=both, group=(GroupKind.MAP, "m"), queue=QueueName("night"))) == []

    def jobs_are_counted_by_state(self) -> None:
        for id, state in (("job-1", JobState.QUEUED), ("job-2", JobState.QUEUED), ("job-3", JobState.FAILED)):
            self._insert(job(id, state=state))
        self._insert(job("job-4", queue="parks"))
        assert self._store.read(lambda tx: tx.count_jobs(PLATFORM)) == {JobState.QUEUED: 3, JobState.FAILED: 1}
        assert self._store.read(lambda tx: tx.count_jobs(_OTHERS)) == {JobState.QUEUED: 1}

    def progress_is_that_of_the_last_attempt_that_reported(self) -> None:
        first, second = attempt("job-a", state=AttemptState.ENDED), attempt("job-a", ordinal=2)
        self._insert(job("job-a", attempts=[first, second]))
        assert self._progress() is None
        old = self._report("job-a.1", at=5)
        assert self._progress() == old
        new = self._report("job-a.2", at=3)
        self._report("job-a.1", at=9)
        assert self._progress() == new

    def a_late_progress_report_does_not_undo_a_newer_one(self) -> None:
        self._insert(job("job-a", attempts=[attempt("job-a")]))
        newer = self._report("job-a.1", at=9)
        self._report("job-a.1", at=8)
        assert self._progress() == newer
        same_time = self._report("job-a.1", at=9, fraction=0.9)
        assert self._progress() == same_time

    def progress_of_an_unknown_attempt_is_refused(self) -> None:
        self._insert(job("job-a", attempts=[attempt("job-a")]))
        for id in ("job-a.2", "job-b.1"):
            with refused(NotFoundError):
                self._report(id, at=1)

    def an_idempotency_key_gives_one_answer(self) -> None:
        record = IdempotencyRecord(TenantId("mobility"), "key-1", "POST /jobs", "k", "f", "job-a", NOW)
        self._store.transact(lambda tx: tx.remember(record))
        with refused(ConflictError):
            self._store.transact(lambda tx: tx.remember(replace(record, fingerprint="g", result="job-b")))
        found = self._store.read(lambda tx: tx.idempotency(record.tenant, "key-1", "POST /jobs", "k"))
        assert found == record

    def idempotency_keys_are_kept_together_or_not_at_all(self) -> None:
        first = IdempotencyRecord(TenantId("mobility"), "key-1", "POST /jobs", "a", "f", "job-a", NOW)
        second, third = replace(first, key="b", result="job-b"), replace(first, key="c", result="job-c")
        self._store.transact(lambda tx: tx.remember_all([first, second]))
        with refused(ConflictError):
            self._store.transact(lambda tx: tx.remember_all([third, replace(second, result="job-x")]))
        asked = (first.tenant, first.principal, first.route, ["b", "a", "c", "b"])
        assert self._store.read(lambda tx: tx.idempotency_of(*asked)) == {"a": first, "b": second}
        assert self._store.read(lambda tx: tx.idempotency_of(TenantId("parks"), *asked[1:])) == {}

    def an_idempotency_key_belongs_to_tenant_principal_and_route(self) -> None:
        record = IdempotencyRecord(TenantId("mobility"), "key-1", "POST /jobs", "k", "f", "job-a", NOW)
        self._store.transact(lambda tx: tx.remember(record))
        for other in (
            replace(record, tenant=TenantId("parks")),
            replace(record, principal="key-2"),
            replace(record, route="POST /jobs:batch"),
        ):
            asked = (other.tenant, other.principal, other.route, other.key)
            assert self._store.read(lambda tx, asked=asked: tx.idempotency(*asked)) is None
            self._store.transact(lambda tx, other=other: tx.remember(other))

    def another_tenant_sees_nothing_of_a_job(self) -> None:
        self._insert(job("job-a", attempts=[attempt("job-a")], state=JobState.RUNNING))
        self._report("job-a.1", at=1)
        self._store.transact(lambda tx: tx.put_queue(queue("mobility")))
        for scope, visible in ((_OTHERS, False), (Scope(TenantId("mobility")), True)):
            seen = self._store.read(
                lambda tx, scope=scope: [
                    tx.job(scope, JobId("job-a")),
                    tx.job_of_attempt(scope, AttemptId("job-a.1")),
                    tx.jobs(scope, JobFilter()),
                    tx.jobs(scope, JobFilter(name="job-a", queue=QueueName("mobility"))),
                    tx.open_jobs(scope),
                    tx.live_jobs(scope, RunnerId("runner-1")),
                    tx.count_jobs(scope),
                    tx.events(scope, JobId("job-a")),
                    tx.progress(scope, JobId("job-a")),
                    tx.queues(scope),
                ]
            )
            assert [bool(each) for each in seen] == [visible] * len(seen), seen

    def _insert(self, job: Job) -> None:
        self._store.transact(lambda tx: tx.insert_job(job, history(job)))

    def _update(self, job: Job, *, expected_seq: int) -> None:
        self._store.transact(lambda tx: tx.update_job(job, history(job, after=expected_seq), expected_seq=expected_seq))

    def _end(self, after: Job) -> None:
        """Store the end of attempt 1 as event 2."""
        event = AttemptEnded(NOW, AttemptId(f"{after.id}.1"), Outcome(EndReason.WORKER_LOST), "agent")
        self._store.transact(lambda tx: tx.update_job(after, [Recorded(after.id, 2, event)], expected_seq=1))

    def _read(self, job_id: JobId) -> Job | None:
        return self._store.read(lambda tx: tx.job(PLATFORM, job_id))

    def _list(self, where: JobFilter) -> list[str]:
        return self._ids(self._store.read(lambda tx: tx.jobs(PLATFORM, where)))

    def _live(self, runner: str) -> list[str]:
        return self._ids(self._store.read(lambda tx: tx.live_jobs(PLATFORM, RunnerId(runner))))

    def _report(self, attempt_id: str, *, at: int, fraction: float = 0.5) -> AttemptProgress:
        report = AttemptProgress(AttemptId(attempt_id), JobId("job-a"), fraction, f"{at}", "{}", at)
        self._store.transact(lambda tx: tx.put_progress(report))
        return report

    def _progress(self) -> AttemptProgress | None:
        return self._store.read(lambda tx: tx.progress(PLATFORM, JobId("job-a")))

    @staticmethod
    def _ids(jobs: Sequence[Job]) -> list[str]:
        return [each.id for each in jobs]
