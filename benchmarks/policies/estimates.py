"""How long will a job still run? What may be known of it when it waits, and when it runs.

    Blind      nobody says; the policy must do without
    Declared   the owner declared the steps; how long one takes is measured after the start, and known from then on

They give the wall time to go after `attained_s`, starts included, in seconds; None = unknown. What is learned from jobs
that ended is the kernel's own (`factory.scheduling.estimating`).
"""

from __future__ import annotations

import math
from typing import Protocol

from benchmarks.policies.cluster import Execution

__all__ = ["Blind", "Declared", "Estimator"]

_MEASURED_AFTER_S = 60.0  # of running, its start passed: enough steps to know one's time


class Estimator(Protocol):
    """Says what is known."""

    def remaining_s(self, execution: Execution, *, goes_on: bool) -> float | None:
        """Return the wall time to go: from now if it `goes_on` running, else from its next start."""
        ...

    def news_after_s(self, execution: Execution) -> float:
        """Return how long a running job must still run until there is something new to tell; inf = never."""
        ...

    def forget(self, execution: Execution) -> None:
        """Take note that the job ended."""
        ...


class Blind:
    """Knows nothing."""

    def remaining_s(self, execution: Execution, *, goes_on: bool) -> float | None:
        """Return None."""
        return None

    def news_after_s(self, execution: Execution) -> float:
        """Return never."""
        return math.inf

    def forget(self, execution: Execution) -> None:
        """Do nothing."""


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

    def forget(self, execution: Execution) -> None:
        """Drop what was measured: each job tells for itself."""
        self._measured.discard(execution.job.index)

    def _needed_s(self, execution: Execution) -> float:
        # A job that was stopped before that has lost its starts: count them all.
        return execution.job.start_cost_s * (1 + execution.preemptions) + _MEASURED_AFTER_S
