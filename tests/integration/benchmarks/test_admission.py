"""The admission benchmark on a small workload: what it prints is true of what is stored."""

from __future__ import annotations

import pytest

from benchmarks.admission import HIGH, LOW, WORKLOADS, Kind, Workload, main, measure

SMALL = Workload(2, 2, (Kind("small", LOW, 1, 20, 50, 10), Kind("large", HIGH, 20, 2, 100, 60)))


def test_the_workloads_are_those_of_the_generators() -> None:
    assert {name: (w.jobs, w.lower_bound_s) for name, w in WORKLOADS.items()} == {
        "kueue-baseline": (15_000, 66.0),
        "kueue-large": (50_000, 4.025),
    }


@pytest.mark.parametrize("durable", [False, True], ids=["memory", "sqlite"])
@pytest.mark.parametrize("realtime", [False, True], ids=["virtual", "realtime"])
def test_every_job_is_admitted_runs_and_succeeds(durable: bool, realtime: bool) -> None:
    found = measure(SMALL, durable=durable, realtime=realtime)
    assert found["admitted"] - found["preempted"] == SMALL.jobs == 88
    assert set(found["mean_time_to_admission_s"]) == {"small", "large"}
    assert 0 < found["peak_of_quota"] <= 1
    ended_s = found["wall_s"] if realtime else found["virtual_s"]
    assert ended_s >= SMALL.lower_bound_s
    assert ended_s >= 0.06 + 0.1  # the last large one comes after 60 ms and lasts 100
    assert (found["ratio"] is None) != realtime


def test_an_unknown_workload_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--workload", "kueue-huge"])
    assert "kueue-baseline" in capsys.readouterr().err
