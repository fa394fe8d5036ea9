"""The evaluation of a forecaster: the last part of the range, by the very code that serves.

Every window's forecast is compared with the truth, and so are two naive ones: the same step a day and a week before.
All three are judged on the same steps: those whose truth and whose two naive forecasts were observed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from factory.algorithms.forecasting.forecaster import Forecaster
from factory.algorithms.forecasting.panel import Panel
from factory.errors import InvalidRequestError

__all__ = ["evaluate", "evaluation_start", "forecast_from"]


def evaluation_start(panel: Panel, share: float) -> int:
    """Return the first step of the evaluation part."""
    return int(panel.values.shape[1] * (1 - share))


def forecast_from(forecaster: Forecaster, panel: Panel, origins: np.ndarray) -> np.ndarray:
    """Return every sensor's forecast from each origin: float32 [sensor, origin, horizon].

    Args:
        panel: its sensors are known to the forecaster.
        origins: int64 [origin], first forecast step of each; at least `history` steps lie before.
    """
    index = np.array([forecaster.sensors.index(sensor) for sensor in panel.sensors], np.int64)
    steps = origins[:, None] - forecaster.history + np.arange(forecaster.history)
    starts = panel.stamps[0] + origins * np.timedelta64(panel.step_s, "s")
    answer = np.empty((len(index), len(origins), forecaster.horizon), np.float32)
    for row, sensor in enumerate(index):
        history = panel.values[row][steps]
        answer[row] = forecaster.forecast(history, np.isfinite(history), np.full(len(origins), sensor), starts)
    return answer


def evaluate(
    forecaster: Forecaster, panel: Panel, *, start: int, stride: int, share: float, dataset_version: str, unit: str
) -> dict[str, Any]:
    """Return the evaluation in the form of `factory/quality/evaluations.py`.

    Raises:
        InvalidRequestError: the part is shorter than one window, or nothing in it was observed.
    """
    horizon, end = forecaster.horizon, panel.values.shape[1]
    origins = np.arange(start, end - horizon + 1, stride)
    if len(origins) == 0:
        raise InvalidRequestError(
            f"the evaluation part has {end - start} steps, fewer than the horizon of {horizon}",
            hint="raise evaluation_share, or bring a longer series",
        )
    ahead = origins[:, None] + np.arange(horizon)
    truth = panel.values[:, ahead]
    # float64 from here on: a sum over a million errors keeps its digits
    errors = {
        "model": np.abs(forecast_from(forecaster, panel, origins).astype(np.float64) - truth),
        "day": np.abs(panel.values[:, ahead - panel.day_steps].astype(np.float64) - truth),
        "week": np.abs(panel.values[:, ahead - panel.week_steps].astype(np.float64) - truth),
    }
    judged = np.logical_and.reduce([np.isfinite(error) for error in errors.values()])
    if not judged.any():
        raise InvalidRequestError("no step of the evaluation part was observed", hint="see the dataset's null shares")
    slices = {
        sensor: _figures({name: error[row] for name, error in errors.items()}, judged[row])
        for row, sensor in enumerate(panel.sensors)
        if judged[row].any()
    }
    hours = panel.step_s / 3600
    return {
        "protocol": (
            f"last {100 * share:g} % of the time range, windows of {horizon * hours:g} h every {stride * hours:g} h, "
            f"nulls left out, pooled over {len(panel.sensors)} sensors"
        ),
        "dataset_version": dataset_version,
        "metric": "mae",
        "direction": "min",
        "unit": unit,
        **_figures(errors, judged),
        "slices": slices,
        "windows": len(origins),
    }


def _figures(errors: dict[str, np.ndarray], judged: np.ndarray) -> dict[str, Any]:
    mean = {name: float(error[judged].mean()) for name, error in errors.items()}
    return {"value": mean.pop("model"), "baselines": mean}
