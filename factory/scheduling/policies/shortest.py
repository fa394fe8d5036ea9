"""`shortest`: what needs the least service goes first (shortest remaining service first, SRSF).

Rules (docs/adr/0010)
    S1  The key is the service that is left, in slots x seconds: expected run time x slots; then the time of submission.
    S2  Of a job whose run time is not known, as much is expected as it has had (Lindy's law), on the grid of 10
        slot-minutes, doubled again and again: among themselves such jobs are served by least attained service.
    S3  A waiting job preempts those that have more left. What runs has ever less left, so nobody takes turns.
    S4  No room is kept for a gang that does not fit: it preempts, and those behind it that fit go on meanwhile.

Source: SRSF as in Tiresias (Gu et al., NSDI'19), section 2.
"""

from __future__ import annotations

from factory.domain.jobs import Job
from factory.domain.time import SECOND, Instant
from factory.scheduling.policies.order import Key, service_milli_s

__all__ = ["Shortest"]

_GRID_MILLI_S = 600 * 1000  # slots_milli x seconds


class Shortest:
    """See the module."""

    name = "shortest"
    shares = True
    reclaims = True
    keeps_room = False
    keeps_for_oldest = False
    is_by_class = False
    is_by_length = True
    is_timed = True
    min_runtime_s = 600
    max_preemptions = 64

    def waiting(self, job: Job, remaining_ms: int | None) -> Key:
        """Rule S1."""
        return _left(job, remaining_ms, None), job.submitted_at

    def running(self, job: Job, remaining_ms: int | None, now: Instant) -> Key:
        """Return the key by what is left now."""
        return _left(job, remaining_ms, now), job.submitted_at

    def horizon(self, mean_wait_ms: int) -> int | None:
        """There is none."""
        return None

    def yields(self, waiting: Key, running: Key) -> bool:
        """Rule S3."""
        return waiting < running

    def changes_at(self, job: Job, now: Instant) -> Instant | None:
        """Return when what it has had passes the grid (rule S2); it matters only where its run time is not known."""
        live, had = job.live_attempt, service_milli_s(job, now)
        if live is None or job.spec.estimate_s is not None:
            return None
        return now + max(1, -(-(_grid_above(had) - had) * SECOND // max(1, live.allocation.slots_milli)))


def _left(job: Job, remaining_ms: int | None, now: Instant | None) -> int:
    if remaining_ms is not None:
        return remaining_ms * _slots(job) // SECOND
    had = service_milli_s(job, now)
    return _grid_above(had) - (_grid_above(had) // 2 if had >= _GRID_MILLI_S else 0)


def _grid_above(had: int) -> int:
    """Return the first value of the grid that is greater."""
    value = _GRID_MILLI_S
    while value <= had:
        value *= 2
    return value


def _slots(job: Job) -> int:
    """Return what the job holds or last held; before that, what its GPUs, or else its CPUs, come to."""
    if job.attempts:
        return job.attempts[-1].allocation.slots_milli
    asked = job.spec.resources
    return (asked.gpu_milli or asked.cpu_milli or 1) * job.spec.replicas
