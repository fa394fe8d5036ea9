"""Rule 1 on SQLite: what was answered is on disk; one writer; commits are shared."""

from __future__ import annotations

import os
import queue
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from factory.domain.ids import JobId, RunnerId, TenantId
from factory.domain.tenancy import PLATFORM, Scope
from factory.errors import ConflictError, FencedError, UnavailableError
from factory.jobs.ports import JobFilter
from factory.storage import jobs as job_statements
from factory.storage.hooks import CommitHooks
from factory.storage.sqlite import SqliteEngine
from factory.storage.store import SqlStore, open_store
from factory.storage.tx import SqlTx
from factory.testing.builders import job
from factory.testing.conformance_store import NOW, FixedClock
from factory.testing.conformance_store_jobs import history


class Commits:
    """Counts commits and crashes the ones that a test names."""

    def __init__(self) -> None:
        self.count = 0
        self.crash_before = False
        self.crash_after = False
        self.hooks = CommitHooks(self._before, self._after)

    def _before(self) -> None:
        if self.crash_before:
            raise Crash

    def _after(self) -> None:
        self.count += 1
        if self.crash_after:
            raise Crash


class Crash(BaseException):
    """The process would be gone here."""


@pytest.fixture
def commits() -> Commits:
    return Commits()


@pytest.fixture
def store(tmp_path: Path, commits: Commits) -> Iterator[SqlStore]:
    with open_store(f"sqlite:///{tmp_path / 'factory.db'}", clock=FixedClock(), hooks=commits.hooks) as opened:
        yield opened


def insert(id: str) -> Callable[[SqlTx], str]:
    def work(tx: SqlTx) -> str:
        tx.insert_job(job(id), history(job(id)))
        return id

    return work


def engine(store: SqlStore) -> SqliteEngine:
    assert isinstance(store._engine, SqliteEngine)
    return store._engine


def stored(store: SqlStore) -> list[str]:
    return [each.id for each in store.read(lambda tx: tx.open_jobs(PLATFORM))]


class Busy:
    """Keeps the writer inside one closure, so that what comes meanwhile waits and then shares a commit."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._inside, self._go_on = threading.Event(), threading.Event()
        self._threads = ThreadPoolExecutor(32)

    def __enter__(self) -> Busy:
        def wait(_: SqlTx) -> None:
            self._inside.set()
            assert self._go_on.wait(30)

        self._threads.submit(self._store.transact, wait)
        assert self._inside.wait(30)
        return self

    def submit(self, fn: Callable[[SqlTx], str], *, epoch: int | None = None) -> Future[str]:
        """Return once the call stands in the writer's queue."""
        calls = engine(self._store)._calls
        before = calls.qsize()
        future = self._threads.submit(self._store.transact, fn, epoch=epoch)
        while calls.qsize() == before:
            os.sched_yield()
        return future

    def __exit__(self, *_: object) -> None:
        self._go_on.set()
        self._threads.shutdown()


def test_every_connection_is_as_rule_1_wants_it(store: SqlStore) -> None:
    def pragma(connection: sqlite3.Connection, name: str) -> object:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]

    writer, readers = engine(store)._writer, engine(store)._readers
    reader = readers.get()
    for connection in (writer, reader):
        assert pragma(connection, "journal_mode") == "wal"
        assert pragma(connection, "synchronous") == 2  # FULL; a kill -9 cannot tell it from NORMAL, a power cut can
        assert pragma(connection, "foreign_keys") == 1
        assert pragma(connection, "busy_timeout") == 5000
    assert (pragma(writer, "query_only"), pragma(reader, "query_only")) == (0, 1)
    assert pragma(reader, "wal_autocheckpoint") == 0
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM jobs")
    readers.put(reader)


def test_closures_that_wait_together_share_a_commit(store: SqlStore, commits: Commits) -> None:
    with Busy(store) as writer:
        futures = [writer.submit(insert(f"job-{n:02}")) for n in range(20)]
    assert [future.result() for future in futures] == [f"job-{n:02}" for n in range(20)]
    assert commits.count == 2
    assert len(stored(store)) == 20


def test_a_closure_that_raises_takes_back_itself_and_not_its_group(store: SqlStore, commits: Commits) -> None:
    def fail(tx: SqlTx) -> str:
        insert("job-b")(tx)
        raise ZeroDivisionError

    with Busy(store) as writer:
        first, bad, last = (writer.submit(fn) for fn in (insert("job-a"), fail, insert("job-c")))
    assert isinstance(bad.exception(), ZeroDivisionError)
    assert (first.result(), last.result()) == ("job-a", "job-c")
    assert stored(store) == ["job-a", "job-c"]
    assert commits.count == 2
    assert [entry.key for entry in store.read(lambda tx: tx.feed(0))] == ["job-a", "job-c"]


def test_the_epoch_is_checked_for_each_closure_of_a_group(store: SqlStore) -> None:
    store.transact(lambda tx: tx.acquire_lease("a", NOW, 600_000))

    def take_over(tx: SqlTx) -> str:
        assert tx.acquire_lease("b", NOW, 600_000, proven_dead=True) is not None
        return "b"

    with Busy(store) as writer:
        old = writer.submit(insert("job-a"), epoch=1)
        writer.submit(take_over)
        stale = writer.submit(insert("job-b"), epoch=1)
        new = writer.submit(insert("job-c"), epoch=2)
    assert (old.result(), new.result()) == ("job-a", "job-c")
    assert isinstance(stale.exception(), FencedError)
    assert stored(store) == ["job-a", "job-c"]


def test_nobody_is_answered_before_the_commit(store: SqlStore, commits: Commits) -> None:
    at_commit: queue.SimpleQueue[None] = queue.SimpleQueue()
    go_on = threading.Event()

    def hold() -> None:
        at_commit.put(None)
        assert go_on.wait(30)

    store.hooks.before_commit = hold
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(store.transact, insert("job-a"))
        at_commit.get(timeout=30)
        assert not future.done()
        assert stored(store) == []
        go_on.set()
        assert future.result(30) == "job-a"
    assert stored(store) == ["job-a"]


def test_a_refusal_is_not_told_before_what_it_refers_to_is_on_disk(store: SqlStore, commits: Commits) -> None:
    told: list[bool] = []
    with Busy(store) as writer:
        first, refused = writer.submit(insert("job-a")), writer.submit(insert("job-a"))
        store.hooks.before_commit = lambda: told.append(refused.done())
    assert isinstance(refused.exception(), ConflictError)
    assert first.result() == "job-a"
    assert told == [False, False]  # of the commit that the writer was busy with, and of their own


def test_a_refusal_that_refers_to_what_a_crash_took_back_is_not_told(store: SqlStore, commits: Commits) -> None:
    with Busy(store) as writer:
        futures = [writer.submit(insert("job-a")), writer.submit(insert("job-a"))]
        commits.crash_before = True
    assert [type(future.exception()) for future in futures] == [Crash, Crash]  # not "job-a exists already"
    commits.crash_before = False
    assert store.transact(insert("job-a")) == "job-a"


def test_a_crash_before_the_commit_takes_the_group_back_and_tells_all_of_it(store: SqlStore, commits: Commits) -> None:
    with Busy(store) as writer:
        futures = [writer.submit(insert(f"job-{n}")) for n in range(3)]
        commits.crash_before = True
    assert [type(future.exception()) for future in futures] == [Crash] * 3
    commits.crash_before = False
    assert stored(store) == []
    store.transact(insert("job-9"))
    assert stored(store) == ["job-9"]


def test_a_crash_after_the_commit_loses_the_answer_and_not_the_change(store: SqlStore, commits: Commits) -> None:
    commits.crash_after = True
    with pytest.raises(Crash):
        store.transact(insert("job-a"))
    assert stored(store) == ["job-a"]


def test_a_full_disk_is_told_and_survived(store: SqlStore) -> None:
    store.transact(insert("job-a"))
    writer = engine(store)._writer
    pages = writer.execute("PRAGMA page_count").fetchone()[0]
    writer.execute(f"PRAGMA max_page_count={pages}").fetchone()
    with pytest.raises(UnavailableError, match="full"):
        store.transact(lambda tx: [insert(f"job-b{n:04}")(tx) for n in range(1000)])
    writer.execute("PRAGMA max_page_count=1000000").fetchone()
    assert stored(store) == ["job-a"]
    store.transact(insert("job-c"))
    assert stored(store) == ["job-a", "job-c"]


def test_a_read_is_one_snapshot_whatever_is_committed_meanwhile(store: SqlStore) -> None:
    store.transact(insert("job-a"))

    def look_twice(tx: SqlTx) -> tuple[int, int]:
        before = len(tx.open_jobs(PLATFORM))
        with ThreadPoolExecutor(1) as thread:
            thread.submit(store.transact, insert("job-b")).result(30)
        return before, len(tx.open_jobs(PLATFORM))

    assert store.read(look_twice) == (1, 1)
    assert len(stored(store)) == 2


def test_close_answers_who_waits_and_refuses_who_comes_later(store: SqlStore) -> None:
    with Busy(store) as writer:
        future = writer.submit(insert("job-a"))
        closing = threading.Thread(target=store.close)
        closing.start()
    closing.join()
    assert future.result() == "job-a"
    for call in (lambda: store.transact(insert("job-b")), lambda: store.read(lambda tx: None)):
        with pytest.raises(UnavailableError, match="closed"):
            call()
    store.close()


@pytest.mark.parametrize("change", ["UPDATE {} SET seq = seq", "DELETE FROM {}"])
@pytest.mark.parametrize("table", ["events", "audit"])
def test_events_and_audit_are_append_only(store: SqlStore, table: str, change: str, tmp_path: Path) -> None:
    store.transact(insert("job-a"))
    store.transact(lambda tx: tx.put_audit(NOW, "key-1", TenantId("mobility"), "job.submit", "{}"))
    with sqlite3.connect(tmp_path / "factory.db") as connection:
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (1,)
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(change.format(table))


@pytest.mark.parametrize(
    ("read", "index"),
    [
        (lambda tx: tx.open_jobs(PLATFORM), "ix_jobs_open"),
        (lambda tx: tx.live_jobs(PLATFORM, RunnerId("r")), "ix_jobs_live"),
        (lambda tx: tx.count_jobs(Scope(TenantId("t"))), "ix_jobs_tenant_state"),
        (lambda tx: tx.jobs(Scope(TenantId("t")), JobFilter(name="n")), "ix_jobs_tenant_name"),
        (lambda tx: tx.jobs(Scope(TenantId("t")), JobFilter(before=JobId("job-9"))), "ix_jobs_tenant_id"),
    ],
    ids=["open", "live", "count", "by name", "page"],
)
def test_what_the_loop_and_the_lists_read_has_an_index(
    store: SqlStore, read: Callable[[SqlTx], object], index: str
) -> None:
    asked: list[tuple[str, object]] = []

    def spy(tx: SqlTx) -> None:
        rows = tx._rows

        def remember(statement: job_statements.Sql, params: object) -> list[tuple[object, ...]]:
            asked.append((statement.sqlite, params))
            return rows(statement, params)  # pyright: ignore[reportArgumentType]

        tx._rows = remember  # pyright: ignore[reportAttributeAccessIssue]
        read(tx)

    store.read(spy)
    ((statement, params),) = asked
    plan = engine(store)._writer.execute(f"EXPLAIN QUERY PLAN {statement}", params).fetchall()  # pyright: ignore[reportArgumentType]
    assert any(index in row[3] for row in plan), plan
    assert not any("TEMP B-TREE" in row[3] for row in plan), plan


SUBMIT = """
import sys, threading
from factory.storage.store import SqlStore
from factory.testing.builders import job
from factory.testing.conformance_store_jobs import history
store = SqlStore(sys.argv[1])
printing = threading.Lock()
def submit(lane):
    n = 0
    while True:
        each = job(f"job-{lane}-{n:06}")
        store.transact(lambda tx: tx.insert_job(each, history(each)))
        with printing:
            print(each.id, flush=True)
        n += 1
for lane in range(4):
    threading.Thread(target=submit, args=(lane,)).start()
"""


def test_after_kill_9_every_acknowledged_job_is_there(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'factory.db'}"
    open_store(url).close()
    acknowledged: list[str] = []
    for round_ in range(1, 4):
        with subprocess.Popen(
            [sys.executable, "-c", SUBMIT.replace("job-{lane}", f"job-{round_}{{lane}}"), url], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            for _ in range(60 * round_):
                acknowledged.append(process.stdout.readline().decode().strip())
            os.kill(process.pid, signal.SIGKILL)
            acknowledged += process.stdout.read().decode().split("\n")[:-1]
        with open_store(url) as store:
            found = set(stored(store))
            assert set(acknowledged) <= found
            keys = [entry.key for entry in store.read(lambda tx: tx.feed(0))]
        # What was committed and not acknowledged is whole: row, event and feed entry.
        assert sorted(keys) == sorted(found)
        with sqlite3.connect(tmp_path / "factory.db") as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert len(acknowledged) >= 360
