"""Time in the kernel: integers, given from outside (rule 12).

An `Instant` is milliseconds since the Unix epoch. Durations carry their unit in the name (`timeout_s`, `grace_ms`).
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

__all__ = ["SECOND", "Clock", "Instant"]

Instant: TypeAlias = int  # milliseconds since the epoch, UTC
SECOND = 1000  # one second in Instant's unit


class Clock(Protocol):
    """Where the shells read the time; the kernel gets `now` as an argument."""

    def now(self) -> Instant: ...
