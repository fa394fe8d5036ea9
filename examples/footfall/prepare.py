"""Repair Auckland's pedestrian counts: from the file as published to an hourly table that can be trusted.

The published file has four kinds of faults, all of them checked by the contract of `footfall-raw`:

1. Rows labelled 0:00-5:59 carry the date of the evening before: they belong to the next day.
2. Seven rows carry a wrong date, six of which give a stamp that is there already. The file is in the order of time, so
   their neighbours say where they belong.
3. A dead sensor reports 0, for hours or for years. No living one is at 0 for six hours in a row.
4. Two sensors were installed three months into the period: with less than 95 % of its hours they are left out.

Data: Heart of the City Auckland, pedestrian counts, CC-BY 4.0.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

__all__ = ["DEAD_RUN_H", "MIN_OBSERVED_SHARE", "START", "repair"]

START = pd.Timestamp("2022-06-01")  # from here on 19 sensors report
DEAD_RUN_H = 6  # zeros in a row that make a stretch dead
MIN_OBSERVED_SHARE = 0.95  # of the period's hours: a sensor with less is left out

_LABELS = ("date", "hour", "year")
_HOUR = pd.Timedelta(hours=1)


def repair(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the repaired hourly table.

    Args:
        frame: the published table, in file order: `date` (2019-01-01), `hour` ("6:00-6:59"), `year`, and one column of
            counts (persons/h) per sensor.
    Returns: `stamp` (datetime64[s], naive local time, every hour from June 2022 to the end of the file) and one float
        column per sensor that was there all the time; null = not measured, or the sensor was dead.
    """
    sensors = [column for column in frame.columns if column not in _LABELS]
    counts = frame[sensors].astype("float64")
    counts.index = pd.DatetimeIndex(_restamped(_labelled_stamps(frame)), name="stamp")
    counts = _without_duplicates(counts)
    # Dead stretches are found over the whole file: one that began before the start is known by its full length.
    counts = counts.reindex(pd.date_range(counts.index[0], counts.index[-1], freq="h", name="stamp"))
    counts = counts.apply(_dead_stretches_to_null).loc[START:]
    counts = counts.loc[:, counts.notna().mean() >= MIN_OBSERVED_SHARE].copy()
    counts.index = counts.index.as_unit("s")
    return counts.reset_index()


def _labelled_stamps(frame: pd.DataFrame) -> np.ndarray:
    """Return the stamp that each row's labels mean: the night belongs to the next day."""
    hour = frame["hour"].astype(str).str.partition(":")[0].astype("int64")
    day = pd.to_datetime(frame["date"])
    stamps = day + pd.to_timedelta(hour, unit="h") + pd.to_timedelta((hour < 6).astype("int64"), unit="D")
    return stamps.to_numpy().astype("datetime64[s]")


def _restamped(stamps: np.ndarray) -> np.ndarray:
    """Give rows whose stamp is doubled the hour that their place in the file says, if that hour is free.

    A group of doubled rows between two rows of good order, one hour apart per row, has one possible place.
    """
    hour = np.timedelta64(1, "h")
    doubled = pd.Series(stamps).duplicated(keep=False).to_numpy()
    good = np.flatnonzero(~doubled)
    fixed, taken = stamps.copy(), set(stamps.tolist())
    for row in np.flatnonzero(doubled):
        place = np.searchsorted(good, row)
        if place in (0, len(good)):
            continue
        before, after = good[place - 1], good[place]
        if stamps[after] - stamps[before] != (after - before) * hour:
            continue
        implied = stamps[before] + (row - before) * hour
        if implied.item() not in taken:
            fixed[row] = implied
    return fixed


def _without_duplicates(counts: pd.DataFrame) -> pd.DataFrame:
    """Return one row per stamp, in order: of rows with one stamp the fullest, of equals the first in the file."""
    filled = counts.notna().sum(axis=1).to_numpy()
    order = np.lexsort((np.arange(len(counts)), -filled, counts.index.to_numpy()))
    ordered = counts.iloc[order]
    return ordered[~ordered.index.duplicated(keep="first")]


def _dead_stretches_to_null(series: pd.Series) -> pd.Series:
    """Return the series with every run of `DEAD_RUN_H` or more zeros as null."""
    zero = series.eq(0)
    run = zero.ne(zero.shift()).cumsum()
    return series.mask(zero & (zero.groupby(run).transform("size") >= DEAD_RUN_H))
