"""The model gate: may this model version become the champion?

Rules, in the order in which they are shown. All but `slices` must hold; `slices` blocks only beyond a configured share.
M1 lineage    the version names its data (with manifest ids), algorithm, job, attempt and code.
M2 format     the file is pt2 or safetensors: nothing is unpickled to serve it.
M3 evaluated  it has an evaluation, made on one of the dataset versions of its lineage.
M4 better     its metric beats the champion's, on the same dataset version, by the same protocol, by `min_gain`. Figures
              that do not compare are refused, with what differs. Without a champion it must beat the best baseline.
M5 slices     not more than `max_worse_share` of the slices (sensors) are worse than their best baseline by over
              `slice_tolerance`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from factory.domain.models import Lineage, ModelVersion, Promotion, PromotionCheck
from factory.errors import InvalidRequestError
from factory.quality.evaluations import Direction, Evaluation, SliceEvaluation, best_of, parse_evaluation

__all__ = ["SAFE_FORMATS", "PromotionPolicy", "judge_promotion"]

SAFE_FORMATS = ("pt2", "safetensors")


@dataclass(frozen=True, slots=True)
class PromotionPolicy:
    """How strict the gate is."""

    min_gain: float = 0.0  # share of the other figure by which ours must be better; 0 = strictly better
    slice_tolerance: float = 0.0  # share by which a slice may be worse than its best baseline
    max_worse_share: float = 0.5  # share of slices that may be worse than that


def judge_promotion(
    candidate: ModelVersion, champion: ModelVersion | None, *, policy: PromotionPolicy | None = None
) -> Promotion:
    """Judge whether `candidate` may become the champion.

    Args:
        candidate: the version that wants the alias.
        champion: the version that holds it; None the first time.
        policy: strictness; None = the default.
    Returns: the answer with every rule and its numbers. A refusal is a value, not an exception.
    """
    strictness = policy or PromotionPolicy()
    evaluation, evaluated = _evaluated(candidate)
    checks = [_lineage(candidate.lineage), _format(candidate), evaluated]
    against = f"champion v{champion.number}" if champion is not None else "the best naive baseline"
    if evaluation is not None:
        if champion is None:
            better, against = _beats_baseline(evaluation, strictness)
        else:
            better = _beats_champion(evaluation, champion, strictness)
        checks.append(better)
        checks.append(_slices(evaluation, strictness))
    return Promotion(passed=all(check.passed for check in checks), checks=tuple(checks), against=against)


def _lineage(lineage: Lineage) -> PromotionCheck:  # rule M1
    named = (
        ("dataset version", bool(lineage.dataset_versions) and all(lineage.dataset_versions)),
        (
            "manifest id of each dataset version",
            len(lineage.manifest_ids) == len(lineage.dataset_versions) and all(lineage.manifest_ids),
        ),
        ("algorithm", bool(lineage.algorithm)),
        ("algorithm version", bool(lineage.algorithm_version)),
        ("job", bool(lineage.job)),
        ("attempt", bool(lineage.attempt)),
        ("code digest", bool(lineage.code_digest)),
    )
    missing = [name for name, there in named if not there]
    message = f"the lineage lacks: {', '.join(missing)}" if missing else "the lineage is complete"
    return PromotionCheck("lineage", not missing, message)


def _format(candidate: ModelVersion) -> PromotionCheck:  # rule M2
    safe = candidate.format in SAFE_FORMATS
    message = f"the file is {candidate.format}" if safe else f"'{candidate.format}' is not a safe format"
    return PromotionCheck("format", safe, message if safe else f"{message} (allowed: {', '.join(SAFE_FORMATS)})")


def _evaluated(candidate: ModelVersion) -> tuple[Evaluation | None, PromotionCheck]:  # rule M3
    if candidate.evaluation_json in ("", "{}"):
        return None, PromotionCheck("evaluated", False, "the version has no evaluation")
    try:
        evaluation = parse_evaluation(candidate.evaluation_json)
    except InvalidRequestError as exc:
        return None, PromotionCheck("evaluated", False, f"the evaluation cannot be read: {exc}")
    if evaluation.dataset_version not in candidate.lineage.dataset_versions:
        message = f"evaluated on {evaluation.dataset_version}, which the lineage does not name"
        return evaluation, PromotionCheck("evaluated", False, message)
    figure = f"{evaluation.metric} {_amount(evaluation.value, evaluation)}"
    message = f"{figure} on {evaluation.dataset_version} ({evaluation.protocol})"
    return evaluation, PromotionCheck("evaluated", True, message, value=evaluation.value)


def _beats_baseline(evaluation: Evaluation, policy: PromotionPolicy) -> tuple[PromotionCheck, str]:  # rule M4
    best = evaluation.best_baseline()
    if best is None:
        message = "there is no champion yet and the evaluation names no baseline to beat"
        return PromotionCheck("better", False, message, value=evaluation.value), "the best naive baseline"
    name, figure = best
    return _better(evaluation, figure, f"baseline {name}", policy), f"baseline {name}"


def _beats_champion(evaluation: Evaluation, champion: ModelVersion, policy: PromotionPolicy) -> PromotionCheck:
    other, evaluated = _evaluated(champion)
    name = f"champion v{champion.number}"
    if other is None:
        return PromotionCheck(
            "better", False, f"not comparable with {name}: {evaluated.message}", value=evaluation.value
        )
    differing = [
        f"{what} {theirs} there, {ours} here"
        for what, ours, theirs in (
            ("dataset version", evaluation.dataset_version, other.dataset_version),
            ("protocol", f"'{evaluation.protocol}'", f"'{other.protocol}'"),
            ("metric", evaluation.metric, other.metric),
            ("direction", evaluation.direction.value, other.direction.value),
            ("unit", f"'{evaluation.unit}'", f"'{other.unit}'"),
        )
        if ours != theirs
    ]
    if differing:
        message = f"not comparable with {name}: {'; '.join(differing)}; evaluate {name} the same way first"
        return PromotionCheck("better", False, message, value=evaluation.value)
    return _better(evaluation, other.value, name, policy)


def _better(evaluation: Evaluation, figure: float, name: str, policy: PromotionPolicy) -> PromotionCheck:
    """Compare with `figure`, which must be beaten strictly, and by `min_gain` of it."""
    margin = policy.min_gain * abs(figure)
    if evaluation.direction is Direction.MIN:
        threshold = figure - margin
        passed = evaluation.value < figure and evaluation.value <= threshold
    else:
        threshold = figure + margin
        passed = evaluation.value > figure and evaluation.value >= threshold
    verb = "beats" if passed else "does not beat"
    ratio = f" (ratio {evaluation.value / figure:.3f})" if figure else ""
    by = f" by {100 * policy.min_gain:g} %" if policy.min_gain and not passed else ""
    message = (
        f"{evaluation.metric} {_amount(evaluation.value, evaluation)} {verb} {name}'s "
        f"{_amount(figure, evaluation)}{by}{ratio}"
    )
    return PromotionCheck("better", passed, message, value=evaluation.value, threshold=threshold)


def _slices(evaluation: Evaluation, policy: PromotionPolicy) -> PromotionCheck:  # rule M5
    compared: list[tuple[SliceEvaluation, float]] = []
    for part in evaluation.slices:
        best = best_of(part.baselines, evaluation.direction)
        if best is not None:
            compared.append((part, best[1]))
    if not compared:
        return PromotionCheck("slices", True, "the evaluation has no slices to compare")
    worse = [part.name for part, figure in compared if _is_worse(part.value, figure, evaluation.direction, policy)]
    share = len(worse) / len(compared)
    names = f": {_some(worse)}" if worse else ""
    message = f"{len(worse)} of {len(compared)} slices are worse than their best baseline{names}"
    return PromotionCheck("slices", share <= policy.max_worse_share, message, share, policy.max_worse_share)


def _is_worse(value: float, baseline: float, direction: Direction, policy: PromotionPolicy) -> bool:
    margin = policy.slice_tolerance * abs(baseline)
    return value > baseline + margin if direction is Direction.MIN else value < baseline - margin


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _amount(value: float, evaluation: Evaluation) -> str:
    return f"{value:.4g} {evaluation.unit}".rstrip()
