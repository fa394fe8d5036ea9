"""The algebra of quotas, against figures worked out by hand as Kueue's `resource_node` does."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from factory.domain.ids import PoolName, QueueName
from factory.domain.tenancy import Queue, Quota
from factory.scheduling.quota import ENDLESS, ROOT, Tree, available, bubble, potential, quota_of
from factory.testing.builders import queue

CPU = PoolName("cpu")


def limited(
    name: str,
    nominal: int | None,
    *,
    borrowing: int | None = None,
    lending: int | None = None,
    parent: str | None = None,
    weight: int = 1,
) -> Queue:
    """A queue with a quota of pool cpu, in whole slots; None = it names none."""
    row = queue(name, parent=parent, weight=weight)
    if nominal is None:
        return row
    return Queue(row.name, row.tenant, row.parent, weight, (Quota(CPU, nominal, borrowing, lending),))


def tree(*queues: Queue) -> Tree:
    return Tree({row.name: row for row in queues}, CPU)


def held(tree: Tree, **own: int) -> dict[QueueName, int]:
    """U of every queue, by counting in what each queue's own jobs hold."""
    used: dict[QueueName, int] = {}
    for name, slots in own.items():
        for level, amount in bubble(tree, QueueName(name), slots, lambda name: used.get(name, 0)):
            used[level] = used.get(level, 0) + amount
    return used


def left(tree: Tree, name: str, used: Mapping[QueueName, int], capacity: int = 1000) -> int:
    return available(tree, QueueName(name), lambda name: used.get(name, 0), capacity)


# -- the tree ----------------------------------------------------------------------------------------------------------


def test_a_subtree_has_its_own_nominal_and_what_its_children_lend() -> None:
    made = tree(
        limited("city", 10),
        limited("a", 20, parent="city"),
        limited("b", 30, lending=5, parent="city"),
        limited("c", 40, lending=0, parent="city"),
    )
    assert made[QueueName("a")].subtree == 20
    assert made[QueueName("b")].subtree == 30
    assert made[QueueName("city")].subtree == 10 + 20 + 5 + 0
    assert made[ROOT].subtree == 35


def test_what_a_queue_keeps_is_all_above_its_lending_limit() -> None:
    made = tree(
        limited("a", 30, lending=5), limited("b", 30), limited("c", 30, lending=40), limited("d", 30, lending=0)
    )
    assert [made[QueueName(name)].local for name in "abcd"] == [25, 0, 0, 30]
    assert made.retained == 25 + 30


def test_only_queues_without_a_parent_keep_from_the_pool() -> None:
    made = tree(limited("city", 0, lending=0), limited("a", 30, lending=10, parent="city"))
    assert made[QueueName("a")].local == 20
    assert made[QueueName("city")].local == 10
    assert made.retained == 10


def test_a_queue_that_names_no_quota_has_none_and_borrows_without_limit() -> None:
    level = tree(limited("a", None, weight=7))[QueueName("a")]
    assert (level.nominal, level.subtree, level.local, level.borrowing, level.weight) == (0, 0, 0, ENDLESS, 7)
    assert not level.named


def test_a_quota_of_nothing_is_a_quota() -> None:
    made = tree(limited("a", 0, borrowing=0))
    assert made[QueueName("a")].named
    assert made.is_bounded
    assert left(made, "a", {}) == 0


def test_a_pool_that_nobody_limits_is_not_bounded() -> None:
    made = tree(limited("a", None), limited("b", None, parent="a"))
    assert not made.is_bounded
    assert made.retained == 0
    assert left(made, "b", held(made, b=999), capacity=1) >= ENDLESS


def test_one_named_quota_anywhere_bounds_the_pool() -> None:
    assert tree(limited("a", None), limited("b", 1, parent="a")).is_bounded


def test_a_quota_for_another_pool_is_none_for_this() -> None:
    made = Tree({row.name: row for row in [limited("a", 5, borrowing=0)]}, PoolName("gpu"))
    assert not made.is_bounded
    assert made[QueueName("a")].nominal == 0


def test_levels_come_children_first_and_the_root_last() -> None:
    made = tree(limited("z", None), limited("a", None, parent="z"), limited("b", None, parent="a"))
    order = [level.queue for level in made]
    assert order == ["b", "a", "z", ROOT]
    assert [level.queue for level in made.path(QueueName("b"))] == ["b", "a", "z", ROOT]
    assert [level.queue for level in made.path(ROOT)] == [ROOT]


def test_children_are_listed_by_name_and_those_without_parent_hang_under_the_root() -> None:
    made = tree(limited("c", None), limited("a", None), limited("b", None, parent="c"), limited("d", None, parent="c"))
    assert made[ROOT].children == ("a", "c")
    assert made[QueueName("c")].children == ("b", "d")
    assert made[ROOT].parent == ROOT
    assert made[ROOT].weight == 1
    assert QueueName("b") in made
    assert QueueName("x") not in made


def test_a_missing_parent_is_no_parent() -> None:
    made = tree(limited("a", 3, parent="gone"))
    assert made[QueueName("a")].parent == ROOT
    assert made[ROOT].subtree == 3


def test_queues_in_a_circle_count_as_queues_without_a_parent() -> None:
    made = tree(
        limited("a", 1, parent="b"), limited("b", 2, parent="c"), limited("c", 4, parent="a"),
        limited("d", 8, parent="a"), limited("e", 16, parent="e"),
    )  # fmt: skip
    assert [made[QueueName(name)].parent for name in "abce"] == [ROOT] * 4
    assert made[QueueName("d")].parent == "a"  # it hangs on the circle, it is not in it
    assert made[QueueName("a")].subtree == 9
    assert made[ROOT].subtree == 31


def test_the_quota_of_a_queue_for_a_pool_is_its_own_only() -> None:
    row = limited("a", 5)
    assert quota_of(row, CPU) == row.quotas[0]
    assert quota_of(row, PoolName("gpu")) is None
    assert quota_of(None, CPU) is None


# -- usage -------------------------------------------------------------------------------------------------------------


def test_what_is_held_within_the_local_part_does_not_count_above() -> None:
    made = tree(limited("city", 10), limited("a", 30, lending=5, parent="city"))
    assert held(made, a=25) == {"a": 25}
    assert held(made, a=27) == {"a": 27, "city": 2, ROOT: 2}


def test_what_is_given_back_is_taken_off_above_first() -> None:
    made = tree(limited("city", 10), limited("a", 30, lending=5, parent="city"))
    used = held(made, a=28)
    for name, amount in bubble(made, QueueName("a"), -10, lambda name: used.get(name, 0)):
        used[name] += amount
    assert used == {"a": 18, "city": 0, ROOT: 0}


def test_each_level_keeps_its_own_local_part() -> None:
    made = tree(limited("city", 20, lending=4), limited("a", 10, lending=4, parent="city"))
    # the city: S = 20 + 4, local = 20; a: local = 6
    assert held(made, a=6) == {"a": 6}
    assert held(made, a=16) == {"a": 16, "city": 10}
    assert held(made, a=29) == {"a": 29, "city": 23, ROOT: 3}


def test_what_the_jobs_of_a_removed_queue_hold_counts_for_the_pool() -> None:
    assert held(tree(limited("a", 5)), gone=7) == {ROOT: 7}


# -- what is left ------------------------------------------------------------------------------------------------------


def test_nominal_and_borrowing_bound_a_queue_without_parent() -> None:
    made = tree(limited("a", 10, borrowing=3))
    assert left(made, "a", {}) == 13
    assert left(made, "a", held(made, a=12)) == 1
    assert left(made, "a", held(made, a=15)) == -2  # the quota was cut


def test_a_queue_that_borrows_without_limit_is_bounded_from_above_only() -> None:
    made = tree(limited("city", 10, borrowing=0), limited("a", 4, parent="city"), limited("b", 2, parent="city"))
    assert made[QueueName("city")].subtree == 16
    assert left(made, "a", {}) == 16
    assert left(made, "a", held(made, b=9)) == 7
    assert left(made, "b", held(made, a=4, b=9)) == 3


def test_a_borrowing_limit_binds_before_what_others_lend() -> None:
    made = tree(
        limited("city", 0, borrowing=0), limited("a", 4, borrowing=2, parent="city"), limited("b", 8, parent="city")
    )
    assert left(made, "a", {}) == 6
    assert left(made, "a", held(made, b=8)) == 4
    assert left(made, "a", held(made, b=9)) == 3
    assert left(made, "a", held(made, a=5)) == 1


def test_what_a_queue_keeps_is_its_own_whatever_others_hold() -> None:
    made = tree(
        limited("city", 0, borrowing=0), limited("a", 6, lending=2, parent="city"), limited("b", 8, parent="city")
    )
    # what a lends, 2, and b's 8 are the city's; 4 are a's alone
    assert made[QueueName("city")].subtree == 10
    assert left(made, "b", {}) == 10
    assert left(made, "a", held(made, b=10)) == 4
    assert left(made, "a", held(made, b=10, a=3)) == 1
    assert left(made, "a", held(made, a=5)) == 9  # its local part is used up; one of what is shared, too


def test_above_its_local_part_borrowing_is_counted_from_the_quota() -> None:
    made = tree(limited("city", 100, borrowing=0), limited("a", 6, borrowing=3, lending=2, parent="city"))
    assert left(made, "a", {}) == 9
    assert left(made, "a", held(made, a=4)) == 5
    assert left(made, "a", held(made, a=8)) == 1


def test_what_some_keep_of_the_pool_the_rest_cannot_have() -> None:
    made = tree(limited("a", 6, lending=2), limited("b", None))
    assert made.retained == 4
    assert left(made, "b", {}, capacity=10) == 6
    assert left(made, "b", held(made, a=6), capacity=10) == 4
    assert left(made, "b", held(made, a=4), capacity=10) == 6  # a is within what it keeps
    assert left(made, "a", held(made, b=6), capacity=10) == 4


def test_without_anything_kept_the_pool_itself_is_no_bound() -> None:
    made = tree(limited("a", 6, borrowing=1), limited("b", None))
    assert left(made, "b", {}, capacity=3) >= ENDLESS
    assert left(made, "a", {}, capacity=3) == 7


def test_a_parent_that_holds_too_much_leaves_its_children_less_than_nothing() -> None:
    made = tree(limited("city", 4, borrowing=0), limited("a", None, parent="city"), limited("b", None, parent="city"))
    assert left(made, "b", held(made, a=9)) == -5


@pytest.mark.parametrize(("borrowing", "most"), [(0, 10), (5, 15), (None, 22)])
def test_the_most_that_a_queue_could_ever_hold(borrowing: int | None, most: int) -> None:
    made = tree(
        limited("city", 5, borrowing=0), limited("a", 10, borrowing=borrowing, lending=7, parent="city"),
        limited("b", 9, lending=7, parent="city"),
    )  # fmt: skip
    # the city's own 5, 7 that a lends and 7 that b lends are shared: 19, and a's own 3
    assert potential(made, QueueName("a"), 1000) == most


def test_the_most_of_a_pool_with_kept_parts_is_bounded_by_its_nodes() -> None:
    made = tree(limited("a", 6, lending=2), limited("b", None))
    assert potential(made, QueueName("b"), 10) == 6
    assert potential(made, QueueName("a"), 10) == 10
