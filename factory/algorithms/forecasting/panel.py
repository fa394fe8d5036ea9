"""A wide table as a panel: sensors × steps on a complete time grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from factory.domain.datasets import Contract
from factory.errors import InvalidRequestError, did_you_mean

__all__ = ["DAY_S", "Panel", "panel_of"]

DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Panel:
    """Values of every sensor at every step, without a hole in time."""

    stamps: np.ndarray  # datetime64[s] [step], step_s apart, naive local time
    sensors: tuple[str, ...]
    values: np.ndarray  # float32 [sensor, step], NaN = missing
    step_s: int

    @property
    def day_steps(self) -> int:
        """Steps per day."""
        return DAY_S // self.step_s

    @property
    def week_steps(self) -> int:
        """Steps per week."""
        return 7 * self.day_steps


def panel_of(frame: pd.DataFrame, contract: Contract) -> Panel:
    """Read a wide series as its contract describes it; steps that have no row become NaN.

    Raises:
        InvalidRequestError: the contract has no wide series, a column is missing or no number, a stamp is null,
            doubled or off the grid, or the step does not divide a day.
    """
    shape = contract.series
    if shape is None or shape.key or not shape.time:
        raise InvalidRequestError(
            "the dataset's contract does not describe a wide series",
            hint="give it a `series` with a time column and one value column per sensor, without a key",
        )
    if shape.step_s <= 0 or DAY_S % shape.step_s:
        raise InvalidRequestError(f"a step of {shape.step_s} s does not divide a day", hint="resample the series first")
    if shape.time not in frame.columns:
        raise _no_column(shape.time, frame)
    stamps = pd.to_datetime(frame[shape.time]).to_numpy().astype("datetime64[s]")
    if len(stamps) == 0:
        raise InvalidRequestError("the dataset has no rows")
    if np.isnat(stamps).any():
        raise InvalidRequestError(f"the time column '{shape.time}' holds nulls")
    first = stamps.min()
    offsets = (stamps - first).astype(np.int64)
    steps, rest = np.divmod(offsets, shape.step_s)
    if rest.any():
        raise InvalidRequestError(
            f"{int((rest != 0).sum())} stamps are off the grid of {shape.step_s} s, the first is "
            f"{stamps[rest != 0].min()}"
        )
    if len(np.unique(steps)) != len(steps):
        raise InvalidRequestError(
            f"{len(steps) - len(np.unique(steps))} stamps are there more than once",
            hint="repair the series: one row per stamp",
        )
    sensors = _value_columns(frame, contract)
    values = np.full((len(sensors), int(steps.max()) + 1), np.nan, np.float32)
    for row, sensor in enumerate(sensors):
        values[row, steps] = frame[sensor].to_numpy(dtype=np.float32, na_value=np.nan)
    grid = first + np.arange(values.shape[1]) * np.timedelta64(shape.step_s, "s")
    return Panel(grid, sensors, values, shape.step_s)


def _value_columns(frame: pd.DataFrame, contract: Contract) -> tuple[str, ...]:
    shape = contract.series
    assert shape is not None
    skipped = {shape.time, *shape.exclude}
    wanted = shape.values or ("*",)
    found: list[str] = []
    for name in wanted:
        if name == "*":
            found += [c for c in frame.columns if c not in skipped and pd.api.types.is_numeric_dtype(frame[c].dtype)]
        elif name not in frame.columns:
            raise _no_column(name, frame)
        elif not pd.api.types.is_numeric_dtype(frame[name].dtype):
            raise InvalidRequestError(f"the value column '{name}' holds {frame[name].dtype}, not numbers")
        else:
            found.append(name)
    if not found:
        raise InvalidRequestError("the dataset has no value columns")
    return tuple(dict.fromkeys(found))


def _no_column(name: str, frame: pd.DataFrame) -> InvalidRequestError:
    columns = [str(c) for c in frame.columns]
    return InvalidRequestError(
        f"the dataset has no column '{name}'{did_you_mean(name, columns)}", hint=f"it has: {', '.join(columns[:30])}"
    )
