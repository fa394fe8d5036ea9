"""`fifo`: first come, first served, across all queues of the pool.

Rules (docs/adr/0010)
    O1  The key is the time of submission less six hours for each priority class, as `fair` (rule F1), but it decides
        between queues, too: there are no turns.
    O2  Nobody is preempted. Quotas hold as everywhere.
"""

from __future__ import annotations

from factory.domain.jobs import Job
from factory.domain.time import Instant
from factory.scheduling.policies.fair import Fair
from factory.scheduling.policies.order import Key

__all__ = ["Fifo"]


class Fifo:
    """See the module."""

    name = "fifo"
    shares = False
    reclaims = False
    keeps_room = True
    keeps_for_oldest = True
    is_by_class = True
    is_by_length = False
    is_timed = False
    min_runtime_s = 120
    max_preemptions = 5

    def waiting(self, job: Job, remaining_ms: int | None) -> Key:
        """Rule O1."""
        return Fair().waiting(job, None)

    def running(self, job: Job, remaining_ms: int | None, now: Instant) -> Key:
        """Its key does not change by running."""
        return self.waiting(job, None)

    def horizon(self, mean_wait_ms: int) -> int | None:
        """There is none."""
        return None

    def yields(self, waiting: Key, running: Key) -> bool:
        """Rule O2."""
        return False

    def changes_at(self, job: Job, now: Instant) -> Instant | None:
        """Never."""
        return None
