"""The contract that an algorithm implements and the worker fulfils.

The control plane knows an algorithm by its manifest only; the worker imports `manifest.entry` and calls it. This module
imports neither numpy nor pandas, so that manifests and their tests stay light.

    train(ctx)                 -> TrainedModel    a file in a safe format, and what is known about it
    load(file, metadata)       -> Servable        an endpoint's replica or a batch job opens the file again
    predict(ctx)               -> pyarrow.Table   batch inference over a dataset version
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from factory.domain.datasets import Contract
from factory.errors import ConflictError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

__all__ = ["Algorithm", "PredictContext", "Servable", "StoppedError", "TrainContext", "TrainedModel"]

ParamsT = TypeVar("ParamsT", covariant=True)


class StoppedError(ConflictError):
    """The algorithm saw `should_stop` and gave up; nothing that it made may be registered."""

    code = "stopped"


class DataContext(Protocol):
    """What training and batch inference have in common: data in, progress out."""

    @property
    def threads(self) -> int:
        """How many threads the algorithm may use."""
        ...

    @property
    def workdir(self) -> Path:
        """An empty folder of this attempt."""
        ...

    @property
    def should_stop(self) -> bool:
        """True once the attempt is asked to end; the algorithm then raises `StoppedError` within seconds."""
        ...

    def frame(self, input_name: str) -> pd.DataFrame:
        """Return an input's rows as its contract describes them: for a wide series the time and the value columns."""
        ...

    def contract(self, input_name: str) -> Contract:
        """Return the contract of the input's dataset version."""
        ...

    def dataset_version(self, input_name: str) -> str:
        """Return the id of the input's dataset version."""
        ...

    def log(self, message: str) -> None:
        """Write one line into the job's log."""
        ...

    def progress(self, fraction: float, message: str = "") -> None:
        """Report how much is done, 0 to 1."""
        ...


class TrainContext(DataContext, Protocol[ParamsT]):
    """What a training attempt gives the algorithm."""

    @property
    def params(self) -> ParamsT:
        """The validated parameters (the algorithm's pydantic model)."""
        ...

    @property
    def seed(self) -> int:
        """The job's seed: the same seed, data and parameters give the same model on the same machine."""
        ...

    def metrics(self, step: int, **values: float) -> None:
        """Report figures of one step, live."""
        ...


class PredictContext(DataContext, Protocol[ParamsT]):
    """What a batch inference attempt gives the algorithm."""

    @property
    def params(self) -> ParamsT:
        """The validated parameters of the prediction (the algorithm's second pydantic model)."""
        ...

    @property
    def model(self) -> Servable:
        """The model version, opened by the algorithm's `load`."""
        ...


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """What a training attempt made."""

    path: Path  # the model file, in `ctx.workdir`
    format: str  # "safetensors" or "pt2"; never a pickle
    metadata: Mapping[str, Any]  # JSON: all that `load` needs beside the file, and the signature
    metrics: Mapping[str, float]  # final figures
    evaluation: Mapping[str, Any] = field(default_factory=dict)  # form: factory/quality/evaluations.py


class Servable(Protocol):
    """A loaded model: pure inference, safe to call from one thread at a time."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata that the model was trained with."""
        ...

    def infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Answer one request; names, datatypes and shapes are the manifest's `request` and `response`.

        Args:
            inputs: tensors by name; BYTES come as arrays of `str` or `bytes` objects.
        Raises:
            InvalidRequestError: a tensor is missing, unknown or of the wrong shape; the message names it.
        """
        ...


class Algorithm(Protocol):
    """What `manifest.entry` names: a class without arguments."""

    def train(self, ctx: TrainContext[Any]) -> TrainedModel:
        """Train, evaluate and write one model.

        Raises:
            InvalidRequestError: the data do not fit the algorithm or the parameters.
            StoppedError: the attempt was asked to end.
        """
        ...

    def load(self, file: Path | bytes, metadata: Mapping[str, Any], *, threads: int = 1) -> Servable:
        """Open a model file that `train` wrote."""
        ...

    def predict(self, ctx: PredictContext[Any]) -> pa.Table:
        """Run batch inference over the input's dataset version; return the rows to write."""
        ...
