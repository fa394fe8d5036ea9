"""What queues have used of late, by weights that grow forward."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest

from factory.domain.jobs import AttemptState, Job
from factory.domain.time import SECOND
from factory.scheduling.spending import HALF_LIFE_S, TICK_S, spent, weight
from factory.testing.builders import allocation, attempt, job, pool

HALF_LIFE = HALF_LIFE_S * SECOND
TICK = TICK_S * SECOND
CPU = pool("cpu")


def used(*times: tuple[int, int | None], cpu: float = 1, queue: str = "mobility") -> Job:
    """A job with one attempt for each (admitted, ended); None = it is live."""
    held = allocation(["n1"], pool=CPU, cpu=cpu)
    attempts = [
        replace(
            attempt("job-a", held, ordinal=at + 1, admitted_at=begin),
            state=AttemptState.RUNNING if end is None else AttemptState.ENDED,
            ended_at=end,
        )
        for at, (begin, end) in enumerate(times)
    ]
    return job("job-a", queue=queue, attempts=attempts)


def values(row: Job, since: int = 0) -> list[int]:
    return [spent(replace(row, attempts=(attempt,)), since) for attempt in row.attempts]


def test_the_beginning_weighs_one_in_fixed_point() -> None:
    assert weight(0, 0) == 2**32
    assert weight(777, 777) == 2**32


@pytest.mark.parametrize("halves", [1, 2, 3, 10, 64])
def test_an_instant_weighs_twice_what_one_half_life_before_it_does(halves: int) -> None:
    assert weight(halves * HALF_LIFE, 0) == 2**32 << halves
    odd = 17 * TICK
    assert weight(odd + halves * HALF_LIFE, 0) == weight(odd, 0) << halves


def test_within_a_half_life_weights_grow_evenly_tick_by_tick() -> None:
    weights = [weight(tick * TICK, 0) for tick in range(HALF_LIFE_S // TICK_S + 1)]
    assert weights == sorted(set(weights))
    factors = [Fraction(after, before) for before, after in pairwise(weights)]
    assert max(factors) - min(factors) < Fraction(1, 10**6)
    assert abs(weights[120] / 2**32 - 2**0.5) < 1e-9


def test_within_a_tick_nothing_changes() -> None:
    assert weight(TICK - 1, 0) == weight(0, 0)
    assert weight(TICK, 0) > weight(0, 0)
    assert weight(TICK + 5, 5) == weight(TICK, 0)


def test_what_lies_before_the_beginning_weighs_as_that() -> None:
    assert weight(0, 10 * TICK) == 2**32
    assert weight(0, 0, -1) == 2**32
    assert weight(5 * TICK, 0, -1) == weight(4 * TICK, 0)
    assert weight(5 * TICK, 0, 2) == weight(7 * TICK, 0)


def test_the_half_life_is_four_hours_and_a_tick_a_minute() -> None:
    assert (HALF_LIFE_S, TICK_S) == (14_400, 60)


def test_an_ended_attempt_adds_its_end_less_its_start_times_its_slots() -> None:
    at = 10 * TICK
    assert values(used((at, at + 6 * TICK), cpu=3)) == [3000 * (weight(at + 6 * TICK, 0) - weight(at - TICK, 0))]


def test_a_live_attempt_has_no_end_yet() -> None:
    at = 10 * TICK
    assert values(used((at, None), cpu=2)) == [-2000 * weight(9 * TICK, 0)]


def test_a_burst_that_ends_within_its_tick_has_still_cost_one() -> None:
    at = 10 * TICK
    assert values(used((at, at))) == [1000 * (weight(at, 0) - weight(at - TICK, 0))]
    assert values(used((at, at)))[0] > 0


def test_an_end_before_its_start_counts_as_if_it_were_then() -> None:
    at = 10 * TICK
    assert values(used((at, 2 * TICK))) == values(used((at, at)))


def test_an_end_that_is_not_known_counts_as_if_it_were_the_start() -> None:
    row = used((10 * TICK, 11 * TICK))
    lost = replace(row, attempts=(replace(row.attempts[0], ended_at=None),))
    assert values(lost) == values(used((10 * TICK, 10 * TICK)))


@pytest.mark.parametrize("state", [state for state in AttemptState if state is not AttemptState.ENDED])
def test_only_a_proven_death_is_an_end(state: AttemptState) -> None:
    row = used((10 * TICK, 11 * TICK))
    alive = replace(row, attempts=(replace(row.attempts[0], state=state),))
    assert values(alive) == [-1000 * weight(9 * TICK, 0)]


def test_every_attempt_of_a_job_counts() -> None:
    row = used((10 * TICK, 11 * TICK), (20 * TICK, None), queue="bikes")
    assert values(row)[1] == -1000 * weight(19 * TICK, 0)
    assert spent(row, 0) == sum(values(row))


def test_a_job_without_attempts_has_spent_nothing() -> None:
    assert spent(job(), 0) == 0


def test_usage_halves_with_every_half_life_that_passes() -> None:
    """Compared at a later time, the same sum is divided by a weight that has doubled."""
    (value,) = values(used((10 * TICK, 70 * TICK)))
    now, later = 100 * TICK, 100 * TICK + HALF_LIFE
    assert Fraction(value, weight(later, 0)) == Fraction(value, weight(now, 0)) / 2


def test_equal_use_an_hour_later_weighs_more() -> None:
    early, late = values(used((10 * TICK, 70 * TICK))), values(used((70 * TICK, 130 * TICK)))
    assert late[0] > early[0]
