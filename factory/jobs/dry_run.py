"""What would come of a job if it were submitted now: the real plan on the scheduler's view with the job added to it.

Nothing is stored. The answer holds for this moment: the next plan sees what happened meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass

from factory.domain.ids import JobId
from factory.domain.jobs import Allocation, Job, Waiting
from factory.domain.resources import slots_milli
from factory.domain.time import Instant
from factory.scheduling.changes import JobChanged
from factory.scheduling.explaining import explain
from factory.scheduling.feasibility import check_feasible
from factory.scheduling.planning import Admit, Policy, Preempt, plan
from factory.scheduling.snapshot import Snapshot
from factory.scheduling.waiting import lane_of

__all__ = ["Forecast", "forecast"]


@dataclass(frozen=True, slots=True)
class Forecast:
    """What would become of a job."""

    feasible: bool  # it could run, at the latest when the factory is idle
    waiting: Waiting | None  # why it would wait, or could never run; None: it would start now
    allocation: Allocation | None  # what it would be given now
    preempts: tuple[JobId, ...]  # whom it would stop now, by id
    expected_start: Instant | None  # None = not known
    slots_milli: int  # what it would hold, or what it asks for; 0 if no pool can hold it


def forecast(snapshot: Snapshot, job: Job, policy: Policy, now: Instant) -> Forecast:
    """Return what would become of `job`, which is queued and not in the snapshot."""
    misfit = check_feasible(snapshot, job.spec, job.tenant)
    if misfit is not None:
        return Forecast(False, misfit, None, (), None, _asked_milli(snapshot, job))
    with_it = snapshot.evolve([JobChanged(job.id, job)])
    decisions = plan(with_it, policy, now).decisions
    preempts = sorted(d.job_id for d in decisions if isinstance(d, Preempt) and d.for_job == job.id)
    for decision in decisions:
        if isinstance(decision, Admit) and decision.job_id == job.id:
            held = decision.allocation
            return Forecast(True, None, held, tuple(preempts), now, held.slots_milli)
    said = explain(with_it, job.id, now)
    return Forecast(True, said.waiting, None, tuple(preempts), said.expected_start, _asked_milli(snapshot, job))


def _asked_milli(snapshot: Snapshot, job: Job) -> int:
    """Return what the gang would hold in the first pool that it may use."""
    for pool in snapshot.routes[lane_of(job.spec, job.tenant)]:
        return slots_milli(job.spec.resources, pool.flavor.slot) * job.spec.replicas
    return 0
