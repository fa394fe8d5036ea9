"""The virtual world's sources of time, chance and names: all seeded, so that a seed is a whole history."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from factory.domain.time import Instant

__all__ = ["Crash", "VirtualClock", "VirtualIds", "happens"]

START: Instant = 1_700_000_000_000


class Crash(BaseException):
    """A process dies here: nothing after this point happens in it. No `except Exception` may stop it."""


@dataclass(slots=True)
class VirtualClock:
    """Time that moves only when the simulation says so, also backwards."""

    at: Instant = START

    def now(self) -> Instant:
        return self.at

    def advance(self, milliseconds: int) -> None:
        """Move by so much."""
        self.at += milliseconds


class VirtualIds:
    """Ids that sort by creation."""

    def __init__(self) -> None:
        self._count = 0

    def new(self, kind: str) -> str:
        self._count += 1
        return f"{kind}-{self._count:06d}"


def happens(rng: Random, per_thousand: int) -> bool:
    """True so often in a thousand times."""
    return rng.randrange(1000) < per_thousand
