"""Groups of one plan: each transaction goes on from what the one before it saw and made."""

from __future__ import annotations

from typing import Any

import pytest

from factory.control import loop as loops
from factory.control.view import build, catch_up
from factory.domain.ids import JobId
from factory.domain.jobs import JobState
from factory.scheduling.snapshot import Snapshot
from factory.testing import builders
from tests.unit.control.factory_floor import START, Floor, said


def wide_floor() -> Floor:
    return Floor(
        builders.pool(), builders.node("n1", cpu=20), builders.queue(quota={"cpu": 7}), builders.runner(seen_at=START)
    )


def same(left: Snapshot, right: Snapshot) -> bool:
    return left.rows() == right.rows() and dict(left.tree_used.items()) == dict(right.tree_used.items())


@pytest.mark.parametrize("group", [1, 2, 3, 250])
def test_the_view_after_a_plan_is_the_view_of_the_rows_however_the_plan_is_grouped(group: int) -> None:
    floor = wide_floor()
    for n in range(9):
        floor.submit(f"job-{n}")
    loop = floor.another_loop("b", group=group)
    assert len(loop.tick(START).admitted) == 7
    assert loop.snapshot is not None
    assert same(loop.snapshot, floor.store.read(lambda reader: build(reader, floor.clock.at)).snapshot)


def test_what_happens_between_two_groups_is_seen_by_the_second_and_kept_in_the_view(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    floor = wide_floor()
    for n in range(6):
        floor.submit(f"job-{n}")
    loop, real = floor.another_loop("b", group=3), loops.dispatch
    groups: list[int] = []

    def dispatch(tx: Any, *args: Any, **kwargs: Any) -> Any:
        groups.append(len(args[1]))
        return real(tx, *args, **kwargs)

    def store_transact(fn: Any, *, epoch: int | None = None) -> Any:
        if len(groups) == 1 and floor.job("job-4").state is JobState.QUEUED:
            floor.cancel("job-4")
        return transact(fn, epoch=epoch)

    transact = floor.store.transact
    monkeypatch.setattr(loops, "dispatch", dispatch)
    monkeypatch.setattr(loop, "_store", _Store(floor.store, store_transact))
    result = loop.tick(START)
    assert groups == [3, 3]
    assert sorted(result.admitted) == ["job-0", "job-1", "job-2", "job-3", "job-5"]
    assert [id for id, _ in result.refused] == ["job-4"]
    assert loop.snapshot is not None
    assert same(loop.snapshot, floor.store.read(lambda reader: build(reader, floor.clock.at)).snapshot)


def test_a_quota_is_not_passed_by_the_sum_of_one_groups_admissions() -> None:
    """The plan is believed to have been made on a larger quota; the ledger counts within the group."""
    floor = wide_floor()
    for n in range(4):
        floor.submit(f"job-{n}", cpu=3)
    planned: list[Any] = []

    def generous(snapshot: Any, policy: Any, now: int) -> Any:
        bigger = Snapshot.build(
            builders.rows(
                builders.pool(),
                builders.node("n1", cpu=20),
                builders.queue(),
                builders.runner(seen_at=START),
                *snapshot.rows().jobs,
            )
        )
        planned.append(loops.plan(bigger, policy, now))
        return planned[-1]

    loop = floor.another_loop("b")
    loop._plan = generous
    result = loop.tick(START)
    assert len(planned[0].decisions) == 4
    assert len(result.admitted) == 2  # 6 of 7 slots
    assert {why.value for _, why in result.refused} == {"quota"}


def test_a_change_that_the_view_has_already_is_not_told_again() -> None:
    floor = wide_floor()
    floor.submit("job-a")
    floor.tick()
    view = floor.store.read(lambda reader: build(reader, floor.clock.at))
    floor.report(said("job-a.1", "running"))
    later, changed = floor.store.read(lambda reader: catch_up(reader, view))
    assert changed.jobs == {JobId("job-a")}
    behind = type(view)(later.snapshot, view.cursor)  # knows the rows, not how far in the feed they are
    again, changed = floor.store.read(lambda reader: catch_up(reader, behind))
    assert changed.is_empty
    assert again.cursor == later.cursor


class _Store:
    """The floor's store, with another way into a transaction."""

    def __init__(self, store: Any, transact: Any) -> None:
        self._store = store
        self.transact = transact

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)
