"""`least-attained-service`: whoever has had the least goes first; no durations needed (2D-LAS).

Rules (docs/adr/0010)
    L1  Jobs are in two classes by the service that they have had, in slots x seconds: below the limit, and above it.
        Within a class: time of submission.
    L2  A waiting job of the lower class preempts running ones of the upper.

Source: Tiresias (Gu et al., NSDI'19), discretised 2D-LAS.
"""

from __future__ import annotations

from factory.domain.jobs import Job
from factory.domain.time import SECOND, Instant
from factory.scheduling.policies.order import Key, service_milli_s

__all__ = ["LeastAttainedService"]

LIMIT_MILLI_S = 100_000 * 1000  # slots_milli x seconds


class LeastAttainedService:
    """See the module."""

    name = "least-attained-service"
    shares = True
    reclaims = True
    keeps_room = True
    keeps_for_oldest = False
    is_by_length = False
    is_timed = True

    def waiting(self, job: Job, remaining_ms: int | None) -> Key:
        """Rule L1: (class, time of submission)."""
        return int(service_milli_s(job) >= LIMIT_MILLI_S), job.submitted_at

    def running(self, job: Job, remaining_ms: int | None, now: Instant) -> Key:
        """Return the key by the service had until now."""
        return int(service_milli_s(job, now) >= LIMIT_MILLI_S), job.submitted_at

    def yields(self, waiting: Key, running: Key) -> bool:
        """Rule L2."""
        return waiting[0] < running[0]

    def changes_at(self, job: Job, now: Instant) -> Instant | None:
        """Return when it passes the limit."""
        live = job.live_attempt
        left = LIMIT_MILLI_S - service_milli_s(job, now)
        if live is None or left <= 0:
            return None
        return now + -(-left * SECOND // max(1, live.allocation.slots_milli))
