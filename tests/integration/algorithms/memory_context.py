"""A context as the worker gives it, on data in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from factory.domain.datasets import Contract, SeriesShape


@dataclass
class MemoryContext:
    """A `TrainContext` and a `PredictContext` that keeps what it is told."""

    table: pd.DataFrame
    params: Any
    workdir: Path
    seed: int = 0
    model: Any = None
    threads: int = 1
    stop_after: int = 1_000_000  # looks at `should_stop` until it says yes
    series: SeriesShape | None = field(default_factory=lambda: SeriesShape(time="stamp", values=("*",)))
    lines: list[str] = field(default_factory=list)
    fractions: list[float] = field(default_factory=list)
    figures: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    @property
    def should_stop(self) -> bool:
        self.stop_after -= 1
        return self.stop_after < 0

    def frame(self, input_name: str) -> pd.DataFrame:
        assert input_name == "data"
        return self.table

    def contract(self, input_name: str) -> Contract:
        return Contract(series=self.series)

    def dataset_version(self, input_name: str) -> str:
        return "dsv-test"

    def log(self, message: str) -> None:
        self.lines.append(message)

    def progress(self, fraction: float, message: str = "") -> None:
        self.fractions.append(fraction)

    def metrics(self, step: int, **values: float) -> None:
        self.figures.append((step, values))
