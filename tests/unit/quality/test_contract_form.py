"""The short form of contracts: what people write, and what they are told when it is wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest

from factory.domain.datasets import Check, CheckKind, Contract, SeriesShape, Severity
from factory.errors import InvalidRequestError
from factory.quality.contracts import check_contract, contract_digest, contract_from_mapping, contract_to_mapping

FORM = {
    "description": "Hourly counts",
    "licence": "CC-BY-4.0",
    "class": "public",
    "series": {"time": "stamp", "key": "sensor", "values": ["count"], "exclude": "year", "step": "15min"},
    "checks": [
        {"rows": {"min": 10}},
        {"required": ["stamp", "sensor"]},
        {"type": {"stamp": "timestamp", "count": "integer", "year": "integer"}},
        {"null_share": {"columns": "*values", "max": 0.5}},
        {"range": {"columns": ["count"], "min": 0, "max": 20000}},
        {"unique": ["sensor", "stamp"]},
        "order",
        {"duplicates": {}},
        {"frequency": {"max_gap_share": 0.01, "step": "1h"}},
        {"stuck": {"value": 0, "run": 168}, "severity": "warn"},
        {"stuck": {"run": 500}, "id": "frozen"},
    ],
}


def test_the_short_form_says_what_the_contract_holds() -> None:
    contract = contract_from_mapping(FORM)

    assert contract.series == SeriesShape("stamp", "", ("sensor",), ("count",), ("year",), 900)
    assert contract.data_class == "public"
    assert [check.id for check in contract.checks] == [
        "rows", "required:stamp,sensor", "type:stamp", "type:count,year", "null_share:*values", "range:count",
        "unique:sensor,stamp", "order", "duplicates", "frequency", "stuck", "frozen",
    ]  # fmt: skip
    assert contract.checks[10] == Check(
        "stuck", CheckKind.STUCK, severity=Severity.WARN, run_length=168, stuck_value=0.0
    )
    assert contract.checks[9].step_s == 3600


def test_the_printed_form_reads_back_as_the_same_contract() -> None:
    contract = contract_from_mapping(FORM)
    assert contract_from_mapping(contract_to_mapping(contract)) == contract


def test_two_checks_of_one_rule_get_different_ids() -> None:
    contract = contract_from_mapping({"checks": [{"rows": {"min": 1}}, {"rows": {"max": 9}, "severity": "warn"}]})
    assert [check.id for check in contract.checks] == ["rows", "rows#2"]


def test_the_digest_follows_the_meaning_and_not_the_spelling() -> None:
    one = contract_from_mapping({"class": "internal", "checks": [{"rows": {"max": 9, "min": 1}}]})
    same = contract_from_mapping({"checks": [{"rows": {"min": 1.0, "max": 9}}]})
    assert contract_digest(one) == contract_digest(same)
    assert contract_digest(one) != contract_digest(replace(one, licence="CC0"))
    assert contract_digest(one).startswith("sha256:")


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ({"cheks": []}, "did you mean 'checks'"),
        ({"checks": [{"rnge": {"columns": "a", "min": 0}}]}, "did you mean 'range'"),
        ({"checks": [{"range": {"columns": "a", "min": 0, "severity": "warn"}}]}, "beside the rule"),
        ({"checks": [{"range": {"columns": "a"}}]}, "neither min nor max"),
        ({"checks": [{"range": {"columns": "a", "min": 2, "max": 1}}]}, "min 2 is over max 1"),
        ({"checks": [{"range": {"columns": "a", "min": "low"}}]}, "contract.checks[0].range.min must be a number"),
        ({"checks": [{"null_share": {"columns": "a"}}]}, "max is missing"),
        ({"checks": [{"null_share": {"columns": "a", "max": 50}}]}, "from 0 to 1"),
        ({"checks": [{"null_share": {"max": 0.5}}]}, "names no columns"),
        ({"checks": [{"type": {"a": "int"}}]}, "did you mean 'integer'"),
        ({"checks": [{"rows": {"min": 1}, "unique": ["a"]}]}, "one rule"),
        ({"checks": [{"severity": "warn"}]}, "one rule"),
        ({"checks": [{"rows": {"min": 1}, "severity": "warning"}]}, "did you mean 'warn'"),
        ({"checks": ["order"]}, "needs the contract's `series`"),
        ({"checks": [{"null_share": {"columns": "*values", "max": 1}}]}, "needs the contract's `series`"),
        ({"series": {"time": "t"}, "checks": [{"stuck": {"value": 0}}]}, "run must be 2 or more"),
        ({"series": {"time": "t"}, "checks": [{"frequency": {}}]}, "max_gap_share is missing"),
        ({"series": {"key": "k"}}, "series.time is missing"),
        ({"series": {"time": "t", "time_expression": "a; drop table b"}}, "';'"),
        ({"series": {"time": "t", "step": "1 hour"}}, "no duration"),
        ({"series": {"time": "t", "step": 0.5}}, "whole number"),
        ({"class": "pubic"}, "did you mean 'public'"),
        ({"checks": [{"rows": {"min": 1}, "id": "a"}, {"rows": {"max": 1}, "id": "a"}]}, "two checks have the id 'a'"),
        ({"checks": {"rows": {"min": 1}}}, "contract.checks must be a list"),
    ],
)
def test_a_wrong_contract_is_refused_with_the_way_out(form: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        contract_from_mapping(form)
    assert told in str(refused.value)


def test_a_contract_made_in_python_is_checked_too() -> None:
    with pytest.raises(InvalidRequestError, match="not finite"):
        check_contract(Contract(checks=(Check("r", CheckKind.RANGE, ("a",), minimum=float("nan")),)))
