"""How long will a job still run? What may be known of it when it waits, and when it runs.

    Blind      nobody says; the policy must do without
    Declared   the owner declared the steps; how long one takes is measured after the start, and known from then on
    Learned    nobody says, but jobs of the same kind have ended: the median of what those that lived as long as this
               one still had to go
All give the wall time to go after `attained_s`, starts included, in seconds; None = unknown.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Hashable
from typing import Protocol

from benchmarks.policies.cluster import Execution

__all__ = ["Blind", "Declared", "Estimator", "Learned"]

_MEASURED_AFTER_S = 60.0  # of running, its start passed: enough steps to know one's time
_ENOUGH = 5  # ended jobs; fewer tell nothing


class Estimator(Protocol):
    """Says what is known."""

    def remaining_s(self, execution: Execution, *, goes_on: bool) -> float | None:
        """Return the wall time to go: from now if it `goes_on` running, else from its next start."""
        ...

    def news_after_s(self, execution: Execution) -> float:
        """Return how long a running job must still run until there is something new to tell; inf = never."""
        ...

    def learn(self, execution: Execution) -> None:
        """Take note of a job that ended."""
        ...


class Blind:
    """Knows nothing."""

    def remaining_s(self, execution: Execution, *, goes_on: bool) -> float | None:
        """Return None."""
        return None

    def news_after_s(self, execution: Execution) -> float:
        """Return never."""
        return math.inf

    def learn(self, execution: Execution) -> None:
        """Forget it."""


class Declared:
    """Counts declared steps, and knows the time of one once the job has run for a minute."""

    def __init__(self) -> None:
        self._measured: set[int] = set()

    def remaining_s(self, execution: Execution, *, goes_on: bool) -> float | None:
        """Return steps to go times the measured time of one, and the start that is still to pass."""
        if execution.job.index not in self._measured:
            if execution.attained_s < self._needed_s(execution) - 1e-6:
                return None
            self._measured.add(execution.job.index)
        to_start_s = execution.starting_s if goes_on else execution.job.start_cost_s
        return execution.remaining_s + to_start_s

    def news_after_s(self, execution: Execution) -> float:
        """Return what is left of the first minute."""
        if execution.job.index in self._measured:
            return math.inf
        return max(0.0, self._needed_s(execution) - execution.attained_s)

    def learn(self, execution: Execution) -> None:
        """Forget it: each job tells for itself."""
        self._measured.discard(execution.job.index)

    def _needed_s(self, execution: Execution) -> float:
        # A job that was stopped before that has lost its starts: count them all.
        return execution.job.start_cost_s * (1 + execution.preemptions) + _MEASURED_AFTER_S


class Learned:
    """Remembers how long jobs ran: of the same model and size; if those are few, of the same size; else all."""

    def __init__(self) -> None:
        self._ended: dict[Hashable, list[float]] = {}
        self._expected_s: dict[int, float] = {}

    def remaining_s(self, execution: Execution, *, goes_on: bool) -> float | None:
        """Return the median of what jobs alike still ran when they had run as long as this one."""
        for kind in self._kinds(execution):
            known = self._ended.get(kind, [])
            longer = bisect_right(known, execution.attained_s)
            count = len(known) - longer
            if count >= _ENOUGH:
                remaining_s = known[longer + count // 2] - execution.attained_s
                self._expected_s[execution.job.index] = execution.attained_s + remaining_s
                return remaining_s
        self._expected_s.pop(execution.job.index, None)
        return None

    def news_after_s(self, execution: Execution) -> float:
        """Return what is left of the expected time: then it is asked anew."""
        expected_s = self._expected_s.get(execution.job.index)
        return math.inf if expected_s is None else max(0.0, expected_s - execution.attained_s)

    def learn(self, execution: Execution) -> None:
        """Remember how long it ran."""
        self._expected_s.pop(execution.job.index, None)
        for kind in self._kinds(execution):
            insort(self._ended.setdefault(kind, []), execution.attained_s)

    def _kinds(self, execution: Execution) -> tuple[Hashable, ...]:
        return ((execution.job.model, execution.gpus), execution.gpus, None)
