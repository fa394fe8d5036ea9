"""PostgreSQL: the same stores for several control planes.

Every transaction is REPEATABLE READ: a closure decides on one snapshot, and where a neighbour changed what it writes
the database refuses (40001) and the closure runs again on a new one. The same holds for a row that a neighbour inserted
(`ON CONFLICT DO NOTHING` on a row outside the snapshot), so `idempotency` and `remember` agree without locks.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import psycopg
from sqlalchemy import URL, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from factory.errors import ConflictError, FactoryError, InvalidRequestError, UnavailableError
from factory.storage.bodies import JobBodies
from factory.storage.hooks import CommitHooks
from factory.storage.session import Cursor
from factory.storage.tx import SqlTx

__all__ = ["PostgresEngine"]

T = TypeVar("T")

_TRIES = 30
_FIRST_WAIT_S = 0.002
_LONGEST_WAIT_S = 0.25

# One round trip. SET LOCAL, not a session's SET: a pooler may give the next transaction to another server process.
# synchronous_commit: an acknowledged job is on disk (rule 1), whatever the server's default is.
_LIMITS = (
    "SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '30s'; "
    "SET LOCAL idle_in_transaction_session_timeout = '30s'"
)
_BEGIN_READ = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {_LIMITS}"
_BEGIN_WRITE = f"BEGIN ISOLATION LEVEL REPEATABLE READ; {_LIMITS}; SET LOCAL synchronous_commit = on"


class PostgresEngine:
    """Opens an existing, migrated database.

    Args:
        jitter: spreads retries; a seeded one makes a test repeatable.
        connections: most connections at a time.
    """

    def __init__(self, url: URL, *, hooks: CommitHooks, jitter: random.Random, connections: int = 10) -> None:
        self._hooks = hooks
        self._jitter = jitter
        self._bodies = JobBodies()
        self._engine = create_engine(
            url,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=10,
            pool_pre_ping=True,  # a restarted server costs nobody an error
            pool_reset_on_return=None,  # no transaction is left open here, see _run
            connect_args={"autocommit": True, "connect_timeout": 10},  # BEGIN is ours
        )
        self._in_transaction: set[int] = set()

    def read(self, fn: Callable[[SqlTx], T]) -> T:
        """Run `fn` on one snapshot."""
        return self._retrying(lambda: self._run(fn, writable=False, epoch=None))

    def transact(self, fn: Callable[[SqlTx], T], *, epoch: int | None = None) -> T:
        """Run `fn`, again if a neighbour got in its way, and return when its changes are committed."""
        return self._retrying(lambda: self._run(fn, writable=True, epoch=epoch))

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def _retrying(self, attempt: Callable[[], T]) -> T:
        wait_s = _FIRST_WAIT_S
        for tries_left in reversed(range(_TRIES)):
            try:
                return attempt()
            except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected) as exc:
                if not tries_left:
                    raise UnavailableError("too many transactions want the same rows; retry later") from exc
                time.sleep(wait_s * (0.5 + self._jitter.random()))
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
            except psycopg.Error as exc:
                raise _translated(exc) from exc
        raise AssertionError("unreachable: the last try returns or raises")

    def _run(self, fn: Callable[[SqlTx], T], *, writable: bool, epoch: int | None) -> T:
        ident = threading.get_ident()
        if ident in self._in_transaction:
            raise RuntimeError("a store call inside transact: use the tx that the function was given")
        pooled = self._checkout()
        connection = cast("psycopg.Connection[Any]", pooled.driver_connection)
        self._in_transaction.add(ident)
        try:
            cursor = connection.cursor()
            tx = SqlTx(cast(Cursor, cursor), is_postgresql=True, writable=writable, bodies=self._bodies)
            cursor.execute(_BEGIN_WRITE if writable else _BEGIN_READ)
            if epoch is not None:
                tx.check_epoch(epoch, None)
            result = fn(tx)
            tx.flush_feed()
            tx.end()
            if writable:
                self._hooks.before_commit()
            cursor.execute("COMMIT")
            if cursor.statusmessage != "COMMIT":
                # `fn` swallowed a database error: the server had given the transaction up, and COMMIT rolled it back.
                raise UnavailableError("the transaction had failed and was rolled back; nothing was stored")
        except BaseException:
            self._roll_back(connection)
            raise
        finally:
            self._in_transaction.discard(ident)
            if connection.closed:
                pooled.invalidate()
            pooled.close()
        if writable:
            self._hooks.after_commit()
        return result

    def _checkout(self) -> Any:
        try:
            return self._engine.raw_connection()
        except PoolTimeoutError as exc:
            raise UnavailableError("every database connection is in use; retry later") from exc
        except DBAPIError as exc:
            raise UnavailableError(
                "the database does not answer", hint="is PostgreSQL up, and is the URL right?"
            ) from exc

    @staticmethod
    def _roll_back(connection: psycopg.Connection[Any]) -> None:
        try:
            connection.execute("ROLLBACK")
        except psycopg.Error:
            connection.close()  # what it holds is lost with it; the server rolls back


def _translated(exc: psycopg.Error) -> FactoryError:
    if isinstance(exc, psycopg.IntegrityError):
        return ConflictError(f"the database refused the change: {exc}")
    if isinstance(exc, psycopg.DataError) and "NUL (0x00)" in str(exc):  # of the driver, before anything was sent
        return InvalidRequestError("a text holds the character NUL, which no name here has", hint="leave it out")
    if isinstance(exc, (psycopg.DataError, psycopg.ProgrammingError)):
        raise exc  # ours to mend, not to retry
    return UnavailableError(
        f"the database cannot do it now: {exc}",
        hint="if the connection broke while committing, the change may be there: repeat it with its idempotency key",
    )
