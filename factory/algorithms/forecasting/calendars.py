"""What the calendar alone tells of the hours ahead, from naive local stamps; no list of holidays is built in.

`SpecialDays` learns which days stand out every year, from the training part alone: a date (25 December) or an n-th
weekday of a month (fourth Monday of October) whose level is far from its neighbours of the same weekday, in every other
year with the same sign. A day is never judged by its own year, so that training cannot see its own target.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

__all__ = ["SpecialDays", "calendar_features", "days_of", "slot_of_week"]

_MONDAY = np.datetime64("1970-01-05", "s")
_NEIGHBOUR_WEEKS = (-4, -3, -2, -1, 1, 2, 3, 4)
_FLOOR = 0.02  # of the mean level: the logarithm of an empty day stays finite
_THRESHOLD = 0.12  # of the log ratio: below it is the usual scatter of a day
_ONE_YEAR_TRUST = 0.7  # of an effect that only one other year shows


def slot_of_week(stamps: np.ndarray, step_s: int) -> np.ndarray:
    """Return each stamp's step within its week, Monday 0:00 = 0.

    >>> slot_of_week(np.array(["2025-06-18T17:00"], "datetime64[s]"), 3600).tolist()
    [65]
    """
    seconds = (stamps.astype("datetime64[s]") - _MONDAY).astype(np.int64)
    return (seconds // step_s) % (7 * 86_400 // step_s)


def days_of(stamps: np.ndarray) -> np.ndarray:
    """Return each stamp's day as datetime64[D]."""
    return stamps.astype("datetime64[D]")


@dataclass(frozen=True, slots=True)
class SpecialDays:
    """Log ratio of a day's level to that of its neighbours, per year; NaN = not known."""

    years: np.ndarray  # int64 [year]
    by_date: np.ndarray  # float32 [year, 12, 31]
    by_weekday: np.ndarray  # float32 [year, 12, 5, 7]: month, n-th, weekday (Monday = 0)

    @classmethod
    def learn(cls, days: np.ndarray, levels: np.ndarray) -> SpecialDays:
        """Learn from consecutive days.

        Args:
            days: datetime64[D] [day], one after the other.
            levels: float [day], mean of all sensors, each in units of its own mean; NaN = too few hours observed.
        """
        logs = np.log(np.maximum(levels, _FLOOR))
        years, month, day, nth, weekday = _parts(days)
        known = np.unique(years)
        by_date = np.full((len(known), 12, 31), np.nan, np.float32)
        by_weekday = np.full((len(known), 12, 5, 7), np.nan, np.float32)
        for i, ratio in enumerate(_log_ratios(logs)):
            year = int(np.searchsorted(known, years[i]))
            by_date[year, month[i], day[i]] = ratio
            by_weekday[year, month[i], nth[i], weekday[i]] = ratio
        return cls(known.astype(np.int64), by_date, by_weekday)

    def effect(self, days: np.ndarray) -> np.ndarray:
        """Return the expected log ratio of each day (float32, same shape); 0 = a day like its neighbours."""
        flat = days.reshape(-1)
        years, month, day, nth, weekday = _parts(flat)
        own = self.years[:, None] == years[None, :]
        date = _agreed(np.where(own, np.nan, self.by_date[:, month, day]))
        turn = _agreed(np.where(own, np.nan, self.by_weekday[:, month, nth, weekday]))
        return np.where(np.abs(date) > np.abs(turn), date, turn).astype(np.float32).reshape(days.shape)


def calendar_features(starts: np.ndarray, step_s: int, horizon: int, weeks: int, special: SpecialDays) -> np.ndarray:
    """Return the calendar of forecasts that begin at `starts`: float32 [start, feature].

    Features: hour of day and weekday of the start (one-hot), yearly waves, special days of every step of the horizon,
    of the same steps averaged over the weeks of history, and of the seven days before.
    """
    starts = starts.astype("datetime64[s]")
    slots = slot_of_week(starts, step_s) * step_s
    hour = np.eye(24, dtype=np.float32)[(slots % 86_400) // 3_600]
    weekday = np.eye(7, dtype=np.float32)[slots // 86_400]
    days = days_of(starts)
    angle = 2 * np.pi * (days - days.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64) / 365.25
    waves = np.stack([np.sin(angle), np.cos(angle), np.sin(2 * angle), np.cos(2 * angle)], 1).astype(np.float32)

    # Special days are looked up once per day and gathered: many starts share few days.
    first = days.min() - np.timedelta64(7 * weeks + 1, "D")
    span = int((days.max() - first).astype(np.int64)) + horizon * step_s // 86_400 + 2
    effect = special.effect(first + np.arange(span))
    steps = starts[:, None] + np.arange(horizon) * np.timedelta64(step_s, "s")
    ahead = (days_of(steps) - first).astype(np.int64)
    before = np.stack([effect[ahead - 7 * k] for k in range(1, weeks + 1)]).mean(0)
    last_week = (days - first).astype(np.int64)[:, None] - np.arange(7, 0, -1)
    return np.concatenate([hour, weekday, waves, effect[ahead], before, effect[last_week]], 1).astype(np.float32)


def _log_ratios(logs: np.ndarray) -> Iterator[float]:
    for i, value in enumerate(logs):
        near = [logs[i + 7 * k] for k in _NEIGHBOUR_WEEKS if 0 <= i + 7 * k < len(logs)]
        near = [n for n in near if np.isfinite(n)]
        yield float(value - np.median(near)) if near else float("nan")


def _agreed(ratios: np.ndarray) -> np.ndarray:
    """Return per column the weakest of the years' ratios if all have one sign and it is beyond the scatter, else 0."""
    seen = np.isfinite(ratios)
    count = seen.sum(0)
    up = np.where(seen, ratios, np.inf).min(0, initial=np.inf)
    down = np.where(seen, ratios, -np.inf).max(0, initial=-np.inf)
    weakest = np.where(up > 0, up, np.where(down < 0, down, 0.0))
    weakest = np.where(count == 0, 0.0, np.where(count == 1, _ONE_YEAR_TRUST * weakest, weakest))
    return np.where(np.abs(weakest) < _THRESHOLD, 0.0, weakest)


def _parts(days: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return year, month from 0, day from 0, n-th weekday of the month from 0, weekday (Monday = 0)."""
    days = days.astype("datetime64[D]")
    months = days.astype("datetime64[M]")
    day = (days - months.astype("datetime64[D]")).astype(np.int64)
    month = months.astype(np.int64) % 12
    year = days.astype("datetime64[Y]").astype(np.int64) + 1970
    weekday = (days.astype(np.int64) + 3) % 7
    return year, month, day, day // 7, weekday
