"""`least-attained-service`: whoever has had the least goes first; no durations needed.

Rules (docs/adr/0010)
    L1  Levels by the service that a job has had, in slots x seconds: 10, 100 and 1,000 slot-minutes, then doubled again
        and again. The lowest level goes first; within a level the time of submission, which a job keeps.
    L2  Above the horizon all levels are one: whoever has come so far is served in the order of submission, so that long
        jobs end, too. The horizon is the level of a tenth of a slot over the time that jobs wait now, on average, and
        never under the third.
    L3  A waiting job preempts running ones of a higher level.
    L4  No room is kept for a gang that does not fit: it preempts, and those behind it that fit go on meanwhile.

Source: Tiresias (Gu et al., NSDI'19), discretised 2D-LAS; differs: more levels, and the horizon (rule L2) in place of
the promotion of jobs that have waited.
"""

from __future__ import annotations

from bisect import bisect_right

from factory.domain.jobs import Job
from factory.domain.time import SECOND, Instant
from factory.scheduling.policies.order import Key, service_milli_s

__all__ = ["LeastAttainedService"]

_LIMITS = tuple(limit * 1000 for limit in (600, 6_000, *(60_000 << level for level in range(24))))  # slots_milli x s
_LEAST_HORIZON = 3


class LeastAttainedService:
    """See the module."""

    name = "least-attained-service"
    shares = True
    reclaims = True
    keeps_room = False
    keeps_for_oldest = False
    is_by_class = False
    is_by_length = False
    is_timed = True
    min_runtime_s = 600
    max_preemptions = 64

    def waiting(self, job: Job, remaining_ms: int | None) -> Key:
        """Rule L1: (level, time of submission)."""
        return bisect_right(_LIMITS, service_milli_s(job)), job.submitted_at

    def running(self, job: Job, remaining_ms: int | None, now: Instant) -> Key:
        """Return the key by the service had until now."""
        return bisect_right(_LIMITS, service_milli_s(job, now)), job.submitted_at

    def horizon(self, mean_wait_ms: int) -> int:
        """Rule L2."""
        return max(_LEAST_HORIZON, bisect_right(_LIMITS, mean_wait_ms // 10))

    def yields(self, waiting: Key, running: Key) -> bool:
        """Rule L3."""
        return waiting < running

    def changes_at(self, job: Job, now: Instant) -> Instant | None:
        """Return when it passes into the next level."""
        live, had = job.live_attempt, service_milli_s(job, now)
        level = bisect_right(_LIMITS, had)
        if live is None or level == len(_LIMITS):
            return None
        return now + max(1, -(-(_LIMITS[level] - had) * SECOND // max(1, live.allocation.slots_milli)))
