"""Contracts as people write them: a short mapping (from YAML or Python) to `Contract` and back, and its digest.

The text of the YAML file is read by the caller; here are only plain mappings, lists, texts and numbers:

    description: Hourly pedestrian counts
    licence: CC-BY-4.0
    source: Auckland Council
    class: public                       # public < internal (default) < restricted < personal
    series:
      time: stamp                       # the time column, or the name that the expression gets
      time_expression: "date + to_hours(CAST(split_part(hour, ':', 1) AS BIGINT))"
      key: sensor                       # long form: one row per (key, time); leave out for the wide form
      values: "*"                       # default: every numeric column that is not key, time or excluded
      exclude: [year]
      step: 1h                          # default 1h; seconds, or a number with s, min, h, d
    checks:
      - rows: {min: 1000, max: 100000}
      - required: [date, hour]
      - type: {date: date, hour: string}
      - null_share: {columns: "*values", max: 0.5}
      - range: {columns: "*values", min: 0, max: 20000}
      - unique: [sensor, stamp]
      - order                           # the same as `order: {}`
      - duplicates
      - frequency: {max_gap_share: 0.01}
      - stuck: {value: 0, run: 168}
        severity: warn                  # beside the rule; default error
        id: a-week-at-zero              # beside the rule; default from rule and columns

Columns may be named one by one, as "*" (all) or as "*values" (the value columns of the series).
Wrong contracts are refused with the path of the key, what is allowed and what was probably meant.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import assert_never, cast

from factory.domain.datasets import Check, CheckKind, Contract, SeriesShape, Severity
from factory.domain.ids import Digest
from factory.errors import InvalidRequestError, did_you_mean

__all__ = [
    "ALL_COLUMNS",
    "DATA_CLASSES",
    "DTYPES",
    "VALUE_COLUMNS",
    "canonical_contract_json",
    "check_contract",
    "contract_digest",
    "contract_from_mapping",
    "contract_to_mapping",
]

ALL_COLUMNS = "*"  # in a check's columns: every column of the table
VALUE_COLUMNS = "*values"  # in a check's columns: the value columns of the series
DATA_CLASSES = ("public", "internal", "restricted", "personal")  # from open to closed
DTYPES = ("string", "integer", "number", "boolean", "timestamp", "date")

_WORDS: Mapping[CheckKind, str] = {
    CheckKind.ROW_COUNT: "rows",
    CheckKind.REQUIRED: "required",
    CheckKind.TYPE: "type",
    CheckKind.NULL_SHARE: "null_share",
    CheckKind.RANGE: "range",
    CheckKind.UNIQUE: "unique",
    CheckKind.ORDER: "order",
    CheckKind.DUPLICATES: "duplicates",
    CheckKind.FREQUENCY: "frequency",
    CheckKind.STUCK: "stuck",
}
_KINDS: Mapping[str, CheckKind] = {word: kind for kind, word in _WORDS.items()}
_SERIES_KINDS = frozenset({CheckKind.ORDER, CheckKind.DUPLICATES, CheckKind.FREQUENCY, CheckKind.STUCK})
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
_MAX_ID = 120  # an id is shown in tables and kept in rows; longer column lists are counted instead


# --- reading ------------------------------------------------------------------------------------------------------


def contract_from_mapping(mapping: Mapping[str, object]) -> Contract:
    """Read a contract from its short form.

    Raises:
        InvalidRequestError: an unknown key or rule, a missing or impossible threshold; the message names the path.
    """
    root = _Fields.of(
        mapping,
        "contract",
        ("description", "licence", "source", "class", "series", "checks"),
        aliases={"license": "licence"},
    )
    series = _series(root.entries["series"]) if root.entries.get("series") is not None else None
    checks: list[Check] = []
    taken: set[str] = set()
    for index, item in enumerate(_sequence(root.entries.get("checks", ()), "contract.checks")):
        for check in _checks(item, f"contract.checks[{index}]"):
            named = check if check.id else replace(check, id=_default_id(check, taken))
            taken.add(named.id)
            checks.append(named)
    contract = Contract(
        checks=tuple(checks),
        series=series,
        description=root.text("description"),
        licence=root.text("licence"),
        source=root.text("source"),
        data_class=root.text("class", "internal"),
    )
    check_contract(contract)
    return contract


def _series(value: object) -> SeriesShape:
    fields = _Fields.of(value, "contract.series", ("time", "time_expression", "key", "values", "exclude", "step"))
    return SeriesShape(
        time=fields.text("time"),
        time_expression=fields.text("time_expression"),
        key=fields.texts("key"),
        values=fields.texts("values") or (ALL_COLUMNS,),
        exclude=fields.texts("exclude"),
        step_s=fields.duration("step") or 3_600,
    )


def _checks(item: object, where: str) -> tuple[Check, ...]:
    """Read one list item: `order`, or {<rule>: <parameters>, severity: …, id: …}."""
    if isinstance(item, str):
        item = {item: {}}
    entries = _Fields.of(item, where, (*_KINDS, "severity", "id")).entries
    words = [word for word in entries if word in _KINDS]
    if len(words) != 1:
        found = ", ".join(words) if words else "none"
        raise InvalidRequestError(f"{where} must hold one rule; it holds {found}", hint=f"rules: {', '.join(_KINDS)}")
    outer = _Fields(where, {key: entries[key] for key in entries if key not in _KINDS})
    severity = outer.text("severity", Severity.ERROR.value)
    if severity not in tuple(Severity):
        raise InvalidRequestError(
            f"{where}.severity is '{severity}'{did_you_mean(severity, tuple(Severity))}", hint="allowed: error, warn"
        )
    checks = _rule(_KINDS[words[0]], entries[words[0]], f"{where}.{words[0]}")
    identity = outer.text("id")
    if identity and len(checks) > 1:
        raise InvalidRequestError(f"{where}.id names {len(checks)} checks at once", hint="write one item for each type")
    return tuple(replace(check, severity=Severity(severity), id=identity) for check in checks)


def _rule(kind: CheckKind, value: object, where: str) -> tuple[Check, ...]:
    """Read the parameters of one rule; its id is given later."""
    if value is None:  # YAML's `- order:`
        value = {}
    check = Check(id="", kind=kind)
    match kind:
        case CheckKind.ROW_COUNT:
            fields = _Fields.of(value, where, ("min", "max"))
            return (replace(check, minimum=fields.number("min"), maximum=fields.number("max")),)
        case CheckKind.REQUIRED | CheckKind.UNIQUE:
            return (replace(check, columns=_columns(value, where)),)
        case CheckKind.TYPE:
            return _types(check, value, where)
        case CheckKind.NULL_SHARE:
            fields = _Fields.of(value, where, ("columns", "max"))
            return (replace(check, columns=fields.texts("columns"), max_share=fields.number("max")),)
        case CheckKind.RANGE:
            fields = _Fields.of(value, where, ("columns", "min", "max"))
            low, high = fields.number("min"), fields.number("max")
            return (replace(check, columns=fields.texts("columns"), minimum=low, maximum=high),)
        case CheckKind.ORDER | CheckKind.DUPLICATES:
            _ = _Fields.of(value, where, ())  # refuses any parameter
            return (check,)
        case CheckKind.FREQUENCY:
            fields = _Fields.of(value, where, ("max_gap_share", "step"))
            return (replace(check, max_share=fields.number("max_gap_share"), step_s=fields.duration("step")),)
        case CheckKind.STUCK:
            fields = _Fields.of(value, where, ("value", "run", "columns"))
            return (
                replace(
                    check,
                    columns=fields.texts("columns"),
                    stuck_value=fields.number("value"),
                    run_length=fields.whole("run"),
                ),
            )
        case _:
            assert_never(kind)


def _types(check: Check, value: object, where: str) -> tuple[Check, ...]:
    """Read {column: type}; columns of one type become one check, in the order in which types first appear."""
    fields = _Fields.of(value, where, None)
    grouped: dict[str, list[str]] = {}
    for column in fields.entries:
        grouped.setdefault(fields.text(column), []).append(column)
    if not grouped:
        raise InvalidRequestError(f"{where} names no column", hint="write for example: type: {date: date}")
    return tuple(replace(check, columns=tuple(columns), dtype=dtype) for dtype, columns in grouped.items())


def _columns(value: object, where: str) -> tuple[str, ...]:
    if isinstance(value, Mapping):
        return _Fields.of(cast("object", value), where, ("columns",)).texts("columns")
    return _texts(value, where)


def _default_id(check: Check, taken: Iterable[str]) -> str:
    """Return "null_share:a,b", with "#2" behind it if that name is taken."""
    word = _WORDS[check.kind]
    names = ",".join(check.columns)
    base = f"{word}:{names}" if names else word
    if len(base) > _MAX_ID:
        base = f"{word}:{len(check.columns)} columns"
    used, name, number = frozenset(taken), base, 1
    while name in used:
        number += 1
        name = f"{base}#{number}"
    return name


# --- writing ------------------------------------------------------------------------------------------------------


def contract_to_mapping(contract: Contract) -> dict[str, object]:
    """Return the short form; `contract_from_mapping` of it gives the same contract back."""
    out: dict[str, object] = {}
    for key, text in (
        ("description", contract.description),
        ("licence", contract.licence),
        ("source", contract.source),
    ):
        if text:
            out[key] = text
    out["class"] = contract.data_class
    if contract.series is not None:
        out["series"] = _series_mapping(contract.series)
    taken: set[str] = set()
    checks: list[object] = []
    for check in contract.checks:
        item: dict[str, object] = {_WORDS[check.kind]: _parameters(check)}
        if check.severity is not Severity.ERROR:
            item["severity"] = check.severity.value
        if check.id != _default_id(check, taken):
            item["id"] = check.id
        taken.add(check.id)
        checks.append(item)
    if checks:
        out["checks"] = checks
    return out


def _series_mapping(series: SeriesShape) -> dict[str, object]:
    out: dict[str, object] = {"time": series.time}
    if series.time_expression:
        out["time_expression"] = series.time_expression
    if series.key:
        out["key"] = list(series.key)
    out["values"] = list(series.values or (ALL_COLUMNS,))
    if series.exclude:
        out["exclude"] = list(series.exclude)
    out["step"] = _duration_text(series.step_s)
    return out


def _parameters(check: Check) -> object:
    columns: object = check.columns[0] if len(check.columns) == 1 else list(check.columns)
    match check.kind:
        case CheckKind.ROW_COUNT:
            given: dict[str, object] = {"min": check.minimum, "max": check.maximum}
        case CheckKind.REQUIRED | CheckKind.UNIQUE:
            return list(check.columns)
        case CheckKind.TYPE:
            return dict.fromkeys(check.columns, check.dtype)
        case CheckKind.NULL_SHARE:
            given = {"columns": columns, "max": check.max_share}
        case CheckKind.RANGE:
            given = {"columns": columns, "min": check.minimum, "max": check.maximum}
        case CheckKind.ORDER | CheckKind.DUPLICATES:
            given = {}
        case CheckKind.FREQUENCY:
            step = _duration_text(check.step_s) if check.step_s is not None else None
            given = {"max_gap_share": check.max_share, "step": step}
        case CheckKind.STUCK:
            stuck = columns if check.columns else None
            given = {"value": check.stuck_value, "run": check.run_length, "columns": stuck}
        case _:
            assert_never(check.kind)
    return {key: value for key, value in given.items() if value is not None}


def canonical_contract_json(contract: Contract) -> str:
    """Return the one JSON text of a contract: sorted keys, no spaces, thresholds as floats."""
    checks = [
        {**asdict(check), "minimum": _float(check.minimum), "maximum": _float(check.maximum),
         "max_share": _float(check.max_share), "stuck_value": _float(check.stuck_value)}
        for check in contract.checks
    ]  # fmt: skip
    document = {**asdict(contract), "checks": checks}
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def contract_digest(contract: Contract) -> Digest:
    """Return "sha256:<hex>" of the canonical JSON."""
    return Digest("sha256:" + hashlib.sha256(canonical_contract_json(contract).encode()).hexdigest())


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)  # 0 and 0.0 are one threshold


# --- checking -----------------------------------------------------------------------------------------------------


def check_contract(contract: Contract) -> None:
    """Refuse a contract that cannot be judged: also one that was made in Python.

    Raises:
        InvalidRequestError: see the message.
    """
    if contract.data_class not in DATA_CLASSES:
        raise InvalidRequestError(
            f"contract.class is '{contract.data_class}'{did_you_mean(contract.data_class, DATA_CLASSES)}",
            hint=f"allowed: {', '.join(DATA_CLASSES)}",
        )
    if contract.series is not None:
        _check_series(contract.series)
    seen: set[str] = set()
    for check in contract.checks:
        if not check.id or check.id in seen:
            raise InvalidRequestError(f"two checks have the id '{check.id}'", hint="give one of them another `id`")
        seen.add(check.id)
        problem = _problem(check, contract.series)
        if problem:
            raise InvalidRequestError(f"check '{check.id}': {problem}", hint="see: docs/contracts.md")


def _check_series(series: SeriesShape) -> None:
    if not series.time:
        raise InvalidRequestError("contract.series.time is missing", hint="name the time column")
    if ";" in series.time_expression:
        raise InvalidRequestError("contract.series.time_expression holds ';'", hint="write one DuckDB expression")
    if series.step_s <= 0:
        raise InvalidRequestError("contract.series.step must be longer than 0 s")
    both = sorted({series.time, *series.key} & set(series.values))
    if both:
        raise InvalidRequestError(f"contract.series.values repeats the time or key column '{both[0]}'")


def _problem(check: Check, series: SeriesShape | None) -> str:  # one line for each rule
    """Return what makes the check impossible to judge, or ""."""
    if check.kind in _SERIES_KINDS and series is None:
        return f"{_WORDS[check.kind]} needs the contract's `series`"
    if VALUE_COLUMNS in check.columns and series is None:
        return f'"{VALUE_COLUMNS}" needs the contract\'s `series`'
    if len(set(check.columns)) != len(check.columns):
        return "a column is named twice"
    for name in ("minimum", "maximum", "max_share", "stuck_value"):
        figure = cast("float | None", getattr(check, name))
        if figure is not None and not math.isfinite(figure):
            return f"{name} is not finite"
    match check.kind:
        case CheckKind.ROW_COUNT:
            return _bounds(check)
        case CheckKind.REQUIRED | CheckKind.UNIQUE:
            return _named(check)
        case CheckKind.TYPE:
            allowed = f"'{check.dtype}' is no type{did_you_mean(check.dtype, DTYPES)} (allowed: {', '.join(DTYPES)})"
            return _named(check) or ("" if check.dtype in DTYPES else allowed)
        case CheckKind.NULL_SHARE:
            return _named(check) or _share(check, "max")
        case CheckKind.RANGE:
            return _named(check) or _bounds(check)
        case CheckKind.ORDER | CheckKind.DUPLICATES:
            return ""
        case CheckKind.FREQUENCY:
            return _share(check, "max_gap_share") or (
                "step must be longer than 0 s" if check.step_s is not None and check.step_s <= 0 else ""
            )
        case CheckKind.STUCK:
            return "" if check.run_length is not None and check.run_length >= 2 else "run must be 2 or more"
        case _:
            assert_never(check.kind)


def _named(check: Check) -> str:
    return "" if check.columns and all(check.columns) else "it names no columns"


def _bounds(check: Check) -> str:
    if check.minimum is None and check.maximum is None:
        return "it has neither min nor max"
    if check.minimum is not None and check.maximum is not None and check.minimum > check.maximum:
        return f"min {check.minimum:g} is over max {check.maximum:g}"
    return ""


def _share(check: Check, word: str) -> str:
    if check.max_share is None:
        return f"{word} is missing (a share from 0 to 1)"
    return "" if 0 <= check.max_share <= 1 else f"{word} is {check.max_share:g}; it is a share from 0 to 1"


# --- plain values -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Fields:
    """A mapping with the path that names it in messages."""

    where: str
    entries: Mapping[str, object]

    @classmethod
    def of(
        cls, value: object, where: str, allowed: Sequence[str] | None, *, aliases: Mapping[str, str] | None = None
    ) -> _Fields:
        if not isinstance(value, Mapping):
            raise InvalidRequestError(f"{where} must be a mapping, not {_kind_of(value)}")
        entries: dict[str, object] = {}
        for key, entry in cast("Mapping[object, object]", value).items():
            name = (aliases or {}).get(str(key), str(key))
            if allowed is not None and name not in allowed:
                raise InvalidRequestError(
                    f"{where} has the unknown key '{name}'{did_you_mean(name, allowed)}", hint=_allowed(name, allowed)
                )
            entries[name] = entry
        return cls(where, entries)

    def text(self, key: str, default: str = "") -> str:
        value = self.entries.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise InvalidRequestError(f"{self.where}.{key} must be a text, not {_kind_of(value)}")
        return " ".join(value.split()) if key == "time_expression" else value  # YAML folds long lines

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.entries.get(key)
        return () if value is None else _texts(value, f"{self.where}.{key}")

    def number(self, key: str) -> float | None:
        value = self.entries.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidRequestError(f"{self.where}.{key} must be a number, not {_kind_of(value)}")
        return float(value)

    def whole(self, key: str) -> int | None:
        value = self.number(key)
        if value is None:
            return None
        if not value.is_integer():
            raise InvalidRequestError(f"{self.where}.{key} must be a whole number, not {value:g}")
        return int(value)

    def duration(self, key: str) -> int | None:
        value = self.entries.get(key)
        if not isinstance(value, str):
            return self.whole(key)
        parts = re.fullmatch(r"(\d+)\s*(s|min|h|d)", value.strip())
        if parts is None:
            raise InvalidRequestError(
                f"{self.where}.{key} is '{value}', which is no duration", hint="write 900, 900s, 15min, 1h or 1d"
            )
        return int(parts[1]) * dict(_UNITS)[parts[2]]


def _allowed(name: str, allowed: Sequence[str]) -> str:
    if name in ("severity", "id"):
        return f"'{name}' stands beside the rule, not inside it"
    return f"allowed: {', '.join(allowed)}" if allowed else "no key is allowed here"


def _texts(value: object, where: str) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    out: list[str] = []
    for index, entry in enumerate(_sequence(value, where)):
        if not isinstance(entry, str):
            raise InvalidRequestError(
                f"{where}[{index}] must be a text, not {_kind_of(entry)}", hint="put it in quotes"
            )
        out.append(entry)
    return tuple(out)


def _sequence(value: object, where: str) -> Sequence[object]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidRequestError(f"{where} must be a list, not {_kind_of(value)}")
    return cast("Sequence[object]", value)


def _kind_of(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text '{value[:40]}'"
        case Mapping():
            return "a mapping"
        case Sequence():
            return "a list"
        case _:
            return type(value).__name__


def _duration_text(seconds: int) -> str:
    """Return the shortest exact form.

    >>> _duration_text(3600), _duration_text(5400), _duration_text(1)
    ('1h', '90min', '1s')
    """
    unit, length = next((unit, length) for unit, length in _UNITS if seconds % length == 0)
    return f"{seconds // length}{unit}"
