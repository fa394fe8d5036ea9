"""The two networks of `series-forecast`, and the features that they read.

Every forecast starts from the median of the same steps of the last weeks, in units of the sensor's mean level; the
network adds a correction in units of the recent level of that window, so that one set of weights serves busy and quiet
sensors, and a sensor that changed its level.

Sources: Zeng et al. 2023 (DLinear: linear maps of trend and remainder); Kim et al. 2022 (RevIN: normalise by the
window's own level; here by its mean size alone). Differs from both: the median as starting point, the
calendar and the sensor's embedding as further inputs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Network", "NetworkConfig", "impute"]

_LEVEL_FLOOR = 0.02  # of the sensor's mean: an empty month does not divide by zero
_TREND_DAYS = 1  # DLinear's moving average spans a day and one step


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """All that is needed to build the network again."""

    variant: str  # "mlp" or "dlinear"
    sensors: int
    history: int  # steps, a whole number of weeks
    horizon: int  # steps, at most one week
    day: int  # steps per day
    calendar: int  # number of calendar features
    hidden: int
    embedding: int = 8

    @property
    def week(self) -> int:
        """Steps per week."""
        return 7 * self.day

    def as_json(self) -> dict[str, Any]:
        """Return the fields, for the model's metadata."""
        return asdict(self)


def impute(history: Tensor, observed: Tensor, profile: Tensor, week: int) -> Tensor:
    """Fill missing steps: from the same step a week before if that is known, else from the usual week.

    Args:
        history: float32 [row, history], units of the sensor's mean; any finite value where not observed.
        observed: bool [row, history].
        profile: float32 [row, week], the usual week in the same units, turned so that it begins with the window.
    Returns: float32 [row, history].
    """
    filled = profile
    weeks: list[Tensor] = []
    for start in range(0, history.shape[1], week):
        filled = torch.where(observed[:, start : start + week], history[:, start : start + week], filled)
        weeks.append(filled)
    return torch.cat(weeks, 1)


class Network(nn.Module):
    """Corrects the median of the last weeks; both variants share the inputs and the frame."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        weeks = config.history // config.week
        same = weeks * config.horizon
        if config.variant == "mlp":
            inputs = config.week + same + config.horizon + 1 + config.calendar + config.history // config.day
            self.sensor = nn.Embedding(config.sensors, config.embedding)
            nn.init.normal_(self.sensor.weight, std=0.1)
            self.body = nn.Linear(inputs + config.embedding, config.hidden)
            self.head = nn.Linear(config.hidden, config.horizon)
            self.skip = nn.Linear(inputs, config.horizon)
            zeroed = (self.head, self.skip)
        else:
            self.trend = nn.Linear(config.history, config.horizon)
            self.rest = nn.Linear(config.history, config.horizon)
            self.calendar = nn.Linear(config.calendar + config.history // config.day, config.horizon)
            self.sensor = nn.Embedding(config.sensors, config.horizon)
            nn.init.zeros_(self.sensor.weight)
            zeroed = (self.trend, self.rest, self.calendar)
        # Zero weights: the untrained network answers the median of the last weeks.
        for layer in zeroed:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, past: Tensor, observed: Tensor, calendar: Tensor, sensor: Tensor) -> Tensor:
        """Return the forecast.

        Args:
            past: float32 [row, history], imputed, in units of the sensor's mean level.
            observed: float32 [row, history // day], share of each day's steps that were observed.
            calendar: float32 [row, calendar].
            sensor: int64 [row], index of the sensor.
        Returns: float32 [row, horizon], in the same units as `past`.
        """
        config = self.config
        level = past.abs().mean(1, keepdim=True) + _LEVEL_FLOOR
        weekly = past.view(past.shape[0], -1, config.week)[:, :, : config.horizon]  # same steps, oldest week first
        ordered = weekly.sort(1).values
        middle = (ordered.shape[1] - 1) // 2
        base = ordered[:, middle : ordered.shape[1] - middle].mean(1)
        if config.variant == "mlp":
            inputs = torch.cat(
                [
                    past[:, -config.week :] / level,
                    (weekly / level[:, :, None]).flatten(1),
                    base / level,
                    level.log(),
                    calendar,
                    observed,
                ],
                1,
            )
            hidden = functional.gelu(self.body(torch.cat([inputs, self.sensor(sensor)], 1)))
            correction = self.head(hidden) + self.skip(inputs)
        else:
            scaled = past / level
            trend = _moving_average(scaled, _TREND_DAYS * config.day + 1)
            correction = (
                self.trend(trend)
                + self.rest(scaled - trend)
                + self.calendar(torch.cat([calendar, observed], 1))
                + self.sensor(sensor)
            )
        return base + level * correction


def _moving_average(series: Tensor, width: int) -> Tensor:
    """Return the centred mean over `width` (odd) steps; both ends are continued by their last value."""
    half = width // 2
    padded = torch.cat([series[:, :1].expand(-1, half), series, series[:, -1:].expand(-1, width - 1 - half)], 1)
    sums = functional.pad(padded.double().cumsum(1), (1, 0))
    return ((sums[:, width:] - sums[:, :-width]) / width).float()
