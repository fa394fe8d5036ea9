"""What queues have used of late: usage that counts half after a half-life (KEP-4136, "admission fair sharing").

The usage of a queue at time t is the sum over its allocations of slots x (the weight of its end - that of its start),
where an instant weighs 2^((instant - since) / half-life): the weights grow forward, so that nothing that has ended is
ever counted again, and all queues are compared at the same t without dividing by its weight. Sums of whole numbers: the
order in which jobs end does not matter.

An admission counts from one tick before it, at once. Without this entry penalty, bursts between two ticks would be
free.
"""

from __future__ import annotations

from decimal import Decimal

from factory.domain.jobs import AttemptState, Job
from factory.domain.time import SECOND, Instant

__all__ = ["HALF_LIFE_S", "TICK_S", "spent", "weight"]

HALF_LIFE_S = 4 * 3600
TICK_S = 60
_TICKS = HALF_LIFE_S // TICK_S
_POWERS = tuple(int(Decimal(2) ** (Decimal(tick) / _TICKS) * 2**32) for tick in range(_TICKS))


def weight(at: Instant, since: Instant, ticks: int = 0) -> int:
    """Return how much an instant weighs, as a whole number; what lies before `since` weighs as that."""
    tick = max(0, (at - since) // (TICK_S * SECOND) + ticks)
    return _POWERS[tick % _TICKS] << (tick // _TICKS)


def spent(job: Job, since: Instant) -> int:
    """Return what the job's attempts add to what its queue has spent: their ends less their starts, in slots.

    An attempt that is live has no end yet: who compares adds the slots in use x the weight of now.
    """
    total = 0
    for attempt in job.attempts:
        value = -weight(attempt.admitted_at, since, -1)
        if attempt.state is AttemptState.ENDED:
            ended_at = attempt.admitted_at if attempt.ended_at is None else max(attempt.ended_at, attempt.admitted_at)
            value += weight(ended_at, since)
        total += attempt.allocation.slots_milli * value
    return total
