"""Faults put into generated tables, wide and long: the measured numbers are those that were put in."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from factory.domain.datasets import Measurement
from factory.domain.ids import VersionId
from factory.quality.contracts import contract_from_mapping
from factory.quality.verdicts import judge
from factory.worker.data.checking import measure
from factory.worker.data.frames import stream_of
from factory.worker.data.tables import file_paths, stage

START = dt.datetime(2024, 1, 1)
HOUR = dt.timedelta(hours=1)


def measured(folder: Path, columns: Mapping[str, object], *checks: object, **contract: object) -> list[Measurement]:
    staged = stage(folder, stream_of(pa.table(dict(columns))), version_id=VersionId("dsv-1"))
    asked = contract_from_mapping({"checks": list(checks), **contract})
    return list(measure(file_paths(folder, staged.files), asked))


def figures(measurements: Sequence[Measurement]) -> dict[str, tuple[float, int, int]]:
    assert not [m for m in measurements if m.error]
    return {m.subject: (m.value, m.failed, m.total) for m in measurements}


def hours(count: int) -> list[dt.datetime]:
    return [START + index * HOUR for index in range(count)]


def test_wide_series_report_the_faults_that_were_put_in(tmp_path: Path) -> None:
    stamps = hours(100)
    del stamps[50:53]  # three steps are missing
    stamps[10], stamps[11] = stamps[11], stamps[10]  # one step backward
    stamps[20] = stamps[19]  # one duplicate, which leaves one more gap
    count = [float(index % 7) for index in range(97)]
    count[30:40] = [5.0] * 10  # stuck at 5, of which one is missing
    count[35] = float("nan")
    table = {"stamp": stamps, "north": count, "south": [index % 3 for index in range(97)], "code": ["x"] * 97}
    series = {"time": "stamp", "step": "1h"}

    order, duplicates, frequency, *stuck = measured(
        tmp_path,
        table,
        "order",
        "duplicates",
        {"frequency": {"max_gap_share": 0}},
        {"stuck": {"run": 8}},
        series=series,
    )

    assert (order.value, order.failed, order.total) == (1, 1, 96)
    assert order.examples == ("row 12: 2024-01-01 10:00:00 after 2024-01-01 11:00:00",)
    assert (duplicates.value, duplicates.total) == (1, 97)
    assert (frequency.failed, frequency.total) == (4, 99)
    assert frequency.value == pytest.approx(4 / 99)
    assert frequency.examples[0] == "row 51: 3 missing from 2024-01-03 01:00:00 to 2024-01-03 05:00:00"
    # 30..40 are 5 (40 by itself), one of them is missing: 10 observed values
    assert {m.subject: m.value for m in stuck} == {"north": 10.0, "south": 1.0}
    assert stuck[0].examples == ("row 31: 5.0 from 2024-01-02 06:00:00 to 2024-01-02 16:00:00 (10)",)


def test_long_series_are_measured_for_each_key(tmp_path: Path) -> None:
    rows = [(stamp, sensor, 1.0 * index) for index, stamp in enumerate(hours(24)) for sensor in ("a", "b")]
    rows[40] = (rows[40][0] - 5 * HOUR, "a", 15.0)  # a: back in time, onto an hour that is there
    rows = [row for row in rows if not (row[1] == "b" and 6 <= row[2] < 10)]  # b: four hours are missing
    rows = [(stamp, sensor, 0.0 if sensor == "b" and value >= 12 else value) for stamp, sensor, value in rows]
    table = dict(zip(("time", "sensor", "count"), map(list, zip(*rows, strict=True)), strict=True))
    series = {"time": "time", "key": "sensor", "values": "count", "step": 3600}

    def of(check: object) -> dict[str, tuple[float, int, int]]:
        return figures(measured(tmp_path, table, check, series=series))

    assert of("order") == {"a": (1, 1, 23), "b": (0, 0, 19)}
    assert of("duplicates") == {"a": (1, 1, 24), "b": (0, 0, 20)}
    assert of({"frequency": {"max_gap_share": 0}}) == {"b": (4 / 23, 4, 23), "a": (1 / 23, 1, 23)}
    assert of({"stuck": {"value": 0, "run": 12}}) == {"b": (12, 1, 2), "a": (1, 0, 1)}


def test_many_keys_are_reported_by_the_worst_and_one_line_for_the_rest(tmp_path: Path) -> None:
    rows = [(START, f"s{key:02}", 1) for key in range(60) for _ in range(1 + key)]
    table = dict(zip(("t", "k", "v"), map(list, zip(*rows, strict=True)), strict=True))
    found = figures(measured(tmp_path, table, "duplicates", series={"time": "t", "key": "k"}))
    assert len(found) == 51
    assert found["s59"] == (59, 59, 60)
    assert found["10 other keys"] == (9, 45, 55)


def test_column_checks_count_what_breaks_them(tmp_path: Path) -> None:
    table = {
        "id": [1, 2, 2, 4],
        "share": [0.5, float("nan"), 1.5, None],
        "name": ["a", "b", "b", None],
        'odd "name"; --': [1, -1, 2, 3],
    }
    assert figures(measured(tmp_path, table, {"unique": ["id", "name"]})) == {"": (1, 1, 4)}
    assert figures(measured(tmp_path, table, {"null_share": {"columns": "*", "max": 0}})) == {
        "id": (0, 0, 4),
        "share": (0.5, 2, 4),
        "name": (0.25, 1, 4),
        'odd "name"; --': (0, 0, 4),
    }
    ranges = measured(tmp_path, table, {"range": {"columns": ["share", 'odd "name"; --'], "min": 0, "max": 1}})
    assert figures(ranges) == {"share": (1, 1, 2), 'odd "name"; --': (3, 3, 4)}
    assert ranges[0].examples == ("row 3: 1.5",)
    assert figures(measured(tmp_path, table, {"rows": {"min": 1}})) == {"": (4, 0, 4)}
    assert figures(measured(tmp_path, table, {"required": ["id", "nmae"]})) == {"id": (0, 0, 1), "nmae": (1, 1, 1)}
    (kind,) = measured(tmp_path, table, {"type": {"name": "integer"}})
    assert (kind.failed, kind.examples) == (1, ("VARCHAR",))


@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        (["a"], "string"),
        ([1], "integer"),
        ([1], "number"),
        ([1.5], "number"),
        ([True], "boolean"),
        ([START], "timestamp"),
        ([START.replace(tzinfo=dt.UTC)], "timestamp"),
        ([START.date()], "date"),
    ],
)
def test_logical_types_are_recognised(tmp_path: Path, column: list[object], dtype: str) -> None:
    assert figures(measured(tmp_path, {"c": column}, {"type": {"c": dtype}})) == {"c": (0, 0, 1)}


def test_what_cannot_be_measured_says_so(tmp_path: Path) -> None:
    table = {"t": ["soon"], "text": ["x"]}
    series = {"time": "t"}
    errors = {
        "order": "'t' is VARCHAR, not a time; say in time_expression how to read it",
        "range": "'text' is VARCHAR, not a number",
        "null_share": "there is no column 'txt'; did you mean 'text'?",
        "stuck": "the table has no column that *values means",
    }
    checks: dict[str, object] = {
        "order": "order",
        "range": {"range": {"columns": "text", "min": 0}},
        "null_share": {"null_share": {"columns": "txt", "max": 0}},
        "stuck": {"stuck": {"run": 2}},
    }
    for name, check in checks.items():
        (found,) = measured(tmp_path, table, check, series=series if name != "stuck" else {"time": "t", "values": "*"})
        assert found.error.startswith(errors[name]) or name == "stuck", found.error
        assert found.error


def test_rows_without_a_stamp_fail_the_order(tmp_path: Path) -> None:
    table = {"t": [START, None, START + HOUR], "v": [1, 2, 3]}
    (order,) = measured(tmp_path, table, "order", series={"time": "t"})
    assert (order.value, order.failed, order.total) == (0, 1, 1)
    assert order.examples == ("row 2: no stamp",)


def test_a_table_without_rows_is_measured(tmp_path: Path) -> None:
    schema = pa.schema([("t", pa.timestamp("us")), ("v", pa.float64())])
    staged = stage(tmp_path, stream_of(schema.empty_table()), version_id=VersionId("dsv-1"))
    series_checks = ["order", "duplicates", {"stuck": {"run": 2}}, {"frequency": {"max_gap_share": 0}}]
    column_checks = [{"rows": {"min": 1}}, {"null_share": {"columns": "*", "max": 0}}]
    asked = contract_from_mapping({"series": {"time": "t"}, "checks": [*column_checks, *series_checks]})
    verdict = judge(asked, measure(file_paths(tmp_path, staged.files), asked))
    assert [result.check_id for result in verdict.failures] == ["rows"]


def test_rows_are_numbered_over_all_files_of_a_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.worker.data.tables.ROW_GROUP_ROWS", 10)
    monkeypatch.setattr("factory.worker.data.tables.MAX_FILE_BYTES", 1)
    stamps = hours(25)
    stamps[21] = START
    (order,) = measured(tmp_path, {"t": stamps, "v": list(range(25))}, "order", series={"time": "t"})
    assert order.examples == ("row 22: 2024-01-01 00:00:00 after 2024-01-01 20:00:00",)


def test_columns_named_like_our_own_are_measured(tmp_path: Path) -> None:
    table = {"t": hours(4), "position": ["x"] * 4, "key_id": [1, 1, 1, 1], "subject": [2, 2, 3, 3], "k0": [1, 2, 3, 4]}
    series = {"time": "t", "key": ["position", "subject"]}
    found = figures(measured(tmp_path, table, {"stuck": {"run": 9, "columns": ["key_id", "k0"]}}, series=series))
    assert found == {
        "key_id: x / 2": (2, 0, 1),
        "key_id: x / 3": (2, 0, 1),
        "k0: x / 2": (1, 0, 2),
        "k0: x / 3": (1, 0, 2),
    }


def test_above_class_internal_no_value_leaves_the_data(tmp_path: Path) -> None:
    table = {"t": [START + HOUR, START], "plate": ["AB 123", "AB 123"], "speed": [300, 300]}
    found = measured(
        tmp_path,
        table,
        "order",
        "duplicates",
        {"unique": "plate"},
        {"range": {"columns": "speed", "max": 200}},
        {"stuck": {"run": 2, "columns": "speed"}},
        series={"time": "t", "key": "plate", "values": "speed"},
        **{"class": "personal"},
    )
    told = repr(found)
    assert [m.failed for m in found] == [1, 0, 1, 2, 1]
    assert not [secret for secret in ("AB 123", "300", "2024") if secret in told]
    assert found[0].subject == "series 1"
    assert found[0].examples == ("row 2",)


def test_a_failing_expression_does_not_quote_personal_values(tmp_path: Path) -> None:
    series = {"time": "t", "time_expression": "CAST(born AS TIMESTAMP)"}
    table = {"born": ["secret"], "v": [1]}
    (hidden,) = measured(tmp_path, table, "order", series=series, **{"class": "restricted"})
    (shown,) = measured(tmp_path, table, "order", series=series)
    assert hidden.error
    assert "secret" not in hidden.error
    assert "secret" in shown.error


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("(SELECT max(t) FROM files)", "subquery"),
        ("t) AS a, (v", "one scalar expression"),
        ("t) FROM files WHERE (true", "one scalar expression"),
        ("max(t)", "max()"),
        ("lag(t) OVER ()", "window"),
        ("now()", "now()"),
        ("getenv('HOME')", "getenv()"),
        ("current_setting('allowed_paths')", "current_setting()"),
        ("read_text('/etc/hostname')", "read_text()"),
        ("unnest([t, t])", "unnest()"),
        ("COLUMNS('t')", "star"),
        ("t +", "parse"),
        ("$1", "parameter"),
    ],
)
def test_a_time_expression_is_one_steady_scalar_expression(tmp_path: Path, expression: str, told: str) -> None:
    series = {"time": "stamp", "time_expression": expression}
    (order,) = measured(tmp_path, {"t": [START], "v": [1]}, "order", series=series)
    assert order.error.startswith("time_expression: the expression")
    assert told in order.error
