"""How times, spans and long sentences are printed for a person, and how a period is written."""

from __future__ import annotations

from datetime import datetime

import pytest
from rich.text import Text

from factory.cli import output
from factory.cli.commands.simulating import _settings, parse_instant
from factory.domain.ids import PoolName, QueueName
from factory.domain.tenancy import Quota
from factory.errors import InvalidRequestError

NOON = int(datetime(2026, 11, 24, 12).timestamp() * 1000)


@pytest.mark.parametrize(
    ("later_s", "shown"),
    [(0, "now"), (-5, "now"), (90, "12:01 (in 1m)"), (7200, "14:00 (in 2h)"), (86_400, "2026-11-25 12:00 (in 1d)")],
)
def test_a_time_to_come_names_the_day_only_if_it_is_not_today(later_s: int, shown: str) -> None:
    assert output.until(NOON + later_s * 1000, NOON) == shown


def test_a_long_value_is_folded_beside_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    output.show_explained(
        [
            ("because", "needs 8 slots in pool h100; 3 of 16 free, 5 held by others"),
            ("helps", ["- a smaller gang", "- another flavor"]),
            ("nothing", ""),
            ("state", Text("queued")),
        ]
    )
    assert capsys.readouterr().out.splitlines() == [
        "because  needs 8 slots in pool h100; 3",
        "         of 16 free, 5 held by others",
        "helps    - a smaller gang",
        "         - another flavor",
        "state    queued",
    ]


@pytest.mark.parametrize(
    ("written", "back_s"), [("90s", 90), ("30m", 1800), ("24h", 86_400), ("7d", 604_800), ("1 w", 604_800)]
)
def test_a_period_begins_so_long_ago(written: str, back_s: int) -> None:
    assert parse_instant(written, NOON) == NOON - back_s * 1000


def test_a_period_begins_at_a_date_or_time() -> None:
    assert parse_instant("2026-11-24T12:00", 0) == NOON
    assert parse_instant("2026-11-24", 0) == NOON - 12 * 3_600_000
    assert parse_instant("1970-01-01T01:00+01:00", 5) == 0
    with pytest.raises(InvalidRequestError, match="is no time"):
        parse_instant("yesterday", NOON)


def test_other_settings_are_read_from_the_command_line() -> None:
    what = _settings(["h100=4"], ["water/h100=12+4-2", "parks/cpu=1+"], ["h100=fifo"])
    assert what.add_nodes == ((PoolName("h100"), 4),)
    assert what.policies == ((PoolName("h100"), "fifo"),)
    assert what.quotas == (
        (QueueName("water"), Quota(PoolName("h100"), 12_000, 4000, 2000)),
        (QueueName("parks"), Quota(PoolName("cpu"), 1000, None, None)),
    )


@pytest.mark.parametrize(
    ("add_nodes", "quota", "policy"),
    [(["h100"], [], []), (["h100=0"], [], []), (["h100=x"], [], []), ([], ["h100=4"], []), ([], [], ["h100="])],
)
def test_settings_that_say_nothing_are_refused(add_nodes: list[str], quota: list[str], policy: list[str]) -> None:
    with pytest.raises(InvalidRequestError):
        _settings(add_nodes, quota, policy)
