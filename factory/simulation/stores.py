"""The store as one control plane sees it: it may crash at any commit, and time may pass before any transaction.

Reads and writes go to the real adapter (in memory, or SQLite). After every commit, acknowledged or not, the checker
looks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from factory.simulation.chance import Crash
from factory.storage.hooks import CommitHooks

__all__ = ["CrashPlan", "PlaneStore", "RealStore"]

T = TypeVar("T")


class RealStore(Protocol):
    """An adapter of every store port."""

    @property
    def hooks(self) -> CommitHooks: ...

    def read(self, fn: Callable[[Any], T]) -> T: ...

    def transact(self, fn: Callable[[Any], T], *, epoch: int | None = None) -> T: ...

    def close(self) -> None: ...


class CrashPlan:
    """Whether the next commit kills the process that makes it: before it, or just after it."""

    def __init__(self) -> None:
        self.before = False
        self.after = False

    def arm(self, hooks: CommitHooks) -> None:
        """Join the adapter's hooks."""
        hooks.before_commit = self._before_commit
        hooks.after_commit = self._after_commit

    def _before_commit(self) -> None:
        if self.before:
            self.before = False
            raise Crash("before the commit")

    def _after_commit(self) -> None:
        if self.after:
            self.after = False
            raise Crash("after the commit")


class PlaneStore:
    """The door of one process.

    Args:
        before: called before each transaction with its epoch; may let the world go on, or raise Crash.
        after: called after each attempt to commit.
    """

    def __init__(self, real: RealStore, *, before: Callable[[int | None], None], after: Callable[[], None]) -> None:
        self._real = real
        self._before = before
        self._after = after

    def read(self, fn: Callable[[Any], T]) -> T:
        """As the adapter."""
        return self._real.read(fn)

    def transact(self, fn: Callable[[Any], T], *, epoch: int | None = None) -> T:
        """As the adapter, with the world around it."""
        self._before(epoch)
        try:
            return self._real.transact(fn, epoch=epoch)
        finally:
            self._after()
