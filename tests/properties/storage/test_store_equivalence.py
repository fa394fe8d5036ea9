"""The store in memory and SQLite answer alike, whatever is asked: what simulation proves on one holds on the other."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.domain.events import AttemptStarting, Recorded
from factory.domain.ids import AttemptId, JobId, PoolName, QueueName, RunnerId, TenantId
from factory.domain.jobs import AttemptState, Job, JobState
from factory.domain.tenancy import PLATFORM, Scope
from factory.errors import FactoryError
from factory.jobs.ports import AttemptProgress, IdempotencyRecord, JobFilter
from factory.storage import migrate
from factory.storage.store import SqlStore
from factory.testing.builders import attempt, job, pool, queue
from factory.testing.conformance_store import NOW, FixedClock, Store, StoreTx
from factory.testing.conformance_store_jobs import history
from factory.testing.memory import MemoryStore

Op = Callable[[StoreTx], Any]

NAMES = st.sampled_from(["a", "b", "c"])
TENANTS = st.sampled_from(["mobility", "parks"])
SCOPES = st.sampled_from([PLATFORM, Scope(TenantId("mobility")), Scope(TenantId("parks"))])
NUMBERS = st.integers(0, 3)


@st.composite
def jobs(draw: st.DrawFn, seq: int) -> Job:
    id = f"job-{draw(NAMES)}"
    live = [attempt(id, ordinal=1, state=AttemptState.ENDED), attempt(id, ordinal=2, runner=draw(NAMES))]
    state = draw(st.sampled_from(JobState))
    return job(id, queue=draw(TENANTS), state=state, attempts=live[: draw(NUMBERS)], seq=seq)


@st.composite
def inserts(draw: st.DrawFn) -> Op:
    new = draw(jobs(1))
    return lambda tx: tx.insert_job(new, history(new))


@st.composite
def updates(draw: st.DrawFn) -> Op:
    expected = draw(st.integers(1, 3))
    changed = draw(jobs(expected + 1))
    named = draw(st.integers(1, 2))
    events = [Recorded(changed.id, expected + 1, AttemptStarting(NOW, AttemptId(f"{changed.id}.{named}")))]

    def work(tx: StoreTx) -> None:
        old = tx.job(PLATFORM, changed.id)
        if old is not None:  # what never changes of a job stays, and so do attempts that an event has not named
            kept = replace(changed, tenant=old.tenant, spec=old.spec, attempts=changed.attempts or old.attempts)
            tx.update_job(kept, events, expected_seq=expected)

    return work


@st.composite
def others(draw: st.DrawFn) -> Op:
    name, owner, scope, number = draw(NAMES), draw(TENANTS), draw(SCOPES), draw(NUMBERS)
    record = IdempotencyRecord(TenantId(owner), "key-1", "POST /jobs", name, "f", f"{number}", NOW)
    job_id = JobId(f"job-{name}")
    report = AttemptProgress(AttemptId(f"{job_id}.{number}"), job_id, 0.5, owner, "{}", draw(NUMBERS))
    choices: list[Op] = [
        lambda tx: tx.put_progress(report),
        lambda tx: tx.remember(record),
        lambda tx: tx.put_queue(replace(queue(name, tenant=owner, weight=number), version=number)),
        lambda tx: tx.put_pool(replace(pool(name, tenant=owner if number else None), version=number)),
        lambda tx: tx.delete_queue(scope, QueueName(name)),
        lambda tx: tx.delete_pool(scope, PoolName(name)),
        lambda tx: tx.prune_feed(number * 3),
        lambda tx: tx.acquire_lease(name, NOW, number * 1000, proven_dead=number == 2),
        lambda tx: tx.release_lease(name),
    ]
    return draw(st.sampled_from(choices))


@st.composite
def steps(draw: st.DrawFn) -> tuple[list[Op], bool, int | None]:
    """The operations of one transaction, whether it raises at its end, and the epoch that it claims."""
    ops = draw(st.lists(inserts() | updates() | others(), min_size=1, max_size=3))
    return ops, draw(st.integers(0, 9)) == 0, draw(st.none() | st.integers(0, 2))


def everything(tx: StoreTx) -> list[Any]:
    seen: list[Any] = [tx.lease(), tx.feed_head(), _answer(lambda: tx.feed(0)), _answer(lambda: tx.feed(4, limit=3))]
    for scope in (PLATFORM, Scope(TenantId("mobility")), Scope(TenantId("parks"))):
        seen += [tx.open_jobs(scope), tx.count_jobs(scope), tx.queues(scope), tx.pools(scope)]
        seen += [tx.jobs(scope, JobFilter(limit=2)), tx.jobs(scope, JobFilter(states=frozenset({JobState.FAILED})))]
        for name in "abc":
            id = JobId(f"job-{name}")
            seen += [tx.live_jobs(scope, RunnerId(name)), tx.events(scope, id), tx.progress(scope, id)]
            seen += [tx.job_of_attempt(scope, AttemptId(f"{id}.2"))]
    return seen


def _answer(call: Callable[[], Any]) -> Any:
    """What comes back, or the kind of error."""
    try:
        return call()
    except (FactoryError, ZeroDivisionError, ValueError) as exc:
        return type(exc)


def _run(store: Store, step: tuple[list[Op], bool, int | None]) -> Any:
    ops, raises, epoch = step

    def work(tx: StoreTx) -> list[Any]:
        answers = [_answer(lambda op=op: op(tx)) for op in ops]
        if raises:
            raise ZeroDivisionError
        return answers

    return _answer(lambda: store.transact(work, epoch=epoch))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "factory.db"
    migrate.upgrade(f"sqlite:///{path}")
    return path


def test_memory_and_sqlite_answer_alike(template: Path) -> None:
    @given(st.lists(steps(), min_size=1, max_size=25))
    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    def alike(plan: list[tuple[list[Op], bool, int | None]]) -> None:
        path = shutil.copy(template, template.with_name("run.db"))
        memory = MemoryStore(clock=FixedClock())
        with SqlStore(f"sqlite:///{path}", clock=FixedClock(), writer_thread=False, connections=2) as sqlite:
            for step in plan:
                assert _run(memory, step) == _run(sqlite, step)
            assert memory.read(everything) == sqlite.read(everything)

    alike()
