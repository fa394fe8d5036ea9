"""How a quota is written on the command line, and how the list shows quotas and the tree."""

from __future__ import annotations

import pytest

from factory.cli.commands.queues import _amounts, _tree, parse_quota
from factory.errors import InvalidRequestError
from factory.schemas.platform import QueueView, QuotaModel


@pytest.mark.parametrize(
    ("written", "borrowing", "lending", "shown"),
    [
        ("cpu=4", 0, None, "4"),
        ("cpu=4+0", 0, None, "4"),
        ("cpu=4+2.5", 2.5, None, "4+2.5"),
        ("cpu=4+", None, None, "4+∞"),
        ("cpu=4+inf", None, None, "4+∞"),
        ("cpu=4-0", 0, 0, "4-0"),
        ("cpu=4+2-1.5", 2, 1.5, "4+2-1.5"),
        ("cpu=4+-1", None, 1, "4+∞-1"),
    ],
)
def test_a_quota_borrows_and_lends_what_is_written(
    written: str, borrowing: float | None, lending: float | None, shown: str
) -> None:
    pool, quota = parse_quota(written)
    assert quota == {"pool": "cpu", "nominal": 4.0, "borrowing": borrowing, "lending": lending}
    assert (pool, _amounts(QuotaModel.model_validate(quota))) == ("cpu", shown)


def test_none_takes_the_quota_away() -> None:
    assert parse_quota("cpu=none") == ("cpu", None)


@pytest.mark.parametrize("written", ["cpu", "cpu=", "cpu=four", "cpu=4+some", "cpu=4-", "=4", "cpu=4..5", "none"])
def test_what_is_no_quota_is_refused_with_how_to_write_one(written: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        parse_quota(written)
    assert "POOL=NOMINAL" in (refused.value.hint or "")


def _view(name: str, parent: str | None = None) -> QueueView:
    return QueueView(name=name, tenant=name, parent=parent, weight=1, quotas=(), used={}, queued=0, running=0)


def test_queues_are_drawn_as_a_tree() -> None:
    views = [_view("b", "city"), _view("city"), _view("a", "city"), _view("a1", "a"), _view("x", "other departments")]
    assert [branch + view.name for branch, view in _tree(views)] == ["city", "├ a", "│ └ a1", "└ b", "x"]
