"""Whether a pending job may be queued, and a queued one admitted: dependencies first, then its inputs' gates.

The rule about one dataset version and one purpose is `jobs.gating.judge_read`; submit and admission ask the same one.
Here it becomes what the loop does: let go, hold with the reason, or cancel what can never start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from factory.domain.ids import PoolName
from factory.domain.jobs import Job, JobState, Waiting
from factory.domain.tenancy import Scope
from factory.jobs.gating import GateReader, waits_for

__all__ = ["Doomed", "Judgement", "Open", "awaited", "judge", "pool_key"]


@dataclass(frozen=True, slots=True)
class Open:
    """Nothing holds it."""


@dataclass(frozen=True, slots=True)
class Doomed:
    """A job that it depends on ended without success: it can never start, and is cancelled."""

    why: str


Judgement: TypeAlias = Open | Waiting | Doomed


def judge(reader: GateReader, job: Job) -> Judgement:
    """Return what holds `job` now, by the rows that `reader` sees."""
    scope = Scope(job.tenant)
    for before_id in job.spec.after:
        before = reader.job(scope, before_id)
        if before is None:
            return Doomed(f"job {before_id}, which it was to follow, is gone")
        if before.is_terminal and before.state is not JobState.SUCCEEDED:
            return Doomed(f"job {before_id}, which it was to follow, ended as {before.state.value}")
    return waits_for(reader, job.tenant, job.spec) or Open()


def awaited(job: Job) -> frozenset[str]:
    """Return the keys of jobs, dataset versions and pools whose change may let the job go, or hold it again."""
    pool = () if job.spec.pool is None else (pool_key(job.spec.pool),)
    return frozenset(job.spec.after) | frozenset(read.version_id for read in job.spec.inputs) | frozenset(pool)


def pool_key(pool: PoolName) -> str:
    """Return the key of a pool: no job and no version has such an id.

    >>> pool_key(PoolName("cpu"))
    'pool:cpu'
    """
    return f"pool:{pool}"
