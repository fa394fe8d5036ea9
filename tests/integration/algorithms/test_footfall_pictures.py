"""Repair and pictures of `examples/footfall` on the real file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest


def test_repair_gives_nineteen_sensors_at_every_hour_from_june_2022(footfall: pd.DataFrame) -> None:
    stamps = footfall["stamp"]
    assert stamps.iloc[0] == pd.Timestamp("2022-06-01T00:00")
    assert stamps.iloc[-1] == pd.Timestamp("2026-01-01T05:00")  # the night of the last labelled day
    assert (stamps.diff().dropna() == pd.Timedelta(hours=1)).all()
    assert len(footfall.columns) == 1 + 19
    assert not [column for column in footfall.columns if column.startswith("188 Quay")]


def test_repair_puts_the_night_rows_on_the_right_day(published: pd.DataFrame, footfall: pd.DataFrame) -> None:
    labelled = published[(published["date"] == "2024-03-14") & (published["hour"] == "3:00-3:59")]["45 Queen Street"]
    repaired = footfall.set_index("stamp")["45 Queen Street"]
    assert repaired[pd.Timestamp("2024-03-15T03:00")] == labelled.item()


def test_repair_puts_misdated_rows_where_the_files_order_says(footfall: pd.DataFrame) -> None:
    counts = footfall.set_index("stamp")["150 K Road"]
    assert counts[pd.Timestamp("2024-09-29T06:00")] == 28.0  # labelled 28 September, after the night to the 29th
    assert counts[pd.Timestamp("2024-09-28T06:00")] == 37.0
    night = counts[pd.Timestamp("2025-01-02T03:00") : pd.Timestamp("2025-01-02T06:00")]
    assert night.notna().all()  # four rows labelled 2, 3, 4 and 5 January
    empty = footfall.set_index("stamp").isna().all(axis=1)
    assert int(empty.sum()) == 3  # hours that the file does not have


def test_repair_makes_dead_stretches_null_and_keeps_quiet_hours(
    footfall: pd.DataFrame,
) -> None:
    counts = footfall.drop(columns="stamp")
    for sensor in counts:
        zero = counts[sensor].eq(0)
        runs = zero.groupby(zero.ne(zero.shift()).cumsum()).sum()
        assert runs.max() < 6, sensor
    assert int(counts.eq(0).sum().sum()) > 1000
    dead = footfall.set_index("stamp")["205 Queen Street"]
    assert np.isnan(dead[pd.Timestamp("2024-05-11T12:00")])  # published as 0, at noon on a Saturday


def test_pictures_are_drawn_from_the_forecasts(footfall: pd.DataFrame, locations: pd.DataFrame, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    from examples.footfall.plots import plot_city, plot_forecast

    sensors = [column for column in footfall.columns if column != "stamp"]
    begin = footfall["stamp"].iloc[-1] - pd.Timedelta(hours=335)
    stamps = pd.date_range(begin, periods=336 + 24, freq="h")
    last_week = footfall.set_index("stamp")[sensors].reindex(stamps - pd.Timedelta(days=7)).set_axis(stamps)
    rows = last_week.melt(ignore_index=False, var_name="sensor", value_name="value").rename_axis("stamp").reset_index()
    rows["forecast_origin"] = rows["stamp"]
    plot_forecast(footfall, rows, sensors[:3], tmp_path / "forecast.png")
    plot_city(locations, last_week.tail(24), tmp_path / "city.png")
    for name in ("forecast.png", "city.png"):
        picture = imread(tmp_path / name)
        assert picture.shape[0] > 800
        assert picture.shape[1] > 1200
        assert len(np.unique(picture[..., :3].sum(2))) > 200  # something is drawn
