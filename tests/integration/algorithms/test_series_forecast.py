"""`series-forecast` on the real counts: its quality, and that it does what its contract says."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from factory.algorithms.contract import StoppedError
from factory.algorithms.forecasting.series import SeriesForecast
from factory.algorithms.manifests import SeriesForecastParams, SeriesForecastPredictParams
from factory.domain.datasets import SeriesShape
from factory.errors import InvalidRequestError
from factory.quality.evaluations import parse_evaluation
from tests.integration.algorithms.memory_context import MemoryContext

HISTORY = 336


def quick(**changes: Any) -> SeriesForecastParams:
    """Parameters of a training that takes a fraction of a second."""
    chosen = {"history_steps": HISTORY, "hidden": 16, "epochs": 2, "steps_per_epoch": 10, "batch": 64}
    return SeriesForecastParams(**(chosen | changes))


@pytest.fixture(scope="module")
def small() -> pd.DataFrame:
    """20 weeks of three sensors with a daily and a weekly pattern, noise and nulls."""
    random = np.random.default_rng(7)
    stamps = pd.date_range("2024-01-01", periods=20 * 168, freq="h", unit="s")
    wave = 1.2 + np.sin(2 * np.pi * stamps.hour / 24) + 0.3 * (stamps.day_of_week < 5)
    table = pd.DataFrame({"stamp": stamps})
    for sensor, size in (("north", 100.0), ("south", 1000.0), ("west", 10.0)):
        values = size * np.asarray(wave) * random.uniform(0.8, 1.2, len(stamps))
        values[random.uniform(size=len(stamps)) < 0.03] = np.nan
        table[sensor] = values
    return table


def request(table: pd.DataFrame, sensors: list[str], history: int = HISTORY) -> dict[str, np.ndarray]:
    """The request for the hours after the table's last."""
    start = table["stamp"].iloc[-1] + pd.Timedelta(hours=1)
    return {
        "history": table[sensors].tail(history).to_numpy(np.float32).T,
        "sensor": np.array(sensors, object),
        "start": np.array([start.isoformat()], object),
    }


# Quality ------------------------------------------------------------------------------------------------------------


def test_the_better_variant_beats_last_week_by_a_sixth_in_the_median_of_three_seeds(
    footfall: pd.DataFrame, context: Callable[..., Any]
) -> None:
    ratios: dict[str, list[float]] = {"mlp": [], "dlinear": []}
    for variant, seed in (("dlinear", 0), ("mlp", 0), ("mlp", 1), ("mlp", 2)):
        model = SeriesForecast().train(context(footfall, SeriesForecastParams(variant=variant), seed=seed))
        evaluation = model.evaluation
        assert evaluation["windows"] == 783
        assert len(evaluation["slices"]) == 19
        assert evaluation["baselines"]["week"] == pytest.approx(60.5, abs=0.2)  # the floor that the issue names
        assert evaluation["baselines"]["day"] == pytest.approx(77.0, abs=0.2)
        ratios[variant].append(model.metrics["mae_week_ratio"])
    assert ratios["dlinear"][0] <= 0.83
    assert statistics.median(ratios["mlp"]) <= 0.76  # measured 0.746; the must is 0.83
    # Every sensor gains, not only the busy ones (the last model trained).
    assert all(part["value"] < part["baselines"]["week"] for part in evaluation["slices"].values())


# Training -----------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_file_and_another_seed_another(
    small: pd.DataFrame, context: Callable[..., Any]
) -> None:
    first, again, other = (
        SeriesForecast().train(context(small, quick(), seed=seed)).path.read_bytes() for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other


def test_nothing_of_the_evaluation_part_reaches_the_model(small: pd.DataFrame, context: Callable[..., Any]) -> None:
    changed = small.copy()
    start = int(len(small) * (1 - 0.15))
    changed.loc[start:, ["north", "south", "west"]] = 12_345.0
    honest = SeriesForecast().train(context(small, quick())).path.read_bytes()
    assert SeriesForecast().train(context(changed, quick())).path.read_bytes() == honest


@pytest.mark.parametrize("variant", ["mlp", "dlinear"])
def test_training_reports_what_the_factory_needs(
    small: pd.DataFrame, context: Callable[..., Any], variant: str
) -> None:
    ctx = context(small, quick(variant=variant, unit="persons/h"))
    model = SeriesForecast().train(ctx)
    evaluation = parse_evaluation(json.dumps(model.evaluation))
    assert evaluation.unit == "persons/h"
    assert evaluation.dataset_version == "dsv-test"
    assert evaluation.value == model.metrics["mae"] > 0
    assert {part.name for part in evaluation.slices} == {"north", "south", "west"}
    assert model.format == "safetensors"
    assert model.path.parent == ctx.workdir
    assert ctx.fractions == sorted(ctx.fractions)
    assert ctx.fractions[-1] == 1.0
    assert [step for step, values in ctx.figures if "train_loss" in values] == [10, 20]


def test_training_learns_a_pattern_with_nulls_better_than_last_week(
    small: pd.DataFrame, context: Callable[..., Any]
) -> None:
    untrained = SeriesForecast().train(context(small, quick(epochs=1, steps_per_epoch=1, lr=1e-9)))
    model = SeriesForecast().train(context(small, quick(epochs=6, steps_per_epoch=60, hidden=64, lr=0.005)))
    # The untrained network answers the mean of two weeks: sqrt(1.5 / 2) of last week's error if all is noise.
    assert untrained.metrics["mae_week_ratio"] == pytest.approx((1.5 / 2) ** 0.5, abs=0.03)
    assert model.metrics["mae"] < 0.98 * untrained.metrics["mae"]
    assert np.isfinite(list(model.metrics.values())).all()


def test_an_asked_for_stop_ends_the_training_without_a_model(small: pd.DataFrame, context: Callable[..., Any]) -> None:
    ctx = context(small, quick(), stop_after=3)
    with pytest.raises(StoppedError, match="step 3 of 20"):
        SeriesForecast().train(ctx)
    assert list(ctx.workdir.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "series", "params", "message"),
    [
        (lambda t: t, SeriesShape(time="stamp"), {"history_steps": 400}, "a week has 168"),
        (lambda t: t, SeriesShape(time="stamp"), {"horizon_steps": 200}, "168 of a week"),
        (lambda t: t.head(300), SeriesShape(time="stamp"), {}, "remain for training"),
        (lambda t: t, SeriesShape(time="stamps"), {}, "no column 'stamps'; did you mean 'stamp'"),
        (lambda t: t, SeriesShape(time="stamp", key=("sensor",)), {}, "wide series"),
        (lambda t: t, None, {}, "wide series"),
        (lambda t: pd.concat([t, t.tail(2)]), SeriesShape(time="stamp"), {}, "2 stamps are there more than once"),
        (lambda t: t.assign(north=np.nan), SeriesShape(time="stamp"), {}, "'north' has no value"),
        (lambda t: t, SeriesShape(time="stamp", step_s=7200), {}, "off the grid"),
    ],
)
def test_data_that_do_not_fit_are_refused_with_the_reason(
    small: pd.DataFrame,
    context: Callable[..., Any],
    change: Callable[[pd.DataFrame], pd.DataFrame],
    series: SeriesShape | None,
    params: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        SeriesForecast().train(context(change(small), quick(**params), series=series))


# Serving ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(small: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory):
    return SeriesForecast().train(MemoryContext(small, quick(), tmp_path_factory.mktemp("model")))


def test_a_loaded_file_answers_the_same_from_disk_and_from_bytes(small: pd.DataFrame, trained: Any) -> None:
    asked = request(small, ["south", "north"])
    from_disk = SeriesForecast().load(trained.path, trained.metadata).infer(asked)["forecast"]
    from_bytes = SeriesForecast().load(trained.path.read_bytes(), dict(trained.metadata)).infer(asked)["forecast"]
    assert from_disk.shape == (2, 24)
    assert from_disk.dtype == np.float32
    assert (from_disk >= 0).all()
    np.testing.assert_array_equal(from_disk, from_bytes)


def test_a_row_is_answered_alike_alone_and_among_others(small: pd.DataFrame, trained: Any) -> None:
    model = SeriesForecast().load(trained.path, trained.metadata)
    together = model.infer(request(small, ["north", "south", "west"]))["forecast"]
    alone = model.infer(request(small, ["south"]))["forecast"]
    np.testing.assert_allclose(alone[0], together[1], rtol=1e-5)


def test_batch_inference_answers_as_the_endpoint_does(
    small: pd.DataFrame, trained: Any, context: Callable[..., Any]
) -> None:
    model = SeriesForecast().load(trained.path, trained.metadata)
    rows = SeriesForecast().predict(context(small, SeriesForecastPredictParams(), model=model)).to_pandas()
    assert list(rows.columns) == ["stamp", "sensor", "forecast_origin", "value"]
    assert len(rows) == 3 * 24
    assert (rows["forecast_origin"] == small["stamp"].iloc[-1] + pd.Timedelta(hours=1)).all()
    online = model.infer(request(small, ["north", "south", "west"]))["forecast"]
    wide = rows.pivot(index="sensor", columns="stamp", values="value").loc[["north", "south", "west"]]
    np.testing.assert_allclose(wide.to_numpy(), online, rtol=1e-5)


def test_batch_inference_from_a_stamp_covers_the_past_and_the_next_day_without_a_gap(
    small: pd.DataFrame, trained: Any, context: Callable[..., Any]
) -> None:
    model = SeriesForecast().load(trained.path, trained.metadata)
    start = small["stamp"].iloc[-1] - pd.Timedelta(hours=99)
    ctx = context(small, SeriesForecastPredictParams.model_validate({"from": start.isoformat()}), model=model)
    rows = SeriesForecast().predict(ctx).to_pandas()
    one = rows[rows["sensor"] == "west"].drop_duplicates("stamp")
    assert one["stamp"].min() == start
    assert len(one) == 100 + 24
    assert (one["stamp"] >= one["forecast_origin"]).all()


def test_missing_hours_may_be_nan_or_marked_and_change_nothing_else(small: pd.DataFrame, trained: Any) -> None:
    model = SeriesForecast().load(trained.path, trained.metadata)
    asked = request(small, ["north"])
    gap = asked["history"].copy()
    gap[0, 100:130] = np.nan
    marked = np.isfinite(gap)
    with_nan = model.infer({**asked, "history": gap})["forecast"]
    with_marks = model.infer({**asked, "history": np.where(marked, gap, -999.0), "observed": marked})["forecast"]
    assert np.isfinite(with_nan).all()
    np.testing.assert_array_equal(with_nan, with_marks)
    nothing = model.infer({**asked, "history": np.full_like(gap, np.nan)})["forecast"]
    usual = small["north"].mean()
    assert usual / 4 < nothing.mean() < usual * 4  # the usual week stands in


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sensor": np.array(["nort"], object)}, "sensor 'nort'; did you mean 'north'"),
        ({"sensor": np.array(["north", "south"], object)}, "2 names, 'history' 1 rows"),
        ({"history": np.zeros((1, 24), np.float32)}, r"this model reads \[rows, 336\]"),
        ({"start": np.array(["soon"], object)}, "no ISO stamp"),
        ({"start": np.array(["2025-01-01T00:00Z"], object)}, "without a time zone"),
        ({"start": np.array(["9999-01-01"], object)}, "reaches from 1900 to 2200"),
        ({"start": np.array(["2025-01-01"] * 3, object)}, "3 stamps"),
        ({"observed": np.ones((2, 2), bool)}, "'observed' has the shape"),
        ({"histori": np.zeros(1)}, "no input tensor 'histori'; did you mean 'history'"),
        ({"start": None}, "'start' is missing"),
    ],
)
def test_a_wrong_request_is_refused_by_the_name_of_its_tensor(
    small: pd.DataFrame, trained: Any, changes: dict[str, Any], message: str
) -> None:
    asked = {name: t for name, t in (request(small, ["north"]) | changes).items() if t is not None}
    with pytest.raises(InvalidRequestError, match=message):
        SeriesForecast().load(trained.path, trained.metadata).infer(asked)


def test_a_file_that_does_not_fit_its_metadata_is_refused(trained: Any, tmp_path: Path) -> None:
    tensors = load_file(trained.path)
    tensors.pop("network.skip.weight")
    save_file(tensors, tmp_path / "broken.safetensors")
    with pytest.raises(InvalidRequestError, match=r"skip\.weight"):
        SeriesForecast().load(tmp_path / "broken.safetensors", trained.metadata)
    with pytest.raises(InvalidRequestError, match="format 'series-forecast/9'"):
        SeriesForecast().load(trained.path, {**trained.metadata, "format": "series-forecast/9"})


def test_batch_inference_refuses_a_series_that_the_model_does_not_know(
    small: pd.DataFrame, trained: Any, context: Callable[..., Any]
) -> None:
    model = SeriesForecast().load(trained.path, trained.metadata)
    with pytest.raises(InvalidRequestError, match="sensor 'nord'; did you mean 'north'"):
        SeriesForecast().predict(
            context(small.rename(columns={"north": "nord"}), SeriesForecastPredictParams(), model=model)
        )
