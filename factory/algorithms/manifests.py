"""Manifests of the algorithms that ship with the factory, and the parameters they take.

Only values and pydantic models: the control plane reads this, the code behind `entry` is imported by the worker alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from factory.domain.algorithms import AlgorithmManifest, InputSpec, MetricSpec, TensorSpec
from factory.domain.ids import Digest
from factory.domain.resources import GIB, Resources

__all__ = [
    "Params",
    "Registration",
    "SeriesForecastParams",
    "SeriesForecastPredictParams",
    "series_forecast",
]


class Params(BaseModel):
    """Base of every algorithm's parameters: unknown fields are refused, numbers are not guessed from texts."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Registration:
    """What an entry point of the group `aifactory.algorithms` gives: a manifest and its parameter models.

    The module of a registration must import light: the control plane loads it.
    """

    manifest: AlgorithmManifest
    params: type[Params]  # of training
    predict_params: type[Params]  # of batch inference


class SeriesForecastParams(Params):
    """Training parameters of `series-forecast`."""

    variant: Literal["mlp", "dlinear"] = Field(
        "mlp", description="mlp: one hidden layer beside a linear skip; dlinear: linear maps of trend and remainder"
    )
    history_steps: Annotated[int, Field(ge=2, le=20_000)] = Field(
        672, description="steps of history that a forecast reads: a whole number of weeks, two or more (672 = 4 weeks)"
    )
    horizon_steps: Annotated[int, Field(ge=1, le=2_000)] = Field(
        24, description="steps that a forecast covers: at most one week"
    )
    hidden: Annotated[int, Field(ge=8, le=4_096)] = Field(256, description="width of the hidden layer (mlp)")
    epochs: Annotated[int, Field(ge=1, le=1_000)] = Field(6, description="rounds between two reports")
    steps_per_epoch: Annotated[int, Field(ge=1, le=100_000)] = Field(150, description="batches per epoch")
    batch: Annotated[int, Field(ge=8, le=65_536)] = Field(256, description="windows per batch")
    lr: Annotated[float, Field(gt=0, le=1)] = Field(0.002, description="peak learning rate (one cycle, cosine)")
    weight_decay: Annotated[float, Field(ge=0, le=10)] = Field(0.01, description="AdamW's decoupled weight decay")
    scale_weight: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="weight of a sensor in the loss = (its mean level) ** this: 0 = all alike, 1 = by persons"
    )
    evaluation_share: Annotated[float, Field(gt=0, lt=0.9)] = Field(
        0.15, description="share of the time range, at its end, kept for the evaluation and never trained on"
    )
    evaluation_stride_steps: Annotated[int, Field(ge=1, le=10_000)] = Field(
        6, description="steps between two forecast origins of the evaluation"
    )
    unit: Annotated[str, Field(max_length=40)] = Field("", description="unit of the values, e.g. persons/h")


class SeriesForecastPredictParams(Params):
    """Batch inference parameters of `series-forecast`."""

    from_stamp: str = Field(
        "",
        alias="from",
        description="ISO stamp: also forecast the past from here on, one origin per horizon; "
        "empty = only the horizon after the last stamp",
    )

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)

    @field_validator("from_stamp")
    @classmethod
    def _is_naive_stamp(cls, text: str) -> str:
        if text and datetime.fromisoformat(text).tzinfo is not None:
            raise ValueError("must be a stamp without time zone, as the series has: 2025-06-18T00:00")
        return text


def series_forecast(code_digest: Digest) -> Registration:
    """Return the registration of `series-forecast` 1.0.0."""
    defaults = SeriesForecastParams()  # pyright: ignore[reportCallIssue]  # every field has a default
    history, horizon = defaults.history_steps, defaults.horizon_steps
    manifest = AlgorithmManifest(
        name="series-forecast",
        version="1.0.0",
        title="Forecast of many related series",
        description=(
            "One global model over all series of a wide table: the last weeks of a series and the calendar of the "
            "hours ahead give its next day. The network corrects the median of the same hours of the last weeks; "
            "missing hours are imputed, marked, and left out of loss and error. Days that stand out every year "
            "(holidays) are found in the training part alone."
        ),
        task="forecast",
        owner="ai-factory",
        licence="Apache-2.0",
        params_schema_json=json.dumps(SeriesForecastParams.model_json_schema(), sort_keys=True),
        defaults_json=defaults.model_dump_json(),
        inputs=(InputSpec("data", "wide series: one time column at a fixed step, one value column per series"),),
        metrics=(
            MetricSpec("mae", "min", "unit of the series", primary=True),
            MetricSpec("mae_day_ratio", "min", "1"),
            MetricSpec("mae_week_ratio", "min", "1"),
        ),
        resources=Resources(cpu_milli=1_000, memory_bytes=2 * GIB),
        entry="factory.algorithms.forecasting.series:SeriesForecast",
        code_digest=code_digest,
        model_format="safetensors",
        request=(
            TensorSpec(
                "history",
                "FP32",
                (-1, history),
                "one row per series wanted: its last values, oldest first, the latest directly before `start`; "
                "NaN = missing",
            ),
            TensorSpec("sensor", "BYTES", (-1,), "name of each row's series, as in the training data"),
            TensorSpec(
                "start",
                "BYTES",
                (-1,),
                "ISO stamp of the first forecast step, in the series' own clock: one for all rows, or one per row",
            ),
            TensorSpec(
                "observed",
                "BOOL",
                (-1, history),
                "optional, for clients whose JSON has no NaN: false = that value of `history` is missing",
            ),
        ),
        response=(
            TensorSpec("forecast", "FP32", (-1, horizon), "one row per row of `history`, in the unit of the series"),
        ),
    )
    return Registration(manifest, SeriesForecastParams, SeriesForecastPredictParams)
