"""`fair`, the default: departments take turns by fair share; within a queue priority class, ageing, then time.

Rules (docs/adr/0010)
    F1  Within a queue the key is the time of submission less six hours for each priority class: a higher class goes
        first, and no job waits for jobs that are submitted more than twelve hours after it.
    F2  A job of a higher class preempts those of a lower one in its own queue, if its key is less, too.
"""

from __future__ import annotations

from factory.domain.jobs import Job
from factory.domain.time import SECOND, Instant
from factory.scheduling.policies.order import AGEING_S, Key

__all__ = ["Fair"]


class Fair:
    """See the module."""

    name = "fair"
    shares = True
    reclaims = True
    keeps_room = True
    keeps_for_oldest = True
    is_by_class = True
    is_by_length = False
    is_timed = False
    min_runtime_s = 120
    max_preemptions = 5

    def waiting(self, job: Job, remaining_ms: int | None) -> Key:
        """Rule F1: (aged time of submission, -class)."""
        rank = job.spec.priority.rank
        return job.submitted_at - rank * AGEING_S * SECOND, -rank

    def running(self, job: Job, remaining_ms: int | None, now: Instant) -> Key:
        """Its key does not change by running."""
        return self.waiting(job, None)

    def horizon(self, mean_wait_ms: int) -> int | None:
        """There is none."""
        return None

    def yields(self, waiting: Key, running: Key) -> bool:
        """Rule F2."""
        return waiting[1] < running[1] and waiting < running

    def changes_at(self, job: Job, now: Instant) -> Instant | None:
        """Never."""
        return None
