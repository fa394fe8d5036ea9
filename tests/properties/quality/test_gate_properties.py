"""Properties of contracts and the data gate, over generated contracts and measurements."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from factory.domain.datasets import Check, CheckKind, Contract, Measurement, SeriesShape, Severity
from factory.quality.contracts import (
    DTYPES,
    check_contract,
    contract_digest,
    contract_from_mapping,
    contract_to_mapping,
)
from factory.quality.verdicts import judge

names = st.text("abc *:,#\"'é", min_size=1, max_size=4)
columns = st.lists(names, min_size=1, max_size=3, unique=True).map(tuple)
shares = st.floats(0, 1)
figures = st.floats(allow_nan=False, allow_infinity=False, width=32)


@st.composite
def checks(draw: st.DrawFn, identity: str) -> Check:
    kind = draw(st.sampled_from(CheckKind))
    check = Check(identity, kind, severity=draw(st.sampled_from(Severity)))
    match kind:
        case CheckKind.ROW_COUNT:
            return replace(check, minimum=draw(figures))
        case CheckKind.REQUIRED | CheckKind.UNIQUE:
            return replace(check, columns=draw(columns))
        case CheckKind.TYPE:
            return replace(check, columns=draw(columns), dtype=draw(st.sampled_from(DTYPES)))
        case CheckKind.NULL_SHARE:
            return replace(check, columns=draw(columns), max_share=draw(shares))
        case CheckKind.RANGE:
            low, high = sorted((draw(figures), draw(figures)))
            return replace(check, columns=draw(columns), minimum=low, maximum=high)
        case CheckKind.ORDER | CheckKind.DUPLICATES:
            return check
        case CheckKind.FREQUENCY:
            return replace(check, max_share=draw(shares), step_s=draw(st.none() | st.integers(1, 10**6)))
        case CheckKind.STUCK:
            value = draw(st.none() | figures)
            length = draw(st.integers(2, 1000))
            return replace(check, columns=draw(st.just(()) | columns), stuck_value=value, run_length=length)


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    ids = draw(st.lists(names, max_size=4, unique=True))
    series = SeriesShape(
        "time", values=("*",), key=draw(st.just(()) | st.just(("key",))), step_s=draw(st.integers(1, 10**6))
    )
    return Contract(tuple(draw(checks(identity)) for identity in ids), series, draw(names))


@st.composite
def judged(draw: st.DrawFn) -> tuple[Contract, list[Measurement]]:
    contract = draw(contracts())
    measurements = [
        Measurement(
            check.id,
            subject,
            draw(st.floats()),
            draw(st.integers(0, 2)),
            5,
            error=draw(st.sampled_from(("", "", "no"))),
        )
        for check in contract.checks
        for subject in draw(st.lists(st.sampled_from((*check.columns, "")), max_size=3))
    ]
    return contract, measurements


@given(contracts())
def test_every_contract_reads_back_from_its_printed_form(contract: Contract) -> None:
    check_contract(contract)
    again = contract_from_mapping(contract_to_mapping(contract))
    assert again == contract
    assert contract_digest(again) == contract_digest(contract)


@given(judged(), st.randoms())
def test_the_order_of_measurements_does_not_matter(case: tuple[Contract, list[Measurement]], random: object) -> None:
    contract, measurements = case
    shuffled = list(measurements)
    random.shuffle(shuffled)  # type: ignore[attr-defined] - hypothesis gives a random.Random
    assert repr(judge(contract, shuffled)) == repr(judge(contract, measurements))


@given(judged())
def test_the_gate_passes_iff_no_check_of_severity_error_failed(case: tuple[Contract, list[Measurement]]) -> None:
    verdict = judge(*case)
    assert verdict.passed == (not verdict.failures)
    assert {result.check_id for result in verdict.results} == {check.id for check in case[0].checks}


@given(judged())
def test_a_failed_error_check_more_never_opens_the_gate(case: tuple[Contract, list[Measurement]]) -> None:
    contract, measurements = case
    more = replace(contract, checks=(*contract.checks, Check("one more", CheckKind.ORDER)))
    assert not judge(more, [*measurements, Measurement("one more", "", 1.0, 1, 2)]).passed


@given(judged())
def test_checks_of_severity_warn_never_close_the_gate(case: tuple[Contract, list[Measurement]]) -> None:
    contract, measurements = case
    warned = replace(contract, checks=tuple(replace(check, severity=Severity.WARN) for check in contract.checks))
    assert judge(warned, measurements).passed


@given(judged())
def test_losing_a_measurement_never_opens_the_gate(case: tuple[Contract, list[Measurement]]) -> None:
    contract, measurements = case
    if measurements and not judge(contract, []).passed:
        last = measurements[-1].check_id
        without = [m for m in measurements if m.check_id != last]
        severities = {check.id: check.severity for check in contract.checks}
        assert severities[last] is Severity.WARN or not judge(contract, without).passed
