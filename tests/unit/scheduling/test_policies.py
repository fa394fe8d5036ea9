"""The policies, rule by rule (docs/adr/0010)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from factory.domain.jobs import AttemptState, Job, PriorityClass
from factory.domain.time import SECOND
from factory.scheduling.policies.fair import Fair
from factory.scheduling.policies.fifo import Fifo
from factory.scheduling.policies.least_attained_service import LeastAttainedService
from factory.scheduling.policies.order import AGEING_S, Order, capped, service_milli_s
from factory.scheduling.policies.registry import DEFAULT, POLICIES, policy_named
from factory.scheduling.policies.shortest import Shortest
from factory.testing.builders import allocation, attempt, job, pool

HOUR = 3600 * SECOND
MINUTE = 60 * SECOND
CPU = pool("cpu")
HIGH, NORMAL, LOW = PriorityClass.HIGH, PriorityClass.NORMAL, PriorityClass.LOW
FAIR, FIFO, SHORTEST, LEAST = Fair(), Fifo(), Shortest(), LeastAttainedService()


def asked(at: int = 0, priority: PriorityClass = NORMAL, **what: object) -> Job:
    return job("job-a", submitted_at=at, priority=priority, **what)  # pyright: ignore[reportArgumentType]


def served(*spans: tuple[int, int | None], cpu: float = 1, estimate_s: int | None = None, at: int = 0) -> Job:
    """A job with one attempt for each (running at, ended at) in milliseconds, one slot for each CPU."""
    held = allocation(["n1"], pool=CPU, cpu=cpu)
    attempts = [
        replace(
            attempt("job-a", held, ordinal=number + 1, admitted_at=begin),
            state=AttemptState.RUNNING if end is None else AttemptState.ENDED,
            ended_at=end,
        )
        for number, (begin, end) in enumerate(spans)
    ]
    row = job("job-a", cpu=cpu, attempts=attempts, submitted_at=at)
    return replace(row, spec=replace(row.spec, estimate_s=estimate_s))


# -- names -------------------------------------------------------------------------------------------------------------


def test_the_policies_are_known_by_their_names() -> None:
    assert sorted(POLICIES) == ["fair", "fifo", "least-attained-service", "shortest"]
    for name, order in POLICIES.items():
        assert order.name == name
        assert policy_named(name) is order


def test_a_name_that_is_not_known_counts_as_the_default() -> None:
    assert policy_named("of-a-later-release") is DEFAULT
    assert DEFAULT.name == "fair"


@pytest.mark.parametrize(
    ("order", "shares", "reclaims", "keeps_room", "keeps_for_oldest", "is_by_length", "is_timed"),
    [
        (FAIR, True, True, True, True, False, False),
        (FIFO, False, False, True, True, False, False),
        (SHORTEST, True, True, False, False, True, True),
        (LEAST, True, True, False, False, False, True),
    ],
    ids=lambda value: value.name if not isinstance(value, bool) else "",
)
def test_what_each_policy_does(
    order: Order,
    shares: bool,
    reclaims: bool,
    keeps_room: bool,
    keeps_for_oldest: bool,
    is_by_length: bool,
    is_timed: bool,
) -> None:
    assert (order.shares, order.reclaims, order.keeps_room) == (shares, reclaims, keeps_room)
    assert (order.keeps_for_oldest, order.is_by_length, order.is_timed) == (keeps_for_oldest, is_by_length, is_timed)


def test_how_long_an_attempt_is_left_alone_and_how_often_a_job_is_preempted() -> None:
    limits = {order.name: (order.min_runtime_s, order.max_preemptions) for order in POLICIES.values()}
    assert limits == {
        "fair": (120, 5),
        "fifo": (120, 5),
        "shortest": (600, 64),
        "least-attained-service": (600, 64),
    }


# -- fair --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [FAIR, FIFO])
def test_within_a_class_who_came_first_goes_first(order: Order) -> None:
    assert order.waiting(asked(at=1), None) < order.waiting(asked(at=2), None)


@pytest.mark.parametrize("order", [FAIR, FIFO])
def test_a_class_is_worth_six_hours(order: Order) -> None:
    assert AGEING_S == 6 * 3600
    first = order.waiting(asked(at=0, priority=NORMAL), None)
    assert order.waiting(asked(at=6 * HOUR - 1, priority=HIGH), None) < first
    assert order.waiting(asked(at=6 * HOUR + 1, priority=HIGH), None) > first


@pytest.mark.parametrize("order", [FAIR, FIFO])
def test_of_equal_age_the_higher_class_goes_first(order: Order) -> None:
    assert order.waiting(asked(at=6 * HOUR, priority=HIGH), None) < order.waiting(asked(priority=NORMAL), None)


@pytest.mark.parametrize("order", [FAIR, FIFO])
def test_nobody_waits_for_what_is_submitted_more_than_twelve_hours_later(order: Order) -> None:
    low = order.waiting(asked(at=0, priority=LOW), None)
    assert order.waiting(asked(at=12 * HOUR - 1, priority=HIGH), None) < low
    assert order.waiting(asked(at=12 * HOUR + 1, priority=HIGH), None) > low


@pytest.mark.parametrize("order", [FAIR, FIFO])
def test_running_changes_nothing_of_a_key_of_age(order: Order) -> None:
    row = served((5 * HOUR, None))
    assert order.running(row, 7, 9 * HOUR) == order.waiting(row, None)
    assert order.waiting(row, 5) == order.waiting(row, None)
    assert order.changes_at(row, 9 * HOUR) is None
    assert order.horizon(10**9) is None


def test_the_fair_key_in_numbers() -> None:
    assert FAIR.waiting(asked(at=50 * HOUR, priority=HIGH), None) == (38 * HOUR, -2)
    assert FAIR.waiting(asked(at=50 * HOUR, priority=NORMAL), None) == (44 * HOUR, -1)
    assert FAIR.waiting(asked(at=50 * HOUR, priority=LOW), None) == (50 * HOUR, 0)


def test_a_higher_class_makes_a_lower_one_of_its_queue_yield() -> None:
    low, high = FAIR.waiting(asked(at=5, priority=LOW), None), FAIR.waiting(asked(at=9, priority=HIGH), None)
    assert FAIR.yields(high, low)
    assert not FAIR.yields(low, high)


def test_within_a_class_nobody_yields() -> None:
    assert not FAIR.yields(FAIR.waiting(asked(at=1), None), FAIR.waiting(asked(at=9), None))


def test_a_job_that_has_aged_past_a_higher_class_does_not_yield_to_it() -> None:
    old = FAIR.waiting(asked(at=0, priority=LOW), None)
    assert not FAIR.yields(FAIR.waiting(asked(at=13 * HOUR, priority=HIGH), None), old)
    assert FAIR.yields(FAIR.waiting(asked(at=11 * HOUR, priority=HIGH), None), old)


def test_first_come_first_served_preempts_nobody() -> None:
    high, low = FIFO.waiting(asked(priority=HIGH), None), FIFO.waiting(asked(at=9, priority=LOW), None)
    assert high < low
    assert not FIFO.yields(high, low)


# -- service -----------------------------------------------------------------------------------------------------------


def test_service_is_slots_times_seconds_of_all_attempts() -> None:
    row = served((0, 10 * SECOND), (20 * SECOND, 25 * SECOND), cpu=2)
    assert service_milli_s(row) == 2000 * 15


def test_a_live_attempt_counts_until_now_if_it_is_given() -> None:
    row = served((0, 10 * SECOND), (20 * SECOND, None))
    assert service_milli_s(row) == 10_000
    assert service_milli_s(row, 27 * SECOND) == 17_000
    assert service_milli_s(row, 5 * SECOND) == 10_000  # a clock that runs behind


def test_what_is_admitted_has_service_from_then_if_it_did_not_run() -> None:
    (one,) = served((3 * SECOND, 10 * SECOND)).attempts
    row = replace(served(), attempts=(replace(one, running_at=None),))
    assert service_milli_s(row) == 7_000
    row = replace(served(), attempts=(replace(one, running_at=5 * SECOND),))
    assert service_milli_s(row) == 5_000


def test_service_is_counted_down_to_thousandths_of_a_slot_second() -> None:
    assert service_milli_s(served((0, 1))) == 1
    assert service_milli_s(served((0, 1500), cpu=0.001)) == 1


def test_a_job_that_never_ran_has_had_no_service() -> None:
    assert service_milli_s(job()) == 0
    assert service_milli_s(job(), 99) == 0


# -- least attained service --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slot_minutes", "level"),
    [(0, 0), (9.99, 0), (10, 1), (99.9, 1), (100, 2), (999, 2), (1000, 3), (1999, 3), (2000, 4), (4000, 5), (8000, 6)],
)
def test_levels_are_10_100_and_1000_slot_minutes_and_then_doubled(slot_minutes: float, level: int) -> None:
    ended = round(slot_minutes * MINUTE)
    assert LEAST.waiting(served((0, ended)), None) == (level, 0)
    assert LEAST.running(served((0, None)), None, ended) == (level, 0)


def test_levels_count_slots_and_minutes_alike() -> None:
    assert LEAST.waiting(served((0, 5 * MINUTE), cpu=2), None) == LEAST.waiting(served((0, 10 * MINUTE)), None)


def test_within_a_level_who_came_first_goes_first() -> None:
    assert LEAST.waiting(served((7, 8), at=1), None) < LEAST.waiting(served((2, 3), at=2), None)


def test_the_last_level_is_open() -> None:
    ages = LEAST.running(served((0, None), cpu=1), None, 10**18)
    assert ages[0] == 26
    assert LEAST.changes_at(served((0, None)), 10**18) is None


def test_a_job_of_a_lower_level_makes_a_higher_one_yield() -> None:
    assert LEAST.yields((0, 99), (1, 0))
    assert LEAST.yields((1, 1), (1, 2))
    assert not LEAST.yields((1, 2), (1, 2))
    assert not LEAST.yields((2, 0), (1, 9))


def test_a_running_job_changes_its_level_when_its_service_passes_the_limit() -> None:
    row = served((100, None))
    assert LEAST.changes_at(row, 100) == 100 + 10 * MINUTE
    assert LEAST.changes_at(row, 100 + 4 * MINUTE) == 100 + 10 * MINUTE
    assert LEAST.changes_at(row, 100 + 10 * MINUTE) == 100 + 100 * MINUTE
    assert LEAST.changes_at(served((0, None), cpu=5), 0) == 2 * MINUTE


def test_a_change_is_never_now_and_never_too_early() -> None:
    row = served((0, None), cpu=0.007)
    at = LEAST.changes_at(row, 123)
    assert at is not None
    assert LEAST.running(row, None, at)[0] == 1
    assert LEAST.running(row, None, at - 200)[0] == 0


def test_what_does_not_run_does_not_change() -> None:
    assert LEAST.changes_at(served((0, 5)), 10) is None
    assert LEAST.changes_at(job(), 10) is None


@pytest.mark.parametrize(
    ("wait_minutes", "horizon"), [(0, 3), (1000, 3), (10_000, 3), (19_999, 3), (20_000, 4), (40_000, 5), (80_000, 6)]
)
def test_the_horizon_is_the_level_of_a_tenth_of_a_slot_over_the_mean_wait(wait_minutes: int, horizon: int) -> None:
    assert LEAST.horizon(wait_minutes * MINUTE) == horizon


def test_from_the_horizon_on_levels_count_as_one() -> None:
    assert capped((2, 7), 3) == (2, 7)
    assert capped((3, 7), 3) == (3, 7)
    assert capped((9, 7), 3) == (3, 7)
    assert capped((9, 7, 1), None) == (9, 7, 1)


# -- shortest ----------------------------------------------------------------------------------------------------------


def test_what_needs_the_least_service_goes_first() -> None:
    small, wide = asked(cpu=1), asked(cpu=4)
    assert SHORTEST.waiting(small, 40_000) == (40_000, 0)
    assert SHORTEST.waiting(wide, 10_000) == (40_000, 0)
    assert SHORTEST.waiting(wide, 9_000) < SHORTEST.waiting(small, 40_000)
    assert SHORTEST.waiting(asked(at=5), 7_000) > SHORTEST.waiting(asked(at=4), 7_000)


def test_size_is_told_by_gpus_or_else_cpus_times_replicas() -> None:
    assert SHORTEST.waiting(asked(cpu=8, gpu=2, replicas=3), 1_000)[0] == 6_000
    assert SHORTEST.waiting(asked(cpu=0.5, replicas=3), 1_000)[0] == 1_500
    assert SHORTEST.waiting(asked(cpu=0, memory_gib=1), 5_000)[0] == 5


def test_size_is_what_a_job_holds_or_last_held() -> None:
    assert SHORTEST.running(served((0, None), cpu=3), 2_000, 0)[0] == 6_000
    assert SHORTEST.waiting(served((0, 1), cpu=3), 2_000)[0] == 6_000


@pytest.mark.parametrize(
    ("slot_minutes", "expected"),
    [(0, 10), (9, 10), (10, 10), (19, 10), (20, 20), (39, 20), (40, 40), (100, 80), (160, 160)],
)
def test_of_a_job_of_unknown_length_as_much_is_expected_as_it_has_had(slot_minutes: int, expected: int) -> None:
    grid = 60_000  # slots_milli x seconds in a slot-minute
    assert SHORTEST.waiting(served((0, slot_minutes * MINUTE)), None) == (expected * grid, 0)
    assert SHORTEST.running(served((0, None)), None, slot_minutes * MINUTE) == (expected * grid, 0)


def test_a_job_with_less_left_makes_others_yield() -> None:
    assert SHORTEST.yields((5, 9), (6, 0))
    assert not SHORTEST.yields((6, 0), (6, 0))
    assert not SHORTEST.yields((7, 0), (6, 9))
    assert SHORTEST.horizon(10**12) is None


def test_the_key_of_a_job_of_unknown_length_changes_on_the_grid() -> None:
    row = served((0, None))
    assert SHORTEST.changes_at(row, 0) == 10 * MINUTE
    assert SHORTEST.changes_at(row, 10 * MINUTE) == 20 * MINUTE
    assert SHORTEST.changes_at(row, 25 * MINUTE) == 40 * MINUTE
    assert SHORTEST.changes_at(served((0, None), cpu=4), 0) == 150 * SECOND


def test_the_key_of_a_job_of_declared_length_asks_for_no_new_plan() -> None:
    assert SHORTEST.changes_at(served((0, None), estimate_s=60), 0) is None
    assert SHORTEST.changes_at(served((0, 5)), 10) is None
