"""Evaluations: what a training job measured, on which data, by which protocol, beside which baselines.

A model version carries its evaluation as `evaluation_json`. The algorithm writes it (`evaluation_json`), the model gate
reads it (`parse_evaluation`). The form is strict, so that a figure that cannot be compared is refused, not guessed:

    {"protocol": "last 15 % of hours, 24 h windows every 6 h, nulls left out, pooled",
     "dataset_version": "dsv-…", "metric": "mae", "direction": "min", "unit": "persons/h", "value": 49.6,
     "baselines": {"day": 77.0, "week": 60.5},
     "slices": {"107 Quay Street": {"value": 31.2, "baselines": {"day": 50.1, "week": 41.0}}},
     "windows": 783}

`slices` may be empty. All figures are finite; `direction` says whether less ("min") or more ("max") is better.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from factory.domain.ids import VersionId
from factory.errors import InvalidRequestError, did_you_mean

__all__ = ["Direction", "Evaluation", "SliceEvaluation", "evaluation_json", "parse_evaluation"]


class Direction(StrEnum):
    """Which way the metric gets better."""

    MIN = "min"  # an error: less is better
    MAX = "max"  # a score: more is better


@dataclass(frozen=True, slots=True)
class SliceEvaluation:
    """The metric on one part of the data (one sensor)."""

    name: str
    value: float
    baselines: tuple[tuple[str, float], ...] = ()  # sorted by name


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation of one model version on one dataset version."""

    protocol: str  # how the figure is made; two figures compare only under the same text
    dataset_version: VersionId
    metric: str  # "mae"
    direction: Direction
    unit: str  # "persons/h"
    value: float
    baselines: tuple[tuple[str, float], ...] = ()  # naive forecasts by name, sorted: ("day", 77.0), ("week", 60.5)
    slices: tuple[SliceEvaluation, ...] = ()  # sorted by name
    windows: int = 0  # how many windows were pooled

    def best_baseline(self) -> tuple[str, float] | None:
        """Return the name and value of the baseline that is hardest to beat; None if there is none.

        >>> e = Evaluation("p", VersionId("dsv-1"), "mae", Direction.MIN, "", 1.0, (("day", 77.0), ("week", 60.5)))
        >>> e.best_baseline()
        ('week', 60.5)
        """
        return best_of(self.baselines, self.direction)


def best_of(figures: Iterable[tuple[str, float]], direction: Direction) -> tuple[str, float] | None:
    """Return the best of named figures; by name where they are equal."""
    sign = 1.0 if direction is Direction.MIN else -1.0
    return min(figures, key=lambda named: (sign * named[1], named[0]), default=None)


def evaluation_json(evaluation: Evaluation) -> str:
    """Return the canonical JSON of an evaluation.

    Raises:
        InvalidRequestError: a figure is not finite (JSON has no NaN).
    """
    document = {
        "protocol": evaluation.protocol,
        "dataset_version": evaluation.dataset_version,
        "metric": evaluation.metric,
        "direction": evaluation.direction.value,
        "unit": evaluation.unit,
        "value": evaluation.value,
        "baselines": dict(evaluation.baselines),
        "slices": {s.name: {"value": s.value, "baselines": dict(s.baselines)} for s in evaluation.slices},
        "windows": evaluation.windows,
    }
    try:
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except ValueError as exc:
        raise InvalidRequestError(
            "an evaluation holds a figure that is not finite", hint="leave out slices without any observed hour"
        ) from exc


def parse_evaluation(text: str) -> Evaluation:
    """Read an evaluation from its JSON.

    Raises:
        InvalidRequestError: no JSON, a key is missing, unknown or of the wrong type; the message names it.
    """
    try:
        document = cast("object", json.loads(text))
    except json.JSONDecodeError as exc:
        raise InvalidRequestError(f"the evaluation is not JSON: {exc}") from exc
    return evaluation_from_mapping(document)


def evaluation_from_mapping(document: object) -> Evaluation:
    """Read an evaluation from the parsed JSON (as the wire carries it).

    Raises:
        InvalidRequestError: as `parse_evaluation`.
    """
    root = _object(document, "evaluation", _KEYS)
    direction = _text(root, "direction")
    if direction not in tuple(Direction):
        raise InvalidRequestError(f"evaluation.direction is '{direction}'; it is one of: min, max")
    windows = root.get("windows", 0)
    if isinstance(windows, bool) or not isinstance(windows, int) or windows < 0:
        raise InvalidRequestError("evaluation.windows must be a whole number, 0 or more")
    slices = _object(root.get("slices", {}), "evaluation.slices", None)
    return Evaluation(
        protocol=_text(root, "protocol"),
        dataset_version=VersionId(_text(root, "dataset_version")),
        metric=_text(root, "metric"),
        direction=Direction(direction),
        unit=_text(root, "unit", required=False),
        value=_figure(root.get("value"), "evaluation.value"),
        baselines=_figures(root.get("baselines", {}), "evaluation.baselines"),
        slices=tuple(_slice(name, slices[name]) for name in sorted(slices)),
        windows=windows,
    )


_KEYS = ("protocol", "dataset_version", "metric", "direction", "unit", "value", "baselines", "slices", "windows")


def _slice(name: str, document: object) -> SliceEvaluation:
    where = f"evaluation.slices['{name}']"
    entry = _object(document, where, ("value", "baselines"))
    return SliceEvaluation(
        name, _figure(entry.get("value"), f"{where}.value"), _figures(entry.get("baselines", {}), f"{where}.baselines")
    )


def _object(value: object, where: str, allowed: tuple[str, ...] | None) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{where} must be an object")
    entries = cast("dict[str, object]", value)
    if allowed is not None:
        for key in entries:
            if key not in allowed:
                raise InvalidRequestError(
                    f"{where} has the unknown key '{key}'{did_you_mean(key, allowed)}",
                    hint=f"allowed: {', '.join(allowed)}",
                )
    return entries


def _text(entries: Mapping[str, object], key: str, *, required: bool = True) -> str:
    value = entries.get(key, "")
    if not isinstance(value, str) or (required and not value):
        raise InvalidRequestError(f"evaluation.{key} must be a text{' that is not empty' if required else ''}")
    return value


def _figure(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidRequestError(f"{where} must be a finite number")
    return float(value)


def _figures(value: object, where: str) -> tuple[tuple[str, float], ...]:
    entries = _object(value, where, None)
    return tuple((name, _figure(entries[name], f"{where}.{name}")) for name in sorted(entries))
