"""The data gate: what passes, what fails, and the sentence that says why."""

from __future__ import annotations

import pytest

from factory.domain.datasets import CheckResult, Contract, Measurement
from factory.quality.contracts import contract_from_mapping
from factory.quality.verdicts import judge

SERIES = {"time": "stamp", "step": "1h"}


def contract(*checks: object) -> Contract:
    return contract_from_mapping({"series": SERIES, "checks": list(checks)})


def only(check: object, measurement: Measurement) -> CheckResult:
    (result,) = judge(contract(check), [measurement]).results
    return result


def test_the_gate_names_the_failed_check_with_its_numbers() -> None:
    verdict = judge(contract("order"), [Measurement("order", "", 2558.0, 2558, 61366, ("row 19: back",))])

    assert not verdict.passed
    assert verdict.failures[0].message == "2,558 of 61,366 steps go backward in time; first: row 19: back"
    assert verdict.failures[0].threshold == "<= 0"


def test_a_failed_check_of_severity_warn_is_shown_and_passes() -> None:
    verdict = judge(contract({"order": {}, "severity": "warn"}), [Measurement("order", "", 1.0, 1, 9)])
    assert verdict.passed
    assert not verdict.results[0].passed
    assert verdict.failures == ()


def test_a_check_that_was_not_measured_fails() -> None:
    verdict = judge(contract("order", "duplicates"), [Measurement("order", "", 0.0, 0, 9)])
    assert [result.check_id for result in verdict.failures] == ["duplicates"]
    assert "was not measured" in verdict.failures[0].message


def test_a_named_column_that_was_not_measured_fails() -> None:
    verdict = judge(
        contract({"null_share": {"columns": ["a", "b"], "max": 0.5}}), [Measurement("null_share:a,b", "a", 0.0, 0, 9)]
    )
    assert [result.subject for result in verdict.failures] == ["b"]


def test_a_check_that_could_not_be_measured_fails_and_says_why() -> None:
    result = only({"stuck": {"run": 5}}, Measurement("stuck", "a", 0.0, 0, 0, error="'a' is VARCHAR, not a number"))
    assert not result.passed
    assert result.message == "stuck of 'a' could not be measured: 'a' is VARCHAR, not a number"


def test_a_figure_that_is_no_number_fails() -> None:
    assert not only({"frequency": {"max_gap_share": 1}}, Measurement("frequency", "", float("nan"), 0, 0)).passed


@pytest.mark.parametrize(
    ("check", "value", "failed", "passed"),
    [
        ({"rows": {"min": 2, "max": 3}, "id": "c"}, 2.0, 0, True),
        ({"rows": {"min": 2, "max": 3}, "id": "c"}, 4.0, 0, False),
        ({"null_share": {"columns": "a", "max": 0.5}, "id": "c"}, 0.5, 5, True),
        ({"null_share": {"columns": "a", "max": 0.5}, "id": "c"}, 0.51, 5, False),
        ({"stuck": {"run": 5}, "id": "c"}, 4.0, 0, True),
        ({"stuck": {"run": 5}, "id": "c"}, 5.0, 1, False),
        ({"frequency": {"max_gap_share": 0.1}, "id": "c"}, 0.1, 1, True),
        ({"unique": ["a"], "id": "c"}, 1.0, 1, False),
        ({"range": {"columns": "a", "min": 0}, "id": "c"}, 0.0, 0, True),
    ],
)
def test_each_threshold_is_kept_up_to_its_edge(check: object, value: float, failed: int, passed: bool) -> None:
    assert only(check, Measurement("c", "a", value, failed, 10)).passed is passed


def test_rows_without_a_stamp_fail_the_order_although_no_step_goes_back() -> None:
    result = only("order", Measurement("order", "", 0.0, 2, 9))
    assert not result.passed
    assert "2 rows have no stamp" in result.message


def test_a_dead_sensor_is_told_in_hours() -> None:
    check = {"stuck": {"value": 0, "run": 168}}
    result = only(check, Measurement("stuck", "107 Quay Street", 25561.0, 1, 900))
    assert result.message == "'107 Quay Street' is 0 for 25,561 observed hours in a row"
