"""How long jobs are expected to run, rule by rule (docs/adr/0013)."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from factory.domain.ids import Digest, EndpointName, JobId, ModelName, VersionId
from factory.domain.jobs import (
    AlgorithmEntry,
    Attempt,
    AttemptState,
    CommandEntry,
    Entry,
    FunctionEntry,
    IngestEntry,
    Job,
    JobState,
    ModelRef,
    Operation,
    ServiceEntry,
)
from factory.domain.time import SECOND
from factory.scheduling.estimating import (
    KEPT_RUNS,
    UNKNOWN,
    Run,
    RunTimes,
    kind_of,
    learned,
    progress_ms,
    remaining_ms,
    run_of,
    until,
)
from factory.testing.builders import attempt, job, resources, spec


def run(at: int, ran: int, declared: int = 0, id: str = "") -> Run:
    return at, JobId(id or f"job-{at}"), ran, declared


def asked(*, estimate_s: int | None = None, timeout_s: int | None = None, **what: object) -> Job:
    row = job("job-a", **what)  # pyright: ignore[reportArgumentType]
    return replace(row, spec=replace(row.spec, estimate_s=estimate_s, timeout_s=timeout_s))


def tried(
    *, began: int | None = 0, ended: int | None = None, saved: int | None = None, ordinal: int = 1, admitted: int = 0
) -> Attempt:
    state = AttemptState.RUNNING if ended is None else AttemptState.ENDED
    base = attempt("job-a", ordinal=ordinal, state=state, admitted_at=admitted)
    return replace(base, running_at=began, ended_at=ended, checkpointed_at=saved)


def succeeded(*attempts: Attempt, at: int | None = 100, state: JobState = JobState.SUCCEEDED) -> Job:
    return replace(asked(estimate_s=7), state=state, ended_at=at, attempts=attempts)


# -- what is alike (E1) ------------------------------------------------------------------------------------------------


def test_jobs_are_alike_if_tenant_entry_and_size_are() -> None:
    base = job("job-a", cpu=2, gpu=1, replicas=3)
    assert kind_of(base) == kind_of(job("job-a", cpu=2, gpu=1, replicas=3, submitted_at=9))
    assert kind_of(base) == ("mobility", "command true job-a", 3, 2000, 1000)


@pytest.mark.parametrize(
    "other",
    [
        job("job-a", cpu=3, gpu=1, replicas=3),
        job("job-a", cpu=2, gpu=2, replicas=3),
        job("job-a", cpu=2, gpu=1, replicas=2),
        job("job-a", cpu=2, gpu=1, replicas=3, tenant="water"),
        job("job-b", cpu=2, gpu=1, replicas=3),
    ],
    ids=["cpu", "gpu", "replicas", "tenant", "name"],
)
def test_another_tenant_size_or_name_is_another_kind(other: Job) -> None:
    assert kind_of(other) != kind_of(job("job-a", cpu=2, gpu=1, replicas=3))


def test_memory_and_queue_make_no_other_kind() -> None:
    assert kind_of(job("job-a", memory_gib=1)) == kind_of(job("job-a", memory_gib=2))
    assert kind_of(job("job-a", queue="a", tenant="t")) == kind_of(job("job-a", queue="b", tenant="t"))


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        (FunctionEntry("prepare", "clean.all", None), "function prepare.clean.all"),
        (CommandEntry(("python", "train.py")), "command python nightly"),
        (CommandEntry(()), "command  nightly"),
        (
            AlgorithmEntry("series", "1.2.0", Operation.TRAIN, "{}", Digest("sha")),
            "algorithm series train",
        ),
        (AlgorithmEntry("series", "1.2.0", Operation.PREDICT, "{}", Digest("sha")), "algorithm series predict"),
        (ServiceEntry(EndpointName("traffic"), 3, ModelRef(ModelName("m"), 1), "series", "1.2.0"), "service traffic"),
        (IngestEntry(VersionId("v1")), "ingest"),
    ],
)
def test_what_a_job_runs_is_named_without_its_version_and_arguments(entry: Entry, what: str) -> None:
    assert kind_of(job("job-a", spec=spec("nightly", entry=entry))).what == what


# -- what an ended job teaches -----------------------------------------------------------------------------------------


def test_a_job_that_succeeded_teaches_how_long_it_ran() -> None:
    ended = succeeded(tried(began=2_000, ended=9_000, admitted=1_000), at=9_500)
    assert run_of(ended) == (9_500, "job-a", 7_000, 7 * SECOND)


def test_without_a_declaration_a_run_says_so_with_a_zero() -> None:
    ended = succeeded(tried(began=2, ended=9))
    ended = replace(ended, spec=replace(ended.spec, estimate_s=None))
    assert run_of(ended) == (100, "job-a", 7, 0)


@pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.SUCCEEDED])
def test_a_job_that_did_not_succeed_teaches_nothing(state: JobState) -> None:
    assert run_of(succeeded(tried(began=0, ended=9), state=state)) is None


def test_a_job_teaches_nothing_whose_times_are_not_known() -> None:
    assert run_of(succeeded(tried(began=0, ended=9), at=None)) is None
    assert run_of(succeeded()) is None
    assert run_of(succeeded(tried(began=None, ended=9))) is None
    assert run_of(succeeded(tried(began=0, ended=None))) is None


def test_what_earlier_attempts_saved_is_part_of_the_run() -> None:
    first = tried(began=0, ended=50, saved=30)
    ended = succeeded(first, tried(began=60, ended=100, ordinal=2))
    assert run_of(ended) == (100, "job-a", 30 + 40, 7 * SECOND)


# -- what runs teach (E2, E3) ------------------------------------------------------------------------------------------


def test_two_runs_are_not_enough() -> None:
    assert learned((run(1, 1000), run(2, 1000))).typical_ms is None
    assert learned((run(1, 1000), run(2, 1000), run(3, 1000))).typical_ms is not None


@pytest.mark.parametrize(
    ("ran", "typical"),
    [
        ((8, 4, 12), 12),
        ((1, 2, 3, 4), 4),
        ((1, 2, 3, 4, 5), 4),
        ((5, 4, 3, 2, 1, 6, 7, 8), 7),
        ((9, 9, 9, 1), 9),
    ],
)
def test_the_estimate_is_the_third_quartile_of_the_run_times(ran: tuple[int, ...], typical: int) -> None:
    assert learned(tuple(run(at, ms) for at, ms in enumerate(ran))).typical_ms == typical


@pytest.mark.parametrize(
    ("ms", "rounded"),
    [
        (0, 0),
        (1, 1),
        (15, 15),
        (16, 16),
        (17, 18),
        (18, 18),
        (31, 32),
        (33, 36),
        (1000, 1024),
        (1024, 1024),
        (1025, 1152),
    ],
)
def test_learned_times_are_rounded_up_to_four_binary_digits(ms: int, rounded: int) -> None:
    assert learned((run(1, ms), run(2, ms), run(3, ms))).typical_ms == rounded


def test_a_declaration_is_stretched_by_how_much_such_jobs_exceed_theirs() -> None:
    runs = (run(1, 3000, 1000), run(2, 2000, 1000), run(3, 1500, 1000))
    assert learned(runs).stretch_milli == 3072  # 3 times, rounded up


def test_the_stretch_is_the_third_quartile_too() -> None:
    runs = tuple(run(at, 1000 * factor, 1000) for at, factor in enumerate((1, 1, 2, 2, 4, 4, 8, 9)))
    assert learned(runs).stretch_milli == 8192  # the seventh of eight is eight times


def test_a_declaration_is_never_corrected_downwards() -> None:
    assert learned((run(1, 10, 1000), run(2, 20, 1000), run(3, 30, 1000))).stretch_milli == 1000


def test_runs_without_a_declaration_do_not_count_for_the_stretch() -> None:
    runs = (run(1, 3000, 1000), run(2, 3000, 1000), run(3, 9000))
    assert learned(runs) == RunTimes(runs, 9216, 1000, (3000, 3000, 9000))
    assert learned((*runs, run(4, 3000, 1000))).stretch_milli == 3072


def test_whatever_the_order_of_the_ends_the_lesson_is_the_same() -> None:
    runs = [run(5, 700, 500), run(3, 300, 100), run(9, 100), run(4, 900, 900)]
    lessons = set()
    for order in permutations(runs):
        times = UNKNOWN
        for each in order:
            times = times.with_run(each)
        lessons.add(times)
    assert lessons == {learned(tuple(sorted(runs)))}


def test_an_end_that_is_told_again_teaches_nothing_new() -> None:
    times = UNKNOWN.with_run(run(1, 5)).with_run(run(2, 5))
    assert times.with_run(run(1, 5)) is times


def test_only_the_last_runs_count() -> None:
    times = UNKNOWN
    for at in range(KEPT_RUNS + 8):
        times = times.with_run(run(at, 1000 if at < 8 else 10))
    assert len(times.runs) == KEPT_RUNS
    assert times.runs[0] == run(8, 10)
    assert times.typical_ms == 10
    assert times.with_run(run(0, 1000)) == times  # older than all that is kept


# -- estimates (E2 to E5) ----------------------------------------------------------------------------------------------


def test_a_job_of_which_nothing_is_known_has_no_estimate() -> None:
    assert remaining_ms(asked(), UNKNOWN) is None


def test_the_declared_time_is_the_estimate() -> None:
    assert remaining_ms(asked(estimate_s=60), UNKNOWN) == 60_000


def test_the_learned_time_is_the_estimate_where_none_is_declared() -> None:
    assert remaining_ms(asked(), RunTimes((), 5_000)) == 5_000
    assert remaining_ms(asked(estimate_s=60), RunTimes((), 5_000)) == 60_000


def test_a_declared_time_is_stretched_and_a_learned_one_is_not() -> None:
    times = RunTimes((), 5_000, 1_536)
    assert remaining_ms(asked(estimate_s=60), times) == 92_160
    assert remaining_ms(asked(), times) == 5_000


def test_a_timeout_bounds_every_estimate_and_is_one_where_there_is_no_other() -> None:
    assert remaining_ms(asked(timeout_s=30), UNKNOWN) == 30_000
    assert remaining_ms(asked(estimate_s=60, timeout_s=30), UNKNOWN) == 30_000
    assert remaining_ms(asked(estimate_s=60, timeout_s=90), UNKNOWN) == 60_000
    assert remaining_ms(asked(timeout_s=3), RunTimes((), 5_000)) == 3_000


def test_what_was_saved_need_not_be_done_again() -> None:
    row = replace(asked(estimate_s=60), attempts=(tried(began=5_000, ended=40_000, saved=25_000),))
    assert progress_ms(row) == 20_000
    assert remaining_ms(row, UNKNOWN) == 40_000


def test_saved_work_shortens_no_timeout() -> None:
    row = replace(asked(timeout_s=60), attempts=(tried(began=5_000, ended=40_000, saved=25_000),))
    assert remaining_ms(row, UNKNOWN) == 60_000


def test_a_job_that_has_saved_more_than_was_expected_is_expected_to_take_twice_as_long_again_and_again() -> None:
    row = replace(asked(estimate_s=10), attempts=(tried(began=0, ended=40_000, saved=30_000),))
    assert remaining_ms(row, UNKNOWN) == 10_000  # 40 s in all
    assert remaining_ms(replace(asked(estimate_s=10), attempts=()), UNKNOWN, running_ms=10_000) == 10_000


def test_of_a_job_without_a_declaration_those_that_ran_longer_tell_the_rest() -> None:
    times = learned(tuple(run(at, ms) for at, ms in enumerate((1000, 2000, 4000, 6000, 8000, 20_000))))
    assert remaining_ms(asked(), times) == times.typical_ms
    assert remaining_ms(asked(), times, running_ms=3000) == 8192 - 3000  # the median of 4, 6, 8 and 20 s, rounded up
    typical = times.typical_ms
    assert typical is not None
    assert remaining_ms(asked(), times, running_ms=7000) == typical - 7000  # only two ran longer
    assert remaining_ms(asked(), times, running_ms=typical) == typical


def test_only_ended_attempts_with_a_checkpoint_have_progress() -> None:
    assert progress_ms(replace(asked(), attempts=(tried(began=0, saved=9),))) == 0  # it goes on by itself
    assert progress_ms(replace(asked(), attempts=(tried(began=0, ended=9),))) == 0
    assert progress_ms(replace(asked(), attempts=(tried(began=None, ended=9, saved=5),))) == 0
    assert progress_ms(replace(asked(), attempts=(tried(began=7, ended=9, saved=5),))) == 0  # clocks that disagree


def test_the_progress_of_several_attempts_adds_up() -> None:
    attempts = (tried(began=0, ended=9, saved=4), tried(began=10, ended=19, saved=13, ordinal=2), tried(ordinal=3))
    assert progress_ms(replace(asked(), attempts=attempts)) == 7


# -- overruns (E6) -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "end"), [(0, 110), (109, 110), (110, 120), (119, 120), (120, 140), (139, 140), (140, 180), (500, 740)]
)
def test_who_has_outrun_its_estimate_is_expected_to_take_twice_as_long(now: int, end: int) -> None:
    assert until(100, 10, now) == end


def test_an_end_is_always_ahead_even_if_nothing_was_expected() -> None:
    assert until(100, 0, 50) == 101
    assert until(100, 0, 100) == 101
    assert until(100, -5, 101) == 102


def test_resources_of_a_kind_are_those_of_one_replica() -> None:
    row = job("job-a", spec=replace(spec("n"), resources=resources(cpu=0.5, gpu=0.25), replicas=4))
    assert kind_of(row)[2:] == (4, 500, 250)
