"""The factory's plan in the simulated cluster, and what its policies may know."""

from __future__ import annotations

import math

import pytest

from benchmarks.jct import POLICIES
from benchmarks.policies.cluster import Charge, Execution, run
from benchmarks.policies.estimates import Blind, Declared
from benchmarks.policies.trace import TraceJob, synthetic_trace


def execution(index: int = 0, *, gpus: int = 1, model: str = "bert", run_s: float = 1000.0) -> Execution:
    return Execution(TraceJob(index, 0.0, gpus, model, round(run_s), 1.0, 10.0), remaining_s=run_s)


def test_a_declared_job_is_unknown_until_it_has_run_for_a_minute() -> None:
    declared, job = Declared(), execution(run_s=1000)
    assert declared.remaining_s(job, goes_on=False) is None
    assert declared.news_after_s(job) == 70
    job.attained_s, job.remaining_s = 70, 940
    assert declared.remaining_s(job, goes_on=True) == 940
    assert declared.news_after_s(job) == math.inf


def test_a_declared_job_that_is_stopped_still_has_a_start_to_pay() -> None:
    declared, job = Declared(), execution(run_s=1000)
    job.attained_s, job.remaining_s = 70, 940
    assert declared.remaining_s(job, goes_on=False) == 950


def test_a_blind_policy_is_told_nothing() -> None:
    job = execution()
    assert Blind().remaining_s(job, goes_on=True) is None
    assert Blind().news_after_s(job) == math.inf


@pytest.mark.parametrize("policy", [name for name in POLICIES if name.startswith("ours")])
def test_every_job_of_a_busy_day_ends_under_the_factorys_plan(policy: str) -> None:
    trace = synthetic_trace(60, 16, seed=5)
    result = run(trace, POLICIES[policy](2, 8, Charge.REAL), 16, Charge.REAL)
    assert len(result.completion_s) == len(trace)


def average_jct_s(policy: str, seed: int) -> float:
    trace = synthetic_trace(60, 16, seed=seed)
    return run(trace, POLICIES[policy](2, 8, Charge.REAL), 16, Charge.REAL).summary()["avg_jct_s"]


def test_attained_service_with_a_horizon_beats_tiresias_over_some_small_traces() -> None:
    # One small trace may go either way: the reference moves its jobs for nothing.
    seeds = range(4)
    assert sum(average_jct_s("ours", seed) for seed in seeds) < sum(average_jct_s("tiresias", seed) for seed in seeds)


def test_declared_steps_are_nearly_as_good_as_knowing_every_run_time() -> None:
    assert average_jct_s("ours-declared", 1) <= 1.3 * average_jct_s("srsf", 1)
