"""How a quota is written on the command line, and how the list shows it."""

from __future__ import annotations

import pytest

from factory.cli.commands.platform import _borrowing, _quota
from factory.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("written", "borrowing", "shown"),
    [
        ("cpu=4", 0, ""),
        ("cpu=4+0", 0, ""),
        ("cpu=4+2.5", 2.5, "+2.5"),
        ("cpu=4+", None, "+∞"),
        ("cpu=4+inf", None, "+∞"),
    ],
)
def test_a_quota_borrows_only_what_is_written(written: str, borrowing: float | None, shown: str) -> None:
    quota = _quota(written)
    assert quota == {"pool": "cpu", "nominal": 4.0, "borrowing": borrowing}
    assert _borrowing(quota["borrowing"]) == shown


@pytest.mark.parametrize("written", ["cpu", "cpu=", "cpu=four", "cpu=4+some"])
def test_what_is_no_quota_is_refused_with_how_to_write_one(written: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        _quota(written)
    assert "POOL=NOMINAL" in (refused.value.hint or "")
