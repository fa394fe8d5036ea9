"""The data gate: a contract and what a worker measured give a verdict.

Rules, for whom a version is published or quarantined:
V1  The gate passes iff no check of severity error failed.
V2  What was not measured failed: a check without a measurement, a named column without one, a measurement with an
    error, a figure that is not a number. Nothing passes silently.
V3  The order of measurements does not matter; results come in the contract's order, then by subject.
V4  Measurements of checks that the contract does not have are ignored: they can neither pass nor fail anything.

`Measurement.value` is the figure that is compared: a count of faults (type, required, range, unique, order,
duplicates), a share (null_share, frequency), the rows (rows) or the longest run (stuck).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import assert_never

from factory.domain.datasets import Check, CheckKind, CheckResult, Contract, Measurement, Severity, Verdict
from factory.quality.contracts import ALL_COLUMNS, VALUE_COLUMNS

__all__ = ["judge"]

# Kinds that are measured column by column: each column that the check names must have been looked at.
_BY_COLUMN = frozenset({CheckKind.TYPE, CheckKind.REQUIRED, CheckKind.NULL_SHARE, CheckKind.RANGE})
_STEP_WORDS = {1: "seconds", 60: "minutes", 3_600: "hours", 86_400: "days"}


def judge(contract: Contract, measurements: Iterable[Measurement]) -> Verdict:
    """Judge every check of the contract on the measurements.

    Args:
        contract: one that `check_contract` accepts.
        measurements: from `worker.data.checking.measure`, in any order.
    Returns: the verdict, with a result for each measurement and for each that is missing.
    """
    by_check: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        by_check.setdefault(measurement.check_id, []).append(measurement)
    step_s = contract.series.step_s if contract.series is not None else 0
    results: list[CheckResult] = []
    for check in contract.checks:
        found = sorted(by_check.get(check.id, ()), key=_order)
        results.extend(_judge(check, measurement, step_s) for measurement in (*found, *_missing(check, found)))
    passed = all(result.passed or result.severity is Severity.WARN for result in results)  # rule V1
    return Verdict(passed=passed, results=tuple(results))


def _order(measurement: Measurement) -> tuple[str, str, str, int, int, tuple[str, ...]]:
    # repr: NaN has no order of its own
    return (
        measurement.subject, measurement.error, repr(measurement.value), measurement.failed, measurement.total,
        measurement.examples,
    )  # fmt: skip


def _missing(check: Check, found: list[Measurement]) -> list[Measurement]:
    """Return a measurement with an error for everything that should have been measured (rule V2)."""
    if not found:
        subjects: tuple[str, ...] = ("",)
    elif check.kind in _BY_COLUMN and not any(measurement.error for measurement in found):
        seen = {measurement.subject for measurement in found}
        named = (column for column in check.columns if column not in (ALL_COLUMNS, VALUE_COLUMNS))
        subjects = tuple(column for column in named if column not in seen)
    else:
        subjects = ()
    return [Measurement(check.id, subject, 0.0, 0, 0, error="it was not measured") for subject in subjects]


def _judge(check: Check, measurement: Measurement, step_s: int) -> CheckResult:
    error = measurement.error
    if not error and not math.isfinite(measurement.value):
        error = "the measured figure is not a number"
    passed = not error and _holds(check, measurement)
    subject = f" of '{measurement.subject}'" if measurement.subject else ""
    message = f"{check.kind.value}{subject} could not be measured: {error}" if error else ""
    return CheckResult(
        check_id=check.id,
        kind=check.kind,
        severity=check.severity,
        passed=passed,
        subject=measurement.subject,
        value=measurement.value if math.isfinite(measurement.value) else 0.0,
        threshold=_threshold(check),
        failed=measurement.failed,
        total=measurement.total,
        examples=measurement.examples,
        message=message or _message(check, measurement, passed, step_s),
    )


def _holds(check: Check, measurement: Measurement) -> bool:
    """True if the measured figure keeps the threshold; a threshold that is missing is not kept."""
    match check.kind:
        case CheckKind.ROW_COUNT:
            over = check.minimum is None or measurement.value >= check.minimum
            return over and (check.maximum is None or measurement.value <= check.maximum)
        case CheckKind.NULL_SHARE | CheckKind.FREQUENCY:
            return check.max_share is not None and measurement.value <= check.max_share
        case CheckKind.STUCK:
            return check.run_length is not None and measurement.value < check.run_length
        case (
            CheckKind.TYPE
            | CheckKind.REQUIRED
            | CheckKind.RANGE
            | CheckKind.UNIQUE
            | CheckKind.ORDER
            | CheckKind.DUPLICATES
        ):
            return measurement.failed == 0 and measurement.value == 0
        case _:
            assert_never(check.kind)


def _threshold(check: Check) -> str:
    match check.kind:
        case CheckKind.ROW_COUNT | CheckKind.RANGE:
            low = f">= {_figure(check.minimum)}" if check.minimum is not None else ""
            high = f"<= {_figure(check.maximum)}" if check.maximum is not None else ""
            return " and ".join(part for part in (low, high) if part)
        case CheckKind.NULL_SHARE | CheckKind.FREQUENCY:
            return f"<= {_figure(check.max_share)}"
        case CheckKind.STUCK:
            return f"< {_figure(check.run_length)}"
        case CheckKind.TYPE:
            return f"is {check.dtype}"
        case CheckKind.REQUIRED:
            return "is there"
        case CheckKind.UNIQUE | CheckKind.ORDER | CheckKind.DUPLICATES:
            return "<= 0"
        case _:
            assert_never(check.kind)


def _message(check: Check, m: Measurement, passed: bool, step_s: int) -> str:
    """Return one sentence with the numbers, for a person."""
    of = f" of '{m.subject}'" if m.subject else ""
    first = f"; first: {m.examples[0]}" if m.examples and not passed else ""
    match check.kind:
        case CheckKind.ROW_COUNT:
            return f"{_figure(m.value)} rows; {_span(check)} are allowed"
        case CheckKind.REQUIRED:
            return f"column '{m.subject}' is there" if passed else f"there is no column '{m.subject}'"
        case CheckKind.TYPE:
            found = m.examples[0] if m.examples else "of another type"
            return f"'{m.subject}' is {check.dtype}" if passed else f"'{m.subject}' is {found}, not {check.dtype}"
        case CheckKind.NULL_SHARE:
            share = f"{_percent(m.value)}; at most {_percent(check.max_share)} allowed"
            return f"{m.failed:,} of {m.total:,} values{of} are missing ({share})"
        case CheckKind.RANGE:
            return f"{m.failed:,} of {m.total:,} values{of} are not {_span(check)}{first}"
        case CheckKind.UNIQUE:
            columns = ", ".join(check.columns)
            return f"{m.failed:,} of {m.total:,} rows repeat an earlier one in ({columns}){first}"
        case CheckKind.ORDER:
            unstamped = m.failed - int(m.value)
            also = f" and {unstamped:,} rows have no stamp" if unstamped else ""
            return f"{_figure(m.value)} of {m.total:,} steps{of} go backward in time{also}{first}"
        case CheckKind.DUPLICATES:
            return f"{m.failed:,} of {m.total:,} stamps{of} are duplicates of an earlier row's{first}"
        case CheckKind.FREQUENCY:
            share = f"{_percent(m.value)}; at most {_percent(check.max_share)} allowed"
            step = check.step_s or step_s
            return f"{m.failed:,} of {m.total:,} steps of {step:,} s{of} are missing or too short ({share}){first}"
        case CheckKind.STUCK:
            word = _STEP_WORDS.get(step_s, "steps")
            name = f"'{m.subject}'" if m.subject else "the series"
            longest = first.replace("; first:", "; longest:")
            what = "one value" if check.stuck_value is None else _figure(check.stuck_value)
            if passed:
                return f"{name} is {what} for at most {_figure(m.value)} observed {word} in a row"
            return f"{name} is {what} for {_figure(m.value)} observed {word} in a row{longest}"
        case _:
            assert_never(check.kind)


def _span(check: Check) -> str:
    """Return "0 to 20,000", "at least 0" or "at most 20,000"."""
    if check.maximum is None:
        return f"at least {_figure(check.minimum)}"
    if check.minimum is None:
        return f"at most {_figure(check.maximum)}"
    return f"{_figure(check.minimum)} to {_figure(check.maximum)}"


def _figure(value: float | None) -> str:
    """Return a figure as people write it.

    >>> _figure(25561.0), _figure(0.5), _figure(None)
    ('25,561', '0.5', 'nothing')
    """
    if value is None:
        return "nothing"
    return f"{int(value):,}" if float(value).is_integer() else f"{value:,.6g}"


def _percent(share: float | None) -> str:
    """Return a share in percent with three digits.

    >>> _percent(32138 / 61367)
    '52.4 %'
    """
    return f"{_figure(share)}" if share is None else f"{100 * share:.3g} %"
