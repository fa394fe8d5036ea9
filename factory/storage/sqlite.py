"""SQLite: one writer connection, commits grouped, readers that cannot write (rule 1).

Debian's SQLite (before 3.51.3) can lose commits when several connections write or checkpoint a WAL database. Here one
connection does both, and every other one is `query_only`.

A commit with `synchronous=FULL` costs an fsync, so closures that wait at the same time share one: the writer thread
runs each in a SAVEPOINT of its own, commits once, and only then answers all of them. A closure that raises takes back
its own savepoint and nothing else; it too is answered after the commit, since its error may tell what an earlier
closure of the group wrote ("exists already"), and a crash may still take that back.
"""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar, cast

from factory.domain.time import Clock
from factory.errors import ConflictError, FactoryError, UnavailableError
from factory.storage.bodies import JobBodies
from factory.storage.hooks import CommitHooks
from factory.storage.session import Cursor
from factory.storage.tx import SqlTx

__all__ = ["SqliteEngine"]

T = TypeVar("T")

_GROUP = 256  # closures per commit at most: bounds how long the first of them waits
_BUSY_TIMEOUT_MS = 5000  # for tools beside us that read; no other writer exists
_STATEMENTS = 512  # prepared statements kept per connection, more than there are


class _Call:
    """A closure on its way to the writer."""

    __slots__ = ("_answer", "epoch", "fn", "future")

    def __init__(self, fn: Callable[[SqlTx], Any], epoch: int | None) -> None:
        self.fn = fn
        self.epoch = epoch
        self.future: Future[Any] = Future()
        self._answer: Callable[[], None] | None = None  # what the caller is told once the group is committed

    def returned(self, result: Any) -> None:
        self._answer = lambda: self.future.set_result(result)

    def raised(self, error: BaseException) -> None:
        self._answer = lambda: self.future.set_exception(error)

    def answer(self) -> None:
        """Tell the caller, who waits in `transact`."""
        if self._answer is None:
            raise RuntimeError("this closure was not run")
        self._answer()


class SqliteEngine:
    """Opens an existing, migrated database.

    Args:
        clock: tells whether a lease has ended; without one only a released lease counts as ended.
        writer_thread: False runs every transaction in the calling thread, one commit each, for deterministic runs.
        readers: connections for `read`.
    """

    def __init__(
        self, path: Path, *, clock: Clock | None, hooks: CommitHooks, writer_thread: bool = True, readers: int = 4
    ) -> None:
        self._path = path
        self._clock = clock
        self._hooks = hooks
        self._bodies = JobBodies()
        self._writer = _connect(path)
        self._writing = threading.Lock()
        self._writer_ident: int | None = None
        self._readers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._reader_count = readers
        for _ in range(readers):
            self._readers.put(_connect(path, query_only=True))
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._closed = False
        self._thread: threading.Thread | None = None
        if writer_thread:
            self._thread = threading.Thread(target=self._serve, name="factory-sqlite-writer", daemon=True)
            self._thread.start()

    def read(self, fn: Callable[[SqlTx], T]) -> T:
        """Run `fn` on one snapshot."""
        self._refuse_nested()
        connection = self._take_reader()
        try:
            cursor = connection.execute("BEGIN")
            tx = SqlTx(cast(Cursor, cursor), is_postgresql=False, writable=False, bodies=self._bodies)
            try:
                return fn(tx)
            finally:
                tx.end()
                connection.execute("ROLLBACK")
        except sqlite3.Error as exc:
            raise _translated(exc) from exc
        finally:
            self._readers.put(connection)

    def transact(self, fn: Callable[[SqlTx], T], *, epoch: int | None = None) -> T:
        """Run `fn` and return when its changes are on disk."""
        self._refuse_nested()
        call = _Call(fn, epoch)
        if self._thread is not None:
            # The lock orders the last calls before the end marker, so that close() leaves no caller waiting.
            with self._writing:
                if self._closed:
                    raise UnavailableError("the store is closed")
                self._calls.put(call)
        else:
            with self._writing:
                if self._closed:
                    raise UnavailableError("the store is closed")
                self._writer_ident = threading.get_ident()
                try:
                    self._run_group([call])
                finally:
                    self._writer_ident = None
        return call.future.result()

    def close(self) -> None:
        """Finish what waits, then close; the writer's connection last, for the last one may checkpoint."""
        with self._writing:
            if self._closed:
                return
            self._closed = True
            self._calls.put(None)
        if self._thread is not None:
            self._thread.join()
        for _ in range(self._reader_count):
            self._readers.get().close()
        self._writer.close()

    def _refuse_nested(self) -> None:
        if self._writer_ident == threading.get_ident():
            raise RuntimeError("a store call inside transact: use the tx that the function was given")

    def _take_reader(self) -> sqlite3.Connection:
        if self._closed:
            raise UnavailableError("the store is closed")
        return self._readers.get()

    def _serve(self) -> None:
        self._writer_ident = threading.get_ident()
        while True:
            call = self._calls.get()
            group: list[_Call] = []
            while call is not None:
                group.append(call)
                if len(group) == _GROUP or self._calls.empty():
                    break
                call = self._calls.get()  # the only consumer: what is not empty stays so
            if group:
                self._run_group(group)
            if call is None:
                return

    def _run_group(self, group: list[_Call]) -> None:
        """Run and commit a group, and answer every caller in it. Never raises."""
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for call in group:
                self._run_in_savepoint(call)
            self._hooks.before_commit()
            self._writer.execute("COMMIT")
            self._hooks.after_commit()
        except BaseException as exc:  # a failed commit, or a crash that a test injects: it belongs to every caller
            with contextlib.suppress(sqlite3.Error):
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
            error = _translated(exc) if isinstance(exc, sqlite3.Error) else exc
            for call in group:
                call.raised(error)
        for call in group:
            call.answer()

    def _run_in_savepoint(self, call: _Call) -> None:
        """Run one closure and note what its caller is to be told. Raises: the group is lost."""
        execute = self._writer.execute
        cursor = execute("SAVEPOINT one")
        tx = SqlTx(cast(Cursor, cursor), is_postgresql=False, writable=True, bodies=self._bodies)
        try:
            if call.epoch is not None:
                tx.check_epoch(call.epoch, None if self._clock is None else self._clock.now())
            result = call.fn(tx)
            tx.flush_feed()
        except BaseException as exc:
            if not self._writer.in_transaction:
                raise  # disk full or an I/O error ended the transaction under all of them
            execute("ROLLBACK TO one")
            execute("RELEASE one")
            call.raised(_translated(exc) if isinstance(exc, sqlite3.Error) else exc)
            return
        finally:
            tx.end()
        execute("RELEASE one")
        call.returned(result)


def _connect(path: Path, *, query_only: bool = False) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path,
        isolation_level=None,  # BEGIN is ours: a deferred transaction that writes later may fail with SQLITE_BUSY
        check_same_thread=False,  # one thread at a time has a connection; which one may change
        cached_statements=_STATEMENTS,
        timeout=_BUSY_TIMEOUT_MS / 1000,
    )
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={_BUSY_TIMEOUT_MS}"):
        connection.execute(f"PRAGMA {pragma}").close()
    if query_only:
        connection.execute("PRAGMA wal_autocheckpoint=0").close()
        connection.execute("PRAGMA query_only=ON").close()
    return connection


def _translated(exc: sqlite3.Error) -> FactoryError:
    """The error as callers know it: a broken constraint is a conflict, the rest is the database being unable."""
    if isinstance(exc, sqlite3.IntegrityError):
        return ConflictError(f"the database refused the change: {exc}")
    return UnavailableError(f"the database cannot do it now: {exc}", hint="see: factory status; is the disk full?")
