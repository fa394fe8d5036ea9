"""The calendar's features: slots, special days learnt without a list and without seeing their own year."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from factory.algorithms.forecasting.calendars import SpecialDays, calendar_features, slot_of_week

DAYS = np.arange("2021-01-01", "2025-01-01", dtype="datetime64[D]")


def levels(**special: float) -> np.ndarray:
    """Daily levels with a weekly rhythm; keys like d1225 name a date and its factor, every year."""
    index = pd.DatetimeIndex(DAYS)
    level = 1.0 + 0.3 * (index.day_of_week < 5)
    for key, factor in special.items():
        level = level * np.where((index.month == int(key[1:3])) & (index.day == int(key[3:5])), factor, 1.0)
    return np.asarray(level)


def effect(special: SpecialDays, day: str) -> float:
    return float(special.effect(np.array([day], "datetime64[D]"))[0])


def test_a_date_that_stands_out_every_year_is_special_the_next_year() -> None:
    special = SpecialDays.learn(DAYS, levels(d1225=0.3))
    assert effect(special, "2025-12-25") == pytest.approx(np.log(0.3), abs=0.01)
    assert effect(special, "2025-12-24") == 0.0
    assert effect(special, "2025-07-16") == 0.0


def test_a_weekday_of_a_month_that_moves_through_the_dates_is_special() -> None:
    index = pd.DatetimeIndex(DAYS)
    labour = (index.month == 10) & (index.day_of_week == 0) & ((index.day - 1) // 7 == 3)
    special = SpecialDays.learn(DAYS, levels() * np.where(labour, 0.5, 1.0))
    assert effect(special, "2025-10-27") == pytest.approx(np.log(0.5), abs=0.01)
    assert effect(special, "2025-10-20") == 0.0


def test_a_day_is_not_judged_by_its_own_year() -> None:
    once = levels()
    once[np.datetime64("2023-08-09") == DAYS] = 0.1
    special = SpecialDays.learn(DAYS, once)
    assert effect(special, "2023-08-09") == 0.0
    assert effect(special, "2025-08-09") == 0.0  # the other years do not agree


def test_unknown_days_and_empty_training_are_ordinary() -> None:
    special = SpecialDays.learn(DAYS[:3], np.array([1.0, np.nan, 1.0]))
    assert not special.effect(np.arange("2024-01-01", "2025-01-01", dtype="datetime64[D]")).any()


def test_the_slot_of_week_begins_on_monday_at_midnight_for_any_step() -> None:
    stamps = np.array(["2025-06-16T00:00", "2025-06-22T23:59:59"], "datetime64[s]")
    assert slot_of_week(stamps, 3600).tolist() == [0, 167]
    assert slot_of_week(stamps, 900).tolist() == [0, 671]


def test_features_of_a_start_do_not_depend_on_the_other_starts() -> None:
    special = SpecialDays.learn(DAYS, levels(d1225=0.3))
    starts = np.arange("2025-12-20", "2025-12-30", np.timedelta64(7, "h"), dtype="datetime64[s]")
    together = calendar_features(starts, 3600, 24, 4, special)
    alone = np.concatenate([calendar_features(starts[i : i + 1], 3600, 24, 4, special) for i in range(len(starts))])
    np.testing.assert_array_equal(together, alone)
    assert together.shape[1] == 24 + 7 + 4 + 24 + 24 + 7
    ahead = together[:, 35:59]
    hours = starts[:, None] + np.arange(24) * np.timedelta64(1, "h")
    christmas = hours.astype("datetime64[D]") == np.datetime64("2025-12-25")
    np.testing.assert_array_equal(ahead != 0, christmas)
