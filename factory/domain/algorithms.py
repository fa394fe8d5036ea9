"""Algorithm manifests: typed contracts that import without torch."""

from __future__ import annotations

from dataclasses import dataclass

from factory.domain.ids import Digest
from factory.domain.resources import Resources

__all__ = ["AlgorithmManifest", "InputSpec", "MetricSpec", "TensorSpec"]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """A named dataset input and what it must look like."""

    name: str
    description: str
    series: bool = True  # its contract must have a series shape


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A metric the algorithm reports."""

    name: str
    direction: str  # "min" or "max"
    unit: str
    primary: bool = False


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of the Open Inference Protocol signature; -1 = any size."""

    name: str
    datatype: str  # "FP32", "INT64", "BYTES", …
    shape: tuple[int, ...]
    description: str = ""


@dataclass(frozen=True, slots=True)
class AlgorithmManifest:
    """What the catalogue knows of an algorithm without importing its code."""

    name: str
    version: str  # semver
    title: str
    description: str
    task: str  # "forecast", "detect", …
    owner: str
    licence: str
    params_schema_json: str  # JSON Schema of its parameters (additionalProperties false)
    defaults_json: str
    inputs: tuple[InputSpec, ...]
    metrics: tuple[MetricSpec, ...]
    resources: Resources  # default per replica
    entry: str  # "factory.algorithms.forecasting.series:SeriesForecast", imported only in the worker
    code_digest: Digest  # sha256 over the algorithm's source files
    model_format: str  # "pt2" or "safetensors"
    request: tuple[TensorSpec, ...] = ()
    response: tuple[TensorSpec, ...] = ()
