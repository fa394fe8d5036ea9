"""Turns between queues: the tournament, which ranks only what changed, names whom a naive look at everybody names."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from factory.domain.ids import QueueName
from factory.domain.jobs import AttemptState, Job
from factory.domain.tenancy import Queue, Quota
from factory.domain.time import SECOND
from factory.scheduling.changes import Rows
from factory.scheduling.cycle import Cycle, Policy, Stock
from factory.scheduling.fairshare import Head, Shares, Tournament, dominant_share
from factory.scheduling.quota import ENDLESS, ROOT
from factory.scheduling.snapshot import Snapshot
from factory.scheduling.spending import HALF_LIFE_S, TICK_S, weight
from factory.scheduling.waiting import Line
from factory.testing.builders import allocation, attempt, job, node, pool, queue, runner

NAMES = tuple("abcdef")
POOLS = (pool("cpu", cpu=1, memory_gib=0), pool("gpu", cpu=1, memory_gib=0))
NOW = 3 * HALF_LIFE_S * SECOND
QUICK = settings(max_examples=120, deadline=None)


@st.composite
def cities(draw: st.DrawFn) -> Rows:
    """Queues in a tree with quotas in two pools, jobs that run, and jobs that have ended."""
    queues: list[Queue] = []
    for at, name in enumerate(NAMES[: draw(st.integers(1, len(NAMES)))]):
        row = queue(name, parent=draw(st.sampled_from((None, *NAMES[:at]))), weight=draw(st.integers(0, 3)))
        quotas = tuple(
            Quota(each.name, draw(st.integers(0, 4)) * 1000, None, draw(st.sampled_from((None, 1000))))
            for each in POOLS
            if draw(st.booleans())
        )
        queues.append(replace(row, quotas=quotas))
    jobs: list[Job] = []
    for number in range(draw(st.integers(0, 8))):
        of = draw(st.sampled_from(queues)).name
        where = draw(st.sampled_from(POOLS))
        held = allocation(["n"], pool=where, cpu=draw(st.integers(1, 4)))
        begin = draw(st.integers(0, 40)) * TICK_S * SECOND
        live = draw(st.booleans())
        tried = replace(
            attempt(f"r{number}", held, admitted_at=begin, state=AttemptState.RUNNING if live else AttemptState.ENDED),
            ended_at=None if live else begin + draw(st.integers(0, 200)) * TICK_S * SECOND,
        )
        jobs.append(job(f"r{number}", queue=of, attempts=(tried,)))
    pools = tuple(replace(each, policy=draw(st.sampled_from(("fair", "fair", "fifo")))) for each in POOLS)
    nodes = tuple(node(f"n-{each.name}", pool=each.name, cpu=draw(st.integers(1, 9))) for each in POOLS)
    return Rows(pools=pools, nodes=nodes, queues=tuple(queues), jobs=tuple(jobs), runners=(runner(),), since=0)


class Naive:
    """The rules Q1 to Q4 in their own words: every head is looked at each time."""

    def __init__(self, cycle: Cycle, rows: Rows) -> None:
        self.cycle = cycle
        self.queues = {row.name: row for row in rows.queues}
        self.spent: dict[QueueName, int] = {}
        for row in rows.jobs:
            for tried in row.attempts:
                until = NOW if tried.ended_at is None else tried.ended_at
                used = weight(until, 0) - weight(tried.admitted_at, 0, -1)
                name: QueueName | None = row.spec.queue
                while name is not None:
                    self.spent[name] = self.spent.get(name, 0) + used * tried.allocation.slots_milli
                    name = self.queues[name].parent

    def share(self, name: QueueName, stock: Stock | None, slots: int) -> Fraction:
        shares = [Fraction(0)]
        for each in self.cycle.stocks:
            level = each.tree[name]
            over = each.used(name) + (slots if each is stock else 0) - level.subtree
            if over > 0:
                shares.append(
                    Fraction(over, each.capacity * level.weight) if level.weight else Fraction(over * ENDLESS)
                )
        return max(shares)

    def key(self, name: QueueName, head: Head) -> tuple[object, ...]:
        if not head.stock.order.shares:
            return (False, Fraction(0), 0, head.turn, head.line)
        level = head.stock.tree[name]
        borrows = head.stock.used(name) + head.slots > level.subtree
        spent = self.spent.get(name, 0) // max(1, level.weight)
        return borrows, self.share(name, head.stock, head.slots), spent, head.turn, head.line

    def first(self, name: QueueName, heads: dict[Line, Head]) -> Head | None:
        own = [head for line, head in heads.items() if line[0] == name]
        parent = None if name == ROOT else name
        below = [(child, self.first(child, heads)) for child, row in self.queues.items() if row.parent == parent]
        ranked = sorted((self.key(child, head), head.line) for child, head in below if head is not None)
        if ranked:
            own.append(heads[ranked[0][1]])
        return min(own, key=lambda head: (head.turn, head.line)) if own else None


@QUICK
@given(cities(), st.data())
def test_the_turn_is_whose_a_naive_look_says(rows: Rows, data: st.DataObject) -> None:
    cycle = Cycle(Snapshot.build(rows), Policy(), NOW)
    naive = Naive(cycle, rows)

    def head(line: Line) -> Head:
        stock = data.draw(st.sampled_from(cycle.stocks))
        number = data.draw(st.integers(0, 5))
        return Head(line, ((number,), number, job(f"w{number}").id), stock, data.draw(st.integers(1, 4)) * 1000)

    lines = [(row.name, policy) for row in rows.queues for policy in ("fair", "fifo") if data.draw(st.booleans())]
    heads = {line: head(line) for line in lines}
    turns = Tournament(cycle, list(heads.values()))
    for _ in range(12):
        first = turns.first()
        assert first == naive.first(ROOT, heads)
        if first is None:
            break
        if data.draw(st.booleans()):
            first.stock.count(first.line[0], first.slots)
        if data.draw(st.integers(0, 3)):
            heads[first.line] = head(first.line)
            turns.replace(first.line, heads[first.line])
        else:
            del heads[first.line]
            turns.replace(first.line, None)


@QUICK
@given(cities())
def test_shares_in_whole_numbers_are_the_exact_shares(rows: Rows) -> None:
    cycle = Cycle(Snapshot.build(rows), Policy(), NOW)
    naive, shares = Naive(cycle, rows), Shares(cycle)
    for row in rows.queues:
        exact = naive.share(row.name, None, 0)
        assert dominant_share(cycle, row.name) == exact
        assert Fraction(shares.after(row.name), shares.unit) == exact
        for stock in cycle.stocks:
            assert Fraction(shares.after(row.name, stock, 1500), shares.unit) == naive.share(row.name, stock, 1500)
