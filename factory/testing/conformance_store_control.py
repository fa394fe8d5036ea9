"""The suites of what all stores share: transactions, the change feed and the leader lease (control/ports.py)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from factory.control.ports import FeedEntry, FeedKind, Lease
from factory.domain.ids import JobId, PoolName, TenantId
from factory.domain.tenancy import PLATFORM, Scope
from factory.errors import ConflictError, FeedPrunedError, FencedError, StaleWriteError
from factory.jobs.ports import IdempotencyRecord
from factory.testing.behaviours import refused
from factory.testing.builders import job, node, pool, queue, runner
from factory.testing.conformance_store import NOW, Store, StoreTx
from factory.testing.conformance_store_jobs import history

__all__ = ["ControlSuite", "TransactionSuite"]

_TTL_MS = 600_000


def _insert(id: str) -> Callable[[StoreTx], None]:
    return lambda tx: tx.insert_job(job(id), history(job(id)))


class TransactionSuite:
    """Every method is a behaviour."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def what_the_function_returns_is_returned(self) -> None:
        assert self._store.read(lambda tx: 1) == 1
        assert self._store.transact(lambda tx: 2) == 2

    def a_transaction_sees_its_own_writes(self) -> None:
        def work(tx: StoreTx) -> bool:
            _insert("job-a")(tx)
            return tx.job(PLATFORM, JobId("job-a")) is not None and len(tx.open_jobs(PLATFORM)) == 1

        assert self._store.transact(work)

    def an_exception_takes_everything_back_and_reaches_the_caller(self) -> None:
        record = IdempotencyRecord(TenantId("mobility"), "key", "POST /jobs", "k", "f", "job-b", NOW)
        self._store.transact(_insert("job-a"))
        self._store.transact(lambda tx: tx.put_pool(pool("cpu")))

        def fail(tx: StoreTx) -> None:
            _insert("job-b")(tx)
            tx.update_job(job("job-a", seq=2), history(job("job-a", seq=2), after=1), expected_seq=1)
            tx.remember(record)
            tx.delete_pool(PLATFORM, PoolName("cpu"))
            tx.acquire_lease("me", NOW, _TTL_MS)
            raise ZeroDivisionError

        with refused(ZeroDivisionError):
            self._store.transact(fail)
        self._store.transact(lambda tx: tx.put_node(node("n1")))
        left = self._store.read(
            lambda tx: (
                tx.open_jobs(PLATFORM),
                len(tx.events(PLATFORM, JobId("job-a"))),
                tx.idempotency(record.tenant, record.principal, record.route, record.key),
                [each.name for each in tx.pools(PLATFORM)],
                tx.lease(),
                [entry.kind for entry in tx.feed(0)],
            )
        )
        assert left == ((job("job-a"),), 1, None, ["cpu"], None, [FeedKind.JOB, FeedKind.POOL, FeedKind.NODE])

    def a_refusal_that_is_caught_leaves_the_transaction_usable(self) -> None:
        self._store.transact(_insert("job-a"))
        self._store.transact(lambda tx: tx.put_pool(pool("cpu")))

        def work(tx: StoreTx) -> None:
            with refused(ConflictError):
                _insert("job-a")(tx)
            with refused(StaleWriteError):
                tx.put_pool(replace(pool("cpu"), version=9))
            _insert("job-b")(tx)

        self._store.transact(work)
        assert len(self._store.read(lambda tx: tx.open_jobs(PLATFORM))) == 2

    def a_read_cannot_write(self) -> None:
        with refused(RuntimeError):
            self._store.read(_insert("job-a"))
        assert self._store.read(lambda tx: tx.open_jobs(PLATFORM)) == ()

    def a_tx_is_of_no_use_after_its_transaction(self) -> None:
        kept = self._store.transact(lambda tx: tx)
        with refused(RuntimeError):
            kept.open_jobs(PLATFORM)

    def a_store_call_inside_a_transaction_is_refused_at_once(self) -> None:
        for inner in (lambda: self._store.transact(_insert("job-a")), lambda: self._store.read(lambda tx: None)):
            with refused(RuntimeError):
                self._store.transact(lambda tx, inner=inner: inner())
        assert self._store.read(lambda tx: tx.open_jobs(PLATFORM)) == ()

    def no_update_is_lost_among_threads(self) -> None:
        self._store.transact(lambda tx: tx.put_queue(queue("mobility", weight=0)))

        def increment(_: int) -> None:
            def work(tx: StoreTx) -> None:
                (now,) = tx.queues(PLATFORM)
                tx.put_queue(replace(now, weight=now.weight + 1))

            self._store.transact(work)

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(increment, range(80)))
        (after,) = self._store.read(lambda tx: tx.queues(PLATFORM))
        assert (after.weight, after.version) == (80, 81)

    def of_threads_with_one_idempotency_key_one_submits(self) -> None:
        tenant = TenantId("mobility")

        def submit(n: int) -> str:
            def work(tx: StoreTx) -> str:
                earlier = tx.idempotency(tenant, "key", "POST /jobs", "k")
                if earlier is not None:
                    return earlier.result
                _insert(f"job-{n}")(tx)
                tx.remember(IdempotencyRecord(tenant, "key", "POST /jobs", "k", "f", f"job-{n}", NOW))
                return f"job-{n}"

            return self._store.transact(work)

        with ThreadPoolExecutor(8) as threads:
            answers = set(threads.map(submit, range(24)))
        (only,) = self._store.read(lambda tx: tx.open_jobs(PLATFORM))
        assert answers == {only.id}


class ControlSuite:
    """Every method is a behaviour."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def every_change_is_in_the_feed_in_commit_order(self) -> None:
        self._store.transact(lambda tx: tx.put_pool(pool("cpu")))
        self._store.transact(lambda tx: tx.put_node(node("n1")))
        self._store.transact(lambda tx: tx.put_runner(runner("runner-1")))
        self._store.transact(lambda tx: tx.put_queue(queue("mobility")))
        self._store.transact(_insert("job-a"))
        self._store.transact(
            lambda tx: tx.update_job(job("job-a", seq=2), history(job("job-a", seq=2), after=1), expected_seq=1)
        )
        self._store.transact(lambda tx: tx.delete_node(PLATFORM, node("n1").id))
        entries = self._store.read(lambda tx: tx.feed(0))
        assert [(entry.kind, entry.key) for entry in entries] == [
            (FeedKind.POOL, "cpu"),
            (FeedKind.NODE, "n1"),
            (FeedKind.RUNNER, "runner-1"),
            (FeedKind.QUEUE, "mobility"),
            (FeedKind.JOB, "job-a"),
            (FeedKind.JOB, "job-a"),
            (FeedKind.NODE, "n1"),
        ]
        assert [entry.seq for entry in entries] == sorted({entry.seq for entry in entries})

    def the_feed_is_read_in_pages_up_to_its_head(self) -> None:
        assert self._store.read(lambda tx: (tx.feed_head(), tx.feed(0))) == (0, ())
        for n in range(5):
            self._store.transact(_insert(f"job-{n}"))
        seen: list[str] = []
        after = 0
        while page := self._store.read(lambda tx, after=after: tx.feed(after, limit=2)):
            seen += [entry.key for entry in page]
            after = page[-1].seq
            assert len(page) <= 2
        assert seen == [f"job-{n}" for n in range(5)]
        assert after == self._store.read(lambda tx: tx.feed_head())

    def a_row_that_changes_twice_in_one_transaction_is_one_entry(self) -> None:
        def work(tx: StoreTx) -> None:
            tx.put_pool(tx.put_pool(pool("cpu")))

        self._store.transact(work)
        assert len(self._store.read(lambda tx: tx.feed(0))) == 1

    def deleting_what_is_not_there_is_no_change(self) -> None:
        self._store.transact(lambda tx: tx.delete_pool(PLATFORM, PoolName("none")))
        assert self._store.read(lambda tx: tx.feed(0)) == ()

    def a_reader_never_misses_an_entry_while_others_write(self) -> None:
        """No entry appears below one that a reader has seen: else who goes on from there would miss it."""
        done = threading.Event()
        followed: list[FeedEntry] = []

        def follow() -> None:
            while True:
                last_turn = done.is_set()
                after = followed[-1].seq if followed else 0
                page = self._store.read(lambda tx, after=after: tx.feed(after))
                followed.extend(page)
                if last_turn and not page:
                    return

        def write(n: int) -> None:
            def work(tx: StoreTx) -> None:
                tx.put_node(node(f"n{n}"))
                _insert(f"job-{n:03}")(tx)

            self._store.transact(work)

        reader = threading.Thread(target=follow)
        reader.start()
        try:
            with ThreadPoolExecutor(8) as threads:
                list(threads.map(write, range(60)))
        finally:
            done.set()
            reader.join()
        assert len(followed) == 120
        assert tuple(followed) == self._store.read(lambda tx: tx.feed(0))

    def a_pruned_feed_keeps_its_head_and_tells_who_is_behind(self) -> None:
        for n in range(4):
            self._store.transact(_insert(f"job-{n}"))
        whole = self._store.read(lambda tx: tx.feed(0))
        assert len(whole) == 4
        self._store.transact(lambda tx: tx.prune_feed(whole[2].seq))
        assert self._store.read(lambda tx: tx.feed(whole[1].seq)) == whole[2:]
        for behind in (0, whole[0].seq):
            with refused(FeedPrunedError):
                self._store.read(lambda tx, behind=behind: tx.feed(behind))
        self._store.transact(lambda tx: tx.prune_feed(whole[-1].seq + 1000))
        assert self._store.read(lambda tx: (tx.feed_head(), tx.feed(whole[-1].seq))) == (whole[-1].seq, ())
        self._store.transact(lambda tx: tx.prune_feed(0))
        self._store.transact(_insert("job-9"))
        assert [entry.key for entry in self._store.read(lambda tx: tx.feed(whole[-1].seq))] == ["job-9"]

    def a_free_lease_is_taken_with_the_first_epoch(self) -> None:
        assert self._store.read(lambda tx: tx.lease()) is None
        taken = self._acquire("a")
        assert taken is not None
        assert (taken.holder, taken.epoch) == ("a", 1)
        assert self._store.read(lambda tx: tx.lease()) == taken

    def the_holder_renews_within_its_epoch(self) -> None:
        first, second = self._acquire("a", ttl_ms=1000), self._acquire("a", ttl_ms=_TTL_MS)
        assert first is not None
        assert second is not None
        assert second.epoch == first.epoch
        assert second.expires_at > first.expires_at

    def a_lease_that_another_holds_is_not_given(self) -> None:
        held = self._acquire("a")
        assert self._acquire("b") is None
        assert self._store.read(lambda tx: tx.lease()) == held

    def an_ended_lease_is_taken_with_the_next_epoch(self) -> None:
        self._acquire("a", ttl_ms=0)
        taken = self._acquire("b")
        assert taken is not None
        assert (taken.holder, taken.epoch) == ("b", 2)

    def the_lease_of_a_leader_proven_dead_is_taken_at_once(self) -> None:
        self._acquire("a")
        taken = self._acquire("b", proven_dead=True)
        assert taken is not None
        assert taken.epoch == 2
        renewed = self._acquire("b", proven_dead=True)
        assert renewed is not None
        assert renewed.epoch == 2

    def a_released_lease_is_free_and_its_epoch_is_over(self) -> None:
        self._acquire("a")
        self._store.transact(lambda tx: tx.release_lease("b"))
        self._store.transact(_insert("job-a"), epoch=1)
        self._store.transact(lambda tx: tx.release_lease("a"))
        assert self._store.read(lambda tx: tx.lease()) is None
        with refused(FencedError):
            self._store.transact(_insert("job-b"), epoch=1)
        taken = self._acquire("b")
        assert taken is not None
        assert taken.epoch == 2

    def a_leader_of_an_older_epoch_writes_nothing(self) -> None:
        self._acquire("a")
        self._store.transact(_insert("job-a"), epoch=1)
        self._acquire("b", proven_dead=True)
        with refused(FencedError):
            self._store.transact(_insert("job-b"), epoch=1)
        self._store.transact(_insert("job-c"), epoch=2)
        ids = [each.id for each in self._store.read(lambda tx: tx.open_jobs(PLATFORM))]
        assert ids == ["job-a", "job-c"]

    def a_leader_whose_lease_has_ended_writes_nothing(self) -> None:
        self._acquire("a", ttl_ms=0)
        with refused(FencedError):
            self._store.transact(_insert("job-a"), epoch=1)
        assert self._store.read(lambda tx: tx.open_jobs(PLATFORM)) == ()

    def an_epoch_that_never_was_writes_nothing(self) -> None:
        for epoch in (0, 1):
            with refused(FencedError):
                self._store.transact(_insert("job-a"), epoch=epoch)

    def a_tenant_scope_does_not_narrow_the_feed(self) -> None:
        """The feed names rows, the reader's scope decides what it may load of them."""
        self._store.transact(_insert("job-a"))
        (entry,) = self._store.read(lambda tx: tx.feed(0))
        assert self._store.read(lambda tx: tx.job(Scope(TenantId("parks")), JobId(entry.key))) is None

    def _acquire(self, holder: str, *, ttl_ms: int = _TTL_MS, proven_dead: bool = False) -> Lease | None:
        return self._store.transact(lambda tx: tx.acquire_lease(holder, NOW, ttl_ms, proven_dead=proven_dead))
