"""The order of waiting jobs, walked lazily, is the order that sorting them all would give."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from factory.domain.ids import JobId
from factory.scheduling.persistent import SortedMap, sorted_map
from factory.scheduling.policies.order import capped
from factory.scheduling.waiting import Turn, counts_as, in_order

TURNS = st.builds(
    lambda level, first, at, id: ((level, first), at, JobId(f"job-{id}")),
    st.integers(0, 6), st.integers(0, 5), st.integers(0, 5), st.integers(0, 9),
)  # fmt: skip
HORIZONS = st.none() | st.integers(0, 7)
QUICK = settings(max_examples=200, deadline=None)


def by_sorting(turns: set[Turn], horizon: int | None) -> list[Turn]:
    return sorted(turns, key=lambda turn: (capped(turn[0], horizon), turn[1], turn[2], turn[0]))


def as_counted(turns: list[Turn], horizon: int | None) -> list[Turn]:
    return [counts_as(turn, horizon) for turn in turns]


@QUICK
@given(st.sets(TURNS, max_size=40), HORIZONS)
def test_walking_gives_the_sorted_order(turns: set[Turn], horizon: int | None) -> None:
    jobs: SortedMap[Turn, None] = sorted_map((turn, None) for turn in turns)
    walked = [turn for turn, _ in in_order(jobs, horizon)]
    assert set(walked) == turns
    assert len(walked) == len(turns)
    assert as_counted(walked, horizon) == as_counted(by_sorting(turns, horizon), horizon)


@QUICK
@given(st.sets(TURNS, min_size=1, max_size=30), HORIZONS, st.data())
def test_walking_on_after_a_turn_leaves_out_all_that_came_before(
    turns: set[Turn], horizon: int | None, data: st.DataObject
) -> None:
    jobs: SortedMap[Turn, None] = sorted_map((turn, None) for turn in turns)
    after = data.draw(st.sampled_from(sorted(turns)) | TURNS)
    walked = [turn for turn, _ in in_order(jobs, horizon, after)]
    expected = [turn for turn in by_sorting(turns, horizon) if counts_as(turn, horizon) > counts_as(after, horizon)]
    assert as_counted(walked, horizon) == as_counted(expected, horizon)


@QUICK
@given(st.sets(st.integers(0, 400), max_size=200), st.integers(-1, 401), st.booleans())
def test_what_comes_after_a_key_is_what_is_greater(keys: set[int], key: int, grows: bool) -> None:
    held: SortedMap[int, int] = SortedMap() if grows else sorted_map((each, -each) for each in keys)
    for each in sorted(keys, key=lambda each: each * 7919 % 401) if grows else ():
        held = held.insert(each, -each)
    assert list(held.after(key)) == [(each, -each) for each in sorted(keys) if each > key]
