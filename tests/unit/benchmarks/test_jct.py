"""The cluster on a virtual clock and the published policies, on traces made by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.jct import main
from benchmarks.policies.cluster import Charge, Execution, Result, Scheduler, Verdict, run
from benchmarks.policies.reference import Fifo, PublishedTiresias, Ranked, Tiresias, srsf, srtf
from benchmarks.policies.trace import TraceJob, read_trace, start_cost_s, synthetic_trace

_COST_S = 10.0


def trace(*jobs: tuple[float, int, float]) -> list[TraceJob]:
    """Build a trace of (submit_s, gpus, run_s); each start costs 10 s."""
    return [
        TraceJob(i, submit, gpus, "some", round(run_s), 1.0, _COST_S) for i, (submit, gpus, run_s) in enumerate(jobs)
    ]


def play(scheduler: Scheduler, *jobs: tuple[float, int, float], gpus: int = 8, charge: Charge = Charge.REAL) -> Result:
    return run(trace(*jobs), scheduler, gpus, charge)


def test_a_job_alone_takes_its_start_and_its_run_time() -> None:
    result = play(Fifo(1, 8), (5, 8, 100))
    assert result.completion_s == [110]
    assert result.makespan_s == 110


def test_a_preempted_job_keeps_its_progress_and_pays_its_start_again() -> None:
    # At 60 s the first has 50 s behind it; the second needs 10 + 20 s; then the first starts again: 10 + 50 s.
    result = play(Ranked(srtf, 1, 8), (0, 8, 100), (60, 8, 20))
    assert result.completion_s == [30, 150]
    assert result.preemptions == 1


def test_real_starts_are_charged_once_however_many_events_pass() -> None:
    result = play(Fifo(1, 8), (0, 4, 100), (20, 1, 5), (50, 1, 5))
    assert sorted(result.completion_s) == [15, 15, 110]


def test_the_published_way_charges_each_running_job_at_each_event() -> None:
    # The end is foretold without the cost (100 s); of what passed before the events at 20, 25, 50 and 55 s the first
    # job loses 10, 5, 10 and 5 s.
    result = play(Fifo(1, 8), (0, 4, 100), (20, 1, 5), (50, 1, 5), charge=Charge.MURI)
    assert sorted(result.completion_s) == [5, 5, 130]


def test_a_job_wider_than_a_node_takes_whole_nodes() -> None:
    result = play(Fifo(2, 8), (0, 1, 100), (0, 16, 50), gpus=16)
    assert result.completion_s == [110, 110 + 60]


def test_a_job_of_one_node_does_not_start_on_two_halves() -> None:
    result = play(Ranked(srsf, 2, 8), (0, 5, 10), (0, 5, 10), (0, 6, 30), gpus=16)
    assert sorted(result.completion_s) == [20, 20, 60]


def test_nobody_goes_past_the_head_of_fifo() -> None:
    result = play(Fifo(1, 8), (0, 4, 100), (1, 8, 10), (2, 1, 10))
    assert result.completion_s == [110, 110 + 20 - 1, 110 + 20 + 20 - 2]


def test_srsf_counts_the_gpus_and_srtf_does_not() -> None:
    wide_and_short, narrow_and_long = (0.0, 8, 100.0), (0.0, 1, 400.0)
    assert play(Ranked(srtf, 1, 8), wide_and_short, narrow_and_long).completion_s == [110, 520]
    assert play(Ranked(srsf, 1, 8), wide_and_short, narrow_and_long).completion_s == [410, 520]


def test_tiresias_lets_a_new_job_past_one_that_has_reached_the_first_limit() -> None:
    # 3,250 GPU-seconds on 8 GPUs are 406.25 s; until then first come is first served.
    result = play(Tiresias(1, 8), (0, 8, 1000), (100, 8, 50))
    assert result.completion_s[0] == pytest.approx(406.25 + 60 - 100)
    assert result.preemptions == 1


def test_tiresias_serves_a_queue_by_submission_where_the_published_simulator_lets_runners_run_on() -> None:
    # At 3,000 s two are past the last limit (7,200 GPU-seconds) and the older runs. A new one drives it out and leaves
    # room for the younger. When the new one ends, the older comes back by the paper, and waits in the simulator.
    jobs = ((0.0, 8, 3000.0), (1.0, 4, 4000.0), (3000.0, 4, 50.0))
    papers = play(Tiresias(1, 8), *jobs).completion_s
    published = play(PublishedTiresias(1, 8), *jobs).completion_s
    assert papers[0] == published[0] == 60
    assert papers[1] < published[1]


def test_a_scheduler_that_overcommits_is_caught() -> None:
    class Greedy:
        def decide(self, now_s: float, came: Sequence[Execution], ended: Sequence[Execution]) -> Verdict:
            return Verdict(start=came)

    with pytest.raises(RuntimeError, match="more than 8 GPUs"):
        play(Greedy(), (0, 8, 10), (1, 1, 10))


def test_a_scheduler_that_forgets_a_job_is_caught() -> None:
    class Idle:
        def decide(self, now_s: float, came: Sequence[Execution], ended: Sequence[Execution]) -> Verdict:
            return Verdict()

    with pytest.raises(RuntimeError, match="forgot"):
        play(Idle(), (0, 8, 10))


def test_p99_is_the_nearest_rank() -> None:
    result = Result(completion_s=[float(number) for number in range(1, 201)])
    assert result.summary()["p99_jct_s"] == 198


def test_start_costs_go_by_model_and_width() -> None:
    assert [start_cost_s("a2c", gpus) for gpus in (1, 3, 8, 64)] == [38, 39, 46, 46]
    assert start_cost_s("unheard-of", 8) == 10


def test_a_trace_is_read_by_its_columns_names(tmp_path: Path) -> None:
    file = tmp_path / "jobs.csv"
    file.write_text(
        "model_name,iteration_time,iterations,extra,submit_time,num_gpu\nbert,200,1000,x,5000,4\nvgg16,100,10,x,0,1\n"
    )
    first, second = read_trace(file)
    assert (first.model, first.submit_s, first.gpus) == ("vgg16", 0, 1)
    assert (second.index, second.run_s, second.start_cost_s) == (1, pytest.approx(203), 10)


def test_the_synthetic_trace_is_the_same_for_the_same_seed() -> None:
    assert synthetic_trace(50, 64, seed=3) == synthetic_trace(50, 64, seed=3) != synthetic_trace(50, 64, seed=4)


def test_the_last_line_is_one_object_keyed_by_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "jobs.csv"
    file.write_text("num_gpu,submit_time,iterations,model_name,iteration_time\n8,0,100,bert,1000\n")
    assert main(["--trace", str(file), "--nodes", "1", "--policies", "fifo,tiresias"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(figures) == ["fifo", "tiresias"]
    assert figures["fifo"] == {"avg_jct_s": 111.5, "p99_jct_s": 111.5, "makespan_s": 111.5, "preemptions": 0}
