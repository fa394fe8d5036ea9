"""Quotas in any tree: what is counted step by step is what plain recursion says, and what is left is what fits."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from factory.domain.ids import PoolName, QueueName
from factory.domain.tenancy import Queue, Quota
from factory.scheduling.quota import ENDLESS, ROOT, Tree, available, bubble, potential
from factory.testing.builders import queue

CPU = PoolName("cpu")
NAMES = tuple("abcdef")
CAPACITY = 25
QUICK = settings(max_examples=150, deadline=None)


@st.composite
def forests(draw: st.DrawFn) -> dict[QueueName, Queue]:
    """Queues in a tree: each parent comes before its children."""
    found: dict[QueueName, Queue] = {}
    for at, name in enumerate(NAMES[: draw(st.integers(1, len(NAMES)))]):
        parent = draw(st.sampled_from((None, *NAMES[:at])))
        row = queue(name, parent=parent)
        quotas = ()
        if draw(st.booleans()) or draw(st.booleans()):
            limit = st.none() | st.integers(0, 6)
            quotas = (Quota(CPU, draw(st.integers(0, 10)), draw(limit), draw(limit)),)
        found[row.name] = Queue(row.name, row.tenant, row.parent, 1, quotas)
    return found


class Plain:
    """The same algebra in the words of its definition, over queues and what their own jobs hold."""

    def __init__(self, queues: Mapping[QueueName, Queue], own: Mapping[QueueName, int]) -> None:
        self.queues, self.own = queues, own

    def below(self, name: QueueName | None) -> list[QueueName]:
        return [row.name for row in self.queues.values() if row.parent == name]

    def quota(self, name: QueueName) -> Quota:
        return next(iter(self.queues[name].quotas), Quota(CPU, 0, None, None))

    def subtree(self, name: QueueName) -> int:
        return self.quota(name).nominal_milli + sum(self.subtree(c) - self.local(c) for c in self.below(name))

    def local(self, name: QueueName) -> int:
        lending = self.quota(name).lending_milli
        return 0 if lending is None else max(0, self.subtree(name) - lending)

    def usage(self, name: QueueName) -> int:
        return self.own.get(name, 0) + sum(self.passed_on(child) for child in self.below(name))

    def passed_on(self, name: QueueName) -> int:
        return max(0, self.usage(name) - self.local(name))

    def pool_usage(self) -> int:
        return sum(self.passed_on(name) for name in self.below(None))

    def is_within(self) -> bool:
        """Nobody holds more than its quota and what it may borrow; kept parts are left alone."""
        for name in self.queues:
            borrowing = self.quota(name).borrowing_milli
            if borrowing is not None and self.usage(name) > self.subtree(name) + borrowing:
                return False
        kept = sum(self.local(name) for name in self.below(None))
        return not kept or self.pool_usage() <= CAPACITY - kept


@QUICK
@given(forests(), st.lists(st.tuples(st.sampled_from(NAMES), st.integers(-9, 9)), max_size=12))
def test_counting_in_steps_gives_the_sums_of_the_definition(
    queues: dict[QueueName, Queue], steps: list[tuple[str, int]]
) -> None:
    tree = Tree(queues, CPU)
    used: dict[QueueName, int] = {}
    own: dict[QueueName, int] = {}
    for text, change in steps:
        name = QueueName(text)
        if name not in queues or own.get(name, 0) + change < 0:
            continue
        own[name] = own.get(name, 0) + change
        for level, amount in bubble(tree, name, change, lambda level: used.get(level, 0)):
            used[level] = used.get(level, 0) + amount
        plain = Plain(queues, own)
        assert {level: used.get(level, 0) for level in queues} == {level: plain.usage(level) for level in queues}
        assert used.get(ROOT, 0) == plain.pool_usage()


@QUICK
@given(forests())
def test_levels_say_what_the_definition_says(queues: dict[QueueName, Queue]) -> None:
    tree, plain = Tree(queues, CPU), Plain(queues, {})
    for name in queues:
        level = tree[name]
        assert (level.subtree, level.local) == (plain.subtree(name), plain.local(name))
        assert list(level.children) == plain.below(name)
    assert tree.retained == sum(plain.local(name) for name in plain.below(None))
    assert tree.is_bounded == any(row.quotas for row in queues.values())


@QUICK
@given(forests(), st.dictionaries(st.sampled_from(NAMES), st.integers(0, 12), max_size=5), st.sampled_from(NAMES))
def test_what_is_left_is_exactly_what_may_be_added(
    queues: dict[QueueName, Queue], holds: dict[str, int], asks: str
) -> None:
    name = QueueName(asks)
    own = {QueueName(key): value for key, value in holds.items() if QueueName(key) in queues}
    if name not in queues or not Plain(queues, own).is_within():
        return
    tree, plain = Tree(queues, CPU), Plain(queues, own)
    used = {ROOT: plain.pool_usage(), **{level: plain.usage(level) for level in queues}}
    left = available(tree, name, used.__getitem__, CAPACITY)
    if left >= ENDLESS // 2:
        assert Plain(queues, {**own, name: own.get(name, 0) + 1000}).is_within()
        return
    assert left >= 0
    assert Plain(queues, {**own, name: own.get(name, 0) + left}).is_within()
    assert not Plain(queues, {**own, name: own.get(name, 0) + left + 1}).is_within()


@QUICK
@given(forests(), st.sampled_from(NAMES))
def test_the_potential_is_the_most_that_it_could_hold_alone(queues: dict[QueueName, Queue], asks: str) -> None:
    name = QueueName(asks)
    if name not in queues:
        return
    most = potential(Tree(queues, CPU), name, CAPACITY)
    fits = [amount for amount in range(200) if Plain(queues, {name: amount}).is_within()]
    if not fits:  # what is kept is more than the nodes have: then nobody borrows, and each has its own
        assert most >= 0
    elif most < ENDLESS // 2:
        assert most == max(fits)
    else:
        assert max(fits) == 199


@QUICK
@given(forests(), st.dictionaries(st.sampled_from(NAMES), st.integers(0, 30), max_size=5), st.sampled_from(NAMES))
def test_who_is_over_after_a_cut_gets_nothing_until_it_is_under_again(
    queues: dict[QueueName, Queue], holds: dict[str, int], asks: str
) -> None:
    """Over-admission: however much is held too much, nothing more is ever given to whom a limit of its own stops."""
    name = QueueName(asks)
    own = {QueueName(key): value for key, value in holds.items() if QueueName(key) in queues}
    if name not in queues:
        return
    tree, plain = Tree(queues, CPU), Plain(queues, own)
    used = {ROOT: plain.pool_usage(), **{level: plain.usage(level) for level in queues}}
    left = available(tree, name, used.__getitem__, CAPACITY)
    borrowing = plain.quota(name).borrowing_milli
    if borrowing is not None and plain.usage(name) >= plain.subtree(name) + borrowing:
        assert left <= 0
