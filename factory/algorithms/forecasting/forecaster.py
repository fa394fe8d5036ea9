"""A trained forecaster: its file, signature and inference; evaluation, endpoints and batch jobs share this one path."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file

from factory.algorithms.forecasting.calendars import SpecialDays, calendar_features, slot_of_week
from factory.algorithms.forecasting.network import Network, NetworkConfig, impute
from factory.algorithms.forecasting.panel import DAY_S
from factory.errors import InvalidRequestError, did_you_mean

__all__ = ["Forecaster", "Scaling"]

_FORMAT = "series-forecast/1"  # of the metadata; a change that an older reader would misread gets a new number
_YEARS = (1900, 2200)
_CHUNK_ROWS = 8_192  # bounds the memory of a large batch


@dataclass(frozen=True, slots=True)
class Scaling:
    """What the training part says of each sensor."""

    scale: np.ndarray  # float32 [sensor], mean size of the values, > 0
    profile: np.ndarray  # float32 [sensor, week], the usual week in units of `scale`
    non_negative: bool  # the training part has no value below zero, so forecasts have none


class Forecaster:
    """Implements the contract's `Servable`."""

    def __init__(
        self, network: Network, scaling: Scaling, special: SpecialDays, sensors: Sequence[str], step_s: int, unit: str
    ) -> None:
        self._network = network.eval()
        self._config = network.config
        self._scaling = scaling
        self._special = special
        self._sensors = tuple(sensors)
        self._index = {sensor: i for i, sensor in enumerate(self._sensors)}
        self._step_s = step_s
        self._unit = unit

    @property
    def sensors(self) -> tuple[str, ...]:
        """The sensors that it was trained on."""
        return self._sensors

    @property
    def step_s(self) -> int:
        """Seconds between two steps."""
        return self._step_s

    @property
    def history(self) -> int:
        """Steps of history that a forecast reads."""
        return self._config.history

    @property
    def horizon(self) -> int:
        """Steps that a forecast covers."""
        return self._config.horizon

    @property
    def metadata(self) -> dict[str, Any]:
        """All that `load` needs beside the file, and the signature with this model's own shapes."""
        rows_history = [-1, self.history]
        return {
            "format": _FORMAT,
            "network": self._config.as_json(),
            "sensors": list(self._sensors),
            "step_s": self._step_s,
            "unit": self._unit,
            "non_negative": self._scaling.non_negative,
            "history_steps": self.history,
            "horizon_steps": self.horizon,
            "signature": {
                "request": [
                    {"name": "history", "datatype": "FP32", "shape": rows_history},
                    {"name": "sensor", "datatype": "BYTES", "shape": [-1]},
                    {"name": "start", "datatype": "BYTES", "shape": [-1]},
                    {"name": "observed", "datatype": "BOOL", "shape": rows_history, "optional": True},
                ],
                "response": [{"name": "forecast", "datatype": "FP32", "shape": [-1, self.horizon]}],
            },
        }

    def save(self, path: Path) -> None:
        """Write the safetensors file; the metadata is in its header too, so that the file explains itself."""
        tensors = {f"network.{name}": tensor.contiguous() for name, tensor in self._network.state_dict().items()}
        tensors |= {
            "scaling.scale": torch.from_numpy(self._scaling.scale),
            "scaling.profile": torch.from_numpy(self._scaling.profile),
            "special.years": torch.from_numpy(self._special.years),
            "special.by_date": torch.from_numpy(self._special.by_date),
            "special.by_weekday": torch.from_numpy(self._special.by_weekday),
        }
        save_file(tensors, path, metadata={"series_forecast": json.dumps(self.metadata, sort_keys=True)})

    @classmethod
    def load(cls, file: Path | bytes, metadata: Mapping[str, Any]) -> Forecaster:
        """Open a file that `save` wrote.

        Raises:
            InvalidRequestError: the metadata are of another format, or the file's tensors do not fit them.
        """
        if metadata.get("format") != _FORMAT:
            raise InvalidRequestError(
                f"the model's metadata have the format {metadata.get('format')!r}; this version reads '{_FORMAT}'",
                hint="train the model again, or use the algorithm version that made it",
            )
        tensors = load_tensors(file if isinstance(file, bytes) else file.read_bytes())
        network = Network(NetworkConfig(**metadata["network"]))
        try:
            network.load_state_dict(
                {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}
            )
            scaling = Scaling(
                tensors["scaling.scale"].numpy(), tensors["scaling.profile"].numpy(), bool(metadata["non_negative"])
            )
            special = SpecialDays(*(tensors[f"special.{name}"].numpy() for name in ("years", "by_date", "by_weekday")))
        except (KeyError, RuntimeError) as exc:
            raise InvalidRequestError(f"the model file does not fit its metadata: {exc}") from exc
        return cls(network, scaling, special, metadata["sensors"], int(metadata["step_s"]), str(metadata["unit"]))

    def infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Answer one request of the signature in `metadata`."""
        known = ("history", "sensor", "start", "observed")
        for name in inputs:
            if name not in known:
                raise InvalidRequestError(
                    f"there is no input tensor '{name}'{did_you_mean(name, known)}", hint=f"inputs: {', '.join(known)}"
                )
        for name in known[:3]:
            if name not in inputs:
                raise InvalidRequestError(f"the input tensor '{name}' is missing", hint=f"inputs: {', '.join(known)}")
        history = np.asarray(inputs["history"], np.float32)
        if history.ndim != 2 or history.shape[1] != self.history:
            raise InvalidRequestError(
                f"'history' has the shape {list(history.shape)}; this model reads [rows, {self.history}]"
            )
        observed = np.isfinite(history)
        if "observed" in inputs:
            given = np.asarray(inputs["observed"]).astype(bool)
            if given.shape != history.shape:
                raise InvalidRequestError(
                    f"'observed' has the shape {list(given.shape)}, 'history' {list(history.shape)}"
                )
            observed &= given
        rows = len(history)
        sensors = self._sensor_rows(inputs["sensor"], rows)
        starts = _start_rows(inputs["start"], rows)
        return {"forecast": self.forecast(history, observed, sensors, starts)}

    def forecast(
        self, history: np.ndarray, observed: np.ndarray, sensors: np.ndarray, starts: np.ndarray
    ) -> np.ndarray:
        """Return forecasts in the unit of the series.

        Args:
            history: float32 [row, history].
            observed: bool [row, history]; false = the value is missing, whatever it is.
            sensors: int64 [row], index into `sensors`.
            starts: datetime64[s] [row], stamp of the first forecast step.
        Returns: float32 [row, horizon].
        """
        chunks = [
            self._forecast(history[i : i + _CHUNK_ROWS], observed[i : i + _CHUNK_ROWS], sensors[i : i + _CHUNK_ROWS],
                           starts[i : i + _CHUNK_ROWS])
            for i in range(0, len(history), _CHUNK_ROWS)
        ]  # fmt: skip
        return np.concatenate(chunks) if chunks else np.empty((0, self.horizon), np.float32)

    def _forecast(
        self, history: np.ndarray, observed: np.ndarray, sensors: np.ndarray, starts: np.ndarray
    ) -> np.ndarray:
        config = self._config
        scale = self._scaling.scale[sensors][:, None]
        # The history is whole weeks, so it begins at the same step of the week as the forecast.
        turn = (slot_of_week(starts, self._step_s)[:, None] + np.arange(config.week)) % config.week
        profile = self._scaling.profile[sensors[:, None], turn]
        calendar = calendar_features(starts, self._step_s, config.horizon, config.history // config.week, self._special)
        seen = torch.from_numpy(observed)
        with torch.inference_mode():
            past = impute(
                torch.from_numpy(np.where(observed, history, 0.0).astype(np.float32) / scale),
                seen,
                torch.from_numpy(profile),
                config.week,
            )
            share = seen.view(len(seen), -1, config.day).float().mean(2)
            answer = self._network(past, share, torch.from_numpy(calendar), torch.from_numpy(sensors)).numpy() * scale
        return np.maximum(answer, 0.0) if self._scaling.non_negative else answer

    def _sensor_rows(self, names: np.ndarray, rows: int) -> np.ndarray:
        texts = _texts(names)
        if len(texts) != rows:
            raise InvalidRequestError(f"'sensor' has {len(texts)} names, 'history' {rows} rows")
        for text in texts:
            if text not in self._index:
                raise InvalidRequestError(
                    f"the model does not know the sensor '{text}'{did_you_mean(text, self._sensors)}",
                    hint=f"it was trained on: {', '.join(self._sensors[:30])}",
                )
        return np.array([self._index[text] for text in texts], np.int64)


def _start_rows(stamps: np.ndarray, rows: int) -> np.ndarray:
    texts = _texts(stamps)
    if len(texts) not in (1, rows):
        raise InvalidRequestError(f"'start' has {len(texts)} stamps; give one, or one per row ({rows})")
    starts = np.array([_stamp(text) for text in texts], "datetime64[s]")
    return starts if len(starts) == rows else np.repeat(starts, rows)


def _stamp(text: str) -> datetime:
    try:
        stamp = datetime.fromisoformat(text)
    except ValueError as exc:
        raise InvalidRequestError(f"'start' holds no ISO stamp: {text[:40]!r}", hint="write 2025-06-18T17:00") from exc
    if stamp.tzinfo is not None:
        raise InvalidRequestError(
            f"'start' is {text}; the series keeps its own clock, without a time zone", hint="write 2025-06-18T17:00"
        )
    # The calendar of a request spans all its starts; the bound keeps one request from asking for millennia of days.
    if not _YEARS[0] <= stamp.year <= _YEARS[1]:
        raise InvalidRequestError(f"'start' is {text}; the calendar reaches from {_YEARS[0]} to {_YEARS[1]}")
    return stamp


def _texts(tensor: np.ndarray) -> list[str]:
    flat = np.asarray(tensor).reshape(-1).tolist()
    return [item.decode() if isinstance(item, bytes) else str(item) for item in flat]


def whole_weeks(steps: int, step_s: int) -> int:
    """Return how many weeks `steps` are.

    Raises:
        InvalidRequestError: not a whole number of at least two.
    """
    week = 7 * DAY_S // step_s
    if steps % week or steps < 2 * week:
        raise InvalidRequestError(
            f"history_steps is {steps}; at a step of {step_s} s a week has {week}",
            hint=f"give a whole number of weeks, two or more: {2 * week}, {3 * week}, {4 * week}, …",
        )
    return steps // week
