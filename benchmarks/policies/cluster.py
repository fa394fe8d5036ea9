"""A cluster of equal GPU nodes on a virtual clock: it asks a scheduler who runs, and keeps the accounts.

Nothing happens but when a job comes, a job ends or the scheduler's own alarm rings, so the clock jumps from one such
instant to the next. Preemption keeps the progress made; each start costs its seconds again before there is progress.

Two ways to charge a start:
    real   the seconds are charged when a job starts or starts again, never to one that goes on running
    muri   as the simulator of Muri (SIGCOMM'22) did: each running job loses them at every event, but its end is
           foretold without them. Only there to reproduce the published figures.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from benchmarks.policies.trace import TraceJob

__all__ = ["Charge", "Execution", "Result", "Scheduler", "Verdict", "run"]

_TICK_S = 1e-6  # instants closer than this are one


class Charge(StrEnum):
    """How starts are charged."""

    REAL = "real"
    MURI = "muri"


@dataclass(slots=True)
class Execution:
    """A job as it goes through the cluster. Schedulers read it; only `run` writes it."""

    job: TraceJob
    remaining_s: float  # run time still to go, starts not counted
    attained_s: float = 0.0  # wall time on its GPUs, starts counted
    is_running: bool = False
    starting_s: float = 0.0  # of the current start, still to pass
    started_at_s: float = 0.0
    checked_at_s: float = 0.0  # up to when the accounts are kept
    ends_at_s: float = math.inf
    preemptions: int = 0

    @property
    def gpus(self) -> int:
        """Size of its gang."""
        return self.job.gpus


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who stops and who starts at this instant, and when the scheduler wants to be asked again at the latest."""

    stop: Collection[Execution] = ()
    start: Collection[Execution] = ()
    wake_at_s: float = math.inf


class Scheduler(Protocol):
    """Decides who runs."""

    def decide(self, now_s: float, came: Sequence[Execution], ended: Sequence[Execution]) -> Verdict:
        """Return what changes; `came` and `ended` are the news since the last call."""
        ...


@dataclass(slots=True)
class Result:
    """What came of it."""

    completion_s: list[float] = field(default_factory=list)  # of each job, from its submission, in order of ends
    makespan_s: float = 0.0  # from the first submission to the last end
    preemptions: int = 0
    events: int = 0

    def summary(self) -> dict[str, float | int]:
        """Return the figures of the benchmark; p99 is the nearest rank."""
        ordered = sorted(self.completion_s)
        return {
            "avg_jct_s": round(sum(ordered) / len(ordered), 1),
            "p99_jct_s": round(ordered[math.ceil(0.99 * len(ordered)) - 1], 1),
            "makespan_s": round(self.makespan_s, 1),
            "preemptions": self.preemptions,
        }


def run(trace: Sequence[TraceJob], scheduler: Scheduler, gpus: int, charge: Charge) -> Result:
    """Play the trace to its last end.

    Args:
        trace: in order of submission; no job wants more than all GPUs.
        gpus: of the whole cluster; more are never given out.
    Raises:
        RuntimeError: the scheduler gave out more than there is, or lets jobs wait that nobody will ever wake.
    """
    coming = [Execution(job, remaining_s=job.run_s) for job in trace]
    coming.reverse()
    first_s = coming[-1].job.submit_s
    running: list[Execution] = []
    waiting = 0
    wake_at_s = math.inf
    result = Result()
    while coming or running or waiting:
        next_end_s = min((execution.ends_at_s for execution in running), default=math.inf)
        now_s = min(coming[-1].job.submit_s if coming else math.inf, next_end_s, wake_at_s)
        if math.isinf(now_s):
            raise RuntimeError(f"{waiting} jobs wait, nothing runs and nothing will come: the scheduler forgot them")
        result.events += 1
        for execution in running:
            _progress(execution, now_s, charge)
        ended = [execution for execution in running if execution.ends_at_s <= now_s + _TICK_S]
        for execution in ended:
            result.completion_s.append(execution.ends_at_s - execution.job.submit_s)
            result.makespan_s = execution.ends_at_s - first_s
            execution.is_running = False
        came: list[Execution] = []
        while coming and coming[-1].job.submit_s <= now_s:
            came.append(coming.pop())
        verdict = scheduler.decide(now_s, came, ended)
        for execution in verdict.stop:
            execution.is_running = False
            execution.preemptions += 1
            execution.ends_at_s = math.inf
        result.preemptions += len(verdict.stop)
        running = [execution for execution in running if execution.is_running]
        for execution in verdict.start:
            execution.is_running = True
            execution.starting_s = execution.job.start_cost_s
            execution.started_at_s = now_s
        waiting += len(came) + len(verdict.stop) - len(verdict.start)
        running.extend(verdict.start)
        if sum(execution.gpus for execution in running) > gpus:
            raise RuntimeError(f"the scheduler gave out more than {gpus} GPUs at {now_s} s")
        for execution in running:
            unpaid_s = execution.starting_s if charge is Charge.REAL else 0.0
            execution.ends_at_s = now_s + unpaid_s + execution.remaining_s
            execution.checked_at_s = now_s
        wake_at_s = max(verdict.wake_at_s, now_s + _TICK_S)
    return result


def _progress(execution: Execution, now_s: float, charge: Charge) -> None:
    passed_s = now_s - execution.checked_at_s
    match charge:
        case Charge.REAL:
            paid_s = min(execution.starting_s, passed_s)
            execution.starting_s -= paid_s
        case Charge.MURI:
            paid_s = min(execution.job.start_cost_s, passed_s)
    execution.remaining_s -= passed_s - paid_s
    execution.attained_s += passed_s
    execution.checked_at_s = now_s
