"""`series-forecast` 1.0.0: one global model over all sensors of a wide series.

The evaluation part is never trained on, scaled by, or chosen with: scales, usual weeks, special days and weights come
from the steps before it. There is no early stopping and no choice among models, hence no validation part.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from factory.algorithms.contract import PredictContext, StoppedError, TrainContext, TrainedModel
from factory.algorithms.forecasting.calendars import SpecialDays, calendar_features, days_of, slot_of_week
from factory.algorithms.forecasting.evaluation import evaluate, evaluation_start, forecast_from
from factory.algorithms.forecasting.forecaster import Forecaster, Scaling, whole_weeks
from factory.algorithms.forecasting.network import Network, NetworkConfig, impute
from factory.algorithms.forecasting.panel import Panel, panel_of
from factory.algorithms.manifests import SeriesForecastParams, SeriesForecastPredictParams
from factory.errors import InvalidRequestError, did_you_mean

__all__ = ["SeriesForecast"]

_INPUT = "data"
_AVERAGE_FROM = 0.5  # of the steps: from here on the weights are averaged
_AVERAGE_RATE = 0.02  # of the exponential average
_WARM_UP = 0.1  # of the steps: the learning rate rises
_MAX_GRADIENT = 1.0  # norm
_DAY_OBSERVED = 0.5  # of a day's steps: below it the day's level is not known


class SeriesForecast:
    """Implements the contract's `Algorithm`."""

    def train(self, ctx: TrainContext[SeriesForecastParams]) -> TrainedModel:
        """Train on all but the last part, evaluate on that, write one safetensors file."""
        params = ctx.params
        torch.set_num_threads(ctx.threads)
        started = time.monotonic()
        panel = panel_of(ctx.frame(_INPUT), ctx.contract(_INPUT))
        weeks = whole_weeks(params.history_steps, panel.step_s)
        if params.horizon_steps > panel.week_steps:
            raise InvalidRequestError(
                f"horizon_steps is {params.horizon_steps}, more than the {panel.week_steps} of a week"
            )
        start = evaluation_start(panel, params.evaluation_share)
        if start < params.history_steps + 2 * params.horizon_steps:
            raise InvalidRequestError(
                f"{start} steps remain for training; {params.history_steps + 2 * params.horizon_steps} are needed",
                hint="bring a longer series, or lower history_steps or evaluation_share",
            )
        ctx.log(
            f"{len(panel.sensors)} sensors, {panel.values.shape[1]} steps from {panel.stamps[0]}; "
            f"training before {panel.stamps[start]}, evaluation from there on"
        )
        scaling = learn_scaling(panel, start)
        special = learn_special_days(panel, start, scaling)
        windows = _TrainingWindows(panel, start, scaling, special, params, weeks)
        network = _fit(ctx, windows, panel)
        trained_s = time.monotonic() - started
        forecaster = Forecaster(network, scaling, special, panel.sensors, panel.step_s, params.unit)
        ctx.progress(0.95, "evaluating")
        evaluation = evaluate(
            forecaster,
            panel,
            start=start,
            stride=params.evaluation_stride_steps,
            share=params.evaluation_share,
            dataset_version=ctx.dataset_version(_INPUT),
            unit=params.unit,
        )
        metrics = {
            "mae": evaluation["value"],
            "mae_day_ratio": evaluation["value"] / max(evaluation["baselines"]["day"], 1e-12),
            "mae_week_ratio": evaluation["value"] / max(evaluation["baselines"]["week"], 1e-12),
            "trained_s": trained_s,
        }
        ctx.metrics(params.epochs * params.steps_per_epoch, **{k: metrics[k] for k in metrics if k != "trained_s"})
        ctx.log(
            f"{params.variant}: mean absolute error {metrics['mae']:.2f} {params.unit}".rstrip()
            + f", {metrics['mae_week_ratio']:.3f} × last week's, {metrics['mae_day_ratio']:.3f} × yesterday's; "
            + f"trained in {trained_s:.1f} s"
        )
        path = ctx.workdir / "model.safetensors"
        forecaster.save(path)
        ctx.progress(1.0, "done")
        return TrainedModel(path, "safetensors", forecaster.metadata, metrics, evaluation)

    def load(self, file: Path | bytes, metadata: Mapping[str, Any], *, threads: int = 1) -> Forecaster:
        """Open a trained model for an endpoint or a batch job."""
        torch.set_num_threads(threads)
        return Forecaster.load(file, metadata)

    def predict(self, ctx: PredictContext[SeriesForecastPredictParams]) -> pa.Table:
        """Forecast every sensor of the dataset version.

        Returns: a row per sensor, origin and step: `stamp` (timestamp[s]), `sensor`, `forecast_origin` (timestamp[s],
            stamp of the forecast's first step; all history lies before it), `value` (float32).
        Raises:
            InvalidRequestError: the model does not know a sensor, the step differs, or the history is too short.
        """
        model = ctx.model
        if not isinstance(model, Forecaster):
            raise InvalidRequestError(f"the model is no forecaster but {type(model).__name__}")
        panel = panel_of(ctx.frame(_INPUT), ctx.contract(_INPUT))
        if panel.step_s != model.step_s:
            raise InvalidRequestError(f"the series has a step of {panel.step_s} s, the model of {model.step_s} s")
        for sensor in panel.sensors:
            if sensor not in model.sensors:
                raise InvalidRequestError(
                    f"the model does not know the sensor '{sensor}'{did_you_mean(sensor, model.sensors)}"
                )
        origins = _origins(panel, model, ctx.params.from_stamp)
        if ctx.should_stop:
            raise StoppedError("the attempt was asked to end before its forecasts were made")
        ctx.log(f"{len(panel.sensors)} sensors × {len(origins)} origins × {model.horizon} steps")
        answer = forecast_from(model, panel, origins)
        ctx.progress(0.9, "forecasts made")
        starts = panel.stamps[0] + origins * np.timedelta64(panel.step_s, "s")
        stamps = starts[:, None] + np.arange(model.horizon) * np.timedelta64(panel.step_s, "s")
        steps = answer[0].size
        return pa.table(
            {
                "stamp": pa.array(np.tile(stamps.reshape(-1), len(panel.sensors))),
                "sensor": pa.array(np.repeat(np.array(panel.sensors, object), steps), pa.string()),
                "forecast_origin": pa.array(np.tile(np.repeat(starts, model.horizon), len(panel.sensors))),
                "value": pa.array(answer.reshape(-1)),
            }
        )


def learn_scaling(panel: Panel, end: int) -> Scaling:
    """Return each sensor's mean size and usual week over the steps before `end`.

    Raises:
        InvalidRequestError: a sensor has no observed value there.
    """
    values = panel.values[:, :end]
    seen = np.isfinite(values)
    for sensor, count in zip(panel.sensors, seen.sum(1), strict=True):
        if count == 0:
            raise InvalidRequestError(
                f"the sensor '{sensor}' has no value before {panel.stamps[end]}", hint="leave the column out"
            )
    filled = np.where(seen, values, 0.0).astype(np.float64)
    scale = np.abs(filled).sum(1) / seen.sum(1)
    scale = np.where(scale > 0, scale, 1.0)
    slots = slot_of_week(panel.stamps[:end], panel.step_s)
    sums = np.stack([np.bincount(slots, row, panel.week_steps) for row in filled])
    counts = np.stack([np.bincount(slots, row.astype(np.float64), panel.week_steps) for row in seen])
    mean = (filled.sum(1) / seen.sum(1))[:, None]
    profile = np.where(counts > 0, sums / np.maximum(counts, 1), mean) / scale[:, None]
    return Scaling(scale.astype(np.float32), profile.astype(np.float32), bool(np.nanmin(values) >= 0))


def learn_special_days(panel: Panel, end: int, scaling: Scaling) -> SpecialDays:
    """Return the days that stand out, from the whole days before `end`."""
    values = panel.values[:, :end]
    seen = np.isfinite(values)
    scaled = np.where(seen, values / scaling.scale[:, None], 0.0).sum(0)
    day = (days_of(panel.stamps[:end]) - days_of(panel.stamps[:1])).astype(np.int64)
    totals, counts = np.bincount(day, scaled), np.bincount(day, seen.sum(0).astype(np.float64))
    enough = counts >= _DAY_OBSERVED * panel.day_steps * len(panel.sensors)
    levels = np.where(enough, totals / np.maximum(counts, 1), np.nan)
    levels[-1] = np.nan  # cut by the end
    return SpecialDays.learn(days_of(panel.stamps[0]) + np.arange(len(levels)), levels)


class _TrainingWindows:
    """All windows of the training part, gathered by (sensor, first forecast step)."""

    def __init__(
        self,
        panel: Panel,
        end: int,
        scaling: Scaling,
        special: SpecialDays,
        params: SeriesForecastParams,
        weeks: int,
    ) -> None:
        values = panel.values[:, :end]
        seen = np.isfinite(values)
        scaled = torch.from_numpy(np.where(seen, values / scaling.scale[:, None], 0.0).astype(np.float32))
        observed = torch.from_numpy(seen)
        turned = np.roll(scaling.profile, -int(slot_of_week(panel.stamps[:1], panel.step_s)[0]), 1)
        self.first, self.last = params.history_steps, end - params.horizon_steps
        self.sensors = len(panel.sensors)
        self.features = calendar_features(
            panel.stamps[self.first : self.last + 1], panel.step_s, params.horizon_steps, weeks, special
        )
        self._calendar = torch.from_numpy(self.features)
        self._truth, self._observed = scaled, observed
        self._past = _impute_all(scaled, observed, torch.from_numpy(turned), panel.week_steps)
        sums = torch.zeros(self.sensors, end + 1)
        sums[:, 1:] = observed.float().cumsum(1)
        self._seen_before = sums
        self._day = panel.day_steps
        self._back = torch.arange(-params.history_steps, 0)
        self._ahead = torch.arange(params.horizon_steps)
        self._days = torch.arange(-params.history_steps, 1, panel.day_steps)
        scale = torch.from_numpy(scaling.scale)
        self._weight = (scale / scale.mean()) ** params.scale_weight

    def batch(self, sensor: Tensor, origin: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return past, observed share per day, calendar, truth and the weight of each truth (0 = null)."""
        rows, starts = sensor[:, None], origin[:, None]
        counts = self._seen_before[rows, starts + self._days]
        ahead = starts + self._ahead
        return (
            self._past[rows, starts + self._back],
            (counts[:, 1:] - counts[:, :-1]) / self._day,
            self._calendar[origin - self.first],
            self._truth[rows, ahead],
            self._observed[rows, ahead] * self._weight[sensor][:, None],
        )


def _impute_all(values: Tensor, observed: Tensor, profile: Tensor, week: int) -> Tensor:
    """Impute the whole training part at once; `impute` does the same with a window when serving."""
    steps = values.shape[1]
    short = -steps % week
    pad = torch.nn.functional.pad
    return impute(pad(values, (0, short)), pad(observed, (0, short)), profile, week)[:, :steps].contiguous()


def _fit(ctx: TrainContext[SeriesForecastParams], windows: _TrainingWindows, panel: Panel) -> Network:
    params = ctx.params
    random = torch.Generator().manual_seed(ctx.seed)
    with torch.random.fork_rng(devices=[]):  # the weights' start is drawn from the global generator
        torch.manual_seed(ctx.seed)
        network = Network(
            NetworkConfig(
                variant=params.variant,
                sensors=windows.sensors,
                history=params.history_steps,
                horizon=params.horizon_steps,
                day=panel.day_steps,
                calendar=windows.features.shape[1],
                hidden=params.hidden,
            )
        )
    total = params.epochs * params.steps_per_epoch
    optimizer = torch.optim.AdamW(network.parameters(), lr=params.lr, weight_decay=params.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate(step / total))
    average: dict[str, Tensor] = {}
    network.train()
    for epoch in range(params.epochs):
        losses = 0.0
        for step in range(epoch * params.steps_per_epoch, (epoch + 1) * params.steps_per_epoch):
            if ctx.should_stop:
                raise StoppedError(f"the attempt was asked to end at step {step} of {total}")
            sensor = torch.randint(windows.sensors, (params.batch,), generator=random)
            origin = torch.randint(windows.first, windows.last + 1, (params.batch,), generator=random)
            past, observed, calendar, truth, weight = windows.batch(sensor, origin)
            error = (network(past, observed, calendar, sensor) - truth).abs()
            loss = (error * weight).sum() / weight.sum().clamp(min=1e-6)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), _MAX_GRADIENT)
            optimizer.step()
            schedule.step()
            losses += loss.item()
            if step >= int(_AVERAGE_FROM * total):
                _average(average, network)
        mean = losses / params.steps_per_epoch
        ctx.metrics((epoch + 1) * params.steps_per_epoch, train_loss=mean)
        ctx.progress(0.9 * (epoch + 1) / params.epochs, f"epoch {epoch + 1} of {params.epochs}, loss {mean:.4f}")
    network.load_state_dict(average)
    return network


def _learning_rate(done: float) -> float:
    """Return the share of the peak rate: a linear rise, then a cosine down to zero."""
    if done < _WARM_UP:
        return 0.05 + 0.95 * done / _WARM_UP
    return 0.5 * (1 + float(np.cos(np.pi * min(1.0, (done - _WARM_UP) / (1 - _WARM_UP)))))


def _average(average: dict[str, Tensor], network: Network) -> None:
    for name, tensor in network.state_dict().items():
        if name in average:
            average[name].lerp_(tensor, _AVERAGE_RATE)
        else:
            average[name] = tensor.clone()


def _origins(panel: Panel, model: Forecaster, from_stamp: str) -> np.ndarray:
    end = panel.values.shape[1]
    if end < model.history:
        raise InvalidRequestError(f"the series has {end} steps, the model reads {model.history}")
    if not from_stamp:
        return np.array([end], np.int64)
    ahead = pd.Timestamp(from_stamp).to_datetime64().astype("datetime64[s]") - panel.stamps[0]
    first = int(-(-ahead.astype(np.int64) // panel.step_s))
    if not model.history <= first <= end:
        raise InvalidRequestError(
            f"'from' is {from_stamp}; forecasts of this series can begin from {panel.stamps[model.history]}"
            f" to {panel.stamps[-1] + np.timedelta64(panel.step_s, 's')}"
            if end > model.history
            else f"'from' is {from_stamp}; the series leaves only the forecast after its end"
        )
    # One origin per horizon, and always the one after the last stamp, which looks into the future.
    return np.unique(np.append(np.arange(first, end, model.horizon), end))
