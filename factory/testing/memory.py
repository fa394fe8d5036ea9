"""The store in memory: same ports, same guards, feed, lease, scope and fencing as SQL, and fast.

For simulation and unit tests. Values are frozen, so a transaction changes dictionaries in place and keeps an undo log;
commit drops the log, an exception (or a crash injected by a hook) plays it back. Nothing is copied. The store runs the
suite in conformance_store.py like every other adapter.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from factory.domain.time import Clock
from factory.errors import FencedError
from factory.storage.hooks import CommitHooks
from factory.testing.memory_tx import AuditRow, MemoryTx, Rows

__all__ = ["MemoryStore"]

T = TypeVar("T")


class MemoryStore:
    """Every store port in one object. Calls from several threads take turns.

    Args:
        clock: tells whether a leader's lease has ended; without one only a released lease counts as ended.
        hooks: called around every commit of `transact`; may crash it.
    """

    tx_class: type[MemoryTx] = MemoryTx  # planted bugs are subclasses of both

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        hooks: CommitHooks | None = None,
    ) -> None:
        self.hooks = hooks or CommitHooks()
        self._clock = clock
        self._rows = Rows()
        self._lock = threading.Lock()
        self._owner: int | None = None

    def read(self, fn: Callable[[MemoryTx], T]) -> T:
        """Run `fn` on one consistent state; it may not write."""
        return self._exclusively(lambda: self._run(fn, writable=False, epoch=None))

    def transact(self, fn: Callable[[MemoryTx], T], *, epoch: int | None = None) -> T:
        """Run `fn` in one transaction. Raises: FencedError; whatever `fn` raises, with nothing changed."""
        return self._exclusively(lambda: self._run(fn, writable=True, epoch=epoch))

    def close(self) -> None:
        """Nothing to do; every store has it."""

    def audit_rows(self) -> tuple[AuditRow, ...]:
        """The audit log, oldest first; for tests."""
        return tuple(self._rows.audit.values())

    def _exclusively(self, work: Callable[[], T]) -> T:
        me = threading.get_ident()
        if self._owner == me:
            raise RuntimeError("a store call inside transact: use the tx that the function was given")
        with self._lock:
            self._owner = me
            try:
                return work()
            finally:
                self._owner = None

    def _run(self, fn: Callable[[MemoryTx], T], *, writable: bool, epoch: int | None) -> T:
        tx = self.tx_class(self._rows, writable=writable)
        try:
            if epoch is not None:
                self._check_epoch(epoch)
            result = fn(tx)
            if writable:
                tx.flush_feed()
                self.hooks.before_commit()
        except BaseException:
            tx.undo()
            raise
        finally:
            tx.end()
        if writable:
            self.hooks.after_commit()
        return result

    def _check_epoch(self, epoch: int) -> None:
        current, expires_at = self._rows.scalars["epoch"], self._rows.scalars["expires_at"]
        now = 0 if self._clock is None else self._clock.now()
        if current != epoch or expires_at <= now:
            raise FencedError(
                f"epoch {epoch} may not write: epoch {current} leads, its lease ends at {expires_at}, now is {now}",
                hint="stop dispatching and compete for the lease again",
                facts={"epoch": epoch, "current": current, "expires_at": expires_at},
            )
