"""What a policy is: keys that say who goes first, and who must make room for whom.

A key is whole numbers, least first. The key of a job that waits does not change while it waits, so that a queue is kept
in order instead of being sorted again; ageing is part of it, by the instant of submission: a job that is worth an hour
less goes before whatever is submitted an hour later.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

from factory.domain.jobs import Job
from factory.domain.time import SECOND, Instant

__all__ = ["AGEING_S", "Key", "Order", "capped", "service_milli_s"]

Key: TypeAlias = tuple[int, ...]  # of one length within a policy

AGEING_S = 6 * 3600  # what one priority class is worth: waiting so long longer makes up for it


class Order(Protocol):
    """A policy."""

    @property
    def name(self) -> str:
        """As a pool names it."""
        ...

    @property
    def shares(self) -> bool:
        """Whether queues take turns by fair share (True), or the keys alone decide between queues, too."""
        ...

    @property
    def reclaims(self) -> bool:
        """Whether jobs of other queues that hold more than their due may be preempted."""
        ...

    @property
    def keeps_room(self) -> bool:
        """Whether room is kept for a gang that is in turn but does not fit."""
        ...

    @property
    def keeps_for_oldest(self) -> bool:
        """Whether it is kept for the one with the least key of all queues, before turns are taken."""
        ...

    @property
    def is_timed(self) -> bool:
        """Whether keys of running jobs change as they run (`changes_at`)."""
        ...

    @property
    def is_by_class(self) -> bool:
        """Whether a job yields only to such as have a lesser second part of their key: a higher class."""
        ...

    @property
    def is_by_length(self) -> bool:
        """Whether keys depend on expected run times."""
        ...

    def waiting(self, job: Job, remaining_ms: int | None) -> Key:
        """Return the key of a job that waits.

        Args:
            remaining_ms: how long it is expected to run; None = unknown.
        """
        ...

    def running(self, job: Job, remaining_ms: int | None, now: Instant) -> Key:
        """Return the key that a running job would have if it waited now."""
        ...

    @property
    def min_runtime_s(self) -> int:
        """An attempt runs so long before it may be preempted."""
        ...

    @property
    def max_preemptions(self) -> int:
        """So often one job may be preempted; after that it is left alone."""
        ...

    def horizon(self, mean_wait_ms: int) -> int | None:
        """Return the first part of a key from which on keys count as equal in it; None = they never do.

        Args:
            mean_wait_ms: how long the jobs that wait now have waited, on average.
        """
        ...

    def yields(self, waiting: Key, running: Key) -> bool:
        """Return whether a running job of the same queue with this key makes room for a waiting one."""
        ...

    def changes_at(self, job: Job, now: Instant) -> Instant | None:
        """Return when a running job's key next changes enough to plan again; None = never."""
        ...


def capped(key: Key, horizon: int | None) -> Key:
    """Return the key as it counts below a horizon."""
    return key if horizon is None or key[0] <= horizon else (horizon, *key[1:])


def service_milli_s(job: Job, now: Instant | None = None) -> int:
    """Return the thousandths of a slot x seconds that the job's attempts have held; live ones until `now`, if given."""
    total = 0
    for attempt in job.attempts:
        end = attempt.ended_at if attempt.ended_at is not None else now
        begin = attempt.running_at if attempt.running_at is not None else attempt.admitted_at
        if end is not None:
            total += attempt.allocation.slots_milli * max(0, end - begin)
    return total // SECOND
