"""Where a test may stop the world: just before and just after a commit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["CommitHooks"]


def _nothing() -> None:
    return None


@dataclass(slots=True)
class CommitHooks:
    """Called around every commit of `transact`.

    What `before_commit` raises takes the commit back. What `after_commit` raises reaches callers whose changes stay: an
    acknowledgement that got lost.
    """

    before_commit: Callable[[], None] = _nothing
    after_commit: Callable[[], None] = _nothing
