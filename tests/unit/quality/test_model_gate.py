"""The model gate: who becomes champion, and what is said to those who don't."""

from __future__ import annotations

from dataclasses import replace

import pytest

from factory.domain.ids import AttemptId, Digest, JobId, ModelName, TenantId, VersionId
from factory.domain.models import Lineage, ModelVersion, Promotion, PromotionCheck
from factory.domain.time import Instant
from factory.errors import InvalidRequestError
from factory.quality.evaluations import Direction, Evaluation, SliceEvaluation, evaluation_json, parse_evaluation
from factory.quality.models import PromotionPolicy, judge_promotion

DATA = VersionId("dsv-1")


def evaluation(value: float, **changes: object) -> Evaluation:
    base = Evaluation(
        "last 15 %", DATA, "mae", Direction.MIN, "persons/h", value, (("day", 77.0), ("week", 60.5)), windows=783
    )
    return replace(base, **changes)  # pyright: ignore[reportArgumentType] - fields of Evaluation by name


def model(number: int, of: Evaluation | str) -> ModelVersion:
    return ModelVersion(
        tenant=TenantId("mobility"), model=ModelName("footfall"), number=number, format="safetensors", object_key="k",
        size_bytes=1, sha256="0" * 64, signature_json="{}", metadata_json="{}", metrics=(),
        evaluation_json=of if isinstance(of, str) else evaluation_json(of),
        lineage=Lineage(
            (DATA,), (Digest("sha256:m"),), "series-forecast", "1.0.0", "{}", JobId("job-1"), AttemptId("job-1.1"),
            "sha256:c", 7,
        ),
        created_at=Instant(0),
    )  # fmt: skip


def rule(promotion: Promotion, name: str) -> PromotionCheck:
    return next(check for check in promotion.checks if check.rule == name)


def test_the_first_model_must_beat_the_best_naive_baseline() -> None:
    better, worse = judge_promotion(model(1, evaluation(49.6)), None), judge_promotion(model(1, evaluation(70.0)), None)
    assert better.passed
    assert better.against == "baseline week"
    assert rule(better, "better").message == "mae 49.6 persons/h beats baseline week's 60.5 persons/h (ratio 0.820)"
    assert not worse.passed


def test_a_first_model_without_a_baseline_is_refused() -> None:
    promotion = judge_promotion(model(1, evaluation(1.0, baselines=())), None)
    assert not promotion.passed
    assert "no baseline" in rule(promotion, "better").message


def test_a_later_model_must_beat_the_champion_and_not_only_equal_it() -> None:
    champion = model(1, evaluation(50.0))
    assert judge_promotion(model(2, evaluation(49.9)), champion).passed
    assert not judge_promotion(model(2, evaluation(50.0)), champion).passed


def test_the_gain_must_reach_the_policy() -> None:
    champion, policy = model(1, evaluation(50.0)), PromotionPolicy(min_gain=0.02)
    assert not judge_promotion(model(2, evaluation(49.5)), champion, policy=policy).passed
    assert judge_promotion(model(2, evaluation(49.0)), champion, policy=policy).passed


def test_more_is_better_where_the_metric_says_so() -> None:
    def score(value: float) -> Evaluation:
        return evaluation(value, metric="r2", direction=Direction.MAX, baselines=(("day", 0.5), ("week", 0.7)))

    assert judge_promotion(model(1, score(0.8)), None).against == "baseline week"
    assert judge_promotion(model(1, score(0.8)), None).passed
    assert not judge_promotion(model(2, score(0.7)), model(1, score(0.8))).passed


@pytest.mark.parametrize(
    "changes",
    [{"dataset_version": VersionId("dsv-0")}, {"protocol": "first 15 %"}, {"metric": "mse"}, {"unit": "vehicles/h"}],
)
def test_figures_that_do_not_compare_are_refused_with_what_differs(changes: dict[str, object]) -> None:
    champion = model(1, evaluation(90.0, **changes))
    if "dataset_version" in changes:
        champion = replace(champion, lineage=replace(champion.lineage, dataset_versions=(VersionId("dsv-0"),)))
    promotion = judge_promotion(model(2, evaluation(10.0)), champion)
    assert not promotion.passed
    message = rule(promotion, "better").message
    assert "not comparable with champion v1" in message
    assert str(next(iter(changes.values()))) in message


def test_an_evaluation_on_data_outside_the_lineage_is_refused() -> None:
    promotion = judge_promotion(model(1, evaluation(10.0, dataset_version=VersionId("dsv-9"))), None)
    assert [check.rule for check in promotion.checks if not check.passed] == ["evaluated"]


def test_a_pickle_is_refused() -> None:
    promotion = judge_promotion(replace(model(1, evaluation(10.0)), format="pickle"), None)
    assert "not a safe format" in rule(promotion, "format").message
    assert not promotion.passed


@pytest.mark.parametrize("field", ["manifest_ids", "algorithm", "job", "code_digest"])
def test_a_gap_in_the_lineage_is_refused(field: str) -> None:
    version = model(1, evaluation(10.0))
    empty = () if field == "manifest_ids" else ""
    version = replace(version, lineage=replace(version.lineage, **{field: empty}))
    assert [check.rule for check in judge_promotion(version, None).checks if not check.passed] == ["lineage"]


@pytest.mark.parametrize("text", ["", "{}", "no json", '{"protocol": "p"}'])
def test_a_model_without_a_readable_evaluation_is_refused(text: str) -> None:
    assert not judge_promotion(model(1, text), None).passed


def test_worse_slices_are_named_and_block_only_beyond_the_configured_share() -> None:
    slices = tuple(SliceEvaluation(name, value, (("week", 10.0),)) for name, value in (("a", 9.0), ("b", 12.0)))
    version = model(1, evaluation(49.0, slices=slices))
    lenient = judge_promotion(version, None)
    assert lenient.passed
    assert "1 of 2 slices are worse than their best baseline: b" in rule(lenient, "slices").message
    assert not judge_promotion(version, None, policy=PromotionPolicy(max_worse_share=0.4)).passed
    assert judge_promotion(version, None, policy=PromotionPolicy(max_worse_share=0.0, slice_tolerance=0.2)).passed


def test_an_evaluation_reads_back_as_it_was_written() -> None:
    one = evaluation(49.6, slices=(SliceEvaluation("107 Quay Street", 3.5, (("day", 4.0),)),))
    assert parse_evaluation(evaluation_json(one)) == one


def test_an_evaluation_refuses_figures_that_are_not_finite() -> None:
    with pytest.raises(InvalidRequestError, match="not finite"):
        evaluation_json(evaluation(float("nan")))
    with pytest.raises(InvalidRequestError, match=r"evaluation\.value must be a finite number"):
        parse_evaluation(evaluation_json(evaluation(1.0)).replace('"value":1.0', '"value":NaN'))
