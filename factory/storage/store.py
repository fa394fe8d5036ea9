"""The store: one object that satisfies every store port, on SQLite or PostgreSQL."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from factory.domain.time import Clock
from factory.errors import ConfigurationError
from factory.storage import migrate
from factory.storage.hooks import CommitHooks
from factory.storage.postgresql import PostgresEngine
from factory.storage.sqlite import SqliteEngine
from factory.storage.tx import SqlTx

if TYPE_CHECKING:
    from factory.control.ports import ControlStore
    from factory.datasets.ports import DatasetStore, RegistryStore
    from factory.jobs.ports import JobStore, SubmissionStore
    from factory.models.ports import GateStore, ModelStore
    from factory.pools.ports import FleetStore, PoolStore
    from factory.serving.ports import DeployStore, EndpointStore
    from factory.tenants.ports import GovernStore, TenantStore

    def _satisfies_every_port(
        store: SqlStore,
    ) -> tuple[
        *tuple[JobStore, SubmissionStore, PoolStore, FleetStore, TenantStore, GovernStore, DatasetStore],
        *tuple[RegistryStore, ModelStore, GateStore, EndpointStore, DeployStore, ControlStore],
    ]:
        """Held by the type checker."""
        return (store, store, store, store, store, store, store, store, store, store, store, store, store)


__all__ = ["SqlStore", "open_store"]

T = TypeVar("T")


class SqlStore:
    """JobStore, PoolStore, TenantStore, DatasetStore, ModelStore, EndpointStore and ControlStore.

    Args:
        url: "sqlite:///<file>" or "postgresql://…", of a migrated database (see `open_store`).
        clock: SQLite: tells whether a leader's lease has ended; without one only a released lease counts as ended
            (safe: a take-over changes the epoch). PostgreSQL uses the database's clock.
        writer_thread: SQLite: False runs transactions in the calling thread, for deterministic runs.
        connections: at most; SQLite: of them one writes.
        jitter: PostgreSQL: spreads retries.
        hooks: called around every commit.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock | None = None,
        writer_thread: bool = True,
        connections: int = 5,
        jitter: random.Random | None = None,
        hooks: CommitHooks | None = None,
    ) -> None:
        parsed = migrate.database_url(url)
        self.hooks = hooks or CommitHooks()
        self._engine: SqliteEngine | PostgresEngine
        if parsed.get_backend_name() == "sqlite":
            path = Path(parsed.database or "")
            if not path.exists():
                raise ConfigurationError(f"there is no database {path}", hint="open_store creates it")
            self._engine = SqliteEngine(
                path, clock=clock, hooks=self.hooks, writer_thread=writer_thread, readers=max(1, connections - 1)
            )
        else:
            self._engine = PostgresEngine(
                parsed, hooks=self.hooks, jitter=jitter or random.Random(), connections=connections
            )

    def read(self, fn: Callable[[SqlTx], T]) -> T:
        """Run `fn` on one consistent state; it may not write."""
        return self._engine.read(fn)

    def transact(self, fn: Callable[[SqlTx], T], *, epoch: int | None = None) -> T:
        """Run `fn` in one transaction and return its result once it is committed; an exception takes all back.

        `fn` may run more than once, and on another thread: it must touch nothing but the tx.

        Raises: FencedError: `epoch` is not the current one, or its lease has ended; StaleWriteError, ConflictError: see
        the ports; UnavailableError: the database cannot do it now.
        """
        return self._engine.transact(fn, epoch=epoch)

    def close(self) -> None:
        """Finish what was asked, then let go of the database. Idempotent."""
        self._engine.close()

    def __enter__(self) -> SqlStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_store(
    url: str,
    *,
    clock: Clock | None = None,
    writer_thread: bool = True,
    connections: int = 5,
    jitter: random.Random | None = None,
    hooks: CommitHooks | None = None,
) -> SqlStore:
    """Create or migrate the database, then open it. Arguments as `SqlStore`.

    Raises: ConfigurationError: the schema is newer than this release. UnavailableError: the database does not answer.
    """
    migrate.upgrade(url)
    return SqlStore(url, clock=clock, writer_thread=writer_thread, connections=connections, jitter=jitter, hooks=hooks)
