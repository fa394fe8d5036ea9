"""What would come of a job if it were submitted now: the real plan on the scheduler's view with the job added to it.

Nothing is stored. The answer holds for this moment: the next plan sees what happened meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from factory.domain.ids import JobId
from factory.domain.jobs import Allocation, Job, Waiting
from factory.domain.resources import slots_milli
from factory.domain.time import SECOND, Instant
from factory.scheduling.changes import JobChanged
from factory.scheduling.explaining import why_in
from factory.scheduling.feasibility import check_feasible
from factory.scheduling.planning import Planning, Policy
from factory.scheduling.quota import ENDLESS
from factory.scheduling.snapshot import Snapshot
from factory.scheduling.waiting import lane_of

__all__ = ["Forecast", "forecast"]


@dataclass(frozen=True, slots=True)
class Forecast:
    """What would become of a job."""

    feasible: bool  # it could run, at the latest when the factory is idle
    waiting: Waiting | None  # why it would wait, or could never run; None: it would start now
    allocation: Allocation | None  # what it would be given now, or when those that it stops are gone
    preempts: tuple[JobId, ...]  # whom it would stop now, by id
    expected_start: Instant | None  # None = not known
    slots_milli: int  # what it would hold, or what it asks for; 0 if no pool can hold it
    helps: tuple[str, ...] = ()  # what would let it start sooner


def forecast(snapshot: Snapshot, job: Job, policy: Policy, now: Instant) -> Forecast:
    """Return what would become of `job`, which is queued and not in the snapshot."""
    misfit = check_feasible(snapshot, job.spec, job.tenant)
    if misfit is not None:
        return Forecast(False, misfit, None, (), None, _asked_milli(snapshot, job))
    # every job's turn comes in this plan: what a real one leaves for the next, this one decides at once
    planning = Planning(snapshot.evolve([JobChanged(job.id, job)]), replace(policy, max_decisions=ENDLESS), now)
    planning.run()
    if (admitted := planning.admitted(job.id)) is not None:
        held = admitted.allocation
        return Forecast(True, None, held, (), now, held.slots_milli)
    why, start, helps = why_in(planning, job, now)
    if (found := planning.preempting.get(job.id)) is not None:
        victims = tuple(sorted(victim.id for victim in found.victims))
        gone = now + max(victim.spec.grace_s for victim in found.victims) * SECOND
        return Forecast(True, why, found.allocation, victims, gone, found.allocation.slots_milli)
    return Forecast(True, why, None, (), start, _asked_milli(snapshot, job), helps)


def _asked_milli(snapshot: Snapshot, job: Job) -> int:
    """Return what the gang would hold in the first pool that it may use."""
    for pool in snapshot.routes[lane_of(job.spec, job.tenant)]:
        return slots_milli(job.spec.resources, pool.flavor.slot) * job.spec.replicas
    return 0
